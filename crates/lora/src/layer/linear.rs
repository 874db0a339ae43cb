//! `y = x Wᵀ + bias`, with or without a low-rank branch.

use std::sync::{Mutex, PoisonError};

use lowrank_core::{DType, Tensor};

use super::probe::listen;
use super::{LowRank, Slot};
use crate::Result;

/// A linear layer with a slot for an adapter.
pub struct Linear {
    name: String,
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
    pub(crate) slot: Slot,
    /// Squared norms of the rows of the weight with this id, for DoRA.
    squares: Mutex<Option<(u64, Tensor)>>,
}

impl Linear {
    /// A layer of weight `[n,k]` (any float storage) and bias `[n]`; `name` is its full name in the model.
    pub fn new(name: impl Into<String>, weight: Tensor, bias: Option<Tensor>) -> Self {
        Linear { name: name.into(), weight, bias, slot: Slot::default(), squares: Mutex::new(None) }
    }

    /// x `[…, k]` → `[…, n]`: `x Wᵀ + bias`, and `s (dropout(x) Aᵀ) Bᵀ` if an adapter is active here, rows rescaled to
    /// their magnitudes if it is DoRA's; through the bottleneck behind it, if there is one.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.slot.by_row {
            None => self.through(&self.slot, x),
            Some(rows) => rows.linear(self, x),
        }
    }

    /// The layer with what this slot says.
    pub(super) fn through(&self, slot: &Slot, x: &Tensor) -> Result<Tensor> {
        if let Some(probe) = &slot.probe {
            probe.input(&super::probe::wide(x)?)?;
        }
        let (w, bias) = (slot.weight(&self.weight), slot.bias.as_ref().or(self.bias.as_ref()));
        let y = match slot.pair() {
            None => x.linear(w, bias)?,
            Some(l @ LowRank { magnitude: None, .. }) => l.forward(x, w, bias)?,
            Some(l @ LowRank { magnitude: Some(m), .. }) => {
                x.dora_linear(w, &self.squares(w, m.dtype())?, bias, &l.a, &l.b, m, l.scale, l.active_dropout())?
            }
        };
        let y = match &slot.bottleneck {
            None => y,
            Some(bottleneck) => bottleneck.forward(&y)?,
        };
        Ok(match &slot.probe {
            None => y,
            Some(probe) => listen(probe, x, y),
        })
    }

    /// `‖wᵢ‖²` of the weight in use: computed when it is first asked for, as a frozen weight does not change.
    fn squares(&self, w: &Tensor, dtype: DType) -> Result<Tensor> {
        let mut known = self.squares.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((id, squares)) if *id == w.id() && squares.dtype() == dtype => Ok(squares.clone()),
            _ => {
                let squares = w.row_squares(dtype)?;
                *known = Some((w.id(), squares.clone()));
                Ok(squares)
            }
        }
    }

    /// Full name in the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The weight in use `[n,k]`: merged, replaced by modules_to_save, or the base's.
    pub fn weight(&self) -> &Tensor {
        self.slot.weight(&self.weight)
    }

    /// The bias in use `[n]`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.slot.bias.as_ref().or(self.bias.as_ref())
    }

    /// k, columns of the weight.
    pub fn in_features(&self) -> usize {
        self.weight.shape().get(1).copied().unwrap_or(0)
    }

    /// n, rows of the weight.
    pub fn out_features(&self) -> usize {
        self.weight.shape().first().copied().unwrap_or(0)
    }

    /// The active pair beside the weight; none while it is merged into it.
    pub fn lora(&self) -> Option<&LowRank> {
        self.slot.pair()
    }

    /// Whether an adapter is merged into the weight.
    pub fn is_merged(&self) -> bool {
        self.slot.merged.is_some()
    }
}
