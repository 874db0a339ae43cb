//! `y = silu(gate) ⊙ up` (Shazeer 2020, "GLU variants improve transformer").

use lowrank_backend::Result;

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// `silu(self) ⊙ up`, both of one shape.
    pub fn swiglu(&self, up: &Tensor) -> Result<Tensor> {
        const OP: &str = "swiglu";
        check::same_device(OP, &[self, up])?;
        check::float(OP, self)?;
        check::same_dtype(OP, &[self, up])?;
        check::shape(OP, "up", up, self.shape())?;
        let y = Tensor::empty(self.shape(), self.dtype(), self.device())?;
        self.device().backend().swiglu_forward(self.read().view(), up.read().view(), y.write().out())?;
        Ok(y.with_rule(&[self, up], || Swiglu { gate: self.clone(), up: up.clone() }))
    }
}

struct Swiglu {
    gate: Tensor,
    up: Tensor,
}

impl Rule for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let (dgate, dup) = (grads.slot(0)?, grads.slot(1)?);
        gy.device().backend().swiglu_backward(
            self.gate.read().view(),
            self.up.read().view(),
            gy.read().view(),
            dgate.lock().slot(),
            dup.lock().slot(),
        )?;
        grads.put(dgate)?;
        grads.put(dup)
    }
}
