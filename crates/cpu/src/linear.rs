//! The linear layer over a frozen weight, and the view of its weight.

use lowrank_backend::{Error, In, Linear, Map, Mode, Out, Result, Slot, Weight};

use crate::NAME;
use crate::elementwise;
use crate::gemm::{Blocked, Compute, Grid, Operand, Product, Start, decodes, flops, multiply};
use crate::parallel::Tile;
use crate::path::Path;
use crate::simd;
use crate::view::{f32s, floats, floats_mut, volume};

/// The weight `[n,k]` as an operand of products.
pub(crate) fn weight<'a>(op: &'static str, w: &Weight<'a>, n: usize, k: usize) -> Result<Operand<'a>> {
    match w {
        Weight::Dense(w) => Ok(Operand::new(floats(op, "w", *w, volume(op, &[n, k])?)?, k)),
        _ => Err(Error::unsupported(op, NAME, "weights of this storage")),
    }
}

/// The bias `[n]`.
pub(crate) fn bias<'a>(op: &'static str, layer: &Linear<'a>) -> Result<Option<&'a [f32]>> {
    layer.bias.map(|bias| f32s(op, "bias", bias, layer.n)).transpose()
}

/// The weight's values in `out`'s dtype.
pub(crate) fn dequantise(w: Weight<'_>, out: Out<'_>) -> Result<()> {
    match w {
        Weight::Dense(w) => {
            w.expect("dequantise", "w", out.len)?;
            elementwise::map(Map::Copy, w, out.set())
        }
        _ => Err(Error::unsupported("dequantise", NAME, "weights of this storage")),
    }
}

/// What y starts from: the bias, if there is one.
pub(crate) fn start(bias: Option<&[f32]>) -> Start<'_> {
    bias.map_or(Start::Zero, Start::Row)
}

/// `y = x Wᵀ (+ bias)`.
pub(crate) fn linear_forward(path: Path, op: &Linear<'_>, x: In<'_>, y: Out<'_>) -> Result<()> {
    const OP: &str = "linear_forward";
    let &Linear { m, n, k, .. } = op;
    let compute = Compute::new(OP, path, op.precision)?;
    let (w, bias) = (weight(OP, &op.w, n, k)?, bias(OP, op)?);
    let x = Operand::new(floats(OP, "x", x, volume(OP, &[m, k])?)?, k);
    let y = floats_mut(OP, "y", y, volume(OP, &[m, n])?)?;
    if !decodes(m, &x, &w.t()) {
        Blocked { compute, m, n, k, a: x, b: w.t(), alpha: 1.0, start: start(bias), c: y }.run(None, None);
        return Ok(());
    }
    let product = Product::new(path, m, k, x, w.t());
    Grid::new(1, m, n).run(flops([m, n, k]), y, Mode::Set, |_, i0, j0, tile| {
        product.tile(i0, j0, Mode::Set, tile);
        add_bias(bias, j0, tile);
    });
    Ok(())
}

/// Adds the bias to a tile whose first column is `j0`.
pub(crate) fn add_bias(bias: Option<&[f32]>, j0: usize, tile: &mut Tile<'_>) {
    if let Some(bias) = bias {
        let bias = &bias[j0..j0 + tile.cols()];
        (0..tile.rows()).for_each(|i| simd::add(bias, tile.row(i)));
    }
}

/// `dx (+)= gy W`.
pub(crate) fn linear_backward(path: Path, op: &Linear<'_>, gy: In<'_>, dx: Slot<'_>) -> Result<()> {
    const OP: &str = "linear_backward";
    let &Linear { m, n, k, .. } = op;
    let compute = Compute::new(OP, path, op.precision)?;
    let w = weight(OP, &op.w, n, k)?;
    let gy = Operand::new(floats(OP, "gy", gy, volume(OP, &[m, n])?)?, n);
    let mode = dx.mode;
    let dx = floats_mut(OP, "dx", dx.out, volume(OP, &[m, k])?)?;
    if compute == path.into() {
        multiply(compute, [m, k, n], gy, w, 1.0, mode, dx);
    } else {
        // Rounded as with an adapter, however narrow.
        let start = if mode == Mode::Add { Start::Old } else { Start::Zero };
        Blocked { compute, m, n: k, k: n, a: gy, b: w, alpha: 1.0, start, c: dx }.run(None, None);
    }
    Ok(())
}
