//! `y = ln x`; `dx = gy / x`.

use lowrank_backend::{Map, Result, Zip};

use crate::ops::unary;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// The natural logarithm, elementwise.
    pub fn log(&self) -> Result<Tensor> {
        Ok(unary::map("log", Map::Log, self)?.with_rule(&[self], || Log { x: self.clone() }))
    }
}

struct Log {
    x: Tensor,
}

impl Rule for Log {
    fn name(&self) -> &'static str {
        "log"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let dx = grads.slot(0)?;
        if let Some(slot) = dx.lock().slot() {
            unary::zip(Zip::Div, &gy, &self.x, slot)?;
        }
        grads.put(dx)
    }
}
