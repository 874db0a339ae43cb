//! `y = a · b`, elementwise, with broadcasting.

use lowrank_backend::{Broadcast, Result, Zip};

use crate::ops::broadcast;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// `a · b`, elementwise, with broadcasting on trailing dimensions.
    pub fn mul(&self, b: &Tensor) -> Result<Tensor> {
        let (y, dims) = broadcast::zip("mul", Zip::Mul, self, b)?;
        Ok(y.with_rule(&[self, b], || Mul { dims, a: self.clone(), b: b.clone() }))
    }
}

struct Mul {
    dims: Broadcast,
    a: Tensor,
    b: Tensor,
}

impl Rule for Mul {
    fn name(&self) -> &'static str {
        "mul"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let Mul { dims, a, b } = *self;
        broadcast::give(grads, 0, dims.a(), &gy, |slot| broadcast::against(Zip::Mul, &gy, &b, dims.b(), slot))?;
        broadcast::give(grads, 1, dims.b(), &gy, |slot| broadcast::against(Zip::Mul, &gy, &a, dims.a(), slot))
    }
}
