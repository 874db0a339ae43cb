//! Softmax, norms and cross entropy: rows that are treated alone, one workgroup each. Operands larger than one binding
//! are bound in slices of rows, a kernel each.

use lowrank_backend::{
    Buffer, CrossEntropy, DType, Error, IGNORE, In, Map, Matrix, Mode, Norm, Out, Reduce, Result, Slot,
};
use lowrank_shaders as shaders;

use crate::launch::{add, volume};
use crate::{Wgpu, elementwise, reduce};

/// The operands of a kernel of `rows.wgsl`, in the order of its bindings.
#[derive(Default)]
struct Operands<'a, 'b> {
    outputs: [Option<&'a Out<'b>>; 3],
    /// x, w, gy (or bias), mean, rstd.
    inputs: [Option<In<'a>>; 5],
    /// Elements of a row in each, outputs first; 0 if all rows share it.
    steps: [usize; 8],
    eps: f64,
    factor: f64,
    constants: [(&'static str, u32); 5],
    /// A workgroup per 16 columns instead of one per row.
    columns: bool,
}

const NONE: (&str, u32) = ("ADD", 0);

/// Rows of `step` elements; all of it where rows share it.
fn slice(x: In<'_>, step: usize, first: usize, rows: usize) -> In<'_> {
    if step == 0 { x } else { x.narrow(first * step, rows * step) }
}

fn run(
    wgpu: &Wgpu,
    op: &'static str,
    entry: &'static str,
    rows: usize,
    cols: usize,
    o: &Operands<'_, '_>,
) -> Result<()> {
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    // All operands are f32 or u32.
    let most = (wgpu.max_binding() as usize / (4 * cols)).max(1);
    for first in (0..rows).step_by(most) {
        let rows = most.min(rows - first);
        let mut l = wgpu.launch(op, &shaders::ROWS, entry);
        let mut starts = [0; 8];
        for (i, y) in o.outputs.iter().enumerate() {
            starts[i] = l.maybe_output_view("result", y.map(|y| slice(y.as_in(), o.steps[i], first, rows)))?;
        }
        for (i, x) in o.inputs.iter().enumerate() {
            starts[i + 3] = l.maybe("operand", x.map(|x| slice(x, o.steps[i + 3], first, rows)))?;
        }
        let [y, y2, y3, x, w, gy, mean, rstd] = starts;
        // The bias is where gy is.
        l.sizes(&[rows, cols])?.u32s(&[y, y2, y3, x, w, gy, mean, rstd, gy]).f32s(&[o.eps, o.factor]);
        for (name, value) in o.constants.into_iter().filter(|c| c.1 != 0) {
            l.constant(name, value);
        }
        if o.columns && first > 0 {
            // Sums over rows go on where the slice before left them.
            l.constant("ADD", 1).constant("ADD2", 1);
        }
        l.run(if o.columns { cols.div_ceil(16) as u64 } else { rows as u64 })?;
    }
    Ok(())
}

/// See the trait.
pub(crate) fn softmax_forward(wgpu: &Wgpu, op: &Matrix, x: In<'_>, y: Out<'_>) -> Result<()> {
    const OP: &str = "softmax_forward";
    let &Matrix { rows, cols } = op;
    let len = volume(OP, &[rows, cols])?;
    wgpu.expect(OP, "x", x, DType::F32, len)?;
    wgpu.expect(OP, "y", y.as_in(), DType::F32, len)?;
    let o = Operands {
        outputs: [Some(&y), None, None],
        inputs: [Some(x), None, None, None, None],
        steps: [cols, 0, 0, cols, 0, 0, 0, 0],
        constants: [NONE; 5],
        ..Operands::default()
    };
    run(wgpu, OP, "softmax_forward", rows, cols, &o)
}

/// See the trait.
pub(crate) fn softmax_backward(wgpu: &Wgpu, op: &Matrix, y: In<'_>, gy: In<'_>, dx: Slot<'_>) -> Result<()> {
    const OP: &str = "softmax_backward";
    let &Matrix { rows, cols } = op;
    let len = volume(OP, &[rows, cols])?;
    wgpu.expect(OP, "y", y, DType::F32, len)?;
    wgpu.expect(OP, "gy", gy, DType::F32, len)?;
    wgpu.expect(OP, "dx", dx.out.as_in(), DType::F32, len)?;
    let o = Operands {
        outputs: [Some(&dx.out), None, None],
        inputs: [Some(y), None, Some(gy), None, None],
        steps: [cols, 0, 0, cols, 0, cols, 0, 0],
        constants: [("ADD", add(dx.mode)), NONE, NONE, NONE, NONE],
        ..Operands::default()
    };
    run(wgpu, OP, "softmax_backward", rows, cols, &o)
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
    wgpu: &Wgpu,
    name: &'static str,
    op: &Norm,
    x: In<'_>,
    w: In<'_>,
    layer: Option<(In<'_>, Out<'_>)>,
    y: Out<'_>,
    rstd: Out<'_>,
) -> Result<()> {
    let &Norm { rows, cols, eps } = op;
    let len = nonempty(name, op)?;
    wgpu.expect(name, "x", x, DType::F32, len)?;
    wgpu.expect(name, "w", w, DType::F32, cols)?;
    wgpu.expect(name, "y", y.as_in(), DType::F32, len)?;
    wgpu.expect(name, "rstd", rstd.as_in(), DType::F32, rows)?;
    if let Some((b, mean)) = &layer {
        wgpu.expect(name, "b", *b, DType::F32, cols)?;
        wgpu.expect(name, "mean", mean.as_in(), DType::F32, rows)?;
    }
    let o = Operands {
        outputs: [Some(&y), Some(&rstd), layer.as_ref().map(|l| &l.1)],
        inputs: [Some(x), Some(w), layer.as_ref().map(|l| l.0), None, None],
        steps: [cols, 1, 1, cols, 0, 0, 0, 0],
        eps,
        constants: [("LAYER", u32::from(layer.is_some())), NONE, NONE, NONE, NONE],
        ..Operands::default()
    };
    run(wgpu, name, "norm_forward", rows, cols, &o)
}

/// Gradients of either norm; LayerNorm has a mean.
#[allow(clippy::too_many_arguments)]
pub(crate) fn norm_backward(
    wgpu: &Wgpu,
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
    let len = nonempty(name, op)?;
    wgpu.expect(name, "x", x, DType::F32, len)?;
    wgpu.expect(name, "w", w, DType::F32, cols)?;
    wgpu.expect(name, "gy", gy, DType::F32, len)?;
    wgpu.expect(name, "rstd", rstd, DType::F32, rows)?;
    if let Some(mean) = mean {
        wgpu.expect(name, "mean", mean, DType::F32, rows)?;
    }
    let layer = ("LAYER", u32::from(mean.is_some()));
    let inputs = [Some(x), Some(w), Some(gy), mean, Some(rstd)];
    if dw.is_some() || db.is_some() {
        for (what, slot) in [("dw", &dw), ("db", &db)] {
            if let Some(slot) = slot {
                wgpu.expect(name, what, slot.out.as_in(), DType::F32, cols)?;
            }
        }
        let mode = |slot: &Option<Slot<'_>>| slot.as_ref().map_or(0, |s| add(s.mode));
        let o = Operands {
            outputs: [dw.as_ref().map(|s| &s.out), db.as_ref().map(|s| &s.out), None],
            inputs,
            steps: [0, 0, 0, cols, 0, cols, 1, 1],
            constants: [
                layer,
                ("ADD", mode(&dw)),
                ("ADD2", mode(&db)),
                ("DW", u32::from(dw.is_some())),
                ("DB", u32::from(db.is_some())),
            ],
            columns: true,
            ..Operands::default()
        };
        if rows == 0 {
            for slot in [dw, db].into_iter().flatten().filter(|s| s.mode == Mode::Set) {
                elementwise::fill(wgpu, 0.0, slot.out)?;
            }
        } else {
            run(wgpu, name, "norm_weights", rows, cols, &o)?;
        }
    }
    let Some(dx) = dx else { return Ok(()) };
    wgpu.expect(name, "dx", dx.out.as_in(), DType::F32, len)?;
    let o = Operands {
        outputs: [Some(&dx.out), None, None],
        inputs,
        steps: [cols, 0, 0, cols, 0, cols, 1, 1],
        constants: [layer, ("ADD", add(dx.mode)), NONE, NONE, NONE],
        ..Operands::default()
    };
    run(wgpu, name, "norm_backward", rows, cols, &o)
}

fn expect(wgpu: &Wgpu, name: &'static str, op: &CrossEntropy, targets: In<'_>, lse: In<'_>) -> Result<()> {
    wgpu.expect(name, "targets", targets, DType::U32, op.rows)?;
    wgpu.expect(name, "lse", lse, DType::F32, op.rows)?;
    if op.vocab >= IGNORE as usize {
        return Err(Error::invalid(name, format!("{} classes do not fit u32 targets", op.vocab)));
    }
    if op.denominator.is_nan() || op.denominator <= 0.0 {
        return Err(Error::invalid(name, format!("denominator {} is not positive", op.denominator)));
    }
    Ok(())
}

/// See the trait. Each row's loss, then their sum and the division.
pub(crate) fn cross_entropy_forward(
    wgpu: &Wgpu,
    op: &CrossEntropy,
    logits: In<'_>,
    targets: In<'_>,
    loss: Out<'_>,
    lse: Out<'_>,
) -> Result<()> {
    const OP: &str = "cross_entropy_forward";
    let &CrossEntropy { rows, vocab, denominator } = op;
    expect(wgpu, OP, op, targets, lse.as_in())?;
    wgpu.expect(OP, "logits", logits, DType::F32, volume(OP, &[rows, vocab])?)?;
    wgpu.expect(OP, "loss", loss.as_in(), DType::F32, 1)?;
    let mut losses: Box<dyn Buffer> = Box::new(wgpu.scratch(rows)?);
    let out = Out::new(&mut *losses, DType::F32, rows);
    let o = Operands {
        outputs: [Some(&lse), Some(&out), None],
        inputs: [Some(logits), Some(targets), None, None, None],
        steps: [1, 1, 0, vocab, 1, 0, 0, 0],
        constants: [NONE; 5],
        ..Operands::default()
    };
    run(wgpu, OP, "cross_entropy_forward", rows, vocab, &o)?;
    let mut total: Box<dyn Buffer> = Box::new(wgpu.scratch(1)?);
    let losses = In::new(&*losses, DType::F32, rows);
    reduce::reduce(wgpu, Reduce::Sum, [1, rows, 1], losses, Out::new(&mut *total, DType::F32, 1).set())?;
    let total = In::new(&*total, DType::F32, 1);
    elementwise::map(wgpu, Map::Affine(1.0 / denominator, 0.0), total, loss.set())
}

/// Overwrites the logits with their gradient.
pub(crate) fn cross_entropy_backward(
    wgpu: &Wgpu,
    op: &CrossEntropy,
    logits: Out<'_>,
    targets: In<'_>,
    lse: In<'_>,
    gy: In<'_>,
) -> Result<()> {
    const OP: &str = "cross_entropy_backward";
    let &CrossEntropy { rows, vocab, denominator } = op;
    expect(wgpu, OP, op, targets, lse)?;
    wgpu.expect(OP, "logits", logits.as_in(), DType::F32, volume(OP, &[rows, vocab])?)?;
    wgpu.expect(OP, "gy", gy, DType::F32, 1)?;
    let o = Operands {
        outputs: [Some(&logits), None, None],
        inputs: [None, Some(targets), None, Some(lse), Some(gy)],
        steps: [vocab, 0, 0, 0, 1, 0, 1, 0],
        factor: 1.0 / denominator,
        constants: [NONE; 5],
        ..Operands::default()
    };
    run(wgpu, OP, "cross_entropy_backward", rows, vocab, &o)
}
