//! `y = tanh x`; `dx = gy (1 − y²)`.

use lowrank_backend::{Map, Result, Zip};

use crate::ops::unary;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// The hyperbolic tangent, elementwise.
    pub fn tanh(&self) -> Result<Tensor> {
        let y = unary::map("tanh", Map::Tanh, self)?;
        let saved = y.detach();
        Ok(y.with_rule(&[self], || Tanh { y: saved }))
    }
}

struct Tanh {
    y: Tensor,
}

impl Rule for Tanh {
    fn name(&self) -> &'static str {
        "tanh"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let dx = grads.slot(0)?;
        if let Some(slot) = dx.lock().slot() {
            let squared = unary::map("tanh", Map::Square, &self.y)?;
            let slope = unary::map("tanh", Map::Affine(-1.0, 1.0), &squared)?;
            unary::zip(Zip::Mul, &gy, &slope, slot)?;
        }
        grads.put(dx)
    }
}
