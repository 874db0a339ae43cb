//! `y = x / √(mean(x²) + eps) ⊙ w` over the last dimension (Zhang & Sennrich 2019).

use lowrank_backend::{Norm, Result};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// RMSNorm over the last dimension d; w is `[d]`.
    pub fn rms_norm(&self, w: &Tensor, eps: f64) -> Result<Tensor> {
        const OP: &str = "rms_norm";
        check::same_device(OP, &[self, w])?;
        check::float(OP, self)?;
        check::beside(OP, self, &[w])?;
        let (rows, cols) = check::rows_cols(OP, self)?;
        check::shape(OP, "w", w, &[cols])?;
        let op = Norm { rows, cols, eps };
        let y = Tensor::empty(self.shape(), self.dtype(), self.device())?;
        let rstd = Tensor::empty(&[rows], w.dtype(), self.device())?;
        self.device().backend().rms_norm_forward(
            &op,
            self.read().view(),
            w.read().view(),
            y.write().out(),
            rstd.write().out(),
        )?;
        Ok(y.with_rule(&[self, w], || RmsNorm { op, x: self.clone(), w: w.clone(), rstd }))
    }
}

struct RmsNorm {
    op: Norm,
    x: Tensor,
    w: Tensor,
    rstd: Tensor,
}

impl Rule for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let (dx, dw) = (grads.slot(0)?, grads.slot(1)?);
        gy.device().backend().rms_norm_backward(
            &self.op,
            self.x.read().view(),
            self.w.read().view(),
            self.rstd.read().view(),
            gy.read().view(),
            dx.lock().slot(),
            dw.lock().slot(),
        )?;
        grads.put(dx)?;
        grads.put(dw)
    }
}
