//! `y = a / b`, elementwise, with broadcasting; `da = gy / b`, `db = −gy·y / b`.

use lowrank_backend::{Broadcast, Map, Result, Zip};

use crate::ops::{broadcast, unary};
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// `a / b`, elementwise, with broadcasting on trailing dimensions.
    pub fn div(&self, b: &Tensor) -> Result<Tensor> {
        let (y, dims) = broadcast::zip("div", Zip::Div, self, b)?;
        let saved = y.detach();
        Ok(y.with_rule(&[self, b], || Div { dims, b: b.clone(), y: saved }))
    }
}

struct Div {
    dims: Broadcast,
    b: Tensor,
    y: Tensor,
}

impl Rule for Div {
    fn name(&self) -> &'static str {
        "div"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let Div { dims, b, y } = *self;
        broadcast::give(grads, 0, dims.a(), &gy, |slot| broadcast::against(Zip::Div, &gy, &b, dims.b(), slot))?;
        broadcast::give(grads, 1, dims.b(), &gy, |slot| {
            let (t, u) =
                (unary::map("div", Map::Affine(-1.0, 0.0), &gy)?, Tensor::empty(y.shape(), y.dtype(), y.device())?);
            unary::zip(Zip::Mul, &t, &y, u.write().set())?;
            broadcast::against(Zip::Div, &u, &b, dims.b(), slot)
        })
    }
}
