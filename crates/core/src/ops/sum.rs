//! Sums. The gradient is repeated over what was summed.

use lowrank_backend::{Broadcast, Reduce, Result, Zip};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// The sum of all elements, of shape `[]`; 0 of none.
    pub fn sum(&self) -> Result<Tensor> {
        check::float("sum", self)?;
        sum(self, [1, self.len(), 1], &[])
    }

    /// The sum over dimension `axis`, which becomes 1 with `keep` and vanishes otherwise.
    pub fn sum_axis(&self, axis: usize, keep: bool) -> Result<Tensor> {
        check::float("sum_axis", self)?;
        let sizes = check::around("sum_axis", self, axis)?;
        sum(self, sizes, &reduced(self, axis, keep))
    }
}

/// A tensor's shape after a reduction over `axis`.
pub(crate) fn reduced(x: &Tensor, axis: usize, keep: bool) -> Vec<usize> {
    let mut shape = x.shape().to_vec();
    if keep {
        shape[axis] = 1;
    } else {
        shape.remove(axis);
    }
    shape
}

fn sum(x: &Tensor, sizes: [usize; 3], shape: &[usize]) -> Result<Tensor> {
    let y = Tensor::empty(shape, x.dtype(), x.device())?;
    x.device().backend().reduce(Reduce::Sum, sizes, x.read().view(), y.write().set())?;
    Ok(y.with_rule(&[x], || Sum { sizes }))
}

struct Sum {
    sizes: [usize; 3],
}

impl Rule for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let [outer, len, inner] = self.sizes;
        let dx = grads.slot(0)?;
        if let Some(slot) = dx.lock().slot() {
            // Times 1 is exact, so this product is the repetition.
            let ones = Tensor::full(1.0, &[len], gy.dtype(), gy.device())?;
            let dims = Broadcast::new(&[outer, 1, inner], &[1, len, 1]).expect("every pair has a 1");
            gy.device().backend().zip(Zip::Mul, &dims, gy.read().view(), ones.read().view(), slot)?;
        }
        grads.put(dx)
    }
}
