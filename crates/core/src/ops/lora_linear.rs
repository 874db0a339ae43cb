//! `y = x Wᵀ + s (x̂ Aᵀ) Bᵀ + bias`, the low-rank linear (Hu et al. 2021, "LoRA", eq. 3), as one operation.

use lowrank_backend::{Dropout, Error, Gemm, Linear, Lora, Reduce, Result, Weight};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// `x Wᵀ + scale · (dropout(x) Aᵀ) Bᵀ + bias`.
    ///
    /// x is `[…, k]`, W `[n,k]` (any storage dtype), A `[r,k]`, B `[n,r]`, bias `[n]`; the result is `[…, n]`. Dropout
    /// with probability `dropout` acts on the branch only. W and bias may be trainable; when frozen, no gradient of
    /// theirs is computed or allocated.
    #[allow(clippy::too_many_arguments)]
    pub fn lora_linear(
        &self,
        w: &Tensor,
        bias: Option<&Tensor>,
        a: &Tensor,
        b: &Tensor,
        scale: f64,
        dropout: f64,
    ) -> Result<Tensor> {
        const OP: &str = "lora_linear";
        let mut inputs = vec![self, w, a, b];
        inputs.extend(bias);
        check::same_device(OP, &inputs)?;
        check::float(OP, self)?;
        check::beside(OP, self, &[a, b])?;
        check::weight(OP, "W", w, self.dtype())?;
        let (m, k) = check::rows_cols(OP, self)?;
        let (&[n, wk], &[r, ak]) = (w.shape(), a.shape()) else {
            return Err(Error::shape(OP, format!("{} and {} must be matrices", w.label("W"), a.label("A"))));
        };
        if wk != k || ak != k || r == 0 {
            let detail = format!("{} does not fit {} and {}", self.label("x"), w.label("W"), a.label("A"));
            return Err(Error::shape(OP, detail));
        }
        check::shape(OP, "B", b, &[n, r])?;
        if let Some(bias) = bias {
            check::shape(OP, "bias", bias, &[n])?;
            check::beside(OP, self, &[bias])?;
        }
        let device = self.device();
        let dropout = if dropout == 0.0 { None } else { Some(device.dropout_site(dropout)?) };
        let mut shape = self.shape().to_vec();
        *shape.last_mut().expect("rows_cols has seen a dimension") = n;
        let y = Tensor::empty(&shape, self.dtype(), device)?;
        let h = Tensor::empty(&[m, r], a.dtype(), device)?;
        let saved = LoraLinear {
            x: self.clone(),
            w: w.clone(),
            bias: bias.cloned(),
            a: a.clone(),
            b: b.clone(),
            h,
            scale,
            dropout,
            step: device.step(),
            sizes: [m, n, k, r],
        };
        saved.with_op(|op| {
            device.backend().lora_forward(op, self.read().view(), y.write().out(), saved.h.write().out())
        })?;
        Ok(y.with_rule(&inputs, || saved))
    }
}

struct LoraLinear {
    x: Tensor,
    w: Tensor,
    bias: Option<Tensor>,
    a: Tensor,
    b: Tensor,
    h: Tensor,
    scale: f64,
    dropout: Option<Dropout>,
    step: u32,
    sizes: [usize; 4],
}

impl LoraLinear {
    fn with_op<T>(&self, f: impl FnOnce(&Lora<'_>) -> Result<T>) -> Result<T> {
        let [m, n, k, r] = self.sizes;
        let device = self.x.device();
        let (w, a, b) = (self.w.read(), self.a.read(), self.b.read());
        let bias = self.bias.as_ref().map(Tensor::read);
        device.with_scalars(|scalars| {
            f(&Lora {
                base: Linear {
                    m,
                    n,
                    k,
                    w: Weight::Dense(w.view()),
                    bias: bias.as_ref().map(|b| b.view()),
                    precision: device.precision(),
                },
                r,
                scale: self.scale,
                a: a.view(),
                b: b.view(),
                dropout: self.dropout,
                scalars,
            })
        })
    }
}

impl Rule for LoraLinear {
    fn name(&self) -> &'static str {
        "lora_linear"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let device = self.x.device();
        let [m, n, k, _] = self.sizes;
        if self.dropout.is_some() {
            check::same_step("lora_linear backward", device, self.step)?;
        }
        let backend = device.backend();
        let (dx, dw, da, db) = (grads.slot(0)?, grads.slot(1)?, grads.slot(2)?, grads.slot(3)?);
        if dx.wanted() || da.wanted() || db.wanted() {
            self.with_op(|op| {
                backend.lora_backward(
                    op,
                    self.x.read().view(),
                    self.h.read().view(),
                    gy.read().view(),
                    dx.lock().slot(),
                    da.lock().slot(),
                    db.lock().slot(),
                )
            })?;
        }
        if let Some(dw) = dw.lock().slot() {
            let op = Gemm::tn(n, k, m).precision(device.precision());
            backend.gemm(&op, gy.read().view(), self.x.read().view(), dw)?;
        }
        for slot in [dx, dw, da, db] {
            grads.put(slot)?;
        }
        if self.bias.is_some() {
            let dbias = grads.slot(4)?;
            if let Some(slot) = dbias.lock().slot() {
                backend.reduce(Reduce::Sum, [1, m, n], gy.read().view(), slot)?;
            }
            grads.put(dbias)?;
        }
        Ok(())
    }
}
