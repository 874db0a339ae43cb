//! `cvt` in all its pairs of types. Returns a lane function of one operand, or of two for the packing forms.

use super::{Mods, f1, f2};
use crate::ir::{Alu, Lanes};
use crate::num::*;
use crate::types::Ty;

/// Reads a float operand as a double (exact).
fn load(x: u64, ty: Ty) -> f64 {
    match ty {
        Ty::F16 => h2f(x as u16) as f64,
        Ty::BF16 => b2f(x as u16) as f64,
        Ty::F64 => f64::from_bits(x),
        _ => f32::from_bits(x as u32) as f64,
    }
}

fn sext(x: u64, ty: Ty) -> i64 {
    let s = 64 - ty.bits();
    if ty.signed() { ((x << s) as i64) >> s } else { ((x << s) >> s) as i64 }
}

/// A conversion for values known only at decode time; const parameters would make hundreds of instances.
macro_rules! table {
    ($(($d:pat, $s:pat, $r:pat) => |$x:ident| $e:expr;)*) => {
        move |d: Ty, s: Ty, r: Rnd| -> Option<Alu> {
            match (d, s, r) {
                $(($d, $s, $r) => Some(f1!(|$x| $e)),)*
                _ => None,
            }
        }
    };
}

/// Instantiates a generic lane function for every rounding mode.
macro_rules! by_rnd {
    ($r:expr, $f:ident, $($c:tt)*) => {
        match $r {
            Rnd::Ne => Alu::One($f::<0, $($c)*>),
            Rnd::Z => Alu::One($f::<1, $($c)*>),
            Rnd::M => Alu::One($f::<2, $($c)*>),
            Rnd::P => Alu::One($f::<3, $($c)*>),
            Rnd::Na => Alu::One($f::<4, $($c)*>),
        }
    };
}
/// Types as numbers, for const parameters.
const TYPES: [Ty; 12] =
    [Ty::U8, Ty::S8, Ty::U16, Ty::S16, Ty::U32, Ty::S32, Ty::U64, Ty::S64, Ty::F16, Ty::BF16, Ty::F32, Ty::F64];
const RNDS: [Rnd; 5] = [Rnd::Ne, Rnd::Z, Rnd::M, Rnd::P, Rnd::Na];

macro_rules! by_ty {
    ($t:expr, $m:ident, $r:expr, $f:ident, $($c:tt)*) => {
        match $t {
            Ty::U8 => $m!($r, $f, 0, $($c)*),
            Ty::S8 => $m!($r, $f, 1, $($c)*),
            Ty::U16 => $m!($r, $f, 2, $($c)*),
            Ty::S16 => $m!($r, $f, 3, $($c)*),
            Ty::U32 => $m!($r, $f, 4, $($c)*),
            Ty::S32 => $m!($r, $f, 5, $($c)*),
            Ty::U64 => $m!($r, $f, 6, $($c)*),
            Ty::S64 => $m!($r, $f, 7, $($c)*),
            _ => return None,
        }
    };
}
macro_rules! by_float {
    ($r:expr, $f:ident, $t:literal, $src:expr) => {
        match $src {
            Ty::F16 => by_rnd!($r, $f, $t, 8),
            Ty::BF16 => by_rnd!($r, $f, $t, 9),
            Ty::F32 => by_rnd!($r, $f, $t, 10),
            Ty::F64 => by_rnd!($r, $f, $t, 11),
            _ => return None,
        }
    };
}

fn f_to_i<const R: usize, const D: usize, const S: usize>(a: &Lanes, d: &mut Lanes) {
    for i in 0..32 {
        let dt = TYPES[D];
        d[i] = float_to_int(load(a[i], TYPES[S]), S == 11, dt.bits(), dt.signed(), RNDS[R]);
    }
}
/// `cvt.….ftz` from f32 flushes subnormal inputs first.
fn f_to_i_ftz<const R: usize, const D: usize, const S: usize>(a: &Lanes, d: &mut Lanes) {
    for i in 0..32 {
        let dt = TYPES[D];
        let x = flush(f32::from_bits(a[i] as u32)) as f64;
        d[i] = float_to_int(x, false, dt.bits(), dt.signed(), RNDS[R]);
    }
}
fn i_to_f<const R: usize, const S: usize, const D: usize>(a: &Lanes, d: &mut Lanes) {
    for i in 0..32 {
        let v = sext(a[i], TYPES[S]);
        let neg = TYPES[S].signed() && v < 0;
        let mag = if neg { v.unsigned_abs() } else { v as u64 };
        d[i] = match TYPES[D] {
            Ty::F64 => int_to_f64(mag, neg, RNDS[R]).to_bits(),
            t => narrow(int_to_odd(mag, neg), format(t), RNDS[R]) as u64,
        };
    }
}

fn format(t: Ty) -> Format {
    match t {
        Ty::F16 => F16,
        Ty::BF16 => BF16,
        _ => F32,
    }
}

/// The lane function of a `cvt`; `m` keeps what it does not understand.
pub(crate) fn convert(m: &mut Mods) -> Option<Alu> {
    if let Some(f8) = m.take_any(&["e4m3x2", "e5m2x2"]) {
        return super::cvt8::convert(m, f8 == "e4m3x2");
    }
    let (Some(&dst), Some(&src)) = (m.tys.first(), m.tys.get(1)) else { return None };
    if m.tys.len() != 2 {
        return None;
    }
    let int_rnd = m.take_any(&["rni", "rzi", "rmi", "rpi"]).map(|r| match r {
        "rni" => Rnd::Ne,
        "rzi" => Rnd::Z,
        "rmi" => Rnd::M,
        _ => Rnd::P,
    });
    let rnd = m.rounding();
    let (ftz, sat, relu, satfinite) = (m.take("ftz"), m.take("sat"), m.take("relu"), m.take("satfinite"));
    if satfinite && dst != Ty::TF32 {
        return None;
    }
    if matches!(dst, Ty::F16x2 | Ty::BF16x2) && src == Ty::F32 {
        return pack(dst, rnd?, relu);
    }
    if dst == Ty::TF32 && src == Ty::F32 {
        return tf32(rnd?, relu, satfinite);
    }
    match (dst.is_int(), src.is_int()) {
        (true, true) => Some(int_int(dst, src, sat)),
        (true, false) if src.is_float() => {
            let r = int_rnd?;
            if ftz && src == Ty::F32 {
                return Some(by_ty!(dst, by_rnd_32, r, f_to_i_ftz, src));
            }
            Some(by_ty!(dst, by_float, r, f_to_i, src))
        }
        (false, true) if dst.is_float() => {
            let r = rnd?;
            if sat || relu {
                return None;
            }
            Some(by_ty!(src, by_float, r, i_to_f, dst))
        }
        (false, false) => float_float(dst, src, int_rnd, rnd, ftz, sat, relu),
        _ => None,
    }
}

macro_rules! by_rnd_32 {
    ($r:expr, $f:ident, $t:literal, $src:expr) => {
        by_rnd!($r, $f, $t, 10)
    };
}
use by_rnd_32;

fn int_int(dst: Ty, src: Ty, sat: bool) -> Alu {
    // Sign extension and truncation, or saturation, chosen by widths; a closure would not be a plain function.
    macro_rules! go {
        ($s:ty) => {
            if sat {
                match (dst.bits(), dst.signed()) {
                    (8, false) => f1!(|a| int_sat(a as $s as i128, 8, false)),
                    (8, true) => f1!(|a| int_sat(a as $s as i128, 8, true)),
                    (16, false) => f1!(|a| int_sat(a as $s as i128, 16, false)),
                    (16, true) => f1!(|a| int_sat(a as $s as i128, 16, true)),
                    (32, false) => f1!(|a| int_sat(a as $s as i128, 32, false)),
                    (32, true) => f1!(|a| int_sat(a as $s as i128, 32, true)),
                    (_, false) => f1!(|a| int_sat(a as $s as i128, 64, false)),
                    (_, true) => f1!(|a| int_sat(a as $s as i128, 64, true)),
                }
            } else {
                match (dst.bits(), dst.signed()) {
                    // An 8-bit result is extended by its own sign to the width of the register, here 32 bits.
                    (8, false) => f1!(|a| a as $s as u8 as u64),
                    (8, true) => f1!(|a| a as $s as i8 as i32 as u32 as u64),
                    (16, _) => f1!(|a| a as $s as u16 as u64),
                    (32, _) => f1!(|a| a as $s as u32 as u64),
                    _ => f1!(|a| a as $s as u64),
                }
            }
        };
    }
    match src {
        Ty::U8 => go!(u8),
        Ty::S8 => go!(i8),
        Ty::U16 => go!(u16),
        Ty::S16 => go!(i16),
        Ty::U32 => go!(u32),
        Ty::S32 => go!(i32),
        Ty::U64 => go!(u64),
        _ => go!(i64),
    }
}

/// `cvt.rn.bf16x2.f32 d, a, b`: a goes to the upper half.
fn pack(dst: Ty, rnd: Rnd, relu: bool) -> Option<Alu> {
    fn half<const BF: bool, const RELU: bool, const Z: bool>(x: u64) -> u64 {
        let v = f32::from_bits(x as u32);
        let v = if RELU && v <= 0.0 { 0.0 } else { v };
        if BF && !Z {
            return f2b(v) as u64;
        }
        narrow(v as f64, if BF { BF16 } else { F16 }, if Z { Rnd::Z } else { Rnd::Ne }) as u64
    }
    Some(match (dst == Ty::BF16x2, relu, rnd) {
        (false, false, Rnd::Ne) => f2!(|a, b| half::<false, false, false>(a) << 16 | half::<false, false, false>(b)),
        (false, false, Rnd::Z) => f2!(|a, b| half::<false, false, true>(a) << 16 | half::<false, false, true>(b)),
        (false, true, Rnd::Ne) => f2!(|a, b| half::<false, true, false>(a) << 16 | half::<false, true, false>(b)),
        (false, true, Rnd::Z) => f2!(|a, b| half::<false, true, true>(a) << 16 | half::<false, true, true>(b)),
        (true, false, Rnd::Ne) => f2!(|a, b| half::<true, false, false>(a) << 16 | half::<true, false, false>(b)),
        (true, false, Rnd::Z) => f2!(|a, b| half::<true, false, true>(a) << 16 | half::<true, false, true>(b)),
        (true, true, Rnd::Ne) => f2!(|a, b| half::<true, true, false>(a) << 16 | half::<true, true, false>(b)),
        (true, true, Rnd::Z) => f2!(|a, b| half::<true, true, true>(a) << 16 | half::<true, true, true>(b)),
        _ => return None,
    })
}

/// A subnormal f32 result becomes zero.
fn flush_bits(x: u32) -> u64 {
    flush(f32::from_bits(x)).to_bits() as u64
}

/// tf32 is an f32 whose low 13 bits are zero.
fn tf32(rnd: Rnd, relu: bool, satfinite: bool) -> Option<Alu> {
    fn round<const R: usize, const RELU: bool>(x: u64) -> u64 {
        let f = f32::from_bits(x as u32);
        if RELU && f <= 0.0 {
            return 0;
        }
        (narrow(f as f64, Format { e: 8, m: 10 }, RNDS[R]) as u64) << 13
    }
    /// Infinities become the largest finite value.
    fn finite(x: u64) -> u64 {
        if x & 0x7fff_ffff == 0x7f80_0000 { x - 0x2000 } else { x }
    }
    if satfinite {
        return Some(match (rnd, relu) {
            (Rnd::Ne, false) => f1!(|a| finite(round::<0, false>(a))),
            (Rnd::Z, false) => f1!(|a| finite(round::<1, false>(a))),
            (Rnd::Na, false) => f1!(|a| finite(round::<4, false>(a))),
            (Rnd::Ne, true) => f1!(|a| finite(round::<0, true>(a))),
            (Rnd::Z, true) => f1!(|a| finite(round::<1, true>(a))),
            _ => return None,
        });
    }
    Some(match (rnd, relu) {
        (Rnd::Ne, false) => f1!(|a| round::<0, false>(a)),
        (Rnd::Z, false) => f1!(|a| round::<1, false>(a)),
        (Rnd::Na, false) => f1!(|a| round::<4, false>(a)),
        (Rnd::Ne, true) => f1!(|a| round::<0, true>(a)),
        (Rnd::Z, true) => f1!(|a| round::<1, true>(a)),
        _ => return None,
    })
}

fn float_float(dst: Ty, src: Ty, int: Option<Rnd>, rnd: Option<Rnd>, ftz: bool, sat: bool, relu: bool) -> Option<Alu> {
    fn fin<const FIN: u8>(x: f64) -> f64 {
        match FIN {
            1 if x.is_nan() => 0.0,
            1 => x.clamp(0.0, 1.0) + 0.0,
            2 if x <= 0.0 => 0.0,
            _ => x,
        }
    }
    fn nar<const R: usize, const FIN: u8, const D: usize, const S: usize>(a: &Lanes, d: &mut Lanes) {
        for i in 0..32 {
            let x = fin::<FIN>(load(a[i], TYPES[S]));
            d[i] = if D == 9 && S == 10 && R == 0 {
                f2b(x as f32) as u64
            } else {
                narrow(x, format(TYPES[D]), RNDS[R]) as u64
            };
        }
    }
    macro_rules! narrow_to {
        ($d:literal, $s:literal) => {{
            let r = rnd.or((src == dst).then_some(Rnd::Ne))?;
            match (r, sat, relu) {
                (Rnd::Ne, false, false) => Alu::One(nar::<0, 0, $d, $s>),
                (Rnd::Z, false, false) => Alu::One(nar::<1, 0, $d, $s>),
                (Rnd::M, false, false) => Alu::One(nar::<2, 0, $d, $s>),
                (Rnd::P, false, false) => Alu::One(nar::<3, 0, $d, $s>),
                (Rnd::Ne, true, false) => Alu::One(nar::<0, 1, $d, $s>),
                (Rnd::Z, true, false) => Alu::One(nar::<1, 1, $d, $s>),
                (Rnd::Ne, false, true) => Alu::One(nar::<0, 2, $d, $s>),
                (Rnd::Z, false, true) => Alu::One(nar::<1, 2, $d, $s>),
                _ => return None,
            }
        }};
    }
    if src == dst {
        return same(dst, int, ftz, sat);
    }
    if int.is_some() {
        return None;
    }
    let widen = table! {
        (Ty::F32, Ty::F16, Rnd::Ne) => |x| narrow(h2f(x as u16) as f64, F32, Rnd::Ne) as u64;
        (Ty::F32, Ty::F16, Rnd::P) => |x| sat32(h2f(x as u16)).to_bits() as u64;
        (Ty::F32, Ty::BF16, Rnd::Ne) => |x| narrow(b2f(x as u16) as f64, F32, Rnd::Ne) as u64;
        (Ty::F64, Ty::F16, Rnd::Ne) => |x| (h2f(x as u16) as f64).to_bits();
        (Ty::F64, Ty::BF16, Rnd::Ne) => |x| (b2f(x as u16) as f64).to_bits();
        (Ty::F64, Ty::F32, Rnd::Ne) => |x| (f32::from_bits(x as u32) as f64).to_bits();
        (Ty::F64, Ty::F32, Rnd::Z) => |x| (flush(f32::from_bits(x as u32)) as f64).to_bits();
    };
    Some(match (dst, src) {
        (Ty::F32, Ty::F16) => return widen(dst, src, if sat { Rnd::P } else { Rnd::Ne }),
        (Ty::F64, Ty::F32) => return widen(dst, src, if ftz { Rnd::Z } else { Rnd::Ne }),
        (Ty::F64, _) | (Ty::F32, Ty::BF16) if !sat => return widen(dst, src, Rnd::Ne),
        (Ty::F32, Ty::F64) if ftz && !sat => match rnd? {
            Rnd::Ne => f1!(|x| flush_bits(narrow(f64::from_bits(x), F32, Rnd::Ne))),
            Rnd::Z => f1!(|x| flush_bits(narrow(f64::from_bits(x), F32, Rnd::Z))),
            Rnd::M => f1!(|x| flush_bits(narrow(f64::from_bits(x), F32, Rnd::M))),
            Rnd::P => f1!(|x| flush_bits(narrow(f64::from_bits(x), F32, Rnd::P))),
            Rnd::Na => return None,
        },
        (Ty::F32, Ty::F64) => narrow_to!(10, 11),
        (Ty::F16, Ty::F32) => narrow_to!(8, 10),
        (Ty::F16, Ty::F64) => narrow_to!(8, 11),
        (Ty::BF16, Ty::F32) => narrow_to!(9, 10),
        (Ty::BF16, Ty::F64) => narrow_to!(9, 11),
        (Ty::BF16, Ty::F16) => narrow_to!(9, 8),
        (Ty::F16, Ty::BF16) => narrow_to!(8, 9),
        _ => return None,
    })
}

/// Float to the same float: integer rounding, flushing or saturation.
fn same(ty: Ty, int: Option<Rnd>, ftz: bool, sat: bool) -> Option<Alu> {
    macro_rules! ints {
        ($get:expr, $put:expr) => {
            match (int, sat) {
                (None, false) => f1!(|a| $put($get(a))),
                (None, true) => f1!(|a| $put(if $get(a).is_nan() { 0.0 } else { $get(a).clamp(0.0, 1.0) + 0.0 })),
                (Some(Rnd::Ne), false) => f1!(|a| $put(round_int($get(a), Rnd::Ne))),
                (Some(Rnd::Z), false) => f1!(|a| $put(round_int($get(a), Rnd::Z))),
                (Some(Rnd::M), false) => f1!(|a| $put(round_int($get(a), Rnd::M))),
                (Some(Rnd::P), false) => f1!(|a| $put(round_int($get(a), Rnd::P))),
                _ => return None,
            }
        };
    }
    fn put32(x: f64) -> u64 {
        narrow(x, F32, Rnd::Ne) as u64
    }
    fn get32(x: u64) -> f64 {
        f32::from_bits(x as u32) as f64
    }
    fn get32_ftz(x: u64) -> f64 {
        flush(f32::from_bits(x as u32)) as f64
    }
    fn get16(x: u64) -> f64 {
        h2f(x as u16) as f64
    }
    fn put16(x: f64) -> u64 {
        narrow(x, F16, Rnd::Ne) as u64
    }
    fn getb(x: u64) -> f64 {
        b2f(x as u16) as f64
    }
    fn putb(x: f64) -> u64 {
        narrow(x, BF16, Rnd::Ne) as u64
    }
    Some(match ty {
        Ty::F32 if ftz => ints!(get32_ftz, put32),
        Ty::F32 => ints!(get32, put32),
        Ty::F64 => ints!(f64::from_bits, f64::to_bits),
        Ty::F16 => ints!(get16, put16),
        Ty::BF16 => ints!(getb, putb),
        _ => return None,
    })
}
