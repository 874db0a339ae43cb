//! Comparisons of `setp`, `set` and `slct`: 32 lanes in, one bit a lane out.

use crate::ir::{FCmp, Lanes};
use crate::num::*;
use crate::types::Ty;

macro_rules! cmp {
    (|$a:ident, $b:ident| $e:expr) => {{
        fn lane_loop(x: &Lanes, y: &Lanes) -> u32 {
            let mut m = 0;
            for i in 0..32 {
                let ($a, $b) = (x[i], y[i]);
                m |= (($e) as u32) << i;
            }
            m
        }
        Some(lane_loop as FCmp)
    }};
}
/// All comparisons of an ordered integer type.
macro_rules! ints {
    ($op:expr, $t:ty) => {
        match $op {
            "eq" => cmp!(|a, b| a as $t == b as $t),
            "ne" => cmp!(|a, b| a as $t != b as $t),
            "lt" | "lo" => cmp!(|a, b| (a as $t) < b as $t),
            "le" | "ls" => cmp!(|a, b| a as $t <= b as $t),
            "gt" | "hi" => cmp!(|a, b| a as $t > b as $t),
            "ge" | "hs" => cmp!(|a, b| a as $t >= b as $t),
            _ => None,
        }
    };
}
/// All comparisons of a float type; the `u` forms are true for NaN.
macro_rules! floats {
    ($op:expr, $get:expr) => {
        match $op {
            "eq" => cmp!(|a, b| $get(a) == $get(b)),
            "ne" => cmp!(|a, b| $get(a) < $get(b) || $get(a) > $get(b)),
            "lt" => cmp!(|a, b| $get(a) < $get(b)),
            "le" => cmp!(|a, b| $get(a) <= $get(b)),
            "gt" => cmp!(|a, b| $get(a) > $get(b)),
            "ge" => cmp!(|a, b| $get(a) >= $get(b)),
            "equ" => cmp!(|a, b| !($get(a) < $get(b) || $get(a) > $get(b))),
            "neu" => cmp!(|a, b| $get(a) != $get(b)),
            "ltu" => cmp!(|a, b| !($get(a) >= $get(b))),
            "leu" => cmp!(|a, b| !($get(a) > $get(b))),
            "gtu" => cmp!(|a, b| !($get(a) <= $get(b))),
            "geu" => cmp!(|a, b| !($get(a) < $get(b))),
            "num" => cmp!(|a, b| !$get(a).is_nan() && !$get(b).is_nan()),
            "nan" => cmp!(|a, b| $get(a).is_nan() || $get(b).is_nan()),
            _ => None,
        }
    };
}

fn single(x: u64) -> f32 {
    f32::from_bits(x as u32)
}
fn single_ftz(x: u64) -> f32 {
    flush(single(x))
}
fn half(x: u64) -> f32 {
    h2f(x as u16)
}
fn half_ftz(x: u64) -> f32 {
    if x & 0x7c00 == 0 { h2f(x as u16 & 0x8000) } else { h2f(x as u16) }
}
fn bhalf(x: u64) -> f32 {
    b2f(x as u16)
}

/// The comparison `op` on type `ty`; packed types compare their low half.
#[allow(clippy::neg_cmp_op_on_partial_ord)]
pub(crate) fn compare(op: &str, ty: Ty, ftz: bool) -> Option<FCmp> {
    let op = op.trim();
    match ty {
        Ty::B16 | Ty::B32 | Ty::B64 if !matches!(op, "eq" | "ne") => None,
        Ty::U16 | Ty::B16 => ints!(op, u16),
        Ty::S16 => ints!(op, i16),
        Ty::U32 | Ty::B32 => ints!(op, u32),
        Ty::S32 => ints!(op, i32),
        Ty::U64 | Ty::B64 => ints!(op, u64),
        Ty::S64 => ints!(op, i64),
        Ty::F32 if ftz => floats!(op, single_ftz),
        Ty::F32 => floats!(op, single),
        Ty::F64 => floats!(op, f64::from_bits),
        Ty::F16 | Ty::F16x2 if ftz => floats!(op, half_ftz),
        Ty::F16 | Ty::F16x2 => floats!(op, half),
        Ty::BF16 | Ty::BF16x2 => floats!(op, bhalf),
        _ => None,
    }
}
