//! The functions of which std has none, in f64: erf, and the activations with their derivatives.

// The coefficients stand as published.
#![allow(clippy::excessive_precision)]

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// exp(−y²) with y² split so that the exponent's rounding error does not grow with y.
fn exp_minus_square(y: f64) -> f64 {
    let coarse = (y * 16.0).trunc() / 16.0;
    (-coarse * coarse).exp() * (-(y - coarse) * (y + coarse)).exp()
}

/// erf(x)/x for |x| ≤ 0.46875.
fn erf_over_x(x: f64) -> f64 {
    const P: [f64; 5] = [
        1.85777706184603153e-1,
        3.16112374387056560e0,
        1.13864154151050156e2,
        3.77485237685302021e2,
        3.20937758913846947e3,
    ];
    const Q: [f64; 5] =
        [1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3];
    horner(&P, x * x) / horner(&Q, x * x)
}

/// erfc(y) for y > 0.46875.
fn erfc_tail(y: f64) -> f64 {
    const C: [f64; 9] = [
        2.15311535474403846e-8,
        5.64188496988670089e-1,
        8.88314979438837594e0,
        6.61191906371416295e1,
        2.98635138197400131e2,
        8.81952221241769090e2,
        1.71204761263407058e3,
        2.05107837782607147e3,
        1.23033935479799725e3,
    ];
    const D: [f64; 9] = [
        1.0,
        1.57449261107098347e1,
        1.17693950891312499e2,
        5.37181101862009858e2,
        1.62138957456669019e3,
        3.29079923573345963e3,
        4.36261909014324716e3,
        3.43936767414372164e3,
        1.23033935480374942e3,
    ];
    const P: [f64; 6] = [
        1.63153871373020978e-2,
        3.05326634961232344e-1,
        3.60344899949804439e-1,
        1.25781726111229246e-1,
        1.60837851487422766e-2,
        6.58749161529837803e-4,
    ];
    const Q: [f64; 6] = [
        1.0,
        2.56852019228982242e0,
        1.87295284992346047e0,
        5.27905102951428412e-1,
        6.05183413124413191e-2,
        2.33520497626869185e-3,
    ];
    // From here on the result is below the smallest f64.
    if y > 27.3 {
        return 0.0;
    }
    if y <= 4.0 {
        return exp_minus_square(y) * horner(&C, y) / horner(&D, y);
    }
    let z = 1.0 / (y * y);
    let correction = z * horner(&P, z) / horner(&Q, z);
    exp_minus_square(y) / y * (1.0 / PI.sqrt() - correction)
}

fn horner(coefficients: &[f64], x: f64) -> f64 {
    coefficients.iter().fold(0.0, |sum, c| sum * x + c)
}

/// The error function, to about 1e-16: the rational approximations of W. J. Cody, "Rational Chebyshev approximations
/// for the error function", Math. Comp. 23 (1969).
pub fn erf(x: f64) -> f64 {
    let y = x.abs();
    if y > 0.46875 { (1.0 - erfc_tail(y)).copysign(x) } else { x * erf_over_x(x) }
}

/// 1 − erf(x), with small relative error also where it is tiny.
pub fn erfc(x: f64) -> f64 {
    if x.is_nan() {
        x
    } else if x > 0.46875 {
        erfc_tail(x)
    } else if x < -0.46875 {
        2.0 - erfc_tail(-x)
    } else {
        1.0 - x * erf_over_x(x)
    }
}

/// Logistic function σ(x) = 1/(1 + e⁻ˣ).
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// x·σ(x)
pub fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// Derivative of [`silu`]: σ(x)·(1 + x·σ(−x)).
pub fn silu_grad(x: f64) -> f64 {
    sigmoid(x) * (1.0 + x * sigmoid(-x))
}

/// x·Φ(x), Φ the standard normal distribution (Hendrycks & Gimpel 2016).
pub fn gelu_erf(x: f64) -> f64 {
    0.5 * x * erfc(-x * FRAC_1_SQRT_2)
}

/// Derivative of [`gelu_erf`]: Φ(x) + x·φ(x).
pub fn gelu_erf_grad(x: f64) -> f64 {
    0.5 * erfc(-x * FRAC_1_SQRT_2) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
}

const GELU_CUBIC: f64 = 0.044715;

/// √(2/π)(x + 0.044715x³)
fn gelu_tanh_argument(x: f64) -> f64 {
    (2.0 / PI).sqrt() * (x + GELU_CUBIC * x * x * x)
}

/// ½x(1 + tanh(√(2/π)(x + 0.044715x³)))
pub fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + gelu_tanh_argument(x).tanh())
}

/// Derivative of [`gelu_tanh`].
pub fn gelu_tanh_grad(x: f64) -> f64 {
    let t = gelu_tanh_argument(x).tanh();
    let slope = (2.0 / PI).sqrt() * (1.0 + 3.0 * GELU_CUBIC * x * x);
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_relative(got: f64, want: f64, bound: f64) {
        assert!(((got - want) / want).abs() <= bound, "{got}, expected {want}");
    }

    /// NIST Digital Library of Mathematical Functions, table 7.2, continued to 20 digits.
    #[test]
    fn erf_has_its_known_values() {
        let known = [
            (0.1, 0.112_462_916_018_284_9),
            (0.46875, 0.492_613_473_217_938),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (3.0, 0.999_977_909_503_001_4),
            (4.5, 0.999_999_999_803_384),
        ];
        for (x, want) in known {
            assert_relative(erf(x), want, 1e-15);
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!((erf(0.0), erf(f64::INFINITY), erf(f64::NEG_INFINITY)), (0.0, 1.0, -1.0));
        assert!(erf(f64::NAN).is_nan() && erfc(f64::NAN).is_nan());
    }

    #[test]
    fn erfc_is_exact_where_it_is_tiny() {
        let known = [
            (2.0, 4.677_734_981_047_266e-3),
            (3.0, 2.209_049_699_858_544e-5),
            (5.0, 1.537_459_794_428_034_8e-12),
            (10.0, 2.088_487_583_762_545e-45),
        ];
        for (x, want) in known {
            assert_relative(erfc(x), want, 1e-14);
            assert_relative(erfc(-x), 2.0 - want, 1e-15);
        }
        assert_relative(erfc(0.25), 0.723_673_609_831_763_1, 1e-15);
    }

    #[test]
    fn activations_have_their_known_values() {
        assert_relative(silu(1.0), 0.731_058_578_630_004_9, 1e-15);
        assert_relative(gelu_erf(1.0), 0.841_344_746_068_542_9, 1e-15);
        assert_relative(gelu_erf(-2.0), -2.0 * 0.022_750_131_948_179_21, 1e-14);
        assert_relative(gelu_tanh(1.0), 0.841_191_990_608_275_9, 1e-14);
        assert_eq!((silu(-1e4), gelu_erf(-50.0), gelu_tanh(-50.0)), (0.0, 0.0, 0.0));
    }

    /// Central differences are good to about h² = 1e-10.
    #[test]
    fn derivatives_agree_with_differences() {
        type Function = fn(f64) -> f64;
        let pairs: [(Function, Function); 3] =
            [(silu, silu_grad), (gelu_erf, gelu_erf_grad), (gelu_tanh, gelu_tanh_grad)];
        let h = 1e-5;
        for (f, df) in pairs {
            for x in [-5.0, -1.3, -0.2, 0.0, 0.4, 2.5, 7.0] {
                let difference = (f(x + h) - f(x - h)) / (2.0 * h);
                assert!((df(x) - difference).abs() < 1e-9, "{x}: {} and {difference}", df(x));
            }
        }
    }
}
