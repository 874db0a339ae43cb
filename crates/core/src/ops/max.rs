//! The largest element along a dimension. Where several are the largest, the gradient is split equally between them.

use lowrank_backend::{Broadcast, Error, Reduce, Result, Zip};

use crate::ops::{check, sum, unary};
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// The largest element along dimension `axis`, which becomes 1 with `keep` and vanishes otherwise. NaN if any is
    /// NaN. The gradient is split equally between all elements equal to the largest.
    pub fn max_axis(&self, axis: usize, keep: bool) -> Result<Tensor> {
        check::float("max_axis", self)?;
        let sizes = check::around("max_axis", self, axis)?;
        if sizes[1] == 0 {
            return Err(Error::shape("max_axis", format!("no elements along axis {axis} of {}", self.label("x"))));
        }
        let y = Tensor::empty(&sum::reduced(self, axis, keep), self.dtype(), self.device())?;
        self.device().backend().reduce(Reduce::Max, sizes, self.read().view(), y.write().set())?;
        let saved = y.detach();
        Ok(y.with_rule(&[self], || Max { sizes, x: self.clone(), y: saved }))
    }
}

struct Max {
    sizes: [usize; 3],
    x: Tensor,
    y: Tensor,
}

impl Rule for Max {
    fn name(&self) -> &'static str {
        "max"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let Max { sizes, x, y } = *self;
        let [outer, _, inner] = sizes;
        let dims = Broadcast::new(&sizes, &[outer, 1, inner]).expect("equal but for a 1");
        let backend = gy.device().backend();
        let dx = grads.slot(0)?;
        if let Some(slot) = dx.lock().slot() {
            let like = |t: &Tensor| Tensor::empty(t.shape(), t.dtype(), t.device());
            let (hits, count, share) = (like(&x)?, like(&y)?, like(&gy)?);
            backend.zip(Zip::Equal, &dims, x.read().view(), y.read().view(), hits.write().set())?;
            backend.reduce(Reduce::Sum, sizes, hits.read().view(), count.write().set())?;
            unary::zip(Zip::Div, &gy, &count, share.write().set())?;
            backend.zip(Zip::Mul, &dims, hits.read().view(), share.read().view(), slot)?;
        }
        grads.put(dx)
    }
}
