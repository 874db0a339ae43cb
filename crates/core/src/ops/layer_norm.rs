//! `y = (x − mean) / √(var + eps) ⊙ w + b` over the last dimension (Ba et al. 2016).

use lowrank_backend::{Norm, Result};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// LayerNorm over the last dimension d; w and b are `[d]`; the variance is the biased one.
    pub fn layer_norm(&self, w: &Tensor, b: &Tensor, eps: f64) -> Result<Tensor> {
        const OP: &str = "layer_norm";
        check::same_device(OP, &[self, w, b])?;
        check::float(OP, self)?;
        check::beside(OP, self, &[w, b])?;
        let (rows, cols) = check::rows_cols(OP, self)?;
        check::shape(OP, "w", w, &[cols])?;
        check::shape(OP, "b", b, &[cols])?;
        let op = Norm { rows, cols, eps };
        let y = Tensor::empty(self.shape(), self.dtype(), self.device())?;
        let mean = Tensor::empty(&[rows], w.dtype(), self.device())?;
        let rstd = Tensor::empty(&[rows], w.dtype(), self.device())?;
        self.device().backend().layer_norm_forward(
            &op,
            self.read().view(),
            w.read().view(),
            b.read().view(),
            y.write().out(),
            mean.write().out(),
            rstd.write().out(),
        )?;
        Ok(y.with_rule(&[self, w, b], || LayerNorm { op, x: self.clone(), w: w.clone(), mean, rstd }))
    }
}

struct LayerNorm {
    op: Norm,
    x: Tensor,
    w: Tensor,
    mean: Tensor,
    rstd: Tensor,
}

impl Rule for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let (dx, dw, db) = (grads.slot(0)?, grads.slot(1)?, grads.slot(2)?);
        gy.device().backend().layer_norm_backward(
            &self.op,
            self.x.read().view(),
            self.w.read().view(),
            self.mean.read().view(),
            self.rstd.read().view(),
            gy.read().view(),
            dx.lock().slot(),
            dw.lock().slot(),
            db.lock().slot(),
        )?;
        for slot in [dx, dw, db] {
            grads.put(slot)?;
        }
        Ok(())
    }
}
