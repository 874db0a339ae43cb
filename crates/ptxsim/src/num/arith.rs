//! Exact sums, products and fused products as a double rounded to odd, from which every narrower format and rounding
//! mode follows without double rounding (Boldo & Melquiond, "Emulation of FMA and correctly rounded sums").

use super::formats::*;

/// `s + err`, rounded to odd: if anything is lost, the last bit is set.
fn odd(s: f64, err: f64) -> f64 {
    if err == 0.0 || !s.is_finite() || s == 0.0 || s.to_bits() & 1 == 1 {
        return s;
    }
    // The true value lies between s and its neighbour towards err; that neighbour is odd.
    let up = (err > 0.0) == (s > 0.0);
    f64::from_bits(if up { s.to_bits() + 1 } else { s.to_bits() - 1 })
}

/// a + b rounded to odd (TwoSum gives the exact error).
pub(crate) fn add_odd(a: f64, b: f64) -> f64 {
    let s = a + b;
    let bb = s - a;
    odd(s, (a - (s - bb)) + (b - bb))
}

/// a * b + c rounded to odd, for a and b of at most 26 significant bits (so that a * b is exact).
pub(crate) fn fma_odd(a: f64, b: f64, c: f64) -> f64 {
    add_odd(a * b, c)
}

/// The sum `s` of `a` and `b`: an exact cancellation is -0 when rounding down, +0 otherwise.
fn zero_sign(s: f64, a: f64, b: f64, rnd: Rnd) -> f64 {
    let cancels = a == -b && a.is_sign_negative() != b.is_sign_negative();
    if cancels && s == 0.0 && rnd == Rnd::M { -0.0 } else { s }
}

/// a + b in f32 with any rounding.
pub(crate) fn add32(a: f32, b: f32, rnd: Rnd) -> f32 {
    let (a, b) = (a as f64, b as f64);
    let s = zero_sign(add_odd(a, b), a, b, rnd);
    f32::from_bits(narrow(s, F32, rnd))
}

/// a * b in f32 with any rounding.
pub(crate) fn mul32(a: f32, b: f32, rnd: Rnd) -> f32 {
    f32::from_bits(narrow(a as f64 * b as f64, F32, rnd))
}

/// a * b + c in f32 with any rounding.
pub(crate) fn fma32(a: f32, b: f32, c: f32, rnd: Rnd) -> f32 {
    let p = a as f64 * b as f64;
    let s = zero_sign(add_odd(p, c as f64), p, c as f64, rnd);
    f32::from_bits(narrow(s, F32, rnd))
}

/// a / b in f32 with any rounding: the remainder tells on which side of the quotient the truth lies.
pub(crate) fn div32(a: f32, b: f32, rnd: Rnd) -> f32 {
    let (a, b) = (a as f64, b as f64);
    let q = a / b;
    let r = if q.is_finite() && q != 0.0 { (-q).mul_add(b, a) } else { 0.0 };
    let err = if b > 0.0 { r } else { -r };
    f32::from_bits(narrow(odd(q, err), F32, rnd))
}

/// Square root in f32 with any rounding.
pub(crate) fn sqrt32(a: f32, rnd: Rnd) -> f32 {
    let s = (a as f64).sqrt();
    let r = if s.is_finite() && s != 0.0 { (-s).mul_add(s, a as f64) } else { 0.0 };
    f32::from_bits(narrow(odd(s, r), F32, rnd))
}

/// Moves a double rounded to nearest to the neighbour that a directed mode asks for; `err` is truth minus `s`.
fn direct(s: f64, err: f64, rnd: Rnd) -> f64 {
    if err == 0.0 || err.is_nan() || s.is_nan() {
        return s;
    }
    if s.is_infinite() {
        let keep = match rnd {
            Rnd::P => s > 0.0,
            Rnd::M => s < 0.0,
            Rnd::Z => false,
            _ => true,
        };
        return if keep { s } else { f64::MAX.copysign(s) };
    }
    match rnd {
        Rnd::Ne | Rnd::Na => s,
        Rnd::P => {
            if err > 0.0 {
                s.next_up()
            } else {
                s
            }
        }
        Rnd::M => {
            if err < 0.0 {
                s.next_down()
            } else {
                s
            }
        }
        Rnd::Z => {
            if s > 0.0 && err < 0.0 {
                s.next_down()
            } else if s < 0.0 && err > 0.0 {
                s.next_up()
            } else {
                s
            }
        }
    }
}

/// a + b in f64 with any rounding.
pub(crate) fn add64(a: f64, b: f64, rnd: Rnd) -> f64 {
    let s = a + b;
    if s.is_infinite() && a.is_finite() && b.is_finite() {
        return direct(s, -s, rnd);
    }
    let bb = s - a;
    direct(zero_sign(s, a, b, rnd), (a - (s - bb)) + (b - bb), rnd)
}

/// a * b in f64 with any rounding.
pub(crate) fn mul64(a: f64, b: f64, rnd: Rnd) -> f64 {
    let s = a * b;
    if s.is_infinite() && a.is_finite() && b.is_finite() {
        return direct(s, -s, rnd);
    }
    direct(s, a.mul_add(b, -s), rnd)
}

/// A number with the sign of the exact sum of `terms`, which a nonoverlapping expansion holds without error
/// (Shewchuk, "Adaptive precision floating-point arithmetic", GROW-EXPANSION).
fn sum_sign(terms: &[f64]) -> f64 {
    let mut parts: Vec<f64> = Vec::new();
    for &t in terms {
        let mut q = t;
        for p in &mut parts {
            let s = q + *p;
            let bb = s - q;
            *p = (q - (s - bb)) + (*p - bb);
            q = s;
        }
        parts.push(q);
    }
    parts.into_iter().rev().find(|p| *p != 0.0).unwrap_or(0.0)
}

/// a * b + c in f64 with any rounding.
pub(crate) fn fma64(a: f64, b: f64, c: f64, rnd: Rnd) -> f64 {
    let s = a.mul_add(b, c);
    if rnd == Rnd::Ne || s.is_nan() || !(a.is_finite() && b.is_finite() && c.is_finite()) {
        return s;
    }
    if s.is_infinite() {
        return direct(s, -s, rnd);
    }
    // Away from the ends of the range the product is exact in two doubles; a power of two leaves the signs alone.
    let (lo, hi) = if a.abs() < b.abs() { (a, b) } else { (b, a) };
    let size = (a.abs() * b.abs()).max(c.abs());
    let f = if size > 1e250 {
        1e-60f64
    } else if size < 1e-200 {
        1e60
    } else {
        1.0
    };
    let f = f64::from_bits(f.to_bits() & !((1 << 52) - 1));
    let (lo, hi) = if f < 1.0 { (lo, hi * f) } else { (lo * f, hi) };
    let mut p = lo * hi;
    let e = lo.mul_add(hi, -p);
    if p == 0.0 && lo != 0.0 && hi != 0.0 {
        p = f64::MIN_POSITIVE.copysign(lo * hi);
    }
    direct(zero_sign(s, a * b, c, rnd), sum_sign(&[p, e, c * f, -(s * f)]), rnd)
}

/// a / b in f64 with any rounding.
pub(crate) fn div64(a: f64, b: f64, rnd: Rnd) -> f64 {
    let q = a / b;
    if q.is_infinite() && a.is_finite() && b != 0.0 {
        return direct(q, -q, rnd);
    }
    let r = if q.is_finite() && b.is_finite() { (-q).mul_add(b, a) } else { 0.0 };
    direct(q, if b > 0.0 { r } else { -r }, rnd)
}

/// Square root in f64 with any rounding.
pub(crate) fn sqrt64(a: f64, rnd: Rnd) -> f64 {
    let s = a.sqrt();
    direct(s, if s.is_finite() { (-s).mul_add(s, a) } else { 0.0 }, rnd)
}

/// Subnormals become zero of the same sign.
#[inline]
pub(crate) fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0f32.copysign(x) } else { x }
}

/// `.sat`: clamps to [0, 1]; NaN becomes 0.
#[inline]
pub(crate) fn sat32(x: f32) -> f32 {
    if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) + 0.0 }
}

/// The PTX minimum and maximum: a NaN loses unless `nan` is set, and -0 < +0.
#[inline]
pub(crate) fn minmax(a: f64, b: f64, max: bool, nan: bool) -> f64 {
    if a.is_nan() || b.is_nan() {
        return if nan || (a.is_nan() && b.is_nan()) {
            f64::NAN
        } else if a.is_nan() {
            b
        } else {
            a
        };
    }
    if a == 0.0 && b == 0.0 {
        let neg = if max {
            a.is_sign_negative() && b.is_sign_negative()
        } else {
            a.is_sign_negative() || b.is_sign_negative()
        };
        return if neg { -0.0 } else { 0.0 };
    }
    if max { a.max(b) } else { a.min(b) }
}
