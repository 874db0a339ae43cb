//! `y = a − b`, with broadcasting.

use lowrank_backend::{Broadcast, Map, Result, Zip};

use crate::ops::broadcast;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// `a − b`, elementwise, with broadcasting on trailing dimensions.
    pub fn sub(&self, b: &Tensor) -> Result<Tensor> {
        let (y, dims) = broadcast::zip("sub", Zip::Sub, self, b)?;
        Ok(y.with_rule(&[self, b], || Sub { dims }))
    }
}

struct Sub {
    dims: Broadcast,
}

impl Rule for Sub {
    fn name(&self) -> &'static str {
        "sub"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        broadcast::give(grads, 1, self.dims.b(), &gy, |slot| {
            gy.device().backend().map(Map::Affine(-1.0, 0.0), gy.read().view(), slot)
        })?;
        if broadcast::whole(&gy, self.dims.a()) {
            return grads.give(0, gy);
        }
        let da = grads.slot(0)?;
        if let Some(slot) = da.lock().slot() {
            broadcast::sum_to(&gy, self.dims.a(), slot)?;
        }
        grads.put(da)
    }
}
