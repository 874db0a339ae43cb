//! A batch whose sequences have adapters of their own.
//!
//! Where every adapter says nothing about a layer, or has a plain pair, all rows go through the base in one operation
//! ([`Tensor::lora_linear_multi`]). Anything else (DoRA, dropout, bottlenecks, copies of weights, pairs on embeddings) is
//! computed run by run: the sequences in a row that have the same adapter.

use std::ops::Range;
use std::sync::Arc;

use lowrank_core::Tensor;
use lowrank_core::ops::RowAdapter;

use super::{Linear, Slot};
use crate::{Error, Result};

/// What several adapters say about one layer, and which sequence has which.
pub(crate) struct ByRow {
    /// Of every adapter, and of the base alone at the end.
    slots: Vec<Slot>,
    /// For each sequence of the batch: an adapter, or none.
    rows: Arc<[Option<usize>]>,
}

impl ByRow {
    pub(crate) fn new(mut slots: Vec<Slot>, rows: Arc<[Option<usize>]>) -> Self {
        slots.push(Slot::default());
        Self { slots, rows }
    }

    fn slot(&self, row: Option<usize>) -> &Slot {
        &self.slots[row.unwrap_or(self.slots.len() - 1)]
    }

    /// x `[sequences, …, k]` → `[sequences, …, n]`.
    pub(super) fn linear(&self, layer: &Linear, x: &Tensor) -> Result<Tensor> {
        let used = || self.rows.iter().map(|&row| self.slot(row));
        if used().all(Slot::is_empty) || !used().all(plain) {
            return self.apart(x, |slot, x| layer.through(slot, x));
        }
        self.check(x)?;
        let mut pairs = Vec::new();
        let mut place = vec![None; self.slots.len()];
        for (i, slot) in self.slots.iter().enumerate() {
            if let Some(l) = slot.pair().filter(|_| self.rows.contains(&Some(i))) {
                let (a, b) = l.product()?;
                place[i] = Some(pairs.len());
                pairs.push(RowAdapter { a, b, scale: l.scale });
            }
        }
        let rows: Vec<Option<usize>> = self.rows.iter().map(|row| row.and_then(|i| place[i])).collect();
        Ok(x.lora_linear_multi(&layer.weight, layer.bias.as_ref(), &pairs, &rows)?)
    }

    /// `f` on each run of sequences with the same adapter; on all at once if no adapter has anything to say here.
    pub(super) fn apart(&self, x: &Tensor, f: impl Fn(&Slot, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
        if self.rows.iter().all(|&row| self.slot(row).is_empty()) {
            return f(self.slot(None), x);
        }
        let block = self.check(x)?;
        let mut parts = Vec::new();
        for Range { start, end } in self.runs() {
            let part = x.slice(0, start * block, (end - start) * block)?;
            parts.push(f(self.slot(self.rows[start]), &part)?);
        }
        Ok(Tensor::concat(&parts.iter().collect::<Vec<_>>(), 0)?)
    }

    fn runs(&self) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (i, row) in self.rows.iter().enumerate() {
            match runs.last_mut() {
                Some(run) if self.rows[run.start] == *row => run.end = i + 1,
                _ => runs.push(i..i + 1),
            }
        }
        runs
    }

    /// How many indices of x's first dimension a sequence has.
    fn check(&self, x: &Tensor) -> Result<usize> {
        let first = x.shape().first().copied().unwrap_or(0);
        if first == 0 || !first.is_multiple_of(self.rows.len()) {
            let detail = format!("{} sequences have adapters, x has shape {:?}", self.rows.len(), x.shape());
            return Err(Error::adapter(detail));
        }
        Ok(first / self.rows.len())
    }
}

/// Whether the slot holds nothing but a pair that all rows' product can take in.
fn plain(slot: &Slot) -> bool {
    let pair = slot.lora.as_ref().is_none_or(|l| l.magnitude.is_none() && l.active_dropout() == 0.0);
    pair && slot.bottleneck.is_none() && slot.weight.is_none() && slot.bias.is_none()
}
