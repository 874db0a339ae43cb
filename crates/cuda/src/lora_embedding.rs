//! The low-rank embedding. A and its gradient are addressed transposed, so nothing of size [vocab, r] is moved. Rows of W that
//! bf16 cannot hold wait for their low-rank part in f32, so that y is rounded once.

use lowrank_backend::{Buffer, DType, Gemm, In, LoraEmbedding, Map, Mode, Out, Result, Rows, Slot};

use crate::Cuda;
use crate::elementwise::{fill, map};
use crate::gemm::gemm;
use crate::launch::volume;
use crate::moving::{gather_steps, scatter_steps};

fn expect(cuda: &Cuda, name: &'static str, op: &LoraEmbedding<'_>) -> Result<()> {
    cuda.expect_float(name, "w", op.w, volume(name, &[op.vocab, op.dim])?)?;
    cuda.expect(name, "a", op.a, DType::F32, volume(name, &[op.r, op.vocab])?)?;
    cuda.expect(name, "b", op.b, DType::F32, volume(name, &[op.dim, op.r])?)?;
    cuda.expect(name, "ids", op.ids, DType::U32, op.count)?;
    Ok(())
}

/// `h = (Aᵀ)[ids]`, `y = W[ids] + s h Bᵀ`.
pub(crate) fn lora_embedding_forward(cuda: &Cuda, op: &LoraEmbedding<'_>, y: Out<'_>, h: Out<'_>) -> Result<()> {
    const OP: &str = "lora_embedding_forward";
    let &LoraEmbedding { vocab, dim, count, r, scale, precision, .. } = op;
    expect(cuda, OP, op)?;
    let len = volume(OP, &[count, dim])?;
    cuda.activation(OP, "y", y.as_in(), len)?;
    cuda.expect(OP, "h", h.as_in(), DType::F32, volume(OP, &[count, r])?)?;
    let (mut y, mut h) = (y, h);
    let rows = Rows { rows: vocab, width: r, count };
    gather_steps(cuda, OP, &rows, [1, vocab], op.a, op.ids, h.reborrow().set())?;
    let rows = Rows { rows: vocab, width: dim, count };
    let low = Gemm::nt(count, dim, r).alpha(scale).precision(precision);
    if y.dtype == DType::F32 || op.w.dtype == y.dtype {
        gather_steps(cuda, OP, &rows, [dim, 1], op.w, op.ids, y.reborrow().set())?;
        return gemm(cuda, &low, h.as_in(), op.b, y.add());
    }
    let mut sum: Box<dyn Buffer> = Box::new(cuda.scratch(len)?);
    gather_steps(cuda, OP, &rows, [dim, 1], op.w, op.ids, Out::new(&mut *sum, DType::F32, len).set())?;
    gemm(cuda, &low, h.as_in(), op.b, Out::new(&mut *sum, DType::F32, len).add())?;
    map(cuda, Map::Copy, In::new(&*sum, DType::F32, len), y.set())
}

/// `db (+)= s gyᵀ h; (daᵀ)[ids] += s gy B`.
pub(crate) fn lora_embedding_backward(
    cuda: &Cuda,
    op: &LoraEmbedding<'_>,
    h: In<'_>,
    gy: In<'_>,
    da: Option<Slot<'_>>,
    db: Option<Slot<'_>>,
) -> Result<()> {
    const OP: &str = "lora_embedding_backward";
    let &LoraEmbedding { vocab, dim, count, r, scale, precision, .. } = op;
    expect(cuda, OP, op)?;
    cuda.activation(OP, "gy", gy, volume(OP, &[count, dim])?)?;
    cuda.expect(OP, "h", h, DType::F32, volume(OP, &[count, r])?)?;
    if let Some(db) = db {
        gemm(cuda, &Gemm::tn(dim, r, count).alpha(scale).precision(precision), gy, h, db)?;
    }
    let Some(Slot { out, mode }) = da else { return Ok(()) };
    cuda.expect(OP, "da", out.as_in(), DType::F32, r * vocab)?;
    if count == 0 {
        return if mode == Mode::Set { fill(cuda, 0.0, out) } else { Ok(()) };
    }
    let mut u: Box<dyn Buffer> = Box::new(cuda.scratch(count * r)?);
    let product = Gemm::nn(count, r, dim).alpha(scale).precision(precision);
    gemm(cuda, &product, gy, op.b, Out::new(&mut *u, DType::F32, count * r).set())?;
    let u = In::new(&*u, DType::F32, count * r);
    scatter_steps(cuda, OP, &Rows { rows: vocab, width: r, count }, [1, vocab], op.ids, u, Slot { out, mode })
}
