//! rope and the gated unit, on activations of f32 or bf16.

use lowrank_backend::{DType, Error, In, Out, Result, Rope, Slot};
use lowrank_kernels as kernels;

use crate::Cuda;
use crate::launch::{add, entry, volume};

/// See [`Rope`].
pub(crate) fn rope(cuda: &Cuda, op: &Rope, x: In<'_>, cos: In<'_>, sin: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "rope";
    let &Rope { batch, seq, heads, dim, start, positions, inverse } = op;
    if !dim.is_multiple_of(2) {
        return Err(Error::invalid(OP, format!("head dimension {dim} is odd")));
    }
    if start.checked_add(seq).is_none_or(|end| end > positions) {
        return Err(Error::invalid(OP, format!("positions {start}..{start}+{seq} exceed the tables' {positions}")));
    }
    let (half, len) = (dim / 2, volume(OP, &[batch, seq, heads, dim])?);
    let table = volume(OP, &[positions, half])?;
    let from = cuda.activation(OP, "x", x, len)?;
    let to = cuda.expect(OP, "y", y.out.as_in(), x.dtype, len)?;
    let skip = 4 * (start * half) as u64;
    let cos = cuda.expect(OP, "cos", cos, DType::F32, table)? + skip;
    let sin = cuda.expect(OP, "sin", sin, DType::F32, table)? + skip;
    // Four pairs of bf16 a thread.
    let threads = if x.dtype == DType::BF16 { (len / 2).div_ceil(4) } else { len / 2 };
    let mut l = cuda.launch(OP, &kernels::SEQUENCE, entry(x.dtype, ["rope", "rope_bf16"]));
    l.u64s(&[to, from, cos, sin]).sizes(&[len / 2, half, heads, seq]);
    l.f32s(&[if inverse { -1.0 } else { 1.0 }]).u32s(&[add(y.mode)]).run_elements(threads)
}

/// `y = silu(gate) ⊙ up`.
pub(crate) fn swiglu_forward(cuda: &Cuda, gate: In<'_>, up: In<'_>, y: Out<'_>) -> Result<()> {
    const OP: &str = "swiglu_forward";
    let (len, dtype) = (gate.len, gate.dtype);
    let gate = cuda.activation(OP, "gate", gate, len)?;
    let up = cuda.expect(OP, "up", up, dtype, len)?;
    let y = cuda.expect(OP, "y", y.as_in(), dtype, len)?;
    let mut l = cuda.launch(OP, &kernels::SEQUENCE, entry(dtype, ["swiglu_forward", "swiglu_forward_bf16"]));
    l.u64s(&[y, gate, up]).sizes(&[len]).run_elements(len.div_ceil(4))
}

/// `dgate (+)= gy ⊙ up ⊙ silu'(gate); dup (+)= gy ⊙ silu(gate)`.
pub(crate) fn swiglu_backward(
    cuda: &Cuda,
    gate: In<'_>,
    up: In<'_>,
    gy: In<'_>,
    dgate: Option<Slot<'_>>,
    dup: Option<Slot<'_>>,
) -> Result<()> {
    const OP: &str = "swiglu_backward";
    let (len, dtype) = (gate.len, gate.dtype);
    let gate = cuda.activation(OP, "gate", gate, len)?;
    let up = cuda.expect(OP, "up", up, dtype, len)?;
    let gy = cuda.expect(OP, "gy", gy, dtype, len)?;
    let place = |what, slot: &Option<Slot<'_>>| match slot {
        Some(slot) => Ok((cuda.expect(OP, what, slot.out.as_in(), dtype, len)?, add(slot.mode))),
        None => Ok((0, 0)),
    };
    let ((dgate_at, dgate_add), (dup_at, dup_add)) = (place("dgate", &dgate)?, place("dup", &dup)?);
    if dgate.is_none() && dup.is_none() {
        return Ok(());
    }
    let mut l = cuda.launch(OP, &kernels::SEQUENCE, entry(dtype, ["swiglu_backward", "swiglu_backward_bf16"]));
    l.u64s(&[dgate_at, dup_at, gate, up, gy]).sizes(&[len]).u32s(&[dgate_add, dup_add]).run_elements(len.div_ceil(4))
}
