//! `y = √x`; `dx = gy / 2y`.

use lowrank_backend::{Map, Result, Zip};

use crate::ops::unary;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// The square root, elementwise. Its gradient at 0 is infinite.
    pub fn sqrt(&self) -> Result<Tensor> {
        let y = unary::map("sqrt", Map::Sqrt, self)?;
        let saved = y.detach();
        Ok(y.with_rule(&[self], || Sqrt { y: saved }))
    }
}

struct Sqrt {
    y: Tensor,
}

impl Rule for Sqrt {
    fn name(&self) -> &'static str {
        "sqrt"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let dx = grads.slot(0)?;
        if let Some(slot) = dx.lock().slot() {
            let half = unary::map("sqrt", Map::Affine(0.5, 0.0), &gy)?;
            unary::zip(Zip::Div, &half, &self.y, slot)?;
        }
        grads.put(dx)
    }
}
