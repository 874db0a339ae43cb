//! `y = W[ids]`, with or without a low-rank branch.

use lowrank_core::Tensor;

use super::{LowRank, Slot};
use crate::Result;

/// A table of vectors with a slot for an adapter.
pub struct Embedding {
    name: String,
    pub(crate) weight: Tensor,
    pub(crate) slot: Slot,
}

impl Embedding {
    /// A table `[vocab, dim]` (any float storage); `name` is its full name in the model.
    pub fn new(name: impl Into<String>, weight: Tensor) -> Self {
        Embedding { name: name.into(), weight, slot: Slot::default() }
    }

    /// ids u32 `[…]` → `[…, dim]`: `W[ids]`, and `s (Aᵀ)[ids] Bᵀ` if an adapter is active here.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        match &self.slot.by_row {
            None => self.through(&self.slot, ids),
            Some(rows) => rows.apart(ids, |slot, ids| self.through(slot, ids)),
        }
    }

    fn through(&self, slot: &Slot, ids: &Tensor) -> Result<Tensor> {
        let table = slot.weight(&self.weight);
        Ok(match slot.pair() {
            None => table.embedding(ids)?,
            Some(l) => table.lora_embedding(ids, &l.a, &l.b, l.scale)?,
        })
    }

    /// Full name in the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The table in use `[vocab, dim]`: merged, replaced by modules_to_save, or the base's.
    pub fn weight(&self) -> &Tensor {
        self.slot.weight(&self.weight)
    }

    /// Rows of the table.
    pub fn vocab(&self) -> usize {
        self.weight.shape().first().copied().unwrap_or(0)
    }

    /// Columns of the table.
    pub fn dim(&self) -> usize {
        self.weight.shape().get(1).copied().unwrap_or(0)
    }

    /// The active pair beside the table; none while it is merged into it.
    pub fn lora(&self) -> Option<&LowRank> {
        self.slot.pair()
    }

    /// Whether an adapter is merged into the table.
    pub fn is_merged(&self) -> bool {
        self.slot.merged.is_some()
    }
}
