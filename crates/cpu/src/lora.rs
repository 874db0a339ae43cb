//! The low-rank linear as one operation: h = x̂ Aᵀ, y = x Wᵀ + s h Bᵀ (+ bias), and its gradients.
//!
//! x `[m,k]`, W `[n,k]`, A `[r,k]`, B `[n,r]`, y `[m,n]`, h `[m,r]`. A tile of y gets both products and the bias while it
//! is in the cache, and dB is summed while gy is packed for dx; temporaries are `[m,r]` (s h forward, u = s gy B backward) and
//! what `gemm::gradient` keeps of dB for a while. The scale is applied to h and u, so that products themselves have no factor
//! and their bits depend on the summed dimension alone. x̂ is never stored: its mask is recomputed in the panels that are summed.

use std::sync::Arc;

use lowrank_backend::{In, Lora, Mode, Out, Result, Slot};

use crate::buffer::{CpuBuffer, Pool};
use crate::dropout::{self, Mask};
use crate::gemm::{Blocked, Branch, Compute, FEW, Gradient, Grid, Operand, Product, Start, decodes, flops, multiply};
use crate::linear::{add_bias, bias, start, weight};
use crate::parallel::{Shared, Tile, with_scratch};
use crate::path::Path;
use crate::simd;
use crate::view::{f32s, f32s_mut, floats, floats_mut, volume};

/// See [`Lora`].
pub(crate) fn lora_forward(
    pool: &Arc<Pool>,
    path: Path,
    op: &Lora<'_>,
    x: In<'_>,
    y: Out<'_>,
    h: Out<'_>,
) -> Result<()> {
    const OP: &str = "lora_forward";
    let (m, n, k, r) = (op.base.m, op.base.n, op.base.k, op.r);
    let compute = Compute::new(OP, path, op.base.precision)?;
    let (w, bias) = (weight(OP, &op.base.w, n, k)?, bias(OP, &op.base)?);
    let a = Operand::f32(f32s(OP, "a", op.a, volume(OP, &[r, k])?)?, k);
    let b = Operand::f32(f32s(OP, "b", op.b, volume(OP, &[n, r])?)?, r);
    let x = Operand::new(floats(OP, "x", x, volume(OP, &[m, k])?)?, k);
    let y = floats_mut(OP, "y", y, volume(OP, &[m, n])?)?;
    let h = f32s_mut(OP, "h", h, volume(OP, &[m, r])?)?;
    let mask = dropout::mask(OP, &op.dropout, op.scalars)?;

    let scale = op.scale as f32;
    if !decodes(m, &x, &w.t()) {
        let h = Shared::new(h);
        let outer = Some(b.t());
        let branch = Branch { r, inner: a.t(), mask, scale, keep_scaled: false, h, outer, gradient: None };
        Blocked { compute, m, n, k, a: x, b: w.t(), alpha: 1.0, start: start(bias), c: y }.run(Some(branch), None);
        return Ok(());
    }
    multiply(path, [m, r, k], x.masked(mask), a.t(), 1.0, Mode::Set, &mut *h);
    let mut scaled = pool.scratch(h.len())?;
    let scaled = scaled.as_f32_mut();
    scaled.copy_from_slice(h);
    simd::scale(scale, scaled);
    let base = Product::new(path, m, k, x, w.t());
    let branch = Product::new(path, m, r, Operand::f32(scaled, r), b.t());
    Grid::new(1, m, n).run(flops([m, n, k]), y, Mode::Set, |_, i0, j0, tile| {
        base.tile(i0, j0, Mode::Set, tile);
        branch.tile(i0, j0, Mode::Add, tile);
        add_bias(bias, j0, tile);
    });
    Ok(())
}

/// `u = s gy B; db (+)= s gyᵀ h; da (+)= uᵀ x̂; dx (+)= gy W + (u A) ⊙ mask`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn lora_backward(
    pool: &Arc<Pool>,
    path: Path,
    op: &Lora<'_>,
    x: In<'_>,
    h: In<'_>,
    gy: In<'_>,
    dx: Option<Slot<'_>>,
    da: Option<Slot<'_>>,
    mut db: Option<Slot<'_>>,
) -> Result<()> {
    const OP: &str = "lora_backward";
    let (m, n, k, r) = (op.base.m, op.base.n, op.base.k, op.r);
    let compute = Compute::new(OP, path, op.base.precision)?;
    let w = weight(OP, &op.base.w, n, k)?;
    let a = Operand::f32(f32s(OP, "a", op.a, volume(OP, &[r, k])?)?, k);
    let b = Operand::f32(f32s(OP, "b", op.b, volume(OP, &[n, r])?)?, r);
    let x = Operand::new(floats(OP, "x", x, volume(OP, &[m, k])?)?, k);
    let h = Operand::f32(f32s(OP, "h", h, volume(OP, &[m, r])?)?, r);
    let gy = Operand::new(floats(OP, "gy", gy, volume(OP, &[m, n])?)?, n);
    let mask = dropout::mask(OP, &op.dropout, op.scalars)?;
    let scale = op.scale as f32;

    let mut u = match (&dx, &da) {
        (None, None) => None,
        _ => Some(pool.scratch(volume(OP, &[m, r])?)?),
    };
    if let (Some(u), Some(dx)) = (&mut u, dx) {
        let start = if dx.mode == Mode::Add { Start::Old } else { Start::Zero };
        let dx = floats_mut(OP, "dx", dx.out, volume(OP, &[m, k])?)?;
        let gradient = along_with_u(OP, h, scale, &mut db, [m, n, r])?;
        let base = Blocked { compute, m, n: k, k: n, a: gy, b: w, alpha: 1.0, start, c: dx };
        input_gradient(path, op, base, [a, b], mask, u, gradient);
    } else if let Some(u) = &mut u {
        multiply(path, [m, r, n], gy, b, scale, Mode::Set, u.as_f32_mut());
    }
    if let Some(db) = db {
        let mode = db.mode;
        multiply(path, [n, r, m], gy.t(), h, scale, mode, f32s_mut(OP, "db", db.out, volume(OP, &[n, r])?)?);
    }
    if let (Some(u), Some(da)) = (&mut u, da) {
        let (u, mode) = (Operand::f32(u.as_f32_mut(), r), da.mode);
        let da = f32s_mut(OP, "da", da.out, volume(OP, &[r, k])?)?;
        multiply(path, [r, k, m], u.t(), x.masked(mask), 1.0, mode, da);
    }
    Ok(())
}

/// `db [n,r] (+)= s gyᵀ h`, to be computed along with u, if its rank is for that; taken out of `db` then.
pub(crate) fn along_with_u<'g, 's: 'g>(
    name: &'static str,
    h: Operand<'g>,
    scale: f32,
    db: &mut Option<Slot<'s>>,
    [m, n, r]: [usize; 3],
) -> Result<Option<Gradient<'g>>> {
    let Some(db) = db.take_if(|_| m > 0 && (1..=FEW).contains(&r)) else { return Ok(None) };
    let out = f32s_mut(name, "db", db.out, volume(name, &[n, r])?)?;
    Ok(Some(Gradient { r, h, scale, mode: db.mode, out: Shared::new(out) }))
}

/// `u = s gy B; dx = start + gy W + (u A) ⊙ mask`, and dB.
fn input_gradient(
    path: Path,
    op: &Lora<'_>,
    base: Blocked<'_, '_>,
    [a, b]: [Operand<'_>; 2],
    mask: Option<Mask>,
    u: &mut CpuBuffer,
    gradient: Option<Gradient<'_>>,
) {
    let (m, k, r) = (op.base.m, op.base.k, op.r);
    let u = u.as_f32_mut();
    let h = Shared::new(u);
    let branch = |outer| {
        let scale = op.scale as f32;
        Some(Branch { r, inner: b, mask: None, scale, keep_scaled: true, h, outer, gradient })
    };
    let Some(mask) = mask else {
        return base.run(branch(Some(a)), None);
    };
    // The mask applies to the branch alone, so its part is computed tile by tile and added to what is finished.
    base.run(
        branch(None),
        Some(&|i0, j0, tile| {
            // SAFETY: rows of u are complete when their tiles are, and nobody writes them any more.
            let u = unsafe { h.read(i0 * r, tile.rows() * r) };
            let branch = Product::new(path, m, r, Operand::f32(u, r), a);
            let (rows, cols) = (tile.rows(), tile.cols());
            with_scratch(rows * cols, |scratch| {
                branch.tile(0, j0, Mode::Set, &mut Tile::new(scratch, rows, cols));
                for (i, part) in scratch.chunks_exact_mut(cols).enumerate() {
                    mask.apply(((i0 + i) * k + j0) as u64, part);
                    simd::add(part, tile.row(i));
                }
            });
        }),
    );
}
