//! `y = eˣ`; `dx = gy·y`.

use lowrank_backend::{Map, Result, Zip};

use crate::ops::unary;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// `eˣ`, elementwise.
    pub fn exp(&self) -> Result<Tensor> {
        let y = unary::map("exp", Map::Exp, self)?;
        let saved = y.detach();
        Ok(y.with_rule(&[self], || Exp { y: saved }))
    }
}

struct Exp {
    y: Tensor,
}

impl Rule for Exp {
    fn name(&self) -> &'static str {
        "exp"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let dx = grads.slot(0)?;
        if let Some(slot) = dx.lock().slot() {
            unary::zip(Zip::Mul, &gy, &self.y, slot)?;
        }
        grads.put(dx)
    }
}
