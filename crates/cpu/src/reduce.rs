//! Sums and maxima over the middle of `[outer, len, inner]`, summed in f64 in an order that depends on sizes only.

use lowrank_backend::{In, Mode, Reduce, Result, Slot};
use rayon::prelude::*;

use crate::parallel::{Shared, pieces, rows_per_task, tasks, with_shared, with_shared_f64};
use crate::simd::{self, kernel};
use crate::view::{BLOCK, Floats, FloatsMut, floats, floats_mut, volume};

/// Columns that one task adds up side by side.
const STRIP: usize = 64;

/// See [`Reduce`]; x `[outer, len, inner]` → y `[outer, inner]`.
pub(crate) fn reduce(op: Reduce, dims: [usize; 3], x: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "reduce";
    let [outer, len, inner] = dims;
    let x = floats(OP, "x", x, volume(OP, &dims)?)?;
    let mode = y.mode;
    let y = floats_mut(OP, "y", y.out, volume(OP, &[outer, inner])?)?;
    if inner == 1 {
        let work = outer.saturating_mul(len);
        with_shared(outer, |sums| {
            if outer == 1 {
                sums[0] = row(op, x, 0, len, true);
            } else {
                let per_task = rows_per_task(len);
                pieces(sums, per_task, work, |start, sums| {
                    sums.iter_mut().enumerate().for_each(|(i, sum)| *sum = row(op, x, (start + i) * len, len, false));
                });
            }
            write(y, mode, sums);
        });
    } else {
        with_shared(outer * inner, |sums| {
            columns(op, dims, x, sums);
            write(y, mode, sums);
        });
    }
    Ok(())
}

fn write(y: FloatsMut<'_>, mode: Mode, sums: &[f32]) {
    crate::parallel::float_pieces(y, |start, piece| {
        let len = piece.len();
        piece.write(mode, |values| values.copy_from_slice(&sums[start..start + len]));
    });
}

/// One contiguous row, in blocks whose results are combined in order.
fn row(op: Reduce, x: Floats<'_>, start: usize, len: usize, parallel: bool) -> f32 {
    let block = |i: usize| {
        let (from, to) = (i * BLOCK, len.min((i + 1) * BLOCK));
        let mut buffer = [0.0; BLOCK];
        let values = x.block(start + from, to - from, &mut buffer);
        match op {
            Reduce::Sum => simd::sum_wide(values),
            Reduce::Max => f64::from(if values.iter().any(|x| x.is_nan()) { f32::NAN } else { simd::max(values) }),
        }
    };
    let blocks = len.div_ceil(BLOCK);
    let combine = |a: f64, b: f64| match op {
        Reduce::Sum => a + b,
        Reduce::Max => {
            if b.is_nan() || b > a {
                b
            } else {
                a
            }
        }
    };
    let zero = if op == Reduce::Sum { 0.0 } else { f64::NEG_INFINITY };
    if parallel && blocks > 16 {
        return with_shared_f64(blocks, |partial| {
            partial.par_iter_mut().enumerate().for_each(|(i, partial)| *partial = block(i));
            partial.iter().copied().fold(zero, combine) as f32
        });
    }
    (0..blocks).map(block).fold(zero, combine) as f32
}

kernel! {
    /// The larger of each; NaN stays.
    fn larger[FMA](x: &[f32], totals: &mut [f64]) {
        for (total, x) in totals.iter_mut().zip(x) {
            let x = f64::from(*x);
            *total = if x.is_nan() || x > *total { x } else { *total };
        }
    }
}

/// Sums, or largest values, down the columns of `outer` matrices `[len, inner]`.
fn columns(op: Reduce, [outer, len, inner]: [usize; 3], x: Floats<'_>, y: &mut [f32]) {
    let strips = inner.div_ceil(STRIP);
    let y = Shared::new(y);
    tasks(outer * strips, (outer * inner).saturating_mul(len), |task| {
        let (o, first) = (task / strips, task % strips * STRIP);
        let width = STRIP.min(inner - first);
        let mut buffer = [0.0f32; STRIP];
        let mut totals = [if op == Reduce::Sum { 0.0 } else { f64::NEG_INFINITY }; STRIP];
        for l in 0..len {
            let values = x.block((o * len + l) * inner + first, width, &mut buffer);
            match op {
                Reduce::Sum => simd::add_wide(values, &mut totals[..width]),
                Reduce::Max => larger(values, &mut totals[..width]),
            }
        }
        // SAFETY: one strip of one matrix per task.
        let y = unsafe { y.part(o * inner + first, width) };
        y.iter_mut().zip(totals).for_each(|(y, total)| *y = total as f32);
    });
}
