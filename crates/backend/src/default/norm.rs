//! RMSNorm (Zhang & Sennrich 2019) and LayerNorm (Ba et al. 2016) over rows.

use super::temp::{Temp, wide, zip, zip_into, zip_same};
use crate::{Backend, Error, In, Map, Norm, Out, Reduce, Result, Slot, Zip};

fn nonempty(name: &'static str, op: &Norm) -> Result<()> {
    if op.cols == 0 {
        return Err(Error::invalid(name, "rows of 0 elements have no mean"));
    }
    Ok(())
}

/// The mean of each row.
fn row_mean<B: Backend + ?Sized>(b: &B, op: &Norm, x: In<'_>) -> Result<Temp> {
    let sum = x.reduce(b, Reduce::Sum, [op.rows, op.cols, 1])?;
    sum.view().map(b, Map::Affine(1.0 / op.cols as f64, 0.0))
}

/// 1/√(mean(x²) + eps) of each row.
fn reciprocal_root<B: Backend + ?Sized>(b: &B, op: &Norm, x: In<'_>, rstd: Out<'_>) -> Result<()> {
    let sum = x.map(b, Map::Square)?.view().reduce(b, Reduce::Sum, [op.rows, op.cols, 1])?;
    let mean = sum.view().map(b, Map::Affine(1.0 / op.cols as f64, op.eps))?;
    let root = mean.view().map(b, Map::Sqrt)?;
    b.map(Map::Recip, root.view(), rstd.set())
}

/// x ⊙ w, w `[cols]` or `[rows, 1]`.
fn scale<B: Backend + ?Sized>(b: &B, op: &Norm, x: In<'_>, w: In<'_>, by: [usize; 2]) -> Result<Temp> {
    zip(b, Zip::Mul, (x, [op.rows, op.cols]), (w, by))
}

pub(crate) fn rms_norm_forward<B: Backend + ?Sized>(
    b: &B,
    op: &Norm,
    x: In<'_>,
    w: In<'_>,
    y: Out<'_>,
    mut rstd: Out<'_>,
) -> Result<()> {
    const OP: &str = "rms_norm_forward";
    let &Norm { rows, cols, .. } = op;
    nonempty(OP, op)?;
    x.expect(OP, "x", rows * cols)?;
    w.expect(OP, "w", cols)?;
    y.expect(OP, "y", rows * cols)?;
    rstd.expect(OP, "rstd", rows)?;
    let mut x_t = None;
    let x = wide(b, x, &mut x_t)?;
    reciprocal_root(b, op, x, rstd.reborrow())?;
    let xh = scale(b, op, x, rstd.as_in(), [rows, 1])?;
    zip_into(b, Zip::Mul, (xh.view(), [rows, cols]), (w, [1, cols]), y.set())
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn rms_norm_backward<B: Backend + ?Sized>(
    b: &B,
    op: &Norm,
    x: In<'_>,
    w: In<'_>,
    rstd: In<'_>,
    gy: In<'_>,
    dx: Option<Slot<'_>>,
    dw: Option<Slot<'_>>,
) -> Result<()> {
    const OP: &str = "rms_norm_backward";
    let &Norm { rows, cols, .. } = op;
    nonempty(OP, op)?;
    x.expect(OP, "x", rows * cols)?;
    w.expect(OP, "w", cols)?;
    rstd.expect(OP, "rstd", rows)?;
    gy.expect(OP, "gy", rows * cols)?;
    let [mut x_t, mut gy_t] = [None, None];
    let (x, gy) = (wide(b, x, &mut x_t)?, wide(b, gy, &mut gy_t)?);
    let xh = scale(b, op, x, rstd, [rows, 1])?;
    if let Some(dw) = dw {
        b.reduce(Reduce::Sum, [1, rows, cols], zip_same(b, Zip::Mul, gy, xh.view())?.view(), dw)?;
    }
    let Some(dx) = dx else { return Ok(()) };
    let t = scale(b, op, gy, w, [1, cols])?;
    let along = row_mean(b, op, zip_same(b, Zip::Mul, t.view(), xh.view())?.view())?;
    let along = scale(b, op, xh.view(), along.view(), [rows, 1])?;
    let across = zip_same(b, Zip::Sub, t.view(), along.view())?;
    zip_into(b, Zip::Mul, (across.view(), [rows, cols]), (rstd, [rows, 1]), dx)
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn layer_norm_forward<B: Backend + ?Sized>(
    b: &B,
    op: &Norm,
    x: In<'_>,
    w: In<'_>,
    bias: In<'_>,
    y: Out<'_>,
    mut mean: Out<'_>,
    mut rstd: Out<'_>,
) -> Result<()> {
    const OP: &str = "layer_norm_forward";
    let &Norm { rows, cols, .. } = op;
    nonempty(OP, op)?;
    x.expect(OP, "x", rows * cols)?;
    w.expect(OP, "w", cols)?;
    bias.expect(OP, "b", cols)?;
    y.expect(OP, "y", rows * cols)?;
    mean.expect(OP, "mean", rows)?;
    rstd.expect(OP, "rstd", rows)?;
    let mut x_t = None;
    let x = wide(b, x, &mut x_t)?;
    let sum = x.reduce(b, Reduce::Sum, [rows, cols, 1])?;
    b.map(Map::Affine(1.0 / cols as f64, 0.0), sum.view(), mean.reborrow().set())?;
    let centred = zip(b, Zip::Sub, (x, [rows, cols]), (mean.as_in(), [rows, 1]))?;
    reciprocal_root(b, op, centred.view(), rstd.reborrow())?;
    let xh = scale(b, op, centred.view(), rstd.as_in(), [rows, 1])?;
    let scaled = scale(b, op, xh.view(), w, [1, cols])?;
    zip_into(b, Zip::Add, (scaled.view(), [rows, cols]), (bias, [1, cols]), y.set())
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn layer_norm_backward<B: Backend + ?Sized>(
    b: &B,
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
    let &Norm { rows, cols, .. } = op;
    nonempty(OP, op)?;
    x.expect(OP, "x", rows * cols)?;
    w.expect(OP, "w", cols)?;
    mean.expect(OP, "mean", rows)?;
    rstd.expect(OP, "rstd", rows)?;
    gy.expect(OP, "gy", rows * cols)?;
    let [mut x_t, mut gy_t] = [None, None];
    let (x, gy) = (wide(b, x, &mut x_t)?, wide(b, gy, &mut gy_t)?);
    if let Some(db) = db {
        b.reduce(Reduce::Sum, [1, rows, cols], gy, db)?;
    }
    if dx.is_none() && dw.is_none() {
        return Ok(());
    }
    let centred = zip(b, Zip::Sub, (x, [rows, cols]), (mean, [rows, 1]))?;
    let xh = scale(b, op, centred.view(), rstd, [rows, 1])?;
    if let Some(dw) = dw {
        b.reduce(Reduce::Sum, [1, rows, cols], zip_same(b, Zip::Mul, gy, xh.view())?.view(), dw)?;
    }
    let Some(dx) = dx else { return Ok(()) };
    let t = scale(b, op, gy, w, [1, cols])?;
    let along = row_mean(b, op, zip_same(b, Zip::Mul, t.view(), xh.view())?.view())?;
    let along = scale(b, op, xh.view(), along.view(), [rows, 1])?;
    let mean_t = row_mean(b, op, t.view())?;
    let across = zip(b, Zip::Sub, (t.view(), [rows, cols]), (mean_t.view(), [rows, 1]))?;
    let across = zip_same(b, Zip::Sub, across.view(), along.view())?;
    zip_into(b, Zip::Mul, (across.view(), [rows, cols]), (rstd, [rows, 1]), dx)
}
