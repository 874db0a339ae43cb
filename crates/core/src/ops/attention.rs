//! Scaled dot-product attention with grouped key/value heads; for backward only the log-sum-exp of each row is kept.

use lowrank_backend::{Attention as Op, Error, Result};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// `softmax(scale · q kᵀ) v` for each head; this tensor is q.
    ///
    /// q is `[B,T,H,D]`; k and v are `[B,S,KV,D]` with KV dividing H (query head h reads head `h / (H/KV)`); the result
    /// is like q. With `causal`, query t sees keys `0 ..= t + S − T`, so S ≥ T. `scale` is `1/√D` if not given.
    pub fn attention(&self, k: &Tensor, v: &Tensor, causal: bool, scale: Option<f64>) -> Result<Tensor> {
        const OP: &str = "attention";
        check::same_device(OP, &[self, k, v])?;
        check::float(OP, self)?;
        check::same_dtype(OP, &[self, k, v])?;
        let (&[batch, q_len, heads, dim], &[kb, kv_len, kv_heads, kd]) = (self.shape(), k.shape()) else {
            return Err(Error::shape(OP, format!("{} and {} must be [B,T,H,D]", self.label("q"), k.label("k"))));
        };
        check::shape(OP, "v", v, k.shape())?;
        let grouped = kv_heads > 0 && heads.is_multiple_of(kv_heads);
        if kb != batch || kd != dim || dim == 0 || !grouped {
            return Err(Error::shape(OP, format!("{} does not fit {}", self.label("q"), k.label("k"))));
        }
        if kv_len == 0 || (causal && kv_len < q_len) {
            let detail = format!("too few keys: {} for {}", k.label("k"), self.label("q"));
            return Err(Error::shape(OP, detail));
        }
        let device = self.device();
        let scale = scale.unwrap_or_else(|| 1.0 / (dim as f64).sqrt());
        let op = Op { batch, q_len, kv_len, heads, kv_heads, dim, scale, causal, precision: device.precision() };
        let y = Tensor::empty(self.shape(), self.dtype(), device)?;
        let lse = Tensor::empty(&[batch, heads, q_len], self.dtype().wide(), device)?;
        device.backend().attention_forward(
            &op,
            self.read().view(),
            k.read().view(),
            v.read().view(),
            y.write().out(),
            lse.write().out(),
        )?;
        let saved = y.detach();
        Ok(y.with_rule(&[self, k, v], || Attention { op, q: self.clone(), k: k.clone(), v: v.clone(), y: saved, lse }))
    }
}

struct Attention {
    op: Op,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    lse: Tensor,
}

impl Rule for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let (dq, dk, dv) = (grads.slot(0)?, grads.slot(1)?, grads.slot(2)?);
        gy.device().backend().attention_backward(
            &self.op,
            self.q.read().view(),
            self.k.read().view(),
            self.v.read().view(),
            self.y.read().view(),
            self.lse.read().view(),
            gy.read().view(),
            dq.lock().slot(),
            dk.lock().slot(),
            dv.lock().slot(),
        )?;
        for slot in [dq, dk, dv] {
            grads.put(slot)?;
        }
        Ok(())
    }
}
