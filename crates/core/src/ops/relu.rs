//! `y = max(x, 0)`; the gradient at 0 is 0.

use lowrank_backend::{Broadcast, Map, Result, Zip};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// `max(x, 0)`, elementwise.
    pub fn relu(&self) -> Result<Tensor> {
        check::float("relu", self)?;
        let y = Tensor::empty(self.shape(), self.dtype(), self.device())?;
        self.device().backend().map(Map::Relu, self.read().view(), y.write().set())?;
        Ok(y.with_rule(&[self], || Relu { x: self.clone() }))
    }
}

struct Relu {
    x: Tensor,
}

impl Rule for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let dx = grads.slot(0)?;
        if let Some(slot) = dx.lock().slot() {
            let same = Broadcast::same(gy.len());
            gy.device().backend().zip(Zip::ReluGrad, &same, self.x.read().view(), gy.read().view(), slot)?;
        }
        grads.put(dx)
    }
}
