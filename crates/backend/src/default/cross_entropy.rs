//! Cross entropy with ignored rows.
//!
//! `Zip::ReluGrad(mask, x)` is the selection "x where mask > 0, else 0": unlike a product it also drops NaN and
//! infinity, so nothing in an ignored row matters. A target beyond the vocabulary hits no column; dividing by the
//! number of hits makes its row NaN instead of leaving it out.

use super::softmax::exp_rows;
use super::temp::{Temp, equal, wide, zip, zip_same};
use crate::{Backend, CrossEntropy, DType, Error, IGNORE, In, Map, Out, Reduce, Result, Zip};

/// The targets as masks in the logits' dtype.
struct Targets {
    /// `[rows, vocab]`: 1 at the target.
    onehot: Temp,
    /// `[rows]`: 1 where `onehot` has its 1, 0 in ignored rows and for targets beyond the vocabulary.
    hits: Temp,
    /// `[rows]`: 0 in ignored rows, else 1.
    counted: Temp,
}

impl Targets {
    fn new<B: Backend + ?Sized>(b: &B, op: &CrossEntropy, dtype: DType, targets: In<'_>) -> Result<Self> {
        let &CrossEntropy { rows, vocab, .. } = op;
        let classes: Vec<u32> = (0..vocab as u32).collect();
        let classes = Temp::indices(b, &classes)?;
        let onehot = equal(b, dtype, (targets, [rows, 1]), (classes.view(), [1, vocab]))?;
        let hits = onehot.view().reduce(b, Reduce::Sum, [rows, vocab, 1])?;
        let ignore = Temp::indices(b, &[IGNORE])?;
        let ignored = equal(b, dtype, (targets, [rows]), (ignore.view(), [1]))?;
        let counted = ignored.view().map(b, Map::Affine(-1.0, 1.0))?;
        Ok(Targets { onehot, hits, counted })
    }
}

fn expect(name: &'static str, op: &CrossEntropy, targets: In<'_>, lse: usize) -> Result<()> {
    targets.expect(name, "targets", op.rows)?;
    if targets.dtype != DType::U32 {
        return Err(Error::dtype(name, "targets", targets.dtype, "u32"));
    }
    if lse != op.rows {
        return Err(Error::shape(name, format!("lse has {lse} elements, expected {}", op.rows)));
    }
    if op.vocab >= IGNORE as usize {
        return Err(Error::invalid(name, format!("{} classes do not fit u32 targets", op.vocab)));
    }
    if op.denominator.is_nan() || op.denominator <= 0.0 {
        return Err(Error::invalid(name, format!("denominator {} is not positive", op.denominator)));
    }
    Ok(())
}

pub(crate) fn cross_entropy_forward<B: Backend + ?Sized>(
    b: &B,
    op: &CrossEntropy,
    logits: In<'_>,
    targets: In<'_>,
    loss: Out<'_>,
    mut lse: Out<'_>,
) -> Result<()> {
    const OP: &str = "cross_entropy_forward";
    let &CrossEntropy { rows, vocab, denominator } = op;
    expect(OP, op, targets, lse.len)?;
    logits.expect(OP, "logits", rows * vocab)?;
    loss.expect(OP, "loss", 1)?;
    let mut logits_t = None;
    let logits = wide(b, logits, &mut logits_t)?;
    let t = Targets::new(b, op, logits.dtype, targets)?;
    exp_rows(b, rows, vocab, logits)?.log_sum_exp(b, lse.reborrow())?;
    let picked = zip_same(b, Zip::ReluGrad, t.onehot.view(), logits)?;
    let picked = picked.view().reduce(b, Reduce::Sum, [rows, vocab, 1])?;
    let picked = zip_same(b, Zip::Div, picked.view(), t.hits.view())?;
    let losses = zip_same(b, Zip::Sub, lse.as_in(), picked.view())?;
    let losses = zip_same(b, Zip::ReluGrad, t.counted.view(), losses.view())?;
    let total = losses.view().reduce(b, Reduce::Sum, [1, rows, 1])?;
    b.map(Map::Affine(1.0 / denominator, 0.0), total.view(), loss.set())
}

pub(crate) fn cross_entropy_backward<B: Backend + ?Sized>(
    b: &B,
    op: &CrossEntropy,
    logits: Out<'_>,
    targets: In<'_>,
    lse: In<'_>,
    gy: In<'_>,
) -> Result<()> {
    const OP: &str = "cross_entropy_backward";
    let &CrossEntropy { rows, vocab, denominator } = op;
    expect(OP, op, targets, lse.len)?;
    logits.expect(OP, "logits", rows * vocab)?;
    gy.expect(OP, "gy", 1)?;
    let all = [rows, vocab];
    let t = Targets::new(b, op, logits.dtype.wide(), targets)?;
    let mut logits_t = None;
    let shifted = zip(b, Zip::Sub, (wide(b, logits.as_in(), &mut logits_t)?, all), (lse, [rows, 1]))?;
    let p = shifted.view().map(b, Map::Exp)?;
    let onehot = zip(b, Zip::Div, (t.onehot.view(), all), (t.hits.view(), [rows, 1]))?;
    let d = zip_same(b, Zip::Sub, p.view(), onehot.view())?;
    let d = zip(b, Zip::ReluGrad, (t.counted.view(), [rows, 1]), (d.view(), all))?;
    let factor = gy.map(b, Map::Affine(1.0 / denominator, 0.0))?;
    let d = zip(b, Zip::Mul, (d.view(), all), (factor.view(), [1, 1]))?;
    b.map(Map::Copy, d.view(), logits.set())
}
