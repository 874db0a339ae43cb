//! The low-rank embedding: `h = (Aᵀ)[ids]`, `y = W[ids] + s h Bᵀ`, and its gradients.
//!
//! W `[vocab,dim]`, A `[r,vocab]`, B `[dim,r]`, ids `[count]`, y `[count,dim]`, h `[count,r]`.

use std::sync::Arc;

use lowrank_backend::{In, LoraEmbedding, Mode, Out, Result, Slot};

use crate::buffer::Pool;
use crate::gemm::{Compute, Grid, Operand, Product, flops, multiply};
use crate::parallel::{pieces, rows_per_task};
use crate::path::Path;
use crate::rows::checked_ids;
use crate::simd;
use crate::view::{f32s, f32s_mut, floats, floats_mut, volume};

/// See [`LoraEmbedding`].
pub(crate) fn lora_embedding_forward(
    pool: &Arc<Pool>,
    path: Path,
    op: &LoraEmbedding<'_>,
    y: Out<'_>,
    h: Out<'_>,
) -> Result<()> {
    const OP: &str = "lora_embedding_forward";
    let &LoraEmbedding { vocab, dim, count, r, scale, .. } = op;
    Compute::check(OP, op.precision)?;
    let w = floats(OP, "w", op.w, volume(OP, &[vocab, dim])?)?;
    let a = f32s(OP, "a", op.a, volume(OP, &[r, vocab])?)?;
    let b = Operand::f32(f32s(OP, "b", op.b, volume(OP, &[dim, r])?)?, r);
    let ids = checked_ids(OP, vocab, count, op.ids)?;
    let y = floats_mut(OP, "y", y, volume(OP, &[count, dim])?)?;
    let h = f32s_mut(OP, "h", h, volume(OP, &[count, r])?)?;

    if r > 0 {
        let per_task = rows_per_task(r);
        pieces(h, per_task * r, count * r, |start, rows| {
            for (row, &id) in rows.chunks_exact_mut(r).zip(&ids[start / r..]) {
                row.iter_mut().enumerate().for_each(|(j, h)| *h = a[j * vocab + id as usize]);
            }
        });
    }
    let mut scaled = pool.scratch(h.len())?;
    let scaled = scaled.as_f32_mut();
    scaled.copy_from_slice(h);
    simd::scale(scale as f32, scaled);

    let branch = Product::new(path, count, r, Operand::f32(scaled, r), b.t());
    Grid::new(1, count, dim).run(flops([count, dim, r]), y, Mode::Set, |_, i0, j0, tile| {
        for i in 0..tile.rows() {
            w.load(ids[i0 + i] as usize * dim + j0, tile.row(i));
        }
        branch.tile(i0, j0, Mode::Add, tile);
    });
    Ok(())
}

/// `db (+)= s gyᵀ h; (daᵀ)[ids] += s gy B`, in ascending position.
pub(crate) fn lora_embedding_backward(
    pool: &Arc<Pool>,
    path: Path,
    op: &LoraEmbedding<'_>,
    h: In<'_>,
    gy: In<'_>,
    da: Option<Slot<'_>>,
    db: Option<Slot<'_>>,
) -> Result<()> {
    const OP: &str = "lora_embedding_backward";
    let &LoraEmbedding { vocab, dim, count, r, scale, .. } = op;
    Compute::check(OP, op.precision)?;
    let b = Operand::f32(f32s(OP, "b", op.b, volume(OP, &[dim, r])?)?, r);
    let h = Operand::f32(f32s(OP, "h", h, volume(OP, &[count, r])?)?, r);
    let gy = Operand::new(floats(OP, "gy", gy, volume(OP, &[count, dim])?)?, dim);
    let ids = checked_ids(OP, vocab, count, op.ids)?;
    if let Some(db) = db {
        let mode = db.mode;
        multiply(path, [dim, r, count], gy.t(), h, scale as f32, mode, f32s_mut(OP, "db", db.out, dim * r)?);
    }
    let Some(da) = da else { return Ok(()) };
    let mut u = pool.scratch(volume(OP, &[count, r])?)?;
    let u = u.as_f32_mut();
    multiply(path, [count, r, dim], gy, b, scale as f32, Mode::Set, &mut *u);
    let u = &*u;
    let mode = da.mode;
    let da = f32s_mut(OP, "da", da.out, volume(OP, &[r, vocab])?)?;
    // One row of A's gradient per task, so equal ids need no order between tasks.
    pieces(da, vocab.max(1), r * (vocab + count), |start, row| {
        if mode == Mode::Set {
            row.fill(0.0);
        }
        let j = start / vocab.max(1);
        for (i, &id) in ids.iter().enumerate() {
            row[id as usize] += u[i * r + j];
        }
    });
    Ok(())
}
