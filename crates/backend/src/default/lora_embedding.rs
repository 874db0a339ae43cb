//! The low-rank embedding: y = W[ids] + s h Bᵀ with h = (Aᵀ)[ids].

use super::temp::{Temp, rounded};
use crate::{Backend, Gemm, In, LoraEmbedding, Out, Result, Rows, Slot};

fn expect(name: &'static str, op: &LoraEmbedding<'_>) -> Result<()> {
    op.w.expect(name, "w", op.vocab * op.dim)?;
    op.a.expect(name, "a", op.r * op.vocab)?;
    op.b.expect(name, "b", op.dim * op.r)?;
    op.ids.expect(name, "ids", op.count)
}

pub(crate) fn lora_embedding_forward<B: Backend + ?Sized>(
    b: &B,
    op: &LoraEmbedding<'_>,
    y: Out<'_>,
    mut h: Out<'_>,
) -> Result<()> {
    const OP: &str = "lora_embedding_forward";
    let &LoraEmbedding { vocab, dim, count, r, scale, precision, .. } = op;
    expect(OP, op)?;
    y.expect(OP, "y", count * dim)?;
    h.expect(OP, "h", count * r)?;
    let at = op.a.permute(b, &[r, vocab], &[1, 0])?;
    b.gather(&Rows { rows: vocab, width: r, count }, at.view(), op.ids, h.reborrow().set())?;
    rounded(b, y.set(), |mut y| {
        b.gather(&Rows { rows: vocab, width: dim, count }, op.w, op.ids, y.reborrow())?;
        b.gemm(&Gemm::nt(count, dim, r).alpha(scale).precision(precision), h.as_in(), op.b, y.out.add())
    })
}

pub(crate) fn lora_embedding_backward<B: Backend + ?Sized>(
    b: &B,
    op: &LoraEmbedding<'_>,
    h: In<'_>,
    gy: In<'_>,
    da: Option<Slot<'_>>,
    db: Option<Slot<'_>>,
) -> Result<()> {
    const OP: &str = "lora_embedding_backward";
    let &LoraEmbedding { vocab, dim, count, r, scale, precision, .. } = op;
    expect(OP, op)?;
    gy.expect(OP, "gy", count * dim)?;
    h.expect(OP, "h", count * r)?;
    if let Some(db) = db {
        b.gemm(&Gemm::tn(dim, r, count).alpha(scale).precision(precision), gy, h, db)?;
    }
    let Some(da) = da else { return Ok(()) };
    let mut u = Temp::new(b, gy.dtype.wide(), count * r)?;
    b.gemm(&Gemm::nn(count, r, dim).alpha(scale).precision(precision), gy, op.b, u.set())?;
    let mut dat = Temp::new(b, gy.dtype.wide(), vocab * r)?;
    b.scatter_add(&Rows { rows: vocab, width: r, count }, op.ids, u.view(), dat.set())?;
    b.permute(&[vocab, r], &[1, 0], dat.view(), da)
}
