//! `y = c·x + d` with constants: scale, add_scalar, neg.

use lowrank_backend::{Map, Result};

use crate::ops::unary;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// `c·x + d`, elementwise.
    pub fn affine(&self, c: f64, d: f64) -> Result<Tensor> {
        Ok(unary::map("affine", Map::Affine(c, d), self)?.with_rule(&[self], || Affine { c }))
    }

    /// `c·x`, elementwise.
    pub fn scale(&self, c: f64) -> Result<Tensor> {
        self.affine(c, 0.0)
    }

    /// `x + d`, elementwise.
    pub fn add_scalar(&self, d: f64) -> Result<Tensor> {
        self.affine(1.0, d)
    }

    /// `−x`, elementwise.
    pub fn neg(&self) -> Result<Tensor> {
        self.affine(-1.0, 0.0)
    }
}

struct Affine {
    c: f64,
}

impl Rule for Affine {
    fn name(&self) -> &'static str {
        "affine"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        if self.c == 1.0 {
            return grads.give(0, gy);
        }
        let dx = grads.slot(0)?;
        if let Some(slot) = dx.lock().slot() {
            gy.device().backend().map(Map::Affine(self.c, 0.0), gy.read().view(), slot)?;
        }
        grads.put(dx)
    }
}
