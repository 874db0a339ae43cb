//! The trait, one forwarding line per operation.

use std::sync::atomic::Ordering::Relaxed;

use lowrank_backend::{
    AdamW, AdamWParam, Attention, Backend, Block, Broadcast, Buffer, CrossEntropy, DType, Dropout, Error, Gemm, In,
    Linear, Lora, LoraEmbedding, Map, Matrix, Norm, Out, Precision, Readback, Reduce, Result, Rope, Rows, Sgd,
    SgdParam, Slot, Stats, Weight, Zip,
};

use crate::{Cuda, attention, elementwise, gemm, linear, lora_embedding, moving, optim, reduce, rows, sequence};

impl Backend for Cuda {
    fn name(&self) -> String {
        self.context.name()
    }

    fn supports_dtype(&self, dtype: DType) -> bool {
        dtype != DType::F64
    }

    /// All of them: products with f32 operands on the FMA units, or on tensor cores after rounding.
    fn supports_precision(&self, _precision: Precision) -> bool {
        true
    }

    fn supports_activations(&self, dtype: DType) -> bool {
        matches!(dtype, DType::F32 | DType::BF16)
    }

    fn stats(&self) -> Stats {
        let c = &self.counters;
        let mut stats = Stats {
            launches: c.launches.load(Relaxed),
            graph_launches: c.graph_launches.load(Relaxed),
            graphs_recorded: c.graphs_recorded.load(Relaxed),
            graph_updates: c.graph_updates.load(Relaxed),
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
        Ok(Box::new(self.memory(bytes)?))
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
        self.settle()?;
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

    fn repeated(&self, work: &mut dyn FnMut()) -> Result<()> {
        self.repeat(work)
    }

    fn dequantise(&self, w: Weight<'_>, out: Out<'_>) -> Result<()> {
        match w {
            Weight::Dense(w) => elementwise::cast(self, w, out),
            _ => Err(Error::unsupported("dequantise", self.context.name(), "quantised weights")),
        }
    }

    fn linear_forward(&self, op: &Linear<'_>, x: In<'_>, y: Out<'_>) -> Result<()> {
        linear::linear_forward(self, op, x, y)
    }

    fn linear_backward(&self, op: &Linear<'_>, gy: In<'_>, dx: Slot<'_>) -> Result<()> {
        linear::linear_backward(self, op, gy, dx)
    }

    fn lora_forward(&self, op: &Lora<'_>, x: In<'_>, y: Out<'_>, h: Out<'_>) -> Result<()> {
        linear::lora_forward(self, op, x, y, h)
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
        linear::lora_backward(self, op, x, h, gy, dx, da, db)
    }

    fn lora_embedding_forward(&self, op: &LoraEmbedding<'_>, y: Out<'_>, h: Out<'_>) -> Result<()> {
        lora_embedding::lora_embedding_forward(self, op, y, h)
    }

    fn lora_embedding_backward(
        &self,
        op: &LoraEmbedding<'_>,
        h: In<'_>,
        gy: In<'_>,
        da: Option<Slot<'_>>,
        db: Option<Slot<'_>>,
    ) -> Result<()> {
        lora_embedding::lora_embedding_backward(self, op, h, gy, da, db)
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
        attention::attention_forward(self, op, q, k, v, y, lse)
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
        attention::attention_backward(self, op, q, k, v, y, lse, gy, dq, dk, dv)
    }

    fn softmax_forward(&self, op: &Matrix, x: In<'_>, y: Out<'_>) -> Result<()> {
        rows::softmax_forward(self, op, x, y)
    }

    fn softmax_backward(&self, op: &Matrix, y: In<'_>, gy: In<'_>, dx: Slot<'_>) -> Result<()> {
        rows::softmax_backward(self, op, y, gy, dx)
    }

    fn rms_norm_forward(&self, op: &Norm, x: In<'_>, w: In<'_>, y: Out<'_>, rstd: Out<'_>) -> Result<()> {
        rows::norm_forward(self, "rms_norm_forward", op, x, w, None, y, rstd)
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
        rows::norm_backward(self, "rms_norm_backward", op, x, w, None, rstd, gy, dx, dw, None)
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
        rows::norm_forward(self, "layer_norm_forward", op, x, w, Some((b, mean)), y, rstd)
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
        rows::norm_backward(self, "layer_norm_backward", op, x, w, Some(mean), rstd, gy, dx, dw, db)
    }

    fn rope(&self, op: &Rope, x: In<'_>, cos: In<'_>, sin: In<'_>, y: Slot<'_>) -> Result<()> {
        sequence::rope(self, op, x, cos, sin, y)
    }

    fn swiglu_forward(&self, gate: In<'_>, up: In<'_>, y: Out<'_>) -> Result<()> {
        sequence::swiglu_forward(self, gate, up, y)
    }

    fn swiglu_backward(
        &self,
        gate: In<'_>,
        up: In<'_>,
        gy: In<'_>,
        dgate: Option<Slot<'_>>,
        dup: Option<Slot<'_>>,
    ) -> Result<()> {
        sequence::swiglu_backward(self, gate, up, gy, dgate, dup)
    }

    fn cross_entropy_forward(
        &self,
        op: &CrossEntropy,
        logits: In<'_>,
        targets: In<'_>,
        loss: Out<'_>,
        lse: Out<'_>,
    ) -> Result<()> {
        rows::cross_entropy_forward(self, op, logits, targets, loss, lse)
    }

    fn cross_entropy_backward(
        &self,
        op: &CrossEntropy,
        logits: Out<'_>,
        targets: In<'_>,
        lse: In<'_>,
        gy: In<'_>,
    ) -> Result<()> {
        rows::cross_entropy_backward(self, op, logits, targets, lse, gy)
    }

    fn grad_norm(&self, grads: &[In<'_>], max_norm: Option<f64>, scalars: Out<'_>) -> Result<()> {
        optim::grad_norm(self, grads, max_norm, scalars)
    }

    fn adamw(&self, op: &AdamW, scalars: In<'_>, params: &mut [AdamWParam<'_>]) -> Result<()> {
        optim::adamw(self, op, scalars, params)
    }

    fn sgd(&self, op: &Sgd, scalars: In<'_>, params: &mut [SgdParam<'_>]) -> Result<()> {
        optim::sgd(self, op, scalars, params)
    }
}
