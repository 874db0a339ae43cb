//! The oracle: the required operations as plain loops in f64, and nothing else.
//!
//! Every operand is widened to f64, every result is rounded once to its dtype. Provided operations are not overridden,
//! so that they are the definitions.

mod arithmetic;
mod element;
mod index;
mod memory;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::*;
use memory::Counters;

/// The f64 reference backend: any dtype, [`Precision::Full`] only, no threads.
///
/// Fresh memory is filled with ones bits (NaN in every float dtype), so that reading what was never written shows.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    counters: Arc<Counters>,
}

impl Reference {
    /// A reference device with its own counters.
    pub fn new() -> Self {
        Reference::default()
    }
}

const NAME: &str = "reference";

impl Backend for Reference {
    fn name(&self) -> String {
        NAME.into()
    }

    fn supports_dtype(&self, _: DType) -> bool {
        true
    }

    fn supports_precision(&self, precision: Precision) -> bool {
        precision == Precision::Full
    }

    fn supports_activations(&self, dtype: DType) -> bool {
        dtype.is_float()
    }

    fn stats(&self) -> Stats {
        self.counters.read()
    }

    fn reset_peak(&self) {
        self.counters.reset_peak();
    }

    fn alloc(&self, bytes: usize) -> Result<Box<dyn Buffer>> {
        memory::alloc(&self.counters, bytes)
    }

    fn upload(&self, bytes: &[u8], dst: Out<'_>) -> Result<()> {
        memory::upload(&self.counters, bytes, dst)
    }

    fn download<'a>(&'a self, src: In<'a>) -> Readback<'a> {
        Box::pin(async move { memory::download(&self.counters, src) })
    }

    fn sync(&self) -> Result<()> {
        self.counters.wait();
        Ok(())
    }

    fn copy(&self, op: &Block, src: In<'_>, dst: Slot<'_>) -> Result<()> {
        self.counters.launch();
        index::copy(op, src, dst)
    }

    fn fill(&self, value: f64, dst: Out<'_>) -> Result<()> {
        self.counters.launch();
        arithmetic::fill(value, dst)
    }

    fn gemm(&self, op: &Gemm, a: In<'_>, b: In<'_>, c: Slot<'_>) -> Result<()> {
        self.counters.launch();
        arithmetic::gemm(op, a, b, c)
    }

    fn map(&self, op: Map, x: In<'_>, y: Slot<'_>) -> Result<()> {
        self.counters.launch();
        arithmetic::map(op, x, y)
    }

    fn zip(&self, op: Zip, dims: &Broadcast, a: In<'_>, b: In<'_>, y: Slot<'_>) -> Result<()> {
        self.counters.launch();
        arithmetic::zip(op, dims, a, b, y)
    }

    fn reduce(&self, op: Reduce, dims: [usize; 3], x: In<'_>, y: Slot<'_>) -> Result<()> {
        self.counters.launch();
        arithmetic::reduce(op, dims, x, y)
    }

    fn permute(&self, dims: &[usize], perm: &[usize], x: In<'_>, y: Slot<'_>) -> Result<()> {
        self.counters.launch();
        index::permute(dims, perm, x, y)
    }

    fn gather(&self, op: &Rows, table: In<'_>, ids: In<'_>, y: Slot<'_>) -> Result<()> {
        self.counters.launch();
        index::gather(op, table, ids, y)
    }

    fn scatter_add(&self, op: &Rows, ids: In<'_>, x: In<'_>, table: Slot<'_>) -> Result<()> {
        self.counters.launch();
        index::scatter_add(op, ids, x, table)
    }

    fn dropout(&self, op: &Dropout, scalars: In<'_>, x: In<'_>, y: Slot<'_>) -> Result<()> {
        self.counters.launch();
        arithmetic::dropout(op, scalars, x, y)
    }
}
