//! rope and the gated unit.

use lowrank_backend::{DType, Error, In, Mode, Out, Result, Rope, Slot};
use lowrank_shaders as shaders;

use crate::Wgpu;
use crate::launch::{add, volume};

/// See [`Rope`].
pub(crate) fn rope(wgpu: &Wgpu, op: &Rope, x: In<'_>, cos: In<'_>, sin: In<'_>, y: Slot<'_>) -> Result<()> {
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
    wgpu.expect(OP, "x", x, DType::F32, len)?;
    wgpu.expect(OP, "y", y.out.as_in(), DType::F32, len)?;
    wgpu.expect(OP, "cos", cos, DType::F32, table)?;
    wgpu.expect(OP, "sin", sin, DType::F32, table)?;
    if len == 0 {
        return Ok(());
    }
    let (mode, y) = (y.mode, y.out);
    let mut l = wgpu.launch(OP, &shaders::ROPE, "main");
    let y_start = l.output("y", &y)?;
    let x_start = l.input("x", x)?;
    let cos_start = l.input("cos", cos.narrow(start * half, seq * half))?;
    let sin_start = l.input("sin", sin.narrow(start * half, seq * half))?;
    l.sizes(&[len])?.u32s(&[y_start, x_start, cos_start, sin_start]).sizes(&[half, heads, seq])?;
    l.f32s(&[if inverse { -1.0 } else { 1.0 }]).constant("ADD", add(mode)).run_elements(&y)
}

/// `y = silu(gate) ⊙ up`.
pub(crate) fn swiglu_forward(wgpu: &Wgpu, gate: In<'_>, up: In<'_>, y: Out<'_>) -> Result<()> {
    const OP: &str = "swiglu_forward";
    let len = gate.len;
    wgpu.expect(OP, "gate", gate, DType::F32, len)?;
    wgpu.expect(OP, "up", up, DType::F32, len)?;
    wgpu.expect(OP, "y", y.as_in(), DType::F32, len)?;
    let mut l = wgpu.launch(OP, &shaders::SWIGLU_FORWARD, "main");
    let y_start = l.output("y", &y)?;
    let gate_start = l.input("gate", gate)?;
    let up_start = l.input("up", up)?;
    l.sizes(&[len])?.u32s(&[y_start, gate_start, up_start]).run_elements(&y)
}

/// Set, Add or absent, as the kernel counts them.
fn mode(slot: &Option<Slot<'_>>) -> u32 {
    slot.as_ref().map_or(2, |slot| u32::from(slot.mode == Mode::Add))
}

/// `dgate (+)= gy ⊙ up ⊙ silu'(gate); dup (+)= gy ⊙ silu(gate)`.
pub(crate) fn swiglu_backward(
    wgpu: &Wgpu,
    gate: In<'_>,
    up: In<'_>,
    gy: In<'_>,
    dgate: Option<Slot<'_>>,
    dup: Option<Slot<'_>>,
) -> Result<()> {
    const OP: &str = "swiglu_backward";
    let len = gate.len;
    for (what, x) in [("gate", gate), ("up", up), ("gy", gy)] {
        wgpu.expect(OP, what, x, DType::F32, len)?;
    }
    for (what, slot) in [("dgate", &dgate), ("dup", &dup)] {
        if let Some(slot) = slot {
            wgpu.expect(OP, what, slot.out.as_in(), DType::F32, len)?;
        }
    }
    if dgate.is_none() && dup.is_none() {
        return Ok(());
    }
    let mut l = wgpu.launch(OP, &shaders::SWIGLU_BACKWARD, "main");
    let dgate_start = l.maybe_output("dgate", dgate.as_ref().map(|s| &s.out))?;
    let dup_start = l.maybe_output("dup", dup.as_ref().map(|s| &s.out))?;
    let gate_start = l.input("gate", gate)?;
    let up_start = l.input("up", up)?;
    let gy_start = l.input("gy", gy)?;
    l.sizes(&[len])?.u32s(&[dgate_start, dup_start, gate_start, up_start, gy_start]);
    l.constant("DGATE", mode(&dgate)).constant("DUP", mode(&dup)).run((len as u64).div_ceil(256))
}
