//! `y[i] = W[ids[i]]`.

use lowrank_backend::{Error, Result, Rows};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// Rows of this table `[vocab, dim]` by u32 ids `[…]`: the result is `[…, dim]`.
    ///
    /// The result has the dtype of the device's activations ([`Device::set_activations`](crate::Device::set_activations)); a
    /// table in f64 gives f64. A table stored in bf16 or f16 cannot be trained. Make ids with [`Tensor::ids`], which checks
    /// them on the host.
    pub fn embedding(&self, ids: &Tensor) -> Result<Tensor> {
        const OP: &str = "embedding";
        check::same_device(OP, &[self, ids])?;
        check::ids(OP, "ids", ids)?;
        let &[rows, width] = self.shape() else {
            return Err(Error::shape(OP, format!("{} must be a matrix", self.label("W"))));
        };
        let dtype = self.device().activations(self.dtype().wide());
        check::weight(OP, "W", self, dtype)?;
        let op = Rows { rows, width, count: ids.len() };
        let y = Tensor::empty(&[ids.shape(), &[width]].concat(), dtype, self.device())?;
        self.device().backend().gather(&op, self.read().view(), ids.read().view(), y.write().set())?;
        Ok(y.with_rule(&[self], || Embedding { op, ids: ids.clone() }))
    }
}

struct Embedding {
    op: Rows,
    ids: Tensor,
}

impl Rule for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let dw = grads.slot(0)?;
        if let Some(slot) = dw.lock().slot() {
            gy.device().backend().scatter_add(&self.op, self.ids.read().view(), gy.read().view(), slot)?;
        }
        grads.put(dw)
    }
}
