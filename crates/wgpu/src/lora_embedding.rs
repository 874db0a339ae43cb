//! The low-rank embedding. A and its gradient are addressed transposed, so nothing of size [vocab, r] is moved.

use lowrank_backend::{Buffer, DType, In, LoraEmbedding, Mode, Out, Result, Rows, Slot};

use crate::Wgpu;
use crate::elementwise::fill;
use crate::gemm::Product;
use crate::launch::volume;
use crate::moving::{gather_steps, scatter_steps};

fn expect(wgpu: &Wgpu, name: &'static str, op: &LoraEmbedding<'_>) -> Result<()> {
    wgpu.precision(name, op.precision)?;
    wgpu.expect_float(name, "w", op.w, volume(name, &[op.vocab, op.dim])?)?;
    wgpu.expect(name, "a", op.a, DType::F32, volume(name, &[op.r, op.vocab])?)?;
    wgpu.expect(name, "b", op.b, DType::F32, volume(name, &[op.dim, op.r])?)?;
    wgpu.expect(name, "ids", op.ids, DType::U32, op.count)
}

/// `h = (Aᵀ)[ids]`, `y = W[ids] + s h Bᵀ`.
pub(crate) fn lora_embedding_forward(wgpu: &Wgpu, op: &LoraEmbedding<'_>, y: Out<'_>, h: Out<'_>) -> Result<()> {
    const OP: &str = "lora_embedding_forward";
    let &LoraEmbedding { vocab, dim, count, r, scale, .. } = op;
    expect(wgpu, OP, op)?;
    wgpu.expect(OP, "y", y.as_in(), DType::F32, volume(OP, &[count, dim])?)?;
    wgpu.expect(OP, "h", h.as_in(), DType::F32, volume(OP, &[count, r])?)?;
    let (mut y, mut h) = (y, h);
    let rows = Rows { rows: vocab, width: r, count };
    gather_steps(wgpu, OP, &rows, [1, vocab], op.a, op.ids, h.reborrow().set())?;
    let rows = Rows { rows: vocab, width: dim, count };
    gather_steps(wgpu, OP, &rows, [dim, 1], op.w, op.ids, y.reborrow().set())?;
    let product = Product::new(OP, [count, dim, r], [false, true], h.as_in(), op.b);
    Product { alpha: scale, ..product }.run(wgpu, y, Mode::Add)
}

/// `db (+)= s gyᵀ h; (daᵀ)[ids] += s gy B`.
pub(crate) fn lora_embedding_backward(
    wgpu: &Wgpu,
    op: &LoraEmbedding<'_>,
    h: In<'_>,
    gy: In<'_>,
    da: Option<Slot<'_>>,
    db: Option<Slot<'_>>,
) -> Result<()> {
    const OP: &str = "lora_embedding_backward";
    let &LoraEmbedding { vocab, dim, count, r, scale, .. } = op;
    expect(wgpu, OP, op)?;
    wgpu.expect(OP, "gy", gy, DType::F32, volume(OP, &[count, dim])?)?;
    wgpu.expect(OP, "h", h, DType::F32, volume(OP, &[count, r])?)?;
    if let Some(db) = db {
        wgpu.expect(OP, "db", db.out.as_in(), DType::F32, dim * r)?;
        let product = Product::new(OP, [dim, r, count], [true, false], gy, h);
        Product { alpha: scale, ..product }.run(wgpu, db.out, db.mode)?;
    }
    let Some(Slot { mut out, mode }) = da else { return Ok(()) };
    wgpu.expect(OP, "da", out.as_in(), DType::F32, r * vocab)?;
    if count == 0 {
        return if mode == Mode::Set { fill(wgpu, 0.0, out) } else { Ok(()) };
    }
    let mut u: Box<dyn Buffer> = Box::new(wgpu.scratch(count * r)?);
    let product = Product::new(OP, [count, r, dim], [false, false], gy, op.b);
    Product { alpha: scale, ..product }.run(wgpu, Out::new(&mut *u, DType::F32, count * r), Mode::Set)?;
    let rows = Rows { rows: vocab, width: r, count };
    let u = In::new(&*u, DType::F32, count * r);
    scatter_steps(wgpu, OP, &rows, [1, vocab], op.ids, u, Slot { out: out.reborrow(), mode })
}
