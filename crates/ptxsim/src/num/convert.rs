//! `cvt` between integers and floats: integer rounding, saturation, NaN rules.

use super::formats::*;

/// Integer rounding of a float value (`.rni` … on float to float or float to integer).
pub(crate) fn round_int(x: f64, rnd: Rnd) -> f64 {
    match rnd {
        Rnd::Ne => x.round_ties_even(),
        Rnd::Na => x.round(),
        Rnd::Z => x.trunc(),
        Rnd::M => x.floor(),
        Rnd::P => x.ceil(),
    }
}

/// Float to integer of `bits` bits, saturating; the result is in the low `bits` bits.
///
/// NaN gives 0, but the most negative pattern when a 64-bit type is involved.
pub(crate) fn float_to_int(x: f64, from64: bool, bits: u32, signed: bool, rnd: Rnd) -> u64 {
    if x.is_nan() {
        return if from64 || bits == 64 { 1 << (bits - 1) } else { 0 };
    }
    let r = round_int(x, rnd);
    let v = if signed {
        let v = r as i64;
        if bits == 64 { v as u64 } else { v.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1) as u64 }
    } else {
        let v = r as u64;
        if bits == 64 { v } else { v.min((1 << bits) - 1) }
    };
    if bits == 64 { v } else { v & ((1 << bits) - 1) }
}

/// A 64-bit integer as a double rounded to odd, safe for a second rounding to f32 or narrower.
pub(crate) fn int_to_odd(mag: u64, neg: bool) -> f64 {
    let lz = mag.leading_zeros();
    let x = if lz >= 11 {
        mag as f64
    } else {
        let drop = 11 - lz;
        let kept = mag >> drop | (mag & ((1 << drop) - 1) != 0) as u64;
        kept as f64 * (1u64 << drop) as f64
    };
    if neg { -x } else { x }
}

/// A 64-bit integer to f64 in any rounding mode.
pub(crate) fn int_to_f64(mag: u64, neg: bool, rnd: Rnd) -> f64 {
    let lz = mag.leading_zeros();
    let x = if lz >= 11 {
        mag as f64
    } else {
        let drop = 11 - lz;
        let (m, rem, half) = (mag >> drop, mag & ((1 << drop) - 1), 1u64 << (drop - 1));
        let up = match rnd {
            Rnd::Ne => rem > half || (rem == half && m & 1 == 1),
            Rnd::Na => rem >= half,
            Rnd::Z => false,
            Rnd::M => rem != 0 && neg,
            Rnd::P => rem != 0 && !neg,
        };
        (m + up as u64) as f64 * (1u64 << drop) as f64
    };
    if neg { -x } else { x }
}

/// Integer to integer of `bits` bits with `.sat`.
pub(crate) fn int_sat(v: i128, bits: u32, signed: bool) -> u64 {
    let (lo, hi) = if signed { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
    let v = v.clamp(lo, hi) as u64;
    if bits == 64 { v } else { v & ((1 << bits) - 1) }
}
