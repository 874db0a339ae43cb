//! tanh, ln and GELU in f32 that vectorise: no branches, no calls. Infinities and NaN give what the definitions give.
//!
//! Polynomials are minimax fits (Lawson 1961) of the functions named with them; their relative errors stand beside them.

use crate::math::{exp, exp_sum};
use crate::simd::fma;

/// The polynomial with these coefficients, the highest power first.
#[inline(always)]
fn horner<const FMA: bool>(coefficients: &[f32], x: f32) -> f32 {
    coefficients[1..].iter().fold(coefficients[0], |sum, c| fma::<FMA>(sum, x, *c))
}

/// tanh x to 3 ulp: up to 0.625 by x(1 + x²Q(x²)), from there on 1 − 2/(e²ˣ + 1) (the division of Cody & Waite 1980).
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    /// (tanh(x)/x − 1)/x² in x²: 4.1e-9 of tanh.
    const Q: [f32; 5] = [-0.005_717_045, 0.020_650_587, -0.053_743_497, 0.133_314_91, -0.333_332_84];
    let y = x.abs();
    let z = y * y;
    let small = fma::<FMA>(y * z, horner::<FMA>(&Q, z), y);
    let large = 1.0 - 2.0 / (exp::<FMA>(2.0 * y) + 1.0);
    (if y < 0.625 { small } else { large }).copysign(x)
}

/// ln x to 2 ulp: x = 2ⁿ(1 + f) with √½ ≤ 1 + f < √2, ln(1 + f) = f − f²/2 + f³P(f), n ln 2 in two parts (Cody & Waite 1980).
#[inline(always)]
pub(crate) fn ln<const FMA: bool>(x: f32) -> f32 {
    /// (ln(1 + f) − f + f²/2)/f³: 5.8e-9 of ln(1 + f).
    const P: [f32; 8] = [
        -0.076_344_97,
        0.127_615_77,
        -0.131_601_82,
        0.142_017_58,
        -0.166_233_57,
        0.200_012_27,
        -0.250_008_2,
        0.333_333_3,
    ];
    const SQRT_HALF: u32 = 0x3f35_04f3;
    /// Makes subnormals normal.
    const SCALE: f32 = 8_388_608.0;
    let subnormal = x < f32::MIN_POSITIVE;
    let bits = (if subnormal { x * SCALE } else { x }).to_bits();
    let n = (bits.wrapping_sub(SQRT_HALF) as i32) >> 23;
    let f = f32::from_bits(bits.wrapping_sub((n << 23) as u32)) - 1.0;
    let n = n as f32 - if subnormal { 23.0 } else { 0.0 };
    let z = f * f;
    let rest = fma::<FMA>(n, crate::math::LN2_LOW, f * z * horner::<FMA>(&P, f));
    let y = fma::<FMA>(n, crate::math::LN2_HIGH, f + fma::<FMA>(-0.5, z, rest));
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    // NaN as well.
    if x >= 0.0 { y } else { f32::NAN }
}

/// The standard normal distribution: (Φ(x), e^(−x²/2)), both to 10 ulp, also where they are tiny.
///
/// Φ(−|x|) = e^(−x²/2)·t·P(t) with t = 1/(1 + |x|/4): the form of Hastings 1955 (Abramowitz & Stegun 7.1.26), with more terms. The
/// exponent is taken in two parts, c²/2 with c of 12 bits, which is exact, and the rest.
#[inline(always)]
fn normal<const FMA: bool>(x: f32) -> (f32, f32) {
    /// Φ(−x)e^(x²/2)/t in t for x ≤ 14.6: 8.7e-9.
    const P: [f32; 10] = [
        0.016_951_482,
        -0.064_865_91,
        0.056_673_415,
        0.021_520_573,
        0.018_671_291,
        0.083_330_36,
        0.073_2,
        0.095_246,
        0.099_526_73,
        0.099_746_04,
    ];
    let y = x.abs();
    // From 14.5 on the smallest subnormal is larger than both.
    let y = if y > 15.0 { 15.0 } else { y };
    let c = f32::from_bits(y.to_bits() & 0xffff_f000);
    let e = exp_sum::<FMA>(-0.5 * c * c, -0.5 * (y - c) * (y + c));
    let t = 1.0 / fma::<FMA>(0.25, y, 1.0);
    let tail = e * (t * horner::<FMA>(&P, t));
    (if x < 0.0 { tail } else { 1.0 - tail }, e)
}

/// x·Φ(x).
#[inline(always)]
pub(crate) fn gelu_erf<const FMA: bool>(x: f32) -> f32 {
    x * normal::<FMA>(x).0
}

/// Derivative of x·Φ(x): Φ(x) + x·e^(−x²/2)/√2π.
#[inline(always)]
pub(crate) fn gelu_erf_grad<const FMA: bool>(x: f32) -> f32 {
    const FACTOR: f32 = 0.398_942_3;
    let (distribution, e) = normal::<FMA>(x);
    fma::<FMA>(FACTOR * x, e, distribution)
}

/// 2√(2/π), and that times 0.044715.
const TANH: [f32; 2] = [1.595_769_2, 0.071_354_814];

/// σ(2u) = ½(1 + tanh u) with u = √(2/π)(x + 0.044715x³), and σ(1 − σ), both without cancellation.
#[inline(always)]
fn gelu_sigmoid<const FMA: bool>(x: f32) -> (f32, f32) {
    let v = x * fma::<FMA>(TANH[1], x * x, TANH[0]);
    // By e^(−|v|), which does not overflow where σ is tiny.
    let e = exp::<FMA>(-v.abs());
    let q = 1.0 / (1.0 + e);
    ((if v < 0.0 { e } else { 1.0 }) * q, e * q * q)
}

/// x·σ(2u) = ½x(1 + tanh u).
#[inline(always)]
pub(crate) fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    x * gelu_sigmoid::<FMA>(x).0
}

/// Its derivative: σ + x·σ(1 − σ)·2u'.
#[inline(always)]
pub(crate) fn gelu_tanh_grad<const FMA: bool>(x: f32) -> f32 {
    let (s, slope) = gelu_sigmoid::<FMA>(x);
    // Where σ is 0 or 1, so that x² does not overflow beside a factor of 0.
    let y = if x.abs() > 30.0 { 30.0 } else { x };
    let inner = fma::<FMA>(3.0 * TANH[1], y * y, TANH[0]);
    fma::<FMA>(x * slope, inner, s)
}

#[cfg(test)]
mod tests {
    use std::f64::consts::{LN_2, PI};

    use lowrank_backend::math;

    use super::*;
    use crate::simd::kernel;

    /// The function as kernels call it, on every 1021st f32 and without fused multiply-add.
    macro_rules! check {
        ($f:ident, $bound:expr, $oracle:expr) => {{
            kernel! {
                fn wide[FMA](x: &mut [f32]) {
                    for x in x.iter_mut() {
                        *x = $f::<FMA>(*x);
                    }
                }
            }
            let x: Vec<f32> = (0..=u32::MAX).step_by(1021).map(f32::from_bits).collect();
            let mut y = x.clone();
            wide(&mut y);
            for (x, y) in x.into_iter().zip(y) {
                check(x, y, $oracle, $bound);
                check(x, $f::<false>(x), $oracle, $bound);
            }
            for x in [0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN] {
                check(x, $f::<false>(x), $oracle, $bound);
                let mut y = [x; 17];
                wide(&mut y);
                y.into_iter().for_each(|y| check(x, y, $oracle, $bound));
            }
        }};
    }

    /// `bound(x, value)` counts units in the last place of the value.
    fn check(x: f32, got: f32, oracle: impl Fn(f64) -> f64, bound: impl Fn(f64, f64) -> f64) {
        let want = oracle(f64::from(x));
        if want.is_nan() || want.is_infinite() {
            return assert!(got.is_nan() && want.is_nan() || f64::from(got) == want, "{x}: {got}, expected {want}");
        }
        let ulp = (want.abs().log2().floor() - 23.0).max(-149.0).exp2();
        let error = (f64::from(got) - want).abs() / ulp;
        assert!(error <= bound(f64::from(x), want), "{x}: {got}, expected {want}: {error} ulp");
        assert!(want != 0.0 || got.is_sign_negative() == want.is_sign_negative(), "{x}: {got}");
    }

    #[test]
    fn tanh_within_3_ulp() {
        check!(tanh, |_, _| 3.0, f64::tanh);
    }

    #[test]
    fn ln_within_2_ulp() {
        check!(ln, |_, _| 2.0, f64::ln);
        assert_eq!((ln::<false>(1.0), ln::<false>(-0.0)), (0.0, f32::NEG_INFINITY));
        assert!((f64::from(ln::<true>(2.0)) - LN_2).abs() < 1e-7);
    }

    #[test]
    fn gelu_within_10_ulp() {
        check!(gelu_erf, |_, _| 10.0, math::gelu_erf);
    }

    /// The derivative crosses 0, so its error is counted against 1.
    #[test]
    fn the_derivative_of_gelu() {
        check!(gelu_erf_grad, |_, y: f64| 6.0 * (1.0 / y.abs()).max(1.0), math::gelu_erf_grad);
    }

    /// The exponent is rounded in f32, so its relative error grows with it.
    #[test]
    fn gelu_tanh_within_few_ulp() {
        let argument = |x: f64| 2.0 * (2.0 / PI).sqrt() * (x + 0.044715 * x * x * x);
        let oracle = |x: f64| x / (1.0 + (-argument(x)).exp());
        check!(gelu_tanh, |x: f64, _| 4.0 + 3.0 * argument(x.min(0.0)).abs().min(100.0), oracle);
        // Written without 1 + tanh, which cancels.
        let oracle = |x: f64| {
            let s = 1.0 / (1.0 + (-argument(x)).exp());
            let inner = 2.0 * (2.0 / PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
            if s == 0.0 || s == 1.0 { s + 0.0 * x } else { s + x * s * (1.0 - s) * inner }
        };
        check!(gelu_tanh_grad, |_, y: f64| 8.0 * (1.0 / y.abs()).max(1.0), oracle);
    }
}
