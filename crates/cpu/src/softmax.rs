//! Softmax over rows.

use lowrank_backend::{In, Matrix, Mode, Out, Result, Slot};

use crate::math::exp_shift_sum;
use crate::results::row_pieces;
use crate::simd::{self, kernel};
use crate::view::{floats, floats_mut, volume};

/// `y = exp(x − max) / Σ exp(x − max)`. NaN anywhere in a row, or an infinite maximum, makes the whole row NaN.
pub(crate) fn softmax_forward(op: &Matrix, x: In<'_>, y: Out<'_>) -> Result<()> {
    const OP: &str = "softmax_forward";
    let &Matrix { rows, cols } = op;
    let len = volume(OP, &[rows, cols])?;
    let x = floats(OP, "x", x, len)?;
    let y = floats_mut(OP, "y", y, len)?;
    if len == 0 {
        return Ok(());
    }
    row_pieces(y, cols, 4 * len, false, |start, piece| {
        x.load(start, piece);
        for row in piece.chunks_exact_mut(cols) {
            let max = simd::max(row);
            let sum = exp_shift_sum(row, max);
            simd::scale((1.0 / sum) as f32, row);
        }
    });
    Ok(())
}

kernel! {
    /// `dx (+)= y ⊙ (gy − inner)`.
    fn backward_row[FMA](inner: f32, y: &[f32], gy: &[f32], mode: Mode, dx: &mut [f32]) {
        if mode == Mode::Set {
            for ((dx, y), gy) in dx.iter_mut().zip(y).zip(gy) {
                *dx = *y * (*gy - inner);
            }
        } else {
            for ((dx, y), gy) in dx.iter_mut().zip(y).zip(gy) {
                *dx += *y * (*gy - inner);
            }
        }
    }
}

/// `dx (+)= y ⊙ (gy − rowsum(gy ⊙ y))`.
pub(crate) fn softmax_backward(op: &Matrix, y: In<'_>, gy: In<'_>, dx: Slot<'_>) -> Result<()> {
    const OP: &str = "softmax_backward";
    let &Matrix { rows, cols } = op;
    let len = volume(OP, &[rows, cols])?;
    let (y, gy) = (floats(OP, "y", y, len)?, floats(OP, "gy", gy, len)?);
    let mode = dx.mode;
    let dx = floats_mut(OP, "dx", dx.out, len)?;
    if len == 0 {
        return Ok(());
    }
    row_pieces(dx, cols, 4 * len, mode == Mode::Add, |start, piece| {
        for (i, dx) in piece.chunks_exact_mut(cols).enumerate() {
            let at = start + i * cols;
            y.with(at, cols, |y| {
                gy.with(at, cols, |gy| backward_row(simd::dot_wide(y, gy) as f32, y, gy, mode, dx));
            });
        }
    });
    Ok(())
}
