//! A low-rank product taken off the base: the frozen weight is `W − s B₀A₀`, and the base's tensor is never touched.
//!
//! It is not formed. `y = x Wᵀ − s (x A₀ᵀ) B₀ᵀ + s (x Aᵀ) Bᵀ` is one low-rank linear of rank 2r with A′ = [A; A₀] and
//! B′ = [B, −B₀], put together for each call (a copy of some r(n+k) numbers). A and B get their gradients as parts of A′'s and
//! B′'s. At the start the two products cancel to within rounding of f32 (not to the bit), as they do in the saved adapter,
//! which holds just these A′ and B′. A second, residual copy of W would cost as much memory as the model.

use lowrank_core::Tensor;

use super::LowRank;
use crate::Result;

/// A₀ and −B₀: what is added to the base, frozen, with the pair's own s.
#[derive(Clone, Debug)]
pub struct Offset {
    /// A₀ `[r,k]`.
    pub a: Tensor,
    /// −B₀ `[n,r]`.
    pub b: Tensor,
}

impl LowRank {
    /// `x Wᵀ + bias` and the branch.
    pub(super) fn forward(&self, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let p = self.active_dropout();
        match &self.offset {
            None => Ok(x.lora_linear(w, bias, &self.a, &self.b, self.scale, p)?),
            Some(_) if p == 0.0 => {
                let (a, b) = self.product()?;
                Ok(x.lora_linear(w, bias, &a, &b, self.scale, 0.0)?)
            }
            // Dropout is for the trained branch only: the two have different inputs.
            Some(o) => {
                let y = x.lora_linear(w, bias, &o.a, &o.b, self.scale, 0.0)?;
                let branch = x.dropout(p)?.linear(&self.a, None)?.linear(&self.b, None)?.scale(self.scale)?;
                Ok(y.add(&branch)?)
            }
        }
    }

    /// The pair that acts on the untouched base: A′ = [A; A₀], B′ = [B, −B₀]; A and B themselves without an offset. In the
    /// graph, so that gradients find A and B.
    pub fn product(&self) -> Result<(Tensor, Tensor)> {
        let Some(o) = &self.offset else { return Ok((self.a.clone(), self.b.clone())) };
        Ok((Tensor::concat(&[&self.a, &o.a], 0)?, Tensor::concat(&[&self.b, &o.b], 1)?))
    }

    /// Rank of [`LowRank::product`].
    pub fn full_rank(&self) -> usize {
        self.rank + self.offset.as_ref().map_or(0, |o| o.a.shape().first().copied().unwrap_or(0))
    }
}
