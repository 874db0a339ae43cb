//! Means: a sum, scaled.

use lowrank_backend::{Error, Result};

use crate::Tensor;
use crate::ops::check;

impl Tensor {
    /// The mean of all elements, of shape `[]`. Of none is an error.
    pub fn mean(&self) -> Result<Tensor> {
        check::float("mean", self)?;
        some("mean", self, self.len())?;
        self.sum()?.scale(1.0 / self.len() as f64)
    }

    /// The mean over dimension `axis`, which becomes 1 with `keep` and vanishes otherwise.
    pub fn mean_axis(&self, axis: usize, keep: bool) -> Result<Tensor> {
        check::float("mean_axis", self)?;
        let [_, len, _] = check::around("mean_axis", self, axis)?;
        some("mean_axis", self, len)?;
        self.sum_axis(axis, keep)?.scale(1.0 / len as f64)
    }
}

fn some(op: &'static str, x: &Tensor, len: usize) -> Result<()> {
    if len > 0 { Ok(()) } else { Err(Error::shape(op, format!("no elements in {}", x.label("x")))) }
}
