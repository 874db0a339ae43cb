//! The same values in another float dtype, rounded to nearest even.

use lowrank_backend::{DType, Error, Map, Result};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// The values rounded to `dtype`, a float dtype; the gradient is rounded back to this tensor's. To its own dtype a
    /// tensor casts to itself: another handle, no copy.
    pub fn cast(&self, dtype: DType) -> Result<Tensor> {
        check::float("cast", self)?;
        if !dtype.is_float() {
            return Err(Error::invalid("cast", format!("{} to {dtype}, which is no float dtype", self.label("x"))));
        }
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        let y = Tensor::empty(self.shape(), dtype, self.device())?;
        self.device().backend().map(Map::Copy, self.read().view(), y.write().set())?;
        Ok(y.with_rule(&[self], || Cast))
    }
}

struct Cast;

impl Rule for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let dx = grads.slot(0)?;
        if let Some(slot) = dx.lock().slot() {
            gy.device().backend().map(Map::Copy, gy.read().view(), slot)?;
        }
        grads.put(dx)
    }
}
