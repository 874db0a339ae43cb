//! The trait, one forwarding line per operation.

use std::sync::atomic::Ordering::Relaxed;

use lowrank_backend::{
    Backend, Block, Broadcast, Buffer, DType, Dropout, Error, Gemm, In, Map, Out, Precision, Readback, Reduce, Result,
    Rows, Slot, Stats, Zip,
};

use crate::{Cuda, elementwise, gemm, moving, reduce};

impl Backend for Cuda {
    fn name(&self) -> String {
        self.context.name()
    }

    fn supports_dtype(&self, dtype: DType) -> bool {
        dtype != DType::F64
    }

    fn supports_precision(&self, precision: Precision) -> bool {
        precision == Precision::Full
    }

    fn stats(&self) -> Stats {
        let c = &self.counters;
        let mut stats = Stats {
            launches: c.launches.load(Relaxed),
            waits: c.waits.load(Relaxed),
            bytes_uploaded: c.uploaded.load(Relaxed),
            bytes_downloaded: c.downloaded.load(Relaxed),
            ..Stats::default()
        };
        self.stream.fill_stats(&mut stats);
        stats
    }

    fn reset_peak(&self) {
        self.stream.reset_peak();
    }

    fn alloc(&self, bytes: usize) -> Result<Box<dyn Buffer>> {
        Ok(Box::new(self.stream.alloc(bytes)?))
    }

    fn upload(&self, bytes: &[u8], dst: Out<'_>) -> Result<()> {
        const OP: &str = "upload";
        let size = dst.dtype.size();
        if !bytes.len().is_multiple_of(size) {
            return Err(Error::shape(OP, format!("{} bytes are no whole number of {}", bytes.len(), dst.dtype)));
        }
        let to = self.address(OP, "destination", dst.as_in())?;
        dst.expect(OP, "destination", bytes.len() / size)?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.stage(bytes, to)
    }

    fn download<'a>(&'a self, src: In<'a>) -> Readback<'a> {
        self.read_back(src)
    }

    fn sync(&self) -> Result<()> {
        self.counters.waits.fetch_add(1, Relaxed);
        self.stream.wait()
    }

    fn copy(&self, op: &Block, src: In<'_>, dst: Slot<'_>) -> Result<()> {
        moving::copy(self, op, src, dst)
    }

    fn fill(&self, value: f64, dst: Out<'_>) -> Result<()> {
        elementwise::fill(self, value, dst)
    }

    fn gemm(&self, op: &Gemm, a: In<'_>, b: In<'_>, c: Slot<'_>) -> Result<()> {
        gemm::gemm(self, op, a, b, c)
    }

    fn map(&self, op: Map, x: In<'_>, y: Slot<'_>) -> Result<()> {
        elementwise::map(self, op, x, y)
    }

    fn zip(&self, op: Zip, dims: &Broadcast, a: In<'_>, b: In<'_>, y: Slot<'_>) -> Result<()> {
        elementwise::zip(self, op, dims, a, b, y)
    }

    fn reduce(&self, op: Reduce, dims: [usize; 3], x: In<'_>, y: Slot<'_>) -> Result<()> {
        reduce::reduce(self, op, dims, x, y)
    }

    fn permute(&self, dims: &[usize], perm: &[usize], x: In<'_>, y: Slot<'_>) -> Result<()> {
        moving::permute(self, dims, perm, x, y)
    }

    fn gather(&self, op: &Rows, table: In<'_>, ids: In<'_>, y: Slot<'_>) -> Result<()> {
        moving::gather(self, op, table, ids, y)
    }

    fn scatter_add(&self, op: &Rows, ids: In<'_>, x: In<'_>, table: Slot<'_>) -> Result<()> {
        moving::scatter_add(self, op, ids, x, table)
    }

    fn dropout(&self, op: &Dropout, scalars: In<'_>, x: In<'_>, y: Slot<'_>) -> Result<()> {
        elementwise::dropout(self, op, scalars, x, y)
    }
}
