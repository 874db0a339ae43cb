//! silu(gate) ⊙ up.

use lowrank_backend::{In, Mode, Out, Result, Slot};

use crate::math::{silu, silu_grad};
use crate::parallel::pieces;
use crate::simd::kernel;
use crate::view::{BLOCK, f32s, f32s_mut};

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
    let (gate, up) = (f32s(OP, "gate", gate, len)?, f32s(OP, "up", up, len)?);
    pieces(f32s_mut(OP, "y", y, len)?, BLOCK, 4 * len, |at, y| {
        let part = at..at + y.len();
        forward(&gate[part.clone()], &up[part], y);
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
    let (gate, up, gy) = (f32s(OP, "gate", gate, len)?, f32s(OP, "up", up, len)?, f32s(OP, "gy", gy, len)?);
    if let Some(Slot { out, mode }) = dgate {
        pieces(f32s_mut(OP, "dgate", out, len)?, BLOCK, 4 * len, |at, d| {
            let part = at..at + d.len();
            gate_gradient(&gate[part.clone()], &up[part.clone()], &gy[part], mode, d);
        });
    }
    if let Some(Slot { out, mode }) = dup {
        pieces(f32s_mut(OP, "dup", out, len)?, BLOCK, 4 * len, |at, d| {
            let part = at..at + d.len();
            up_gradient(&gate[part.clone()], &gy[part], mode, d);
        });
    }
    Ok(())
}
