//! The frozen linear layer and the view of its weight.

use super::temp::{add_row, rounded};
use crate::{Backend, Gemm, In, Linear, Map, Out, Result, Slot, Weight};

pub(crate) fn dequantise<B: Backend + ?Sized>(b: &B, w: Weight<'_>, out: Out<'_>) -> Result<()> {
    let Weight::Dense(w) = w;
    w.expect("dequantise", "w", out.len)?;
    b.map(Map::Copy, w, out.set())
}

pub(crate) fn linear_forward<B: Backend + ?Sized>(b: &B, op: &Linear<'_>, x: In<'_>, y: Out<'_>) -> Result<()> {
    const OP: &str = "linear_forward";
    let &Linear { m, n, k, precision, .. } = op;
    let Weight::Dense(w) = op.w;
    w.expect(OP, "w", n * k)?;
    x.expect(OP, "x", m * k)?;
    y.expect(OP, "y", m * n)?;
    let product = Gemm::nt(m, n, k).precision(precision);
    let Some(bias) = op.bias else { return b.gemm(&product, x, w, y.set()) };
    bias.expect(OP, "bias", n)?;
    rounded(b, y.set(), |mut y| {
        b.gemm(&product, x, w, y.reborrow())?;
        add_row(b, m, bias, y.out)
    })
}

pub(crate) fn linear_backward<B: Backend + ?Sized>(b: &B, op: &Linear<'_>, gy: In<'_>, dx: Slot<'_>) -> Result<()> {
    const OP: &str = "linear_backward";
    let &Linear { m, n, k, precision, .. } = op;
    let Weight::Dense(w) = op.w;
    w.expect(OP, "w", n * k)?;
    gy.expect(OP, "gy", m * n)?;
    dx.out.expect(OP, "dx", m * k)?;
    b.gemm(&Gemm::nn(m, k, n).precision(precision), gy, w, dx)
}
