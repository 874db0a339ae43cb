//! Dimensions in another order, copied: tensors are always contiguous.

use lowrank_backend::{Error, MAX_RANK, Result};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// Dimension i of the result is dimension `order[i]` of this tensor. At most 6 dimensions.
    pub fn permute(&self, order: &[usize]) -> Result<Tensor> {
        let mut inverse = vec![usize::MAX; self.rank()];
        for (i, &from) in order.iter().enumerate() {
            if let Some(to) = inverse.get_mut(from) {
                *to = i;
            }
        }
        if order.len() != self.rank() || inverse.contains(&usize::MAX) || self.rank() > MAX_RANK {
            let detail = format!("{order:?} is no order of the (at most {MAX_RANK}) dimensions of {}", self.label("x"));
            return Err(Error::shape("permute", detail));
        }
        let shape: Vec<usize> = order.iter().map(|&i| self.shape()[i]).collect();
        let y = Tensor::empty(&shape, self.dtype(), self.device())?;
        self.device().backend().permute(self.shape(), order, self.read().view(), y.write().set())?;
        Ok(y.with_rule(&[self], || Permute { inverse }))
    }

    /// Dimensions d0 and d1 exchanged.
    pub fn transpose(&self, d0: usize, d1: usize) -> Result<Tensor> {
        check::axis("transpose", self, d0)?;
        check::axis("transpose", self, d1)?;
        let mut order: Vec<usize> = (0..self.rank()).collect();
        order.swap(d0, d1);
        self.permute(&order)
    }
}

struct Permute {
    inverse: Vec<usize>,
}

impl Rule for Permute {
    fn name(&self) -> &'static str {
        "permute"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let dx = grads.slot(0)?;
        if let Some(slot) = dx.lock().slot() {
            gy.device().backend().permute(gy.shape(), &self.inverse, gy.read().view(), slot)?;
        }
        grads.put(dx)
    }
}
