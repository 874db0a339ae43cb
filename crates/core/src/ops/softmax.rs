//! `y = exp(x − max) / Σ exp(x − max)` over the last dimension.

use lowrank_backend::{Matrix, Result};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// Softmax over the last dimension.
    pub fn softmax(&self) -> Result<Tensor> {
        check::float("softmax", self)?;
        let (rows, cols) = check::rows_cols("softmax", self)?;
        let op = Matrix { rows, cols };
        let y = Tensor::empty(self.shape(), self.dtype(), self.device())?;
        self.device().backend().softmax_forward(&op, self.read().view(), y.write().out())?;
        let saved = y.detach();
        Ok(y.with_rule(&[self], || Softmax { op, y: saved }))
    }
}

struct Softmax {
    op: Matrix,
    y: Tensor,
}

impl Rule for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let dx = grads.slot(0)?;
        if let Some(slot) = dx.lock().slot() {
            gy.device().backend().softmax_backward(&self.op, self.y.read().view(), gy.read().view(), slot)?;
        }
        grads.put(dx)
    }
}
