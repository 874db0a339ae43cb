//! A device with its fused operations taken away: only the required methods reach it.

use std::sync::Arc;

use crate::*;

/// Forwards the required methods of a backend and runs the definitions of everything else, so that comparing fused
/// with unfused is one more device in a test or a bench.
#[derive(Clone)]
pub struct Unfused(Arc<dyn Backend>);

impl Unfused {
    /// The same device without its fused operations.
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Unfused(inner)
    }
}

impl Backend for Unfused {
    fn name(&self) -> String {
        format!("unfused {}", self.0.name())
    }

    fn supports_dtype(&self, dtype: DType) -> bool {
        self.0.supports_dtype(dtype)
    }

    fn supports_precision(&self, precision: Precision) -> bool {
        self.0.supports_precision(precision)
    }

    fn supports_activations(&self, dtype: DType) -> bool {
        self.0.supports_activations(dtype)
    }

    fn stats(&self) -> Stats {
        self.0.stats()
    }

    fn reset_peak(&self) {
        self.0.reset_peak();
    }

    fn alloc(&self, bytes: usize) -> Result<Box<dyn Buffer>> {
        self.0.alloc(bytes)
    }

    fn upload(&self, bytes: &[u8], dst: Out<'_>) -> Result<()> {
        self.0.upload(bytes, dst)
    }

    fn download<'a>(&'a self, src: In<'a>) -> Readback<'a> {
        self.0.download(src)
    }

    fn sync(&self) -> Result<()> {
        self.0.sync()
    }

    fn copy(&self, op: &Block, src: In<'_>, dst: Slot<'_>) -> Result<()> {
        self.0.copy(op, src, dst)
    }

    fn fill(&self, value: f64, dst: Out<'_>) -> Result<()> {
        self.0.fill(value, dst)
    }

    fn gemm(&self, op: &Gemm, a: In<'_>, b: In<'_>, c: Slot<'_>) -> Result<()> {
        self.0.gemm(op, a, b, c)
    }

    fn map(&self, op: Map, x: In<'_>, y: Slot<'_>) -> Result<()> {
        self.0.map(op, x, y)
    }

    fn zip(&self, op: Zip, dims: &Broadcast, a: In<'_>, b: In<'_>, y: Slot<'_>) -> Result<()> {
        self.0.zip(op, dims, a, b, y)
    }

    fn reduce(&self, op: Reduce, dims: [usize; 3], x: In<'_>, y: Slot<'_>) -> Result<()> {
        self.0.reduce(op, dims, x, y)
    }

    fn permute(&self, dims: &[usize], perm: &[usize], x: In<'_>, y: Slot<'_>) -> Result<()> {
        self.0.permute(dims, perm, x, y)
    }

    fn gather(&self, op: &Rows, table: In<'_>, ids: In<'_>, y: Slot<'_>) -> Result<()> {
        self.0.gather(op, table, ids, y)
    }

    fn scatter_add(&self, op: &Rows, ids: In<'_>, x: In<'_>, table: Slot<'_>) -> Result<()> {
        self.0.scatter_add(op, ids, x, table)
    }

    fn dropout(&self, op: &Dropout, scalars: In<'_>, x: In<'_>, y: Slot<'_>) -> Result<()> {
        self.0.dropout(op, scalars, x, y)
    }
}
