//! Softmax over rows, and the log-sum-exp that attention and cross entropy share with it.

use super::temp::{Temp, wide, zip, zip_into, zip_same};
use crate::{Backend, In, Map, Matrix, Out, Reduce, Result, Slot, Zip};

/// What [`exp_rows`] gives.
pub(super) struct ExpRows {
    /// The largest element of each row.
    pub max: Temp,
    /// exp(x − max)
    pub exp: Temp,
    /// Σ exp(x − max) of each row.
    pub sum: Temp,
}

impl ExpRows {
    /// Writes max + ln Σ exp(x − max).
    pub fn log_sum_exp<B: Backend + ?Sized>(&self, b: &B, lse: Out<'_>) -> Result<()> {
        let log = self.sum.view().map(b, Map::Log)?;
        let rows = [log.view().len];
        zip_into(b, Zip::Add, (self.max.view(), rows), (log.view(), rows), lse.set())
    }
}

pub(super) fn exp_rows<B: Backend + ?Sized>(b: &B, rows: usize, cols: usize, x: In<'_>) -> Result<ExpRows> {
    let max = x.reduce(b, Reduce::Max, [rows, cols, 1])?;
    let shifted = zip(b, Zip::Sub, (x, [rows, cols]), (max.view(), [rows, 1]))?;
    let exp = shifted.view().map(b, Map::Exp)?;
    let sum = exp.view().reduce(b, Reduce::Sum, [rows, cols, 1])?;
    Ok(ExpRows { max, exp, sum })
}

pub(crate) fn softmax_forward<B: Backend + ?Sized>(b: &B, op: &Matrix, x: In<'_>, y: Out<'_>) -> Result<()> {
    const OP: &str = "softmax_forward";
    let &Matrix { rows, cols } = op;
    x.expect(OP, "x", rows * cols)?;
    y.expect(OP, "y", rows * cols)?;
    let mut x_t = None;
    let e = exp_rows(b, rows, cols, wide(b, x, &mut x_t)?)?;
    zip_into(b, Zip::Div, (e.exp.view(), [rows, cols]), (e.sum.view(), [rows, 1]), y.set())
}

pub(crate) fn softmax_backward<B: Backend + ?Sized>(
    b: &B,
    op: &Matrix,
    y: In<'_>,
    gy: In<'_>,
    dx: Slot<'_>,
) -> Result<()> {
    const OP: &str = "softmax_backward";
    let &Matrix { rows, cols } = op;
    y.expect(OP, "y", rows * cols)?;
    gy.expect(OP, "gy", rows * cols)?;
    dx.out.expect(OP, "dx", rows * cols)?;
    let [mut y_t, mut gy_t] = [None, None];
    let (y, gy) = (wide(b, y, &mut y_t)?, wide(b, gy, &mut gy_t)?);
    let sum = zip_same(b, Zip::Mul, gy, y)?.view().reduce(b, Reduce::Sum, [rows, cols, 1])?;
    let centred = zip(b, Zip::Sub, (gy, [rows, cols]), (sum.view(), [rows, 1]))?;
    zip_into(b, Zip::Mul, (y, [rows, cols]), (centred.view(), [rows, cols]), dx)
}
