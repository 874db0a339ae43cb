//! `y = x²`; `dx = 2 gy·x`.

use lowrank_backend::{Map, Result, Zip};

use crate::ops::unary;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// `x²`, elementwise.
    pub fn square(&self) -> Result<Tensor> {
        Ok(unary::map("square", Map::Square, self)?.with_rule(&[self], || Square { x: self.clone() }))
    }
}

struct Square {
    x: Tensor,
}

impl Rule for Square {
    fn name(&self) -> &'static str {
        "square"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let dx = grads.slot(0)?;
        if let Some(slot) = dx.lock().slot() {
            let twice = unary::map("square", Map::Affine(2.0, 0.0), &gy)?;
            unary::zip(Zip::Mul, &twice, &self.x, slot)?;
        }
        grads.put(dx)
    }
}
