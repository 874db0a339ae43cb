//! RMSNorm and LayerNorm over rows. Row sums are in f64: they decide every element of the row.

use lowrank_backend::{Error, In, Mode, Norm, Out, Result, Slot};

use crate::parallel::{Shared, tasks};
use crate::results::row_pieces;
use crate::simd::{self, dot_wide, kernel, sum_wide};
use crate::view::{Floats, f32s, f32s_mut, floats, floats_mut, volume};

/// Columns that one task of a weight's gradient adds up side by side.
const STRIP: usize = 64;

fn elements(name: &'static str, op: &Norm) -> Result<usize> {
    if op.cols == 0 {
        return Err(Error::invalid(name, "rows of 0 elements have no mean"));
    }
    volume(name, &[op.rows, op.cols])
}

kernel! {
    /// `y = (x − mean)·rstd ⊙ w (+ b)`.
    fn normalise[FMA](x: &[f32], mean: f32, rstd: f32, w: &[f32], b: Option<&[f32]>, y: &mut [f32]) {
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = (*x - mean) * rstd * *w;
        }
        if let Some(b) = b {
            for (y, b) in y.iter_mut().zip(b) {
                *y += *b;
            }
        }
    }
}

kernel! {
    /// Σ gy⊙w and Σ gy⊙w⊙x̂.
    fn backward_sums[FMA](x: &[f32], mean: f32, rstd: f32, w: &[f32], gy: &[f32]) -> (f64, f64) {
        const L: usize = 8;
        let (mut sums, mut along) = ([0.0f64; L], [0.0f64; L]);
        let mut step = |l: usize, x: f32, w: f32, gy: f32| {
            let t = f64::from(gy * w);
            sums[l] += t;
            along[l] += t * f64::from((x - mean) * rstd);
        };
        let whole = x.len() / L * L;
        for i in (0..whole).step_by(L) {
            let (x, w, gy) = (&x[i..i + L], &w[i..i + L], &gy[i..i + L]);
            for l in 0..L {
                step(l, x[l], w[l], gy[l]);
            }
        }
        for i in whole..x.len() {
            step(i - whole, x[i], w[i], gy[i]);
        }
        (sums.iter().sum(), along.iter().sum())
    }
}

kernel! {
    /// `dx (+)= rstd (gy⊙w − across − x̂·along)`.
    fn backward_row[FMA](
        x: &[f32], stats: [f32; 2], means: [f32; 2], w: &[f32], gy: &[f32], mode: Mode, dx: &mut [f32],
    ) {
        let ([mean, rstd], [across, along]) = (stats, means);
        for (((dx, x), w), gy) in dx.iter_mut().zip(x).zip(w).zip(gy) {
            let value = rstd * (*gy * *w - across - (*x - mean) * rstd * along);
            *dx = if mode == Mode::Add { *dx + value } else { value };
        }
    }
}

/// `rstd = 1/√(mean(x²) + eps)`, `y = x·rstd ⊙ w`.
pub(crate) fn rms_norm_forward(op: &Norm, x: In<'_>, w: In<'_>, y: Out<'_>, rstd: Out<'_>) -> Result<()> {
    const OP: &str = "rms_norm_forward";
    let (len, cols) = (elements(OP, op)?, op.cols);
    let (x, w) = (floats(OP, "x", x, len)?, f32s(OP, "w", w, cols)?);
    let y = floats_mut(OP, "y", y, len)?;
    let rstd = Shared::new(f32s_mut(OP, "rstd", rstd, op.rows)?);
    row_pieces(y, cols, 2 * len, false, |start, piece| {
        for (row, y) in (start / cols..).zip(piece.chunks_exact_mut(cols)) {
            x.with(row * cols, cols, |x| {
                let r = (1.0 / (dot_wide(x, x) / cols as f64 + op.eps).sqrt()) as f32;
                // SAFETY: one element per row, and each row belongs to one task.
                unsafe { rstd.part(row, 1)[0] = r };
                normalise(x, 0.0, r, w, None, y);
            });
        }
    });
    Ok(())
}

/// `y = (x − mean)·rstd ⊙ w + b`, `rstd = 1/√(var + eps)`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn layer_norm_forward(
    op: &Norm,
    x: In<'_>,
    w: In<'_>,
    b: In<'_>,
    y: Out<'_>,
    mean: Out<'_>,
    rstd: Out<'_>,
) -> Result<()> {
    const OP: &str = "layer_norm_forward";
    let (len, cols) = (elements(OP, op)?, op.cols);
    let (x, w, b) = (floats(OP, "x", x, len)?, f32s(OP, "w", w, cols)?, f32s(OP, "b", b, cols)?);
    let y = floats_mut(OP, "y", y, len)?;
    let mean = Shared::new(f32s_mut(OP, "mean", mean, op.rows)?);
    let rstd = Shared::new(f32s_mut(OP, "rstd", rstd, op.rows)?);
    row_pieces(y, cols, 3 * len, false, |start, piece| {
        for (row, y) in (start / cols..).zip(piece.chunks_exact_mut(cols)) {
            x.with(row * cols, cols, |x| {
                let mu = (sum_wide(x) / cols as f64) as f32;
                // The row centred first: E[x²] − mean² would cancel.
                y.iter_mut().zip(x).for_each(|(y, x)| *y = x - mu);
                let r = (1.0 / (dot_wide(y, y) / cols as f64 + op.eps).sqrt()) as f32;
                // SAFETY: one element per row, and each row belongs to one task.
                unsafe { (mean.part(row, 1)[0], rstd.part(row, 1)[0]) = (mu, r) };
                normalise(x, mu, r, w, Some(b), y);
            });
        }
    });
    Ok(())
}

/// `dw (+)= Σ gy ⊙ x̂; dx (+)= rstd (gy⊙w − x̂·mean(gy⊙w⊙x̂))`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn rms_norm_backward(
    op: &Norm,
    x: In<'_>,
    w: In<'_>,
    rstd: In<'_>,
    gy: In<'_>,
    dx: Option<Slot<'_>>,
    dw: Option<Slot<'_>>,
) -> Result<()> {
    const OP: &str = "rms_norm_backward";
    let (len, cols) = (elements(OP, op)?, op.cols);
    let rows = Rows {
        sizes: [op.rows, cols],
        x: floats(OP, "x", x, len)?,
        gy: floats(OP, "gy", gy, len)?,
        mean: None,
        rstd: f32s(OP, "rstd", rstd, op.rows)?,
    };
    let w = f32s(OP, "w", w, cols)?;
    rows.weights(OP, dw, None)?;
    rows.input(OP, w, dx)
}

/// `db (+)= Σ gy; dw (+)= Σ gy⊙x̂; dx (+)= rstd (t − mean(t) − x̂·mean(t⊙x̂))` with t = gy⊙w.
#[allow(clippy::too_many_arguments)]
pub(crate) fn layer_norm_backward(
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
    const OP: &str = "layer_norm_backward";
    let (len, cols) = (elements(OP, op)?, op.cols);
    let rows = Rows {
        sizes: [op.rows, cols],
        x: floats(OP, "x", x, len)?,
        gy: floats(OP, "gy", gy, len)?,
        mean: Some(f32s(OP, "mean", mean, op.rows)?),
        rstd: f32s(OP, "rstd", rstd, op.rows)?,
    };
    let w = f32s(OP, "w", w, cols)?;
    rows.weights(OP, dw, db)?;
    rows.input(OP, w, dx)
}

kernel! {
    /// `sums += gy ⊙ x̂` of one row.
    fn add_scaled[FMA](x: &[f32], mean: f32, rstd: f32, gy: &[f32], sums: &mut [f64]) {
        for ((sum, x), gy) in sums.iter_mut().zip(x).zip(gy) {
            *sum += f64::from(*gy) * f64::from((x - mean) * rstd);
        }
    }
}

/// What both backward passes read.
struct Rows<'a> {
    /// Rows and columns.
    sizes: [usize; 2],
    x: Floats<'a>,
    gy: Floats<'a>,
    /// `None` for RMSNorm, which subtracts none.
    mean: Option<&'a [f32]>,
    rstd: &'a [f32],
}

impl Rows<'_> {
    fn mean(&self, row: usize) -> f32 {
        self.mean.map_or(0.0, |mean| mean[row])
    }

    fn input(&self, op: &'static str, w: &[f32], dx: Option<Slot<'_>>) -> Result<()> {
        let Some(dx) = dx else { return Ok(()) };
        let ([rows, cols], mode) = (self.sizes, dx.mode);
        let dx = floats_mut(op, "dx", dx.out, rows * cols)?;
        row_pieces(dx, cols, 4 * rows * cols, mode == Mode::Add, |start, piece| {
            for (row, dx) in (start / cols..).zip(piece.chunks_exact_mut(cols)) {
                let (mean, rstd) = (self.mean(row), self.rstd[row]);
                self.x.with(row * cols, cols, |x| {
                    self.gy.with(row * cols, cols, |gy| {
                        let (across, along) = backward_sums(x, mean, rstd, w, gy);
                        let across = if self.mean.is_some() { (across / cols as f64) as f32 } else { 0.0 };
                        backward_row(x, [mean, rstd], [across, (along / cols as f64) as f32], w, gy, mode, dx);
                    });
                });
            }
        });
        Ok(())
    }

    /// Sums over all rows in ascending order, a strip of columns per task.
    fn weights(&self, op: &'static str, dw: Option<Slot<'_>>, db: Option<Slot<'_>>) -> Result<()> {
        let [rows, cols] = self.sizes;
        let outputs = [(dw, "dw", true), (db, "db", false)];
        for (slot, what, scaled) in outputs {
            let Some(slot) = slot else { continue };
            let mode = slot.mode;
            let out = Shared::new(f32s_mut(op, what, slot.out, cols)?);
            tasks(cols.div_ceil(STRIP), 2 * rows * cols, |task| {
                let first = task * STRIP;
                let width = STRIP.min(cols - first);
                let mut sums = [0.0f64; STRIP];
                let (mut x, mut gy) = ([0.0; STRIP], [0.0; STRIP]);
                for row in 0..rows {
                    let at = row * cols + first;
                    let (x, gy) = (self.x.block(at, width, &mut x), self.gy.block(at, width, &mut gy));
                    match scaled {
                        true => add_scaled(x, self.mean(row), self.rstd[row], gy, &mut sums[..width]),
                        false => simd::add_wide(gy, &mut sums[..width]),
                    }
                }
                // SAFETY: one strip per task.
                let out = unsafe { out.part(first, width) };
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = if mode == Mode::Add { *out + sum as f32 } else { sum as f32 };
                }
            });
        }
        Ok(())
    }
}
