//! The gated unit of Llama's feed-forward layer: silu(gate) ⊙ up (Shazeer 2020).

use super::temp::{wide, zip_into, zip_same};
use crate::{Backend, In, Map, Out, Result, Slot, Zip};

pub(crate) fn swiglu_forward<B: Backend + ?Sized>(b: &B, gate: In<'_>, up: In<'_>, y: Out<'_>) -> Result<()> {
    const OP: &str = "swiglu_forward";
    let len = [gate.len];
    up.expect(OP, "up", gate.len)?;
    y.expect(OP, "y", gate.len)?;
    let [mut gate_t, mut up_t] = [None, None];
    let (gate, up) = (wide(b, gate, &mut gate_t)?, wide(b, up, &mut up_t)?);
    let silu = gate.map(b, Map::Silu)?;
    zip_into(b, Zip::Mul, (silu.view(), len), (up, len), y.set())
}

pub(crate) fn swiglu_backward<B: Backend + ?Sized>(
    b: &B,
    gate: In<'_>,
    up: In<'_>,
    gy: In<'_>,
    dgate: Option<Slot<'_>>,
    dup: Option<Slot<'_>>,
) -> Result<()> {
    const OP: &str = "swiglu_backward";
    let len = [gate.len];
    up.expect(OP, "up", gate.len)?;
    gy.expect(OP, "gy", gate.len)?;
    let [mut gate_t, mut up_t, mut gy_t] = [None, None, None];
    let (gate, up, gy) = (wide(b, gate, &mut gate_t)?, wide(b, up, &mut up_t)?, wide(b, gy, &mut gy_t)?);
    if let Some(dgate) = dgate {
        let t = zip_same(b, Zip::Mul, gy, up)?;
        zip_into(b, Zip::SiluGrad, (gate, len), (t.view(), len), dgate)?;
    }
    if let Some(dup) = dup {
        let silu = gate.map(b, Map::Silu)?;
        zip_into(b, Zip::Mul, (gy, len), (silu.view(), len), dup)?;
    }
    Ok(())
}
