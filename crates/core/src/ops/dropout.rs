//! Inverted dropout. The mask is a function of (seed, stream, step, element), made again in backward, never stored.

use lowrank_backend::{Dropout as Op, Result};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// Every element is 0 with probability p, else `x / (1 − p)`. p in [0, 1); with 0 this is the tensor itself.
    ///
    /// Backward must come before the next [`Device::begin_step`](crate::Device::begin_step).
    pub fn dropout(&self, p: f64) -> Result<Tensor> {
        check::float("dropout", self)?;
        if p == 0.0 {
            return Ok(self.clone());
        }
        let device = self.device();
        let op = device.dropout_site(p)?;
        let y = Tensor::empty(self.shape(), self.dtype(), device)?;
        device.with_scalars(|s| device.backend().dropout(&op, s, self.read().view(), y.write().set()))?;
        Ok(y.with_rule(&[self], || Dropout { op, step: device.step() }))
    }
}

struct Dropout {
    op: Op,
    step: u32,
}

impl Rule for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let device = gy.device();
        check::same_step("dropout backward", device, self.step)?;
        let dx = grads.slot(0)?;
        if let Some(slot) = dx.lock().slot() {
            device.with_scalars(|s| device.backend().dropout(&self.op, s, gy.read().view(), slot))?;
        }
        grads.put(dx)
    }
}
