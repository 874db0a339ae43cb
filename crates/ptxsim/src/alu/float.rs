//! f32 and f64 arithmetic with rounding modes, flush to zero and saturation.
//!
//! Round-to-nearest is the machine's own; the directed modes go through exact sums (`num::arith`).

use super::{Mods, f1, f2, f3};
use crate::ir::{Alu, Lanes};
use crate::num::*;
use crate::types::Ty;

#[inline]
fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}
#[inline]
fn d(x: u64) -> f64 {
    f64::from_bits(x)
}
#[inline]
pub(super) fn canon(x: f32) -> u64 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits() as u64 }
}

/// Which rounding a const parameter stands for.
const fn mode(r: u8) -> Rnd {
    match r {
        0 => Rnd::Ne,
        1 => Rnd::Z,
        2 => Rnd::M,
        _ => Rnd::P,
    }
}
#[inline]
fn input<const FTZ: bool>(x: u64) -> f32 {
    if FTZ { flush(f(x)) } else { f(x) }
}
#[inline]
fn output<const FTZ: bool, const SAT: bool>(x: f32) -> u64 {
    let x = if FTZ { flush(x) } else { x };
    canon(if SAT { sat32(x) } else { x })
}

macro_rules! op2 {
    ($name:ident, |$a:ident, $b:ident| $near:expr, $directed:ident) => {
        fn $name<const R: u8, const FTZ: bool, const SAT: bool>(a: &Lanes, b: &Lanes, out: &mut Lanes) {
            for i in 0..32 {
                let ($a, $b) = (input::<FTZ>(a[i]), input::<FTZ>(b[i]));
                out[i] = output::<FTZ, SAT>(if R == 0 { $near } else { $directed($a, $b, mode(R)) });
            }
        }
    };
}
op2!(add, |a, b| a + b, add32);
op2!(sub, |a, b| a - b, sub32);
op2!(mul, |a, b| a * b, mul32);
op2!(div, |a, b| a / b, div32);

fn sub32(a: f32, b: f32, rnd: Rnd) -> f32 {
    add32(a, -b, rnd)
}

fn fma<const R: u8, const FTZ: bool, const SAT: bool>(a: &Lanes, b: &Lanes, c: &Lanes, out: &mut Lanes) {
    for i in 0..32 {
        let (x, y, z) = (input::<FTZ>(a[i]), input::<FTZ>(b[i]), input::<FTZ>(c[i]));
        let r = if R == 0 { fma_near(x, y, z) } else { fma32(x, y, z, mode(R)) };
        out[i] = output::<FTZ, SAT>(r);
    }
}

/// Fused multiply-add to nearest. Without the machine's instruction the library call is slow: in doubles the product
/// is exact, and the sum is safe to round again unless it lies on a tie of f32.
#[inline]
fn fma_near(a: f32, b: f32, c: f32) -> f32 {
    let p = a as f64 * b as f64;
    let s = p + c as f64;
    // A tie, or something so close to one that it was rounded onto it, has 28 zero bits after the half bit.
    let low = s.to_bits() & 0x1fff_ffff;
    if (low != 0x1000_0000 && s.abs() >= f32::MIN_POSITIVE as f64) || s == 0.0 || !s.is_finite() {
        return s as f32;
    }
    fma32(a, b, c, Rnd::Ne)
}

fn sqrt<const R: u8, const FTZ: bool, const SAT: bool>(a: &Lanes, out: &mut Lanes) {
    for i in 0..32 {
        let x = input::<FTZ>(a[i]);
        out[i] = output::<FTZ, SAT>(if R == 0 { x.sqrt() } else { sqrt32(x, mode(R)) });
    }
}
fn rcp<const R: u8, const FTZ: bool, const SAT: bool>(a: &Lanes, out: &mut Lanes) {
    for i in 0..32 {
        let x = input::<FTZ>(a[i]);
        out[i] = output::<FTZ, SAT>(if R == 0 { 1.0 / x } else { div32(1.0, x, mode(R)) });
    }
}

/// Picks the instance of a generic lane function for the modifiers.
macro_rules! pick {
    ($kind:ident, $f:ident, $rnd:expr, $ftz:expr, $sat:expr) => {
        Alu::$kind(match ($rnd, $ftz, $sat) {
            (Rnd::Ne | Rnd::Na, false, false) => $f::<0, false, false>,
            (Rnd::Ne | Rnd::Na, false, true) => $f::<0, false, true>,
            (Rnd::Ne | Rnd::Na, true, false) => $f::<0, true, false>,
            (Rnd::Ne | Rnd::Na, true, true) => $f::<0, true, true>,
            (Rnd::Z, false, false) => $f::<1, false, false>,
            (Rnd::Z, false, true) => $f::<1, false, true>,
            (Rnd::Z, true, false) => $f::<1, true, false>,
            (Rnd::Z, true, true) => $f::<1, true, true>,
            (Rnd::M, false, false) => $f::<2, false, false>,
            (Rnd::M, false, true) => $f::<2, false, true>,
            (Rnd::M, true, false) => $f::<2, true, false>,
            (Rnd::M, true, true) => $f::<2, true, true>,
            (Rnd::P, false, false) => $f::<3, false, false>,
            (Rnd::P, false, true) => $f::<3, false, true>,
            (Rnd::P, true, false) => $f::<3, true, false>,
            (Rnd::P, true, true) => $f::<3, true, true>,
        })
    };
}
macro_rules! rounded {
    ($rnd:expr, |$($a:ident),+| $call:ident($($x:expr),+)) => {
        match $rnd {
            Rnd::Ne | Rnd::Na => rounded!(@ [$($a),+] $call($($x),+, Rnd::Ne)),
            Rnd::Z => rounded!(@ [$($a),+] $call($($x),+, Rnd::Z)),
            Rnd::M => rounded!(@ [$($a),+] $call($($x),+, Rnd::M)),
            Rnd::P => rounded!(@ [$($a),+] $call($($x),+, Rnd::P)),
        }
    };
    (@ [$a:ident] $e:expr) => { f1!(|$a| ($e).to_bits()) };
    (@ [$a:ident, $b:ident] $e:expr) => { f2!(|$a, $b| ($e).to_bits()) };
}

pub(super) fn lookup(m: &mut Mods, ty: Ty) -> Option<Alu> {
    let base = m.base;
    if !matches!(base, "add" | "sub" | "mul" | "fma" | "mad" | "div" | "sqrt" | "rcp" | "min" | "max") {
        return None;
    }
    if matches!(base, "min" | "max") {
        return min_max(m, ty);
    }
    if m.rest.contains(&"approx") {
        return None;
    }
    let rnd = m.rounding();
    if matches!(base, "fma" | "div" | "sqrt" | "rcp") && rnd.is_none() && !m.rest.contains(&"full") {
        return None;
    }
    let rnd = rnd.unwrap_or(Rnd::Ne);
    if ty == Ty::F64 {
        return Some(match base {
            "add" => rounded!(rnd, |a, b| add64(d(a), d(b))),
            "sub" => rounded!(rnd, |a, b| add64(d(a), -d(b))),
            "mul" => rounded!(rnd, |a, b| mul64(d(a), d(b))),
            "div" => rounded!(rnd, |a, b| div64(d(a), d(b))),
            "sqrt" => rounded!(rnd, |a| sqrt64(d(a))),
            "rcp" => rounded!(rnd, |a| div64(1.0, d(a))),
            "fma" | "mad" => match rnd {
                Rnd::Ne | Rnd::Na => f3!(|a, b, c| d(a).mul_add(d(b), d(c)).to_bits()),
                Rnd::Z => f3!(|a, b, c| fma64(d(a), d(b), d(c), Rnd::Z).to_bits()),
                Rnd::M => f3!(|a, b, c| fma64(d(a), d(b), d(c), Rnd::M).to_bits()),
                Rnd::P => f3!(|a, b, c| fma64(d(a), d(b), d(c), Rnd::P).to_bits()),
            },
            _ => return None,
        });
    }
    let (ftz, sat) = (m.take("ftz"), m.take("sat"));
    Some(match base {
        "add" => pick!(Two, add, rnd, ftz, sat),
        "sub" => pick!(Two, sub, rnd, ftz, sat),
        "mul" => pick!(Two, mul, rnd, ftz, sat),
        "div" => {
            m.take("full");
            pick!(Two, div, rnd, ftz, sat)
        }
        "sqrt" => pick!(One, sqrt, rnd, ftz, sat),
        "rcp" => pick!(One, rcp, rnd, ftz, sat),
        _ => pick!(Three, fma, rnd, ftz, sat),
    })
}

fn min_max(m: &mut Mods, ty: Ty) -> Option<Alu> {
    let max = m.base == "max";
    if ty == Ty::F64 {
        return Some(if max {
            f2!(|a, b| minmax(d(a), d(b), true, false).to_bits())
        } else {
            f2!(|a, b| minmax(d(a), d(b), false, false).to_bits())
        });
    }
    fn mm<const MAX: bool, const NAN: bool, const FTZ: bool>(a: u64, b: u64) -> u64 {
        canon(minmax(input::<FTZ>(a) as f64, input::<FTZ>(b) as f64, MAX, NAN) as f32)
    }
    fn xor_sign<const MAX: bool, const NAN: bool, const FTZ: bool>(a: u64, b: u64) -> u64 {
        let s = (a ^ b) & 1 << 31;
        let r = mm::<MAX, NAN, FTZ>(a & 0x7fff_ffff, b & 0x7fff_ffff);
        if f(r).is_nan() { r } else { r | s }
    }
    let ftz = m.take("ftz");
    let nan = m.take("NaN");
    if m.take("xorsign") {
        if !m.take("abs") {
            return None;
        }
        return Some(match (max, nan, ftz) {
            (true, false, false) => f2!(|a, b| xor_sign::<true, false, false>(a, b)),
            (true, false, true) => f2!(|a, b| xor_sign::<true, false, true>(a, b)),
            (true, true, false) => f2!(|a, b| xor_sign::<true, true, false>(a, b)),
            (true, true, true) => f2!(|a, b| xor_sign::<true, true, true>(a, b)),
            (false, false, false) => f2!(|a, b| xor_sign::<false, false, false>(a, b)),
            (false, false, true) => f2!(|a, b| xor_sign::<false, false, true>(a, b)),
            (false, true, false) => f2!(|a, b| xor_sign::<false, true, false>(a, b)),
            (false, true, true) => f2!(|a, b| xor_sign::<false, true, true>(a, b)),
        });
    }
    Some(match (max, nan, ftz) {
        (true, false, false) => f2!(|a, b| mm::<true, false, false>(a, b)),
        (true, false, true) => f2!(|a, b| mm::<true, false, true>(a, b)),
        (true, true, false) => f2!(|a, b| mm::<true, true, false>(a, b)),
        (true, true, true) => f2!(|a, b| mm::<true, true, true>(a, b)),
        (false, false, false) => f2!(|a, b| mm::<false, false, false>(a, b)),
        (false, false, true) => f2!(|a, b| mm::<false, false, true>(a, b)),
        (false, true, false) => f2!(|a, b| mm::<false, true, false>(a, b)),
        (false, true, true) => f2!(|a, b| mm::<false, true, true>(a, b)),
    })
}
