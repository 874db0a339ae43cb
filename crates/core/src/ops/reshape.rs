//! The same elements in another shape: no copy, forward or backward.

use lowrank_backend::{Error, Result};

use crate::tensor::numel;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// The same elements, in the same order, as `shape`. The result shares this tensor's memory.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        if numel("reshape", shape)? != self.len() {
            return Err(Error::shape("reshape", format!("{} to {shape:?}", self.label("x"))));
        }
        Ok(self.alias(shape.to_vec(), self.offset()).with_rule(&[self], || Reshape))
    }
}

struct Reshape;

impl Rule for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        // `give` takes on the input's shape.
        grads.give(0, gy)
    }
}
