//! Mean cross entropy over rows of logits; backward turns the logits into their gradient, row by row, in place.

use lowrank_backend::{CrossEntropy, Error, IGNORE, In, Out, Result};

use crate::math::{exp, sum_exp};
use crate::parallel::{Shared, rows_per_task, tasks, with_shared_f64};
use crate::results::row_pieces;
use crate::simd::{self, kernel};
use crate::view::{f32s, f32s_mut, floats, floats_mut, u32s, volume};

/// The targets, each a class or [`IGNORE`].
fn checked_targets<'a>(name: &'static str, op: &CrossEntropy, targets: In<'a>) -> Result<&'a [u32]> {
    let &CrossEntropy { rows, vocab, denominator } = op;
    if vocab >= IGNORE as usize {
        return Err(Error::invalid(name, format!("{vocab} classes do not fit u32 targets")));
    }
    if denominator.is_nan() || denominator <= 0.0 {
        return Err(Error::invalid(name, format!("denominator {denominator} is not positive")));
    }
    let targets = u32s(name, "targets", targets, rows)?;
    match targets.iter().position(|&t| t != IGNORE && t as usize >= vocab) {
        None => Ok(targets),
        Some(row) => {
            let detail = format!("target {} in row {row} is not below {vocab} classes", targets[row]);
            Err(Error::invalid(name, detail))
        }
    }
}

/// `loss = Σ (lse(row) − row[target]) / denominator` and `lse [rows]`.
pub(crate) fn cross_entropy_forward(
    op: &CrossEntropy,
    logits: In<'_>,
    targets: In<'_>,
    loss: Out<'_>,
    lse: Out<'_>,
) -> Result<()> {
    const OP: &str = "cross_entropy_forward";
    let &CrossEntropy { rows, vocab, denominator } = op;
    let targets = checked_targets(OP, op, targets)?;
    let len = volume(OP, &[rows, vocab])?;
    let logits = floats(OP, "logits", logits, len)?;
    let loss = f32s_mut(OP, "loss", loss, 1)?;
    let lse = f32s_mut(OP, "lse", lse, rows)?;
    with_shared_f64(rows, |losses| {
        let (per_task, shared) = (rows_per_task(vocab), Shared::new(&mut *losses));
        let lse = Shared::new(lse);
        tasks(rows.div_ceil(per_task), 4 * len, |task| {
            let own = task * per_task..rows.min((task + 1) * per_task);
            for (row, &target) in own.clone().zip(&targets[own]) {
                let (value, at_target) = logits.with(row * vocab, vocab, |x| {
                    let max = simd::max(x);
                    let at_target = if target == IGNORE { 0.0 } else { x[target as usize] };
                    (f64::from(max) + sum_exp(x, max).ln(), f64::from(at_target))
                });
                // SAFETY: one element of each per row, and each row belongs to one task.
                unsafe {
                    lse.part(row, 1)[0] = value as f32;
                    shared.part(row, 1)[0] = if target == IGNORE { 0.0 } else { value - at_target };
                }
            }
        });
        loss[0] = (losses.iter().sum::<f64>() / denominator) as f32;
    });
    Ok(())
}

kernel! {
    /// `x ← factor · exp(x − lse)`.
    fn probabilities[FMA](factor: f32, lse: f32, x: &mut [f32]) {
        for x in x.iter_mut() {
            *x = factor * exp::<FMA>(*x - lse);
        }
    }
}

/// `logits ← gy/denominator · (exp(logits − lse) − onehot)`, 0 in ignored rows.
pub(crate) fn cross_entropy_backward(
    op: &CrossEntropy,
    logits: Out<'_>,
    targets: In<'_>,
    lse: In<'_>,
    gy: In<'_>,
) -> Result<()> {
    const OP: &str = "cross_entropy_backward";
    let &CrossEntropy { rows, vocab, denominator } = op;
    let targets = checked_targets(OP, op, targets)?;
    let len = volume(OP, &[rows, vocab])?;
    let logits = floats_mut(OP, "logits", logits, len)?;
    let lse = f32s(OP, "lse", lse, rows)?;
    let factor = (f64::from(f32s(OP, "gy", gy, 1)?[0]) / denominator) as f32;
    if len == 0 {
        return Ok(());
    }
    row_pieces(logits, vocab, 4 * len, true, |start, piece| {
        for (i, x) in piece.chunks_exact_mut(vocab).enumerate() {
            let row = start / vocab + i;
            if targets[row] == IGNORE {
                x.fill(0.0);
                continue;
            }
            probabilities(factor, lse[row], x);
            x[targets[row] as usize] -= factor;
        }
    });
    Ok(())
}
