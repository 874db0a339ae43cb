//! silu(gate) ⊙ up.

use lowrank_backend::{In, Mode, Out, Result, Slot};

use crate::math::{silu, silu_grad};
use crate::results::row_pieces;
use crate::simd::kernel;
use crate::view::{floats, floats_mut};

/// "Rows" of the partition: pieces of 16 Ki elements.
const PIECE: usize = 16_384;

kernel! {
    fn forward[FMA](gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = silu::<FMA>(*gate) * *up;
        }
    }
}

kernel! {
    /// `dgate (+)= gy ⊙ up ⊙ silu'(gate)`.
    fn gate_gradient[FMA](gate: &[f32], up: &[f32], gy: &[f32], mode: Mode, dgate: &mut [f32]) {
        for (((d, gate), up), gy) in dgate.iter_mut().zip(gate).zip(up).zip(gy) {
            let value = *gy * *up * silu_grad::<FMA>(*gate);
            *d = if mode == Mode::Add { *d + value } else { value };
        }
    }
}

kernel! {
    /// `dup (+)= gy ⊙ silu(gate)`.
    fn up_gradient[FMA](gate: &[f32], gy: &[f32], mode: Mode, dup: &mut [f32]) {
        for ((d, gate), gy) in dup.iter_mut().zip(gate).zip(gy) {
            let value = *gy * silu::<FMA>(*gate);
            *d = if mode == Mode::Add { *d + value } else { value };
        }
    }
}

/// `y = silu(gate) ⊙ up`.
pub(crate) fn swiglu_forward(gate: In<'_>, up: In<'_>, y: Out<'_>) -> Result<()> {
    const OP: &str = "swiglu_forward";
    let len = gate.len;
    let (gate, up) = (floats(OP, "gate", gate, len)?, floats(OP, "up", up, len)?);
    row_pieces(floats_mut(OP, "y", y, len)?, PIECE, 4 * len, false, |at, y| {
        let len = y.len();
        gate.with(at, len, |gate| up.with(at, len, |up| forward(gate, up, y)));
    });
    Ok(())
}

/// `dgate (+)= gy ⊙ up ⊙ silu'(gate); dup (+)= gy ⊙ silu(gate)`.
pub(crate) fn swiglu_backward(
    gate: In<'_>,
    up: In<'_>,
    gy: In<'_>,
    dgate: Option<Slot<'_>>,
    dup: Option<Slot<'_>>,
) -> Result<()> {
    const OP: &str = "swiglu_backward";
    let len = gate.len;
    let (gate, up, gy) = (floats(OP, "gate", gate, len)?, floats(OP, "up", up, len)?, floats(OP, "gy", gy, len)?);
    if let Some(Slot { out, mode }) = dgate {
        row_pieces(floats_mut(OP, "dgate", out, len)?, PIECE, 4 * len, mode == Mode::Add, |at, d| {
            let len = d.len();
            gate.with(at, len, |gate| {
                up.with(at, len, |up| gy.with(at, len, |gy| gate_gradient(gate, up, gy, mode, d)));
            });
        });
    }
    if let Some(Slot { out, mode }) = dup {
        row_pieces(floats_mut(OP, "dup", out, len)?, PIECE, 4 * len, mode == Mode::Add, |at, d| {
            let len = d.len();
            gate.with(at, len, |gate| gy.with(at, len, |gy| up_gradient(gate, gy, mode, d)));
        });
    }
    Ok(())
}
