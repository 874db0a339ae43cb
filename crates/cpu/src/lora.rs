//! The low-rank linear as one operation: h = x̂ Aᵀ, y = x Wᵀ + s h Bᵀ (+ bias), and its gradients.
//!
//! x `[m,k]`, W `[n,k]`, A `[r,k]`, B `[n,r]`, y `[m,n]`, h `[m,r]`. A tile of y gets both products and the bias while it
//! is in the cache; temporaries are `[m,r]` only (s h forward, u = s gy B backward). The scale is applied to h and u,
//! so that products themselves have no factor and their bits depend on the summed dimension alone. x̂ is never stored:
//! its mask is recomputed in the panels that are summed.

use std::sync::Arc;

use lowrank_backend::{In, Lora, Mode, Out, Result, Slot};

use crate::buffer::Pool;
use crate::dropout;
use crate::gemm::{Grid, Operand, Product, flops, multiply};
use crate::linear::{bias, weight};
use crate::parallel::{Tile, with_scratch};
use crate::simd;
use crate::view::{f32s, f32s_mut, precision, volume};

/// See [`Lora`].
pub(crate) fn lora_forward(pool: &Arc<Pool>, op: &Lora<'_>, x: In<'_>, y: Out<'_>, h: Out<'_>) -> Result<()> {
    const OP: &str = "lora_forward";
    let (m, n, k, r) = (op.base.m, op.base.n, op.base.k, op.r);
    precision(OP, op.base.precision)?;
    let (w, bias) = (weight(OP, &op.base.w, n, k)?, bias(OP, &op.base)?);
    let a = Operand::f32(f32s(OP, "a", op.a, volume(OP, &[r, k])?)?, k);
    let b = Operand::f32(f32s(OP, "b", op.b, volume(OP, &[n, r])?)?, r);
    let x = Operand::f32(f32s(OP, "x", x, volume(OP, &[m, k])?)?, k);
    let y = f32s_mut(OP, "y", y, volume(OP, &[m, n])?)?;
    let h = f32s_mut(OP, "h", h, volume(OP, &[m, r])?)?;
    let mask = dropout::mask(OP, &op.dropout, op.scalars)?;

    multiply([m, r, k], x.masked(mask), a.t(), 1.0, Mode::Set, h);
    let mut scaled = pool.scratch(h.len())?;
    let scaled = scaled.as_f32_mut();
    scaled.copy_from_slice(h);
    simd::scale(op.scale as f32, scaled);

    let base = Product::new(m, k, x, w.t());
    let branch = Product::new(m, r, Operand::f32(scaled, r), b.t());
    Grid::new(1, m, n).run(flops([m, n, k]), y, |_, i0, j0, tile| {
        base.tile(i0, j0, Mode::Set, tile);
        branch.tile(i0, j0, Mode::Add, tile);
        if let Some(bias) = bias {
            let bias = &bias[j0..j0 + tile.cols()];
            (0..tile.rows()).for_each(|i| simd::add(bias, tile.row(i)));
        }
    });
    Ok(())
}

/// `u = s gy B; db (+)= s gyᵀ h; da (+)= uᵀ x̂; dx (+)= gy W + (u A) ⊙ mask`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn lora_backward(
    pool: &Arc<Pool>,
    op: &Lora<'_>,
    x: In<'_>,
    h: In<'_>,
    gy: In<'_>,
    dx: Option<Slot<'_>>,
    da: Option<Slot<'_>>,
    db: Option<Slot<'_>>,
) -> Result<()> {
    const OP: &str = "lora_backward";
    let (m, n, k, r) = (op.base.m, op.base.n, op.base.k, op.r);
    precision(OP, op.base.precision)?;
    let w = weight(OP, &op.base.w, n, k)?;
    let a = Operand::f32(f32s(OP, "a", op.a, volume(OP, &[r, k])?)?, k);
    let b = Operand::f32(f32s(OP, "b", op.b, volume(OP, &[n, r])?)?, r);
    let x = Operand::f32(f32s(OP, "x", x, volume(OP, &[m, k])?)?, k);
    let h = Operand::f32(f32s(OP, "h", h, volume(OP, &[m, r])?)?, r);
    let gy = Operand::f32(f32s(OP, "gy", gy, volume(OP, &[m, n])?)?, n);
    let mask = dropout::mask(OP, &op.dropout, op.scalars)?;
    let scale = op.scale as f32;

    if let Some(db) = db {
        let mode = db.mode;
        multiply([n, r, m], gy.t(), h, scale, mode, f32s_mut(OP, "db", db.out, n * r)?);
    }
    if dx.is_none() && da.is_none() {
        return Ok(());
    }
    let mut u = pool.scratch(volume(OP, &[m, r])?)?;
    let u = u.as_f32_mut();
    multiply([m, r, n], gy, b, scale, Mode::Set, u);
    let u = Operand::f32(u, r);
    if let Some(da) = da {
        let mode = da.mode;
        multiply([r, k, m], u.t(), x.masked(mask), 1.0, mode, f32s_mut(OP, "da", da.out, r * k)?);
    }
    let Some(dx) = dx else { return Ok(()) };
    let mode = dx.mode;
    let dx = f32s_mut(OP, "dx", dx.out, m * k)?;
    let (base, branch) = (Product::new(m, n, gy, w), Product::new(m, r, u, a));
    Grid::new(1, m, k).run(flops([m, n, k]), dx, |_, i0, j0, tile| {
        base.tile(i0, j0, mode, tile);
        let Some(mask) = mask else { return branch.tile(i0, j0, Mode::Add, tile) };
        let (rows, cols) = (tile.rows(), tile.cols());
        with_scratch(rows * cols, |scratch| {
            branch.tile(i0, j0, Mode::Set, &mut Tile::new(scratch, rows, cols));
            for (i, part) in scratch.chunks_exact_mut(cols).enumerate() {
                mask.apply(((i0 + i) * k + j0) as u64, part);
                simd::add(part, tile.row(i));
            }
        });
    });
    Ok(())
}
