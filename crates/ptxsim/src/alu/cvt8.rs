//! `cvt` to and from pairs of 8-bit floats.

use super::{Mods, f1, f2};
use crate::ir::Alu;
use crate::num::*;
use crate::types::Ty;

/// One f32 or f16 value to 8 bits, saturating; `relu` turns negative values into 0.
fn put<const E4: bool, const RELU: bool>(x: f64) -> u64 {
    let x = if RELU && x <= 0.0 { 0.0 } else { x };
    to_f8(x, E4) as u64
}
fn single<const E4: bool, const RELU: bool>(x: u64) -> u64 {
    put::<E4, RELU>(f32::from_bits(x as u32) as f64)
}
fn half<const E4: bool, const RELU: bool>(x: u64) -> u64 {
    put::<E4, RELU>(h2f(x as u16) as f64)
}
fn widened<const E4: bool, const RELU: bool>(x: u64) -> u64 {
    let v = from_f8(x as u8, E4);
    let v = if RELU && v <= 0.0 { 0.0 } else { v };
    narrow(v as f64, F16, Rnd::Ne) as u64
}

/// `m` is what is left of the opcode without its 8-bit type.
pub(super) fn convert(m: &mut Mods, e4: bool) -> Option<Alu> {
    let near = m.take("rn");
    let (sat, relu) = (m.take("satfinite"), m.take("relu"));
    // The other type tells the direction only by its place: f16x2 as the last word is a source.
    let to = !m.op.ends_with("x2") || m.op.ends_with("f16x2");
    if !near || sat != to {
        return None;
    }
    Some(match (m.tys.as_slice(), to, e4, relu) {
        ([Ty::F32], true, true, false) => f2!(|a, b| single::<true, false>(a) << 8 | single::<true, false>(b)),
        ([Ty::F32], true, true, true) => f2!(|a, b| single::<true, true>(a) << 8 | single::<true, true>(b)),
        ([Ty::F32], true, false, false) => f2!(|a, b| single::<false, false>(a) << 8 | single::<false, false>(b)),
        ([Ty::F32], true, false, true) => f2!(|a, b| single::<false, true>(a) << 8 | single::<false, true>(b)),
        ([Ty::F16x2], true, true, false) => f1!(|a| half::<true, false>(a >> 16) << 8 | half::<true, false>(a)),
        ([Ty::F16x2], true, true, true) => f1!(|a| half::<true, true>(a >> 16) << 8 | half::<true, true>(a)),
        ([Ty::F16x2], true, false, false) => f1!(|a| half::<false, false>(a >> 16) << 8 | half::<false, false>(a)),
        ([Ty::F16x2], true, false, true) => f1!(|a| half::<false, true>(a >> 16) << 8 | half::<false, true>(a)),
        ([Ty::F16x2], false, true, false) => f1!(|a| widened::<true, false>(a >> 8) << 16 | widened::<true, false>(a)),
        ([Ty::F16x2], false, true, true) => f1!(|a| widened::<true, true>(a >> 8) << 16 | widened::<true, true>(a)),
        ([Ty::F16x2], false, false, false) => {
            f1!(|a| widened::<false, false>(a >> 8) << 16 | widened::<false, false>(a))
        }
        ([Ty::F16x2], false, false, true) => f1!(|a| widened::<false, true>(a >> 8) << 16 | widened::<false, true>(a)),
        _ => return None,
    })
}
