//! `y[i] = W[ids[i]] + s (Aᵀ)[ids[i]] Bᵀ`, the low-rank embedding, as one operation.

use lowrank_backend::{Error, LoraEmbedding as Op, Result, Rows};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// Rows of this table `[vocab, dim]` by u32 ids `[…]`, plus `scale · (Aᵀ)[ids] Bᵀ`: the result is `[…, dim]`.
    ///
    /// A is `[r, vocab]`, B `[dim, r]`; the result has the dtype of the device's activations. The table may be trainable;
    /// frozen, it may be stored in another float dtype.
    pub fn lora_embedding(&self, ids: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
        const OP: &str = "lora_embedding";
        check::same_device(OP, &[self, ids, a, b])?;
        check::ids(OP, "ids", ids)?;
        check::float(OP, a)?;
        check::same_dtype(OP, &[a, b])?;
        check::weight(OP, "W", self, a.dtype())?;
        let (&[vocab, dim], &[r, columns]) = (self.shape(), a.shape()) else {
            return Err(Error::shape(OP, format!("{} and {} must be matrices", self.label("W"), a.label("A"))));
        };
        if columns != vocab || r == 0 {
            return Err(Error::shape(OP, format!("{} does not fit {}", a.label("A"), self.label("W"))));
        }
        check::shape(OP, "B", b, &[dim, r])?;
        let count = ids.len();
        let y = Tensor::empty(&[ids.shape(), &[dim]].concat(), self.device().activations(a.dtype()), self.device())?;
        let h = Tensor::empty(&[count, r], a.dtype(), self.device())?;
        let saved = LoraEmbedding {
            w: self.clone(),
            ids: ids.clone(),
            a: a.clone(),
            b: b.clone(),
            h,
            scale,
            sizes: [vocab, dim, count, r],
        };
        saved
            .with_op(|op| self.device().backend().lora_embedding_forward(op, y.write().out(), saved.h.write().out()))?;
        Ok(y.with_rule(&[self, a, b], || saved))
    }
}

struct LoraEmbedding {
    w: Tensor,
    ids: Tensor,
    a: Tensor,
    b: Tensor,
    h: Tensor,
    scale: f64,
    sizes: [usize; 4],
}

impl LoraEmbedding {
    fn with_op<T>(&self, f: impl FnOnce(&Op<'_>) -> Result<T>) -> Result<T> {
        let [vocab, dim, count, r] = self.sizes;
        let (w, a, b, ids) = (self.w.read(), self.a.read(), self.b.read(), self.ids.read());
        f(&Op {
            vocab,
            dim,
            count,
            r,
            scale: self.scale,
            w: w.view(),
            a: a.view(),
            b: b.view(),
            ids: ids.view(),
            precision: self.w.device().precision(),
        })
    }
}

impl Rule for LoraEmbedding {
    fn name(&self) -> &'static str {
        "lora_embedding"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let backend = gy.device().backend();
        let [rows, width, count, _] = self.sizes;
        let (dw, da, db) = (grads.slot(0)?, grads.slot(1)?, grads.slot(2)?);
        if da.wanted() || db.wanted() {
            self.with_op(|op| {
                backend.lora_embedding_backward(
                    op,
                    self.h.read().view(),
                    gy.read().view(),
                    da.lock().slot(),
                    db.lock().slot(),
                )
            })?;
        }
        if let Some(slot) = dw.lock().slot() {
            let op = Rows { rows, width, count };
            backend.scatter_add(&op, self.ids.read().view(), gy.read().view(), slot)?;
        }
        for slot in [dw, da, db] {
            grads.put(slot)?;
        }
        Ok(())
    }
}
