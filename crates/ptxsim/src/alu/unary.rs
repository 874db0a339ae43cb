//! f32/f64 sign operations and the approximate functions. The approximations are computed in double and rounded
//! once, which is closer than any GPU promises; ranges, special values and flushing follow the manual.

use super::float::canon;
use super::{Mods, f1, f2};
use crate::ir::Alu;
use crate::num::*;
use crate::types::Ty;

#[inline]
fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

/// A lane function of f32, computed in double; `$ftz` flushes input and output.
macro_rules! approx {
    ($ftz:expr, |$a:ident| $e:expr) => {
        if $ftz {
            f1!(|x| {
                let $a = flush(f(x)) as f64;
                canon(flush(($e) as f32))
            })
        } else {
            f1!(|x| {
                let $a = f(x) as f64;
                canon(($e) as f32)
            })
        }
    };
}

pub(super) fn lookup(m: &mut Mods, ty: Ty) -> Option<Alu> {
    if ty == Ty::F64 {
        return lookup64(m);
    }
    let base = m.base;
    if matches!(base, "ex2" | "lg2" | "rcp" | "rsqrt" | "sqrt" | "sin" | "cos" | "tanh" | "div") && !m.take("approx") {
        return None;
    }
    let ftz = m.take("ftz");
    Some(match base {
        "ex2" => approx!(ftz, |a| a.exp2()),
        "lg2" => approx!(ftz, |a| a.log2()),
        "rcp" => approx!(ftz, |a| 1.0 / a),
        "sqrt" => approx!(ftz, |a| a.sqrt()),
        "rsqrt" => approx!(ftz, |a| if a == 0.0 { (1.0 / a).abs().copysign(a) } else { 1.0 / a.sqrt() }),
        "sin" => approx!(ftz, |a| a.sin()),
        "cos" => approx!(ftz, |a| a.cos()),
        "tanh" => approx!(ftz, |a| a.tanh()),
        "div" if ftz => f2!(|a, b| canon(flush(div_approx(flush(f(a)), flush(f(b)))))),
        "div" => f2!(|a, b| canon(div_approx(f(a), f(b)))),
        "neg" if ftz => f1!(|a| canon(-flush(f(a)))),
        "abs" if ftz => f1!(|a| canon(flush(f(a)).abs())),
        "neg" => f1!(|a| a as u32 as u64 ^ 1 << 31),
        "abs" => f1!(|a| a & 0x7fff_ffff),
        "copysign" => f2!(|a, b| a & 1 << 31 | b & 0x7fff_ffff),
        _ => return None,
    })
}

/// `div.approx`: for divisors beyond 2^126 the result is 0 (or NaN for an infinite dividend).
fn div_approx(a: f32, b: f32) -> f32 {
    if b.is_finite() && b.abs() > f32::from_bits(0x7e80_0000) {
        return if a.is_infinite() || a.is_nan() { f32::NAN } else { 0f32.copysign(a * b.signum()) };
    }
    a / b
}

fn lookup64(m: &mut Mods) -> Option<Alu> {
    /// `rcp` and `rsqrt.approx.ftz.f64` keep only the upper half of the result.
    fn coarse(x: f64) -> u64 {
        if x.is_nan() { 0x7fff_ffff_0000_0000 } else { x.to_bits() & !0xffff_ffff }
    }
    let base = m.base;
    Some(match base {
        "neg" => f1!(|a| a ^ 1 << 63),
        "abs" => f1!(|a| a & !(1 << 63)),
        "copysign" => f2!(|a, b| a & 1 << 63 | b & !(1 << 63)),
        "rcp" if m.take("approx") && m.take("ftz") => f1!(|a| coarse(1.0 / f64::from_bits(a))),
        "rsqrt" if m.take("approx") => {
            if m.take("ftz") {
                f1!(|a| coarse(1.0 / f64::from_bits(a).sqrt()))
            } else {
                f1!(|a| (1.0 / f64::from_bits(a).sqrt()).to_bits())
            }
        }
        _ => return None,
    })
}
