//! f16 and bf16 arithmetic, single and packed in pairs. Each result is computed exactly (or rounded to odd) in
//! double and rounded once.

use super::{Mods, f1, f2, f3};
use crate::ir::Alu;
use crate::num::*;
use crate::types::Ty;

const fn fmt(bf: bool) -> Format {
    if bf { BF16 } else { F16 }
}
fn get<const BF: bool>(x: u64) -> f64 {
    if BF { b2f(x as u16) as f64 } else { h2f(x as u16) as f64 }
}
/// Rounds a result; `FIN` is 0 for nothing, 1 for `.sat`, 2 for `.relu`, 3 for `.ftz`.
fn put<const BF: bool, const FIN: u8>(x: f64) -> u64 {
    let x = match FIN {
        1 if x.is_nan() => 0.0,
        1 => x.clamp(0.0, 1.0) + 0.0,
        2 if x.is_nan() => f64::NAN,
        2 if x <= 0.0 => 0.0,
        _ => x,
    };
    let r = narrow(x, fmt(BF), Rnd::Ne) as u64;
    if FIN == 3 && r & 0x7c00 == 0 { r & 0x8000 } else { r }
}

fn add<const BF: bool, const FIN: u8>(a: u64, b: u64) -> u64 {
    put::<BF, FIN>(add_odd(get::<BF>(a), get::<BF>(b)))
}
fn sub<const BF: bool, const FIN: u8>(a: u64, b: u64) -> u64 {
    put::<BF, FIN>(add_odd(get::<BF>(a), -get::<BF>(b)))
}
fn mul<const BF: bool, const FIN: u8>(a: u64, b: u64) -> u64 {
    put::<BF, FIN>(get::<BF>(a) * get::<BF>(b))
}
fn fma<const BF: bool, const FIN: u8>(a: u64, b: u64, c: u64) -> u64 {
    put::<BF, FIN>(fma_odd(get::<BF>(a), get::<BF>(b), get::<BF>(c)))
}
fn min<const BF: bool, const NAN: bool>(a: u64, b: u64) -> u64 {
    narrow(minmax(get::<BF>(a), get::<BF>(b), false, NAN), fmt(BF), Rnd::Ne) as u64
}
fn max<const BF: bool, const NAN: bool>(a: u64, b: u64) -> u64 {
    narrow(minmax(get::<BF>(a), get::<BF>(b), true, NAN), fmt(BF), Rnd::Ne) as u64
}
fn ex2<const BF: bool>(a: u64) -> u64 {
    narrow(get::<BF>(a).exp2(), fmt(BF), Rnd::Ne) as u64
}
fn tanh<const BF: bool>(a: u64) -> u64 {
    narrow(get::<BF>(a).tanh(), fmt(BF), Rnd::Ne) as u64
}
fn neg(a: u64) -> u64 {
    a as u16 as u64 ^ 0x8000
}
fn abs(a: u64) -> u64 {
    a & 0x7fff
}

/// One function, for a single half or for both halves of a pair.
macro_rules! both {
    ($pair:expr, $f:expr, 1) => {
        if $pair { f1!(|a| $f(a & 0xffff) | $f(a >> 16 & 0xffff) << 16) } else { f1!(|a| $f(a)) }
    };
    ($pair:expr, $f:expr, 2) => {
        if $pair {
            f2!(|a, b| $f(a & 0xffff, b & 0xffff) | $f(a >> 16 & 0xffff, b >> 16 & 0xffff) << 16)
        } else {
            f2!(|a, b| $f(a, b))
        }
    };
    ($pair:expr, $f:expr, 3) => {
        if $pair {
            f3!(|a, b, c| $f(a & 0xffff, b & 0xffff, c & 0xffff)
                | $f(a >> 16 & 0xffff, b >> 16 & 0xffff, c >> 16 & 0xffff) << 16)
        } else {
            f3!(|a, b, c| $f(a, b, c))
        }
    };
}
macro_rules! finish {
    ($fin:expr, $bf:expr, $pair:expr, $f:ident, $n:tt) => {
        match ($fin, $bf) {
            (0, false) => both!($pair, $f::<false, 0>, $n),
            (1, false) => both!($pair, $f::<false, 1>, $n),
            (2, false) => both!($pair, $f::<false, 2>, $n),
            (_, false) => both!($pair, $f::<false, 3>, $n),
            (0, true) => both!($pair, $f::<true, 0>, $n),
            (2, true) => both!($pair, $f::<true, 2>, $n),
            _ => return None,
        }
    };
}
macro_rules! nan {
    ($nan:expr, $bf:expr, $pair:expr, $f:ident) => {
        match ($nan, $bf) {
            (false, false) => both!($pair, $f::<false, false>, 2),
            (true, false) => both!($pair, $f::<false, true>, 2),
            (false, true) => both!($pair, $f::<true, false>, 2),
            (true, true) => both!($pair, $f::<true, true>, 2),
        }
    };
}

pub(super) fn lookup(m: &mut Mods, ty: Ty) -> Option<Alu> {
    let bf = matches!(ty, Ty::BF16 | Ty::BF16x2);
    let pair = matches!(ty, Ty::F16x2 | Ty::BF16x2);
    if m.base == "fma" && !m.take("rn") {
        return None;
    }
    if matches!(m.base, "add" | "sub" | "mul") {
        m.take("rn");
    }
    if matches!(m.base, "ex2" | "tanh") && !m.take("approx") {
        return None;
    }
    let fin = match (m.take("sat"), m.take("relu"), m.take("ftz")) {
        (false, false, false) => 0,
        (true, false, false) => 1,
        (false, true, false) => 2,
        (false, false, true) => 3,
        _ => return None,
    };
    let nan = m.take("NaN");
    if nan && !matches!(m.base, "min" | "max") {
        return None;
    }
    Some(match m.base {
        "add" => finish!(fin, bf, pair, add, 2),
        "sub" => finish!(fin, bf, pair, sub, 2),
        "mul" => finish!(fin, bf, pair, mul, 2),
        "fma" => finish!(fin, bf, pair, fma, 3),
        "min" if fin == 0 => nan!(nan, bf, pair, min),
        "max" if fin == 0 => nan!(nan, bf, pair, max),
        "neg" if fin == 0 => both!(pair, neg, 1),
        "abs" if fin == 0 => both!(pair, abs, 1),
        "ex2" if fin == 0 && !bf => both!(pair, ex2::<false>, 1),
        "ex2" if fin == 3 && bf => both!(pair, ex2::<true>, 1),
        "tanh" if fin == 0 && bf => both!(pair, tanh::<true>, 1),
        "tanh" if fin == 0 => both!(pair, tanh::<false>, 1),
        _ => return None,
    })
}
