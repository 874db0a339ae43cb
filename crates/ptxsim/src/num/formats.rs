//! Rounding of f64 to every narrower float format in every PTX rounding mode, and back.
//!
//! One routine serves all formats: a finite double is `mant * 2^exp`; it is shifted right to the unit in the last
//! place of the target (subnormals share the smallest exponent) and the remainder decides whether to step up. The
//! input must be exact or rounded to odd, so that no value is rounded twice.

/// PTX rounding modes of floating-point results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rnd {
    /// `.rn`: nearest, ties to even
    Ne,
    /// `.rz`: towards zero
    Z,
    /// `.rm`: towards minus infinity
    M,
    /// `.rp`: towards plus infinity
    P,
    /// `.rna`: nearest, ties away from zero
    Na,
}

/// A binary float format: exponent bits, stored mantissa bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub e: u32,
    pub m: u32,
}

pub(crate) const F16: Format = Format { e: 5, m: 10 };
pub(crate) const BF16: Format = Format { e: 8, m: 7 };
pub(crate) const F32: Format = Format { e: 8, m: 23 };

/// Rounds `x` to `f`; NaN becomes the canonical NaN of PTX (all ones but the sign).
pub(crate) fn narrow(x: f64, f: Format, rnd: Rnd) -> u32 {
    let bits = x.to_bits();
    let sign = (bits >> 63) as u32;
    let top = f.e + f.m;
    let inf = ((1u32 << f.e) - 1) << f.m;
    if x.is_nan() {
        return (1 << top) - 1;
    }
    if x.is_infinite() {
        return sign << top | inf;
    }
    let field = (bits >> 52 & 0x7ff) as i32;
    let frac = bits & ((1 << 52) - 1);
    if field == 0 && frac == 0 {
        return sign << top;
    }
    let (mant, exp) = if field == 0 { (frac, -1074) } else { (frac | 1 << 52, field - 1075) };
    let bias = (1i32 << (f.e - 1)) - 1;
    let e = exp + 63 - mant.leading_zeros() as i32;
    let ulp = e.max(1 - bias) - f.m as i32;
    let shift = ulp - exp;
    let (mut m, rem, half) = if shift <= 0 {
        (mant << (-shift).min(63), 0, 1)
    } else if shift > 60 {
        (0, 1, 2)
    } else {
        (mant >> shift, mant & ((1 << shift) - 1), 1u64 << (shift - 1))
    };
    let up = match rnd {
        Rnd::Ne => rem > half || (rem == half && m & 1 == 1),
        Rnd::Na => rem >= half && rem != 0,
        Rnd::Z => false,
        Rnd::M => rem != 0 && sign == 1,
        Rnd::P => rem != 0 && sign == 0,
    };
    m += up as u64;
    let biased = ((ulp + f.m as i32 + bias) as i64) << f.m;
    let out = biased + m as i64 - (1i64 << f.m);
    if out >= inf as i64 {
        let away = match rnd {
            Rnd::Ne | Rnd::Na => true,
            Rnd::Z => false,
            Rnd::M => sign == 1,
            Rnd::P => sign == 0,
        };
        return sign << top | if away { inf } else { inf - 1 };
    }
    sign << top | out as u32
}

/// The value of a float of format `f` (exact).
pub(crate) fn widen(bits: u32, f: Format) -> f64 {
    let sign = if bits >> (f.e + f.m) & 1 == 1 { -1.0 } else { 1.0 };
    let field = (bits >> f.m & ((1 << f.e) - 1)) as i32;
    let frac = bits & ((1 << f.m) - 1);
    let bias = (1i32 << (f.e - 1)) - 1;
    if field == (1 << f.e) - 1 {
        return if frac == 0 { sign * f64::INFINITY } else { f64::NAN };
    }
    let (mant, exp) =
        if field == 0 { (frac, 1 - bias - f.m as i32) } else { (frac | 1 << f.m, field - bias - f.m as i32) };
    sign * mant as f64 * f64::from_bits(((exp + 1023) as u64) << 52)
}

/// f16 bits to f32.
#[inline]
pub(crate) fn h2f(h: u16) -> f32 {
    let (s, e, m) = ((h as u32 & 0x8000) << 16, h as u32 >> 10 & 31, h as u32 & 0x3ff);
    match e {
        31 => f32::from_bits(s | 0x7f80_0000 | m << 13),
        0 => f32::from_bits(s | (m as f32 * f32::from_bits(0x3380_0000)).to_bits()),
        _ => f32::from_bits(s | (e + 112) << 23 | m << 13),
    }
}

/// bf16 bits to f32.
#[inline]
pub(crate) fn b2f(b: u16) -> f32 {
    f32::from_bits((b as u32) << 16)
}

/// f32 to bf16, nearest even.
#[inline]
pub(crate) fn f2b(x: f32) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    let b = x.to_bits();
    (b.wrapping_add(0x7fff + (b >> 16 & 1)) >> 16) as u16
}

/// Rounds to an 8-bit float, e4m3 or e5m2, saturating to the largest finite value.
///
/// e4m3 has no infinities and only one NaN, so it counts as a part of a wider format whose exponents are shifted by 8.
pub(crate) fn to_f8(x: f64, e4: bool) -> u8 {
    if x.is_nan() {
        return 0x7f;
    }
    let (largest, code) = if e4 { (448.0, 0x7e) } else { (57344.0, 0x7b) };
    let sign = (x.is_sign_negative() as u8) << 7;
    if x.abs() >= largest {
        return sign | code;
    }
    let bits =
        if e4 { narrow(x / 256.0, Format { e: 5, m: 3 }, Rnd::Ne) } else { narrow(x, Format { e: 5, m: 2 }, Rnd::Ne) };
    let bits = sign | bits as u8 & 0x7f;
    // What rounds up beyond the largest value stays there.
    if bits & 0x7f > code { sign | code } else { bits }
}

/// The value of an 8-bit float.
pub(crate) fn from_f8(b: u8, e4: bool) -> f32 {
    if !e4 {
        return widen(b as u32, Format { e: 5, m: 2 }) as f32;
    }
    if b & 0x7f == 0x7f {
        return f32::NAN;
    }
    let wide = (b as u32 & 0x80) << 1 | b as u32 & 0x7f;
    (widen(wide, Format { e: 5, m: 3 }) * 256.0) as f32
}
