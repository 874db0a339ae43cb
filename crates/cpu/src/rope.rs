//! Rotary position embedding, half-split.

use lowrank_backend::{Error, In, Mode, Result, Rope, Slot};

use crate::results::row_pieces;
use crate::simd::kernel;
use crate::view::{f32s, floats, floats_mut, volume};

kernel! {
    /// One head: `(x₁, x₂) → (x₁ cos − sign x₂ sin, x₂ cos + sign x₁ sin)`.
    fn rotate[FMA](x: &[f32], cos: &[f32], sin: &[f32], sign: f32, mode: Mode, y: &mut [f32]) {
        let half = cos.len();
        let (x1, x2) = x.split_at(half);
        let (y1, y2) = y.split_at_mut(half);
        let (x2, y2, sin) = (&x2[..half], &mut y2[..half], &sin[..half]);
        for i in 0..half {
            let s = sign * sin[i];
            let (a, b) = (x1[i] * cos[i] - x2[i] * s, x2[i] * cos[i] + x1[i] * s);
            (y1[i], y2[i]) = if mode == Mode::Add { (y1[i] + a, y2[i] + b) } else { (a, b) };
        }
    }
}

/// See [`Rope`].
pub(crate) fn rope(op: &Rope, x: In<'_>, cos: In<'_>, sin: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "rope";
    let &Rope { batch, seq, heads, dim, start, positions, inverse } = op;
    if !dim.is_multiple_of(2) {
        return Err(Error::invalid(OP, format!("head dimension {dim} is odd")));
    }
    if start.checked_add(seq).is_none_or(|end| end > positions) {
        return Err(Error::invalid(OP, format!("positions {start}..{start}+{seq} exceed the tables' {positions}")));
    }
    let (len, half) = (volume(OP, &[batch, seq, heads, dim])?, dim / 2);
    let table = volume(OP, &[positions, half])?;
    let x = floats(OP, "x", x, len)?;
    let (cos, sin) = (f32s(OP, "cos", cos, table)?, f32s(OP, "sin", sin, table)?);
    let mode = y.mode;
    let y = floats_mut(OP, "y", y.out, len)?;
    if len == 0 {
        return Ok(());
    }
    let (sign, width) = (if inverse { -1.0 } else { 1.0 }, heads * dim);
    row_pieces(y, width, 2 * len, mode == Mode::Add, |from, piece| {
        x.with(from, piece.len(), |x| {
            for (i, (x, y)) in x.chunks_exact(dim).zip(piece.chunks_exact_mut(dim)).enumerate() {
                let table = (start + (from + i * dim) / width % seq) * half;
                rotate(x, &cos[table..table + half], &sin[table..table + half], sign, mode, y);
            }
        });
    });
    Ok(())
}
