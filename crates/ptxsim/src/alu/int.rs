//! Integer and bit opcodes. Registers hold zero-extended patterns, so results of signed types are cut to width.

use super::{Mods, f1, f2, f3};
use crate::ir::Alu;
use crate::types::Ty;

/// A lane function on values of type `$t` whose result is stored through the unsigned type `$u`.
macro_rules! un {
    ($t:ty, $u:ty, |$a:ident| $e:expr) => {
        f1!(|x| {
            let $a = x as $t;
            ($e) as $u as u64
        })
    };
}
macro_rules! bin {
    ($t:ty, $u:ty, |$a:ident, $b:ident| $e:expr) => {
        f2!(|x, y| {
            let ($a, $b) = (x as $t, y as $t);
            ($e) as $u as u64
        })
    };
}
macro_rules! tri {
    ($t:ty, $u:ty, |$a:ident, $b:ident, $c:ident| $e:expr) => {
        f3!(|x, y, z| {
            let ($a, $b, $c) = (x as $t, y as $t, z as $t);
            ($e) as $u as u64
        })
    };
}
/// The same function for every integer type.
macro_rules! each {
    ($ty:expr, $m:ident, |$($a:ident),+| $e:expr) => {
        match $ty {
            Ty::U16 | Ty::B16 => $m!(u16, u16, |$($a),+| $e),
            Ty::S16 => $m!(i16, u16, |$($a),+| $e),
            Ty::U32 | Ty::B32 => $m!(u32, u32, |$($a),+| $e),
            Ty::S32 => $m!(i32, u32, |$($a),+| $e),
            Ty::U64 | Ty::B64 => $m!(u64, u64, |$($a),+| $e),
            Ty::S64 => $m!(i64, u64, |$($a),+| $e),
            _ => return None,
        }
    };
}

pub(super) fn lookup(m: &mut Mods, ty: Ty) -> Option<Alu> {
    let bits = matches!(ty, Ty::B16 | Ty::B32 | Ty::B64);
    let two = m.tys.len() == 2;
    let base = m.base;
    Some(match base {
        "add" if ty == Ty::S32 && m.take("sat") => bin!(i32, u32, |a, b| a.saturating_add(b)),
        "sub" if ty == Ty::S32 && m.take("sat") => bin!(i32, u32, |a, b| a.saturating_sub(b)),
        "add" if !bits => each!(ty, bin, |a, b| a.wrapping_add(b)),
        "sub" if !bits => each!(ty, bin, |a, b| a.wrapping_sub(b)),
        "mul" | "mad" if !bits => return multiply(m, ty),
        "mul24" => return mul24(m, ty, false),
        "mad24" => return mul24(m, ty, true),
        "div" if !bits => each!(ty, bin, |a, b| if b == 0 { !0 } else { a.wrapping_div(b) }),
        "rem" if !bits => each!(ty, bin, |a, b| if b == 0 { a } else { a.wrapping_rem(b) }),
        "sad" if !bits => {
            each!(ty, tri, |a, b, c| c.wrapping_add(if a < b { b.wrapping_sub(a) } else { a.wrapping_sub(b) }))
        }
        "min" if ty == Ty::S32 && m.take("relu") => bin!(i32, u32, |a, b| a.min(b).max(0)),
        "max" if ty == Ty::S32 && m.take("relu") => bin!(i32, u32, |a, b| a.max(b).max(0)),
        "min" if !bits => each!(ty, bin, |a, b| a.min(b)),
        "max" if !bits => each!(ty, bin, |a, b| a.max(b)),
        "abs" if ty.signed() => match ty {
            Ty::S16 => un!(i16, u16, |a| a.wrapping_abs()),
            Ty::S32 => un!(i32, u32, |a| a.wrapping_abs()),
            _ => un!(i64, u64, |a| a.wrapping_abs()),
        },
        "neg" if ty.signed() => each!(ty, un, |a| (a as i64).wrapping_neg()),
        "and" if bits => each!(ty, bin, |a, b| a & b),
        "or" if bits => each!(ty, bin, |a, b| a | b),
        "xor" if bits => each!(ty, bin, |a, b| a ^ b),
        "not" if bits => each!(ty, un, |a| !a),
        "cnot" if bits => each!(ty, un, |a| (a == 0) as u8),
        "shl" if bits => match ty {
            Ty::B16 => f2!(|a, b| if b as u32 > 15 { 0 } else { (a as u16) << b } as u64),
            Ty::B32 => f2!(|a, b| if b as u32 > 31 { 0 } else { (a as u32) << b as u32 } as u64),
            _ => f2!(|a, b| if b as u32 > 63 { 0 } else { a << b as u32 }),
        },
        "shr" => match ty {
            Ty::B16 | Ty::U16 => f2!(|a, b| if b as u32 > 15 { 0 } else { (a as u16) >> b } as u64),
            Ty::S16 => f2!(|a, b| (a as i16 >> (b as u32).min(15)) as u16 as u64),
            Ty::B32 | Ty::U32 => f2!(|a, b| if b as u32 > 31 { 0 } else { (a as u32) >> b as u32 } as u64),
            Ty::S32 => f2!(|a, b| (a as i32 >> (b as u32).min(31)) as u32 as u64),
            Ty::B64 | Ty::U64 => f2!(|a, b| if b as u32 > 63 { 0 } else { a >> b as u32 }),
            Ty::S64 => f2!(|a, b| (a as i64 >> (b as u32).min(63)) as u64),
            _ => return None,
        },
        "popc" => match ty {
            Ty::B32 => f1!(|a| (a as u32).count_ones() as u64),
            Ty::B64 => f1!(|a| a.count_ones() as u64),
            _ => return None,
        },
        "clz" => match ty {
            Ty::B32 => f1!(|a| (a as u32).leading_zeros() as u64),
            Ty::B64 => f1!(|a| a.leading_zeros() as u64),
            _ => return None,
        },
        "brev" => match ty {
            Ty::B32 => f1!(|a| (a as u32).reverse_bits() as u64),
            Ty::B64 => f1!(|a| a.reverse_bits()),
            _ => return None,
        },
        "bfind" => return bfind(m, ty),
        "fns" if ty == Ty::B32 => f3!(|a, b, c| fns(a as u32, b as u32, c as i32)),
        "bfe" => match ty {
            Ty::U32 => f3!(|a, p, l| bfe(a as u32 as u64, p, l, 32, false)),
            Ty::S32 => f3!(|a, p, l| bfe(a as u32 as u64, p, l, 32, true)),
            Ty::U64 => f3!(|a, p, l| bfe(a, p, l, 64, false)),
            Ty::S64 => f3!(|a, p, l| bfe(a, p, l, 64, true)),
            _ => return None,
        },
        "bmsk" if ty == Ty::B32 => {
            if m.take("wrap") {
                f2!(|a, b| bmsk(a as u32 & 31, b as u32 & 31))
            } else if m.take("clamp") {
                f2!(|a, b| bmsk(a as u32, b as u32))
            } else {
                return None;
            }
        }
        "szext" if matches!(ty, Ty::U32 | Ty::S32) => {
            let wrap = m.take("wrap");
            if !wrap && !m.take("clamp") {
                return None;
            }
            match (ty, wrap) {
                (Ty::U32, true) => f2!(|a, b| bfe(a as u32 as u64, 0, b & 31, 32, false)),
                (Ty::U32, false) => f2!(|a, b| bfe(a as u32 as u64, 0, (b as u32).min(32) as u64, 32, false)),
                (_, true) => f2!(|a, b| bfe(a as u32 as u64, 0, b & 31, 32, true)),
                (_, false) => f2!(|a, b| bfe(a as u32 as u64, 0, (b as u32).min(32) as u64, 32, true)),
            }
        }
        "prmt" if ty == Ty::B32 => return prmt(m),
        "shf" if ty == Ty::B32 => {
            let left = m.take("l");
            if !left && !m.take("r") {
                return None;
            }
            let wrap = m.take("wrap");
            if !wrap && !m.take("clamp") {
                return None;
            }
            match (left, wrap) {
                (true, true) => f3!(|a, b, c| (join(a, b) << (c as u32 & 31)) >> 32),
                (true, false) => f3!(|a, b, c| (((join(a, b) as u128) << (c as u32).min(32)) >> 32) as u32 as u64),
                (false, true) => f3!(|a, b, c| (join(a, b) >> (c as u32 & 31)) as u32 as u64),
                (false, false) => f3!(|a, b, c| (join(a, b) >> (c as u32).min(32)) as u32 as u64),
            }
        }
        "dp4a" if two => match (m.tys[0], m.tys[1]) {
            (Ty::S32, Ty::S32) => f3!(|a, b, c| dp4(a, b, c, true, true)),
            (Ty::S32, Ty::U32) => f3!(|a, b, c| dp4(a, b, c, true, false)),
            (Ty::U32, Ty::S32) => f3!(|a, b, c| dp4(a, b, c, false, true)),
            (Ty::U32, Ty::U32) => f3!(|a, b, c| dp4(a, b, c, false, false)),
            _ => return None,
        },
        "dp2a" if two => {
            let hi = m.take("hi");
            if !hi && !m.take("lo") {
                return None;
            }
            match (m.tys[0] == Ty::S32, m.tys[1] == Ty::S32, hi) {
                (true, true, false) => f3!(|a, b, c| dp2(a, b, c, true, true, 0)),
                (true, true, true) => f3!(|a, b, c| dp2(a, b, c, true, true, 16)),
                (true, false, false) => f3!(|a, b, c| dp2(a, b, c, true, false, 0)),
                (true, false, true) => f3!(|a, b, c| dp2(a, b, c, true, false, 16)),
                (false, true, false) => f3!(|a, b, c| dp2(a, b, c, false, true, 0)),
                (false, true, true) => f3!(|a, b, c| dp2(a, b, c, false, true, 16)),
                (false, false, false) => f3!(|a, b, c| dp2(a, b, c, false, false, 0)),
                (false, false, true) => f3!(|a, b, c| dp2(a, b, c, false, false, 16)),
            }
        }
        "vabsdiff4" if m.tys.len() == 3 && m.tys.iter().all(|t| *t == Ty::U32) => f3!(|a, b, _c| {
            let (a, b) = ((a as u32).to_le_bytes(), (b as u32).to_le_bytes());
            u32::from_le_bytes(std::array::from_fn(|i| a[i].abs_diff(b[i]))) as u64
        }),
        _ => return None,
    })
}

/// `add`, `min`, `max` on pairs of 16-bit integers.
pub(super) fn packed16(m: &mut Mods) -> Option<Alu> {
    macro_rules! pair {
        ($t:ty, |$a:ident, $b:ident| $e:expr) => {
            f2!(|x, y| {
                let op = |$a: $t, $b: $t| ($e) as u16 as u64;
                op(x as $t, y as $t) | op((x >> 16) as $t, (y >> 16) as $t) << 16
            })
        };
    }
    let signed = m.take("s16x2");
    if !signed && !m.take("u16x2") {
        return None;
    }
    Some(match (m.base, signed) {
        ("add", _) => pair!(u16, |a, b| a.wrapping_add(b)),
        ("min", true) => pair!(i16, |a, b| a.min(b)),
        ("max", true) => pair!(i16, |a, b| a.max(b)),
        ("min", false) => pair!(u16, |a, b| a.min(b)),
        ("max", false) => pair!(u16, |a, b| a.max(b)),
        _ => return None,
    })
}

fn multiply(m: &mut Mods, ty: Ty) -> Option<Alu> {
    let mad = m.base == "mad";
    Some(match (m.take_any(&["lo", "hi", "wide"])?, mad) {
        ("lo", false) => each!(ty, bin, |a, b| a.wrapping_mul(b)),
        ("lo", true) => each!(ty, tri, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ("wide", false) => match ty {
            Ty::U16 => f2!(|a, b| (a as u16 as u32 * b as u16 as u32) as u64),
            Ty::S16 => f2!(|a, b| (a as i16 as i32 * b as i16 as i32) as u32 as u64),
            Ty::U32 => f2!(|a, b| a as u32 as u64 * b as u32 as u64),
            Ty::S32 => f2!(|a, b| (a as i32 as i64 * b as i32 as i64) as u64),
            _ => return None,
        },
        ("wide", true) => match ty {
            Ty::U16 => f3!(|a, b, c| (a as u16 as u32 * b as u16 as u32).wrapping_add(c as u32) as u64),
            Ty::S16 => f3!(|a, b, c| (a as i16 as i32 * b as i16 as i32).wrapping_add(c as i32) as u32 as u64),
            Ty::U32 => f3!(|a, b, c| (a as u32 as u64 * b as u32 as u64).wrapping_add(c)),
            Ty::S32 => f3!(|a, b, c| (a as i32 as i64 * b as i32 as i64).wrapping_add(c as i64) as u64),
            _ => return None,
        },
        (_, false) => match ty {
            Ty::U16 => f2!(|a, b| ((a as u16 as u32 * b as u16 as u32) >> 16) as u64),
            Ty::S16 => f2!(|a, b| ((a as i16 as i32 * b as i16 as i32) >> 16) as u16 as u64),
            Ty::U32 => f2!(|a, b| (a as u32 as u64 * b as u32 as u64) >> 32),
            Ty::S32 => f2!(|a, b| ((a as i32 as i64 * b as i32 as i64) >> 32) as u32 as u64),
            Ty::U64 => f2!(|a, b| ((a as u128 * b as u128) >> 64) as u64),
            Ty::S64 => f2!(|a, b| ((a as i64 as i128 * b as i64 as i128) >> 64) as u64),
            _ => return None,
        },
        (_, true) => match ty {
            Ty::S32 if m.take("sat") => f3!(|a, b, c| {
                let h = (a as i32 as i64 * b as i32 as i64) >> 32;
                (h as i32).saturating_add(c as i32) as u32 as u64
            }),
            Ty::U16 => {
                f3!(|a, b, c| (((a as u16 as u32 * b as u16 as u32) >> 16) as u16).wrapping_add(c as u16) as u64)
            }
            Ty::S16 => {
                f3!(|a, b, c| (((a as i16 as i32 * b as i16 as i32) >> 16) as u16).wrapping_add(c as u16) as u64)
            }
            Ty::U32 => {
                f3!(|a, b, c| (((a as u32 as u64 * b as u32 as u64) >> 32) as u32).wrapping_add(c as u32) as u64)
            }
            Ty::S32 => {
                f3!(|a, b, c| (((a as i32 as i64 * b as i32 as i64) >> 32) as u32).wrapping_add(c as u32) as u64)
            }
            Ty::U64 => f3!(|a, b, c| (((a as u128 * b as u128) >> 64) as u64).wrapping_add(c)),
            Ty::S64 => f3!(|a, b, c| (((a as i64 as i128 * b as i64 as i128) >> 64) as u64).wrapping_add(c)),
            _ => return None,
        },
    })
}

fn mul24(m: &mut Mods, ty: Ty, mad: bool) -> Option<Alu> {
    let hi = m.take("hi");
    if !hi && !m.take("lo") {
        return None;
    }
    fn u(a: u64) -> u64 {
        a & 0xff_ffff
    }
    fn s(a: u64) -> i64 {
        ((a as i64) << 40) >> 40
    }
    Some(match (ty, hi, mad) {
        (Ty::U32, false, false) => f2!(|a, b| (u(a) * u(b)) as u32 as u64),
        (Ty::S32, false, false) => f2!(|a, b| (s(a) * s(b)) as u32 as u64),
        (Ty::U32, true, false) => f2!(|a, b| ((u(a) * u(b)) >> 16) as u32 as u64),
        (Ty::S32, true, false) => f2!(|a, b| ((s(a) * s(b)) >> 16) as u32 as u64),
        (Ty::U32, false, true) => f3!(|a, b, c| (u(a) * u(b)).wrapping_add(c) as u32 as u64),
        (Ty::S32, false, true) => f3!(|a, b, c| (s(a) * s(b)).wrapping_add(c as i64) as u32 as u64),
        (Ty::U32, true, true) => f3!(|a, b, c| ((u(a) * u(b)) >> 16).wrapping_add(c) as u32 as u64),
        (Ty::S32, true, true) => f3!(|a, b, c| ((s(a) * s(b)) >> 16).wrapping_add(c as i64) as u32 as u64),
        _ => return None,
    })
}

fn bfind(m: &mut Mods, ty: Ty) -> Option<Alu> {
    fn top(v: u64, shift: bool, bits: u32) -> u64 {
        if v == 0 {
            return u32::MAX as u64;
        }
        let p = 63 - v.leading_zeros();
        (if shift { bits - 1 - p } else { p }) as u64
    }
    fn s32(a: u64) -> u64 {
        let a = a as i32;
        (if a < 0 { !a } else { a }) as u32 as u64
    }
    fn s64(a: u64) -> u64 {
        let a = a as i64;
        (if a < 0 { !a } else { a }) as u64
    }
    Some(match (ty, m.take("shiftamt")) {
        (Ty::U32, false) => f1!(|a| top(a as u32 as u64, false, 32)),
        (Ty::U32, true) => f1!(|a| top(a as u32 as u64, true, 32)),
        (Ty::S32, false) => f1!(|a| top(s32(a), false, 32)),
        (Ty::S32, true) => f1!(|a| top(s32(a), true, 32)),
        (Ty::U64, false) => f1!(|a| top(a, false, 64)),
        (Ty::U64, true) => f1!(|a| top(a, true, 64)),
        (Ty::S64, false) => f1!(|a| top(s64(a), false, 64)),
        (Ty::S64, true) => f1!(|a| top(s64(a), true, 64)),
        _ => return None,
    })
}

/// The `offset`-th set bit at or after (negative: before) position `base`.
fn fns(mask: u32, base: u32, offset: i32) -> u64 {
    if base > 31 {
        return u32::MAX as u64;
    }
    let (step, mut left) = (if offset < 0 { -1 } else { 1 }, offset.unsigned_abs());
    if left == 0 {
        return if mask >> base & 1 == 1 { base as u64 } else { u32::MAX as u64 };
    }
    let mut at = base as i32;
    while (0..32).contains(&at) {
        left -= mask >> at & 1;
        if left == 0 {
            return at as u64;
        }
        at += step;
    }
    u32::MAX as u64
}

#[inline]
fn join(lo: u64, hi: u64) -> u64 {
    (hi << 32) | lo as u32 as u64
}

fn bfe(a: u64, pos: u64, len: u64, bits: u32, signed: bool) -> u64 {
    let (pos, len) = (pos as u32 & 255, len as u32 & 255);
    let msb = bits - 1;
    let sign = if !signed || len == 0 { 0 } else { a >> (pos + len - 1).min(msb) & 1 };
    let mut d = if sign == 1 { u64::MAX } else { 0 };
    for i in 0..=msb {
        if i < len && pos + i <= msb {
            d = d & !(1 << i) | (a >> (pos + i) & 1) << i;
        }
    }
    if bits == 32 { d as u32 as u64 } else { d }
}

/// `bfi`: the low `len` bits of `a` over `b` at `pos`.
pub(crate) fn bfi(a: u64, b: u64, pos: u64, len: u64, bits: u32) -> u64 {
    let (pos, len) = (pos as u32 & 255, len as u32 & 255);
    let mut d = b;
    for i in 0..len.min(bits) {
        if pos + i < bits {
            d = d & !(1 << (pos + i)) | (a >> i & 1) << (pos + i);
        }
    }
    d
}

fn bmsk(pos: u32, len: u32) -> u64 {
    if pos > 31 || len == 0 {
        return 0;
    }
    let m = if len > 31 { u32::MAX } else { (1 << len) - 1 };
    (m << pos) as u64
}

fn prmt(m: &mut Mods) -> Option<Alu> {
    fn bytes(a: u64, b: u64) -> [u8; 8] {
        join(a, b).to_le_bytes()
    }
    fn pick(a: u64, b: u64, idx: [u64; 4]) -> u64 {
        let v = bytes(a, b);
        u32::from_le_bytes(idx.map(|i| v[i as usize & 7])) as u64
    }
    fn general(a: u64, b: u64, c: u64) -> u64 {
        let v = bytes(a, b);
        let out = [0, 1, 2, 3].map(|i| {
            let s = c >> (4 * i);
            let x = v[s as usize & 7];
            if s & 8 != 0 { ((x as i8) >> 7) as u8 } else { x }
        });
        u32::from_le_bytes(out) as u64
    }
    Some(match m.take_any(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]) {
        None => f3!(|a, b, c| general(a, b, c)),
        Some("f4e") => f3!(|a, b, c| pick(a, b, [c & 3, (c & 3) + 1, (c & 3) + 2, (c & 3) + 3])),
        Some("b4e") => f3!(|a, b, c| pick(a, b, [c & 3, (c & 3) + 7, (c & 3) + 6, (c & 3) + 5])),
        Some("rc8") => f3!(|a, b, c| pick(a, b, [c & 3; 4])),
        Some("ecl") => f3!(|a, b, c| pick(a, b, [0, 1, 2, 3].map(|i| (c & 3).max(i)))),
        Some("ecr") => f3!(|a, b, c| pick(a, b, [0, 1, 2, 3].map(|i| (c & 3).min(i)))),
        _ => f3!(|a, b, c| pick(a, b, [0, 1, 0, 1].map(|i| (c & 1) * 2 + i))),
    })
}

fn part(v: u64, i: u32, bits: u32, signed: bool) -> i32 {
    let x = (v as u32) << (32 - bits - i * bits);
    if signed { x as i32 >> (32 - bits) } else { (x >> (32 - bits)) as i32 }
}

fn dp4(a: u64, b: u64, c: u64, sa: bool, sb: bool) -> u64 {
    let s = (0..4).fold(c as u32, |s, i| s.wrapping_add((part(a, i, 8, sa) * part(b, i, 8, sb)) as u32));
    s as u64
}

fn dp2(a: u64, b: u64, c: u64, sa: bool, sb: bool, shift: u32) -> u64 {
    let b = b as u32 as u64 >> shift;
    let s = (0..2).fold(c as u32, |s, i| s.wrapping_add((part(a, i, 16, sa).wrapping_mul(part(b, i, 8, sb))) as u32));
    s as u64
}
