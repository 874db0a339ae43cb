//! Softmax, cross entropy and norms: rows that are treated alone, one block each; of activations in f32 or bf16.

use lowrank_backend::{Buffer, CrossEntropy, DType, Error, IGNORE, In, Matrix, Norm, Out, Reduce, Result, Slot};
use lowrank_kernels as kernels;

use crate::Cuda;
use crate::launch::{add, entry, volume};

/// Rows that one thread adds up in the gradient of a norm's weights.
const CHUNK: usize = 64;

/// See the trait.
pub(crate) fn softmax_forward(cuda: &Cuda, op: &Matrix, x: In<'_>, y: Out<'_>) -> Result<()> {
    const OP: &str = "softmax_forward";
    let &Matrix { rows, cols } = op;
    let len = volume(OP, &[rows, cols])?;
    let from = cuda.activation(OP, "x", x, len)?;
    let to = cuda.expect(OP, "y", y.as_in(), x.dtype, len)?;
    let name = entry(x.dtype, ["softmax_forward", "softmax_forward_bf16"]);
    cuda.launch(OP, &kernels::SOFTMAX, name).u64s(&[to, from]).sizes(&[cols]).run(rows, 256)
}

/// See the trait.
pub(crate) fn softmax_backward(cuda: &Cuda, op: &Matrix, y: In<'_>, gy: In<'_>, dx: Slot<'_>) -> Result<()> {
    const OP: &str = "softmax_backward";
    let &Matrix { rows, cols } = op;
    let len = volume(OP, &[rows, cols])?;
    let dtype = y.dtype;
    let y = cuda.activation(OP, "y", y, len)?;
    let gy = cuda.expect(OP, "gy", gy, dtype, len)?;
    let to = cuda.expect(OP, "dx", dx.out.as_in(), dtype, len)?;
    let mut l = cuda.launch(OP, &kernels::SOFTMAX, entry(dtype, ["softmax_backward", "softmax_backward_bf16"]));
    l.u64s(&[to, y, gy]).sizes(&[cols]).u32s(&[add(dx.mode)]).run(rows, 256)
}

fn nonempty(op: &'static str, norm: &Norm) -> Result<usize> {
    if norm.cols == 0 {
        return Err(Error::invalid(op, "rows of 0 elements have no mean"));
    }
    volume(op, &[norm.rows, norm.cols])
}

/// RMSNorm, or LayerNorm if there are a bias and a place for the mean.
#[allow(clippy::too_many_arguments)]
pub(crate) fn norm_forward(
    cuda: &Cuda,
    name: &'static str,
    op: &Norm,
    x: In<'_>,
    w: In<'_>,
    layer: Option<(In<'_>, Out<'_>)>,
    y: Out<'_>,
    rstd: Out<'_>,
) -> Result<()> {
    let &Norm { rows, cols, eps } = op;
    let (len, dtype) = (nonempty(name, op)?, x.dtype);
    let x = cuda.activation(name, "x", x, len)?;
    let w = cuda.expect(name, "w", w, DType::F32, cols)?;
    let y = cuda.expect(name, "y", y.as_in(), dtype, len)?;
    let rstd = cuda.expect(name, "rstd", rstd.as_in(), DType::F32, rows)?;
    let (b, mean) = match &layer {
        None => (0, 0),
        Some((b, mean)) => {
            (cuda.expect(name, "b", *b, DType::F32, cols)?, cuda.expect(name, "mean", mean.as_in(), DType::F32, rows)?)
        }
    };
    let mut l = cuda.launch(name, &kernels::NORM, entry(dtype, ["norm_forward", "norm_forward_bf16"]));
    l.u64s(&[y, rstd, mean, x, w, b]).sizes(&[cols]).f32s(&[eps]).run(rows, 256)
}

/// Gradients of either norm; LayerNorm has a mean.
#[allow(clippy::too_many_arguments)]
pub(crate) fn norm_backward(
    cuda: &Cuda,
    name: &'static str,
    op: &Norm,
    x: In<'_>,
    w: In<'_>,
    mean: Option<In<'_>>,
    rstd: In<'_>,
    gy: In<'_>,
    dx: Option<Slot<'_>>,
    dw: Option<Slot<'_>>,
    db: Option<Slot<'_>>,
) -> Result<()> {
    let &Norm { rows, cols, .. } = op;
    let (len, dtype) = (nonempty(name, op)?, x.dtype);
    let x = cuda.activation(name, "x", x, len)?;
    let w = cuda.expect(name, "w", w, DType::F32, cols)?;
    let gy = cuda.expect(name, "gy", gy, dtype, len)?;
    let rstd = cuda.expect(name, "rstd", rstd, DType::F32, rows)?;
    let mean = mean.map_or(Ok(0), |mean| cuda.expect(name, "mean", mean, DType::F32, rows))?;
    if dw.is_some() || db.is_some() {
        weights(cuda, name, dtype, [rows, cols], [x, mean, rstd, gy], dw, db)?;
    }
    let Some(dx) = dx else { return Ok(()) };
    let to = cuda.expect(name, "dx", dx.out.as_in(), dtype, len)?;
    let mut l = cuda.launch(name, &kernels::NORM, entry(dtype, ["norm_backward", "norm_backward_bf16"]));
    l.u64s(&[to, x, w, mean, rstd, gy]).sizes(&[cols]).u32s(&[add(dx.mode)]).run(rows, 256)
}

/// Sums over rows, in two passes if there are many.
fn weights(
    cuda: &Cuda,
    name: &'static str,
    dtype: DType,
    [rows, cols]: [usize; 2],
    operands: [u64; 4],
    dw: Option<Slot<'_>>,
    db: Option<Slot<'_>>,
) -> Result<()> {
    let place = |what, slot: &Option<Slot<'_>>| match slot {
        Some(slot) => Ok((cuda.expect(name, what, slot.out.as_in(), DType::F32, cols)?, add(slot.mode))),
        None => Ok((0, 0)),
    };
    let ((dw_at, dw_add), (db_at, db_add)) = (place("dw", &dw)?, place("db", &db)?);
    let parts = rows.div_ceil(CHUNK).max(1);
    let stage = |dw_at: u64, db_at: u64, modes: [u32; 2]| {
        let mut l = cuda.launch(name, &kernels::NORM, entry(dtype, ["norm_weights", "norm_weights_bf16"]));
        l.u64s(&[dw_at, db_at]).u64s(&operands).sizes(&[rows, cols, CHUNK, parts * cols]);
        l.u32s(&modes).run_elements(parts * cols)
    };
    if parts == 1 {
        return stage(dw_at, db_at, [dw_add, db_add]);
    }
    let len = parts * cols;
    let mut t: Box<dyn Buffer> = Box::new(cuda.scratch(2 * len)?);
    let start = cuda.address(name, "parts", Out::new(&mut *t, DType::F32, 2 * len).as_in())?;
    let at = |wanted: bool, i: u64| if wanted { start + 4 * i * len as u64 } else { 0 };
    stage(at(dw.is_some(), 0), at(db.is_some(), 1), [0, 0])?;
    for (i, slot) in [dw, db].into_iter().enumerate() {
        if let Some(slot) = slot {
            let part = In::new(&*t, DType::F32, 2 * len).narrow(i * len, len);
            crate::reduce::reduce(cuda, Reduce::Sum, [1, parts, cols], part, slot)?;
        }
    }
    Ok(())
}

fn expect(cuda: &Cuda, name: &'static str, op: &CrossEntropy, targets: In<'_>, lse: In<'_>) -> Result<[u64; 2]> {
    let targets = cuda.expect(name, "targets", targets, DType::U32, op.rows)?;
    let lse = cuda.expect(name, "lse", lse, DType::F32, op.rows)?;
    if op.vocab >= IGNORE as usize {
        return Err(Error::invalid(name, format!("{} classes do not fit u32 targets", op.vocab)));
    }
    if op.denominator.is_nan() || op.denominator <= 0.0 {
        return Err(Error::invalid(name, format!("denominator {} is not positive", op.denominator)));
    }
    Ok([targets, lse])
}

/// See the trait. Each row's loss, then their sum over the denominator.
pub(crate) fn cross_entropy_forward(
    cuda: &Cuda,
    op: &CrossEntropy,
    logits: In<'_>,
    targets: In<'_>,
    loss: Out<'_>,
    lse: Out<'_>,
) -> Result<()> {
    const OP: &str = "cross_entropy_forward";
    let &CrossEntropy { rows, vocab, denominator } = op;
    let [targets, lse] = expect(cuda, OP, op, targets, lse.as_in())?;
    let name = entry(logits.dtype, ["cross_entropy_forward", "cross_entropy_forward_bf16"]);
    let logits = cuda.activation(OP, "logits", logits, volume(OP, &[rows, vocab])?)?;
    let loss = cuda.expect(OP, "loss", loss.as_in(), DType::F32, 1)?;
    let losses = cuda.scratch(rows)?;
    let mut l = cuda.launch(OP, &kernels::SOFTMAX, name);
    l.u64s(&[lse, losses.address(), logits, targets]).sizes(&[vocab]).run(rows, 256)?;
    let mut l = cuda.launch(OP, &kernels::SOFTMAX, "cross_entropy_total");
    l.u64s(&[loss, losses.address()]).sizes(&[rows]).f32s(&[1.0 / denominator]).run(1, 256)
}

/// Overwrites the logits with their gradient.
pub(crate) fn cross_entropy_backward(
    cuda: &Cuda,
    op: &CrossEntropy,
    logits: Out<'_>,
    targets: In<'_>,
    lse: In<'_>,
    gy: In<'_>,
) -> Result<()> {
    const OP: &str = "cross_entropy_backward";
    let &CrossEntropy { rows, vocab, denominator } = op;
    let [targets, lse] = expect(cuda, OP, op, targets, lse)?;
    let name = entry(logits.dtype, ["cross_entropy_backward", "cross_entropy_backward_bf16"]);
    let logits = cuda.activation(OP, "logits", logits.as_in(), volume(OP, &[rows, vocab])?)?;
    let gy = cuda.expect(OP, "gy", gy, DType::F32, 1)?;
    let mut l = cuda.launch(OP, &kernels::SOFTMAX, name);
    l.u64s(&[logits, targets, lse, gy]).sizes(&[vocab]).f32s(&[1.0 / denominator]).run(rows, 256)
}
