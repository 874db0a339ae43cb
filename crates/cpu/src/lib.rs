//! The CPU backend of lowrank: rayon over fixed partitions, pooled aligned buffers, arithmetic in f32.
//!
//! It knows flat buffers and operations on them, never tensors, the tape or adapters. bf16 and f16 are storage: values are
//! f32 from where they are read to where a result is rounded. f64 belongs to the reference device.
//!
//! * `buffer`, `huge`, `view`: memory, and the checked way from untyped views to slices.
//! * `results`: results of any storage, lent to tasks as f32.
//! * `parallel`, `simd`, `math`, `special`: how work is cut, vectorised loops, eˣ, and what is made of it.
//! * one file per operation, named as in the trait; `gemm` is the only one that knows how products are computed.
//!
//! Results are the same bits for any number of threads: no sum is split between tasks, or only by sizes. A row of a product
//! has the same bits alone and in any batch above 16 rows (see `gemm`).

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod buffer;
mod cross_entropy;
mod dropout;
mod elementwise;
mod gemm;
mod huge;
mod linear;
mod lora;
mod lora_embedding;
mod lora_multi;
mod math;
mod memory;
mod norm;
mod optim;
mod parallel;
mod path;
mod permute;
mod reduce;
mod results;
mod rope;
mod rows;
mod simd;
mod softmax;
mod special;
mod swiglu;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use lowrank_backend::{
    AdamW, AdamWParam, Attention, Backend, Block, Broadcast, Buffer, CrossEntropy, DType, Dropout, Gemm, In, Linear,
    Lora, LoraEmbedding, LoraMulti, Map, Matrix, Norm, Out, Precision, Readback, Reduce, Result, Rope, Rows, Sgd,
    SgdParam, Slot, Stats, Weight, Zip,
};

#[cfg(target_arch = "x86_64")]
#[doc(hidden)]
pub use amx::assume as assume_amx;
pub use path::Path;

/// What the device is called.
pub(crate) const NAME: &str = "cpu";

/// The processor this program runs on. Work goes to rayon's current thread pool.
pub struct Cpu {
    path: Path,
    pool: Arc<buffer::Pool>,
    counters: Counters,
}

impl Default for Cpu {
    fn default() -> Self {
        Cpu::new()
    }
}

#[derive(Default)]
struct Counters {
    launches: AtomicU64,
    waits: AtomicU64,
    uploaded: AtomicU64,
    downloaded: AtomicU64,
}

impl Cpu {
    /// A backend with its own memory pool and counters, and the fastest products this processor has.
    pub fn new() -> Self {
        Cpu { path: Path::best(), pool: Arc::default(), counters: Counters::default() }
    }

    /// The same with the kernels that `LOWRANK_CPU` names; an error if it names none that this processor has.
    pub fn from_env() -> Result<Self> {
        Ok(Cpu { path: Path::from_env()?, ..Cpu::new() })
    }

    /// The same with the products of one path, if this processor has it.
    pub fn with_path(path: Path) -> Result<Self> {
        Ok(Cpu { path: Path::from_name(path.name())?, ..Cpu::new() })
    }

    /// The kernels in use.
    pub fn path(&self) -> Path {
        self.path
    }

    /// Counts an operation.
    fn launch(&self) -> &Arc<buffer::Pool> {
        self.counters.launches.fetch_add(1, Relaxed);
        &self.pool
    }
}

impl Backend for Cpu {
    fn name(&self) -> String {
        NAME.to_string()
    }

    fn supports_dtype(&self, dtype: DType) -> bool {
        dtype != DType::F64
    }

    fn supports_activations(&self, dtype: DType) -> bool {
        matches!(dtype, DType::F32 | DType::BF16)
    }

    fn supports_precision(&self, precision: Precision) -> bool {
        gemm::Compute::supports(precision)
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
        self.pool.fill_stats(&mut stats);
        stats
    }

    fn reset_peak(&self) {
        self.pool.reset_peak();
    }

    fn alloc(&self, bytes: usize) -> Result<Box<dyn Buffer>> {
        Ok(Box::new(self.pool.alloc(bytes)?))
    }

    fn upload(&self, bytes: &[u8], dst: Out<'_>) -> Result<()> {
        memory::upload(bytes, dst)?;
        self.counters.uploaded.fetch_add(bytes.len() as u64, Relaxed);
        Ok(())
    }

    fn download<'a>(&'a self, src: In<'a>) -> Readback<'a> {
        Box::pin(async move {
            let bytes = view::bytes("download", "source", src, src.len)?.to_vec();
            self.counters.waits.fetch_add(1, Relaxed);
            self.counters.downloaded.fetch_add(bytes.len() as u64, Relaxed);
            Ok(bytes)
        })
    }

    fn sync(&self) -> Result<()> {
        self.counters.waits.fetch_add(1, Relaxed);
        Ok(())
    }

    fn copy(&self, op: &Block, src: In<'_>, dst: Slot<'_>) -> Result<()> {
        self.launch();
        memory::copy(op, src, dst)
    }

    fn fill(&self, value: f64, dst: Out<'_>) -> Result<()> {
        self.launch();
        memory::fill(value, dst)
    }

    fn gemm(&self, op: &Gemm, a: In<'_>, b: In<'_>, c: Slot<'_>) -> Result<()> {
        self.launch();
        gemm::gemm(self.path, op, a, b, c)
    }

    fn map(&self, op: Map, x: In<'_>, y: Slot<'_>) -> Result<()> {
        self.launch();
        elementwise::map(op, x, y)
    }

    fn zip(&self, op: Zip, dims: &Broadcast, a: In<'_>, b: In<'_>, y: Slot<'_>) -> Result<()> {
        self.launch();
        elementwise::zip(op, dims, a, b, y)
    }

    fn reduce(&self, op: Reduce, dims: [usize; 3], x: In<'_>, y: Slot<'_>) -> Result<()> {
        self.launch();
        reduce::reduce(op, dims, x, y)
    }

    fn permute(&self, dims: &[usize], perm: &[usize], x: In<'_>, y: Slot<'_>) -> Result<()> {
        self.launch();
        permute::permute(dims, perm, x, y)
    }

    fn gather(&self, op: &Rows, table: In<'_>, ids: In<'_>, y: Slot<'_>) -> Result<()> {
        self.launch();
        rows::gather(op, table, ids, y)
    }

    fn scatter_add(&self, op: &Rows, ids: In<'_>, x: In<'_>, table: Slot<'_>) -> Result<()> {
        self.launch();
        rows::scatter_add(op, ids, x, table)
    }

    fn dropout(&self, op: &Dropout, scalars: In<'_>, x: In<'_>, y: Slot<'_>) -> Result<()> {
        self.launch();
        dropout::dropout(op, scalars, x, y)
    }

    fn dequantise(&self, w: Weight<'_>, out: Out<'_>) -> Result<()> {
        self.launch();
        linear::dequantise(w, out)
    }

    fn linear_forward(&self, op: &Linear<'_>, x: In<'_>, y: Out<'_>) -> Result<()> {
        self.launch();
        linear::linear_forward(self.path, op, x, y)
    }

    fn linear_backward(&self, op: &Linear<'_>, gy: In<'_>, dx: Slot<'_>) -> Result<()> {
        self.launch();
        linear::linear_backward(self.path, op, gy, dx)
    }

    fn lora_forward(&self, op: &Lora<'_>, x: In<'_>, y: Out<'_>, h: Out<'_>) -> Result<()> {
        lora::lora_forward(self.launch(), self.path, op, x, y, h)
    }

    fn lora_backward(
        &self,
        op: &Lora<'_>,
        x: In<'_>,
        h: In<'_>,
        gy: In<'_>,
        dx: Option<Slot<'_>>,
        da: Option<Slot<'_>>,
        db: Option<Slot<'_>>,
    ) -> Result<()> {
        let (pool, sizes) = (self.launch(), [op.base.m, op.base.n, op.base.k]);
        parallel::inside(gemm::flops(sizes), || lora::lora_backward(pool, self.path, op, x, h, gy, dx, da, db))
    }

    fn lora_multi_forward(&self, op: &LoraMulti<'_>, x: In<'_>, y: Out<'_>, h: Out<'_>) -> Result<()> {
        lora_multi::lora_multi_forward(self, op, x, y, h)
    }

    fn lora_multi_backward(
        &self,
        op: &LoraMulti<'_>,
        x: In<'_>,
        h: In<'_>,
        gy: In<'_>,
        dx: Option<Slot<'_>>,
        grads: &mut [[Option<Slot<'_>>; 2]],
    ) -> Result<()> {
        lora_multi::lora_multi_backward(self, op, x, h, gy, dx, grads)
    }

    fn lora_embedding_forward(&self, op: &LoraEmbedding<'_>, y: Out<'_>, h: Out<'_>) -> Result<()> {
        lora_embedding::lora_embedding_forward(self.launch(), self.path, op, y, h)
    }

    fn lora_embedding_backward(
        &self,
        op: &LoraEmbedding<'_>,
        h: In<'_>,
        gy: In<'_>,
        da: Option<Slot<'_>>,
        db: Option<Slot<'_>>,
    ) -> Result<()> {
        lora_embedding::lora_embedding_backward(self.launch(), self.path, op, h, gy, da, db)
    }

    fn attention_forward(
        &self,
        op: &Attention,
        q: In<'_>,
        k: In<'_>,
        v: In<'_>,
        y: Out<'_>,
        lse: Out<'_>,
    ) -> Result<()> {
        self.launch();
        attention::attention_forward(self.path, op, q, k, v, y, lse)
    }

    fn attention_backward(
        &self,
        op: &Attention,
        q: In<'_>,
        k: In<'_>,
        v: In<'_>,
        y: In<'_>,
        lse: In<'_>,
        gy: In<'_>,
        dq: Option<Slot<'_>>,
        dk: Option<Slot<'_>>,
        dv: Option<Slot<'_>>,
    ) -> Result<()> {
        self.launch();
        attention::attention_backward(self.path, op, q, k, v, y, lse, gy, dq, dk, dv)
    }

    fn softmax_forward(&self, op: &Matrix, x: In<'_>, y: Out<'_>) -> Result<()> {
        self.launch();
        softmax::softmax_forward(op, x, y)
    }

    fn softmax_backward(&self, op: &Matrix, y: In<'_>, gy: In<'_>, dx: Slot<'_>) -> Result<()> {
        self.launch();
        softmax::softmax_backward(op, y, gy, dx)
    }

    fn rms_norm_forward(&self, op: &Norm, x: In<'_>, w: In<'_>, y: Out<'_>, rstd: Out<'_>) -> Result<()> {
        self.launch();
        norm::rms_norm_forward(op, x, w, y, rstd)
    }

    fn rms_norm_backward(
        &self,
        op: &Norm,
        x: In<'_>,
        w: In<'_>,
        rstd: In<'_>,
        gy: In<'_>,
        dx: Option<Slot<'_>>,
        dw: Option<Slot<'_>>,
    ) -> Result<()> {
        self.launch();
        norm::rms_norm_backward(op, x, w, rstd, gy, dx, dw)
    }

    fn layer_norm_forward(
        &self,
        op: &Norm,
        x: In<'_>,
        w: In<'_>,
        b: In<'_>,
        y: Out<'_>,
        mean: Out<'_>,
        rstd: Out<'_>,
    ) -> Result<()> {
        self.launch();
        norm::layer_norm_forward(op, x, w, b, y, mean, rstd)
    }

    fn layer_norm_backward(
        &self,
        op: &Norm,
        x: In<'_>,
        w: In<'_>,
        mean: In<'_>,
        rstd: In<'_>,
        gy: In<'_>,
        dx: Option<Slot<'_>>,
        dw: Option<Slot<'_>>,
        db: Option<Slot<'_>>,
    ) -> Result<()> {
        self.launch();
        norm::layer_norm_backward(op, x, w, mean, rstd, gy, dx, dw, db)
    }

    fn rope(&self, op: &Rope, x: In<'_>, cos: In<'_>, sin: In<'_>, y: Slot<'_>) -> Result<()> {
        self.launch();
        rope::rope(op, x, cos, sin, y)
    }

    fn swiglu_forward(&self, gate: In<'_>, up: In<'_>, y: Out<'_>) -> Result<()> {
        self.launch();
        swiglu::swiglu_forward(gate, up, y)
    }

    fn swiglu_backward(
        &self,
        gate: In<'_>,
        up: In<'_>,
        gy: In<'_>,
        dgate: Option<Slot<'_>>,
        dup: Option<Slot<'_>>,
    ) -> Result<()> {
        self.launch();
        swiglu::swiglu_backward(gate, up, gy, dgate, dup)
    }

    fn cross_entropy_forward(
        &self,
        op: &CrossEntropy,
        logits: In<'_>,
        targets: In<'_>,
        loss: Out<'_>,
        lse: Out<'_>,
    ) -> Result<()> {
        self.launch();
        cross_entropy::cross_entropy_forward(op, logits, targets, loss, lse)
    }

    fn cross_entropy_backward(
        &self,
        op: &CrossEntropy,
        logits: Out<'_>,
        targets: In<'_>,
        lse: In<'_>,
        gy: In<'_>,
    ) -> Result<()> {
        self.launch();
        cross_entropy::cross_entropy_backward(op, logits, targets, lse, gy)
    }

    fn grad_norm(&self, grads: &[In<'_>], max_norm: Option<f64>, scalars: Out<'_>) -> Result<()> {
        self.launch();
        optim::grad_norm(grads, max_norm, scalars)
    }

    fn adamw(&self, op: &AdamW, scalars: In<'_>, params: &mut [AdamWParam<'_>]) -> Result<()> {
        self.launch();
        optim::adamw(op, scalars, params)
    }

    fn sgd(&self, op: &Sgd, scalars: In<'_>, params: &mut [SgdParam<'_>]) -> Result<()> {
        self.launch();
        optim::sgd(op, scalars, params)
    }
}
