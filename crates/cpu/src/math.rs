//! Elementary functions in f32 that vectorise: no branches, no calls.

use crate::simd::{LANES, fma, kernel, sum_lanes};

/// 355/512; 9 bits, so n times it is exact.
pub(crate) const LN2_HIGH: f32 = 0.693_359_4;
/// ln 2 − 355/512.
pub(crate) const LN2_LOW: f32 = -0.000_212_194_44;

/// eˣ to 2 ulp, with the right limits: 0 below −104, ∞ above 88.73, NaN for NaN.
///
/// x = n·ln 2 + r with |r| ≤ ½ ln 2 (Cody & Waite 1980: ln 2 in two parts, the first with few bits so that its multiples
/// are exact), eʳ by its Taylor polynomial of degree 7 (relative error below 1e-8), 2ⁿ in two factors so that subnormal
/// results come out right.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    exp_sum::<FMA>(x, -0.0)
}

/// e^(x + more) for an x of many bits in two parts, |more| ≤ 0.07; the limits are those of x.
#[inline(always)]
pub(crate) fn exp_sum<const FMA: bool>(x: f32, more: f32) -> f32 {
    /// Adding it rounds to an integer, which is then in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    // Comparisons with NaN are false, so NaN passes.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -105.0 { -105.0 } else { x };
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = fma::<FMA>(n, -LN2_HIGH, x);
    let r = fma::<FMA>(n, -LN2_LOW, r) + more;
    let mut p = 1.0 / 5040.0;
    p = fma::<FMA>(p, r, 1.0 / 720.0);
    p = fma::<FMA>(p, r, 1.0 / 120.0);
    p = fma::<FMA>(p, r, 1.0 / 24.0);
    p = fma::<FMA>(p, r, 1.0 / 6.0);
    p = fma::<FMA>(p, r, 0.5);
    p = fma::<FMA>(p * r, r, r) + 1.0;
    // For NaN the integer is meaningless, which NaN times anything hides; wrapping keeps it from trapping.
    let n = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    p * power(half) * power(n.wrapping_sub(half))
}

/// σ(x) = 1/(1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// x·σ(x).
#[inline(always)]
pub(crate) fn silu<const FMA: bool>(x: f32) -> f32 {
    x * sigmoid::<FMA>(x)
}

/// Derivative of x·σ(x): σ(x)(1 + x(1 − σ(x))).
#[inline(always)]
pub(crate) fn silu_grad<const FMA: bool>(x: f32) -> f32 {
    let s = sigmoid::<FMA>(x);
    s * fma::<FMA>(x, 1.0 - s, 1.0)
}

/// Elements after which a sum of exponentials is carried on in f64.
const BLOCK: usize = 2048;

kernel! {
    /// `x ← exp(x − shift)`; returns the sum.
    fn exp_shift_sum[FMA](x: &mut [f32], shift: f32) -> f64 {
        let mut total = 0.0f64;
        for block in x.chunks_mut(BLOCK) {
            let mut lanes = [0.0f32; LANES];
            let (chunks, rest) = block.as_chunks_mut::<LANES>();
            for chunk in chunks {
                for l in 0..LANES {
                    chunk[l] = exp::<FMA>(chunk[l] - shift);
                    lanes[l] += chunk[l];
                }
            }
            for (l, x) in rest.iter_mut().enumerate() {
                *x = exp::<FMA>(*x - shift);
                lanes[l] += *x;
            }
            total += f64::from(sum_lanes(&lanes));
        }
        total
    }
}

kernel! {
    /// Σ exp(x − shift).
    fn sum_exp[FMA](x: &[f32], shift: f32) -> f64 {
        let mut total = 0.0f64;
        for block in x.chunks(BLOCK) {
            let mut lanes = [0.0f32; LANES];
            let (chunks, rest) = block.as_chunks::<LANES>();
            for chunk in chunks {
                for l in 0..LANES {
                    lanes[l] += exp::<FMA>(chunk[l] - shift);
                }
            }
            for (l, x) in rest.iter().enumerate() {
                lanes[l] += exp::<FMA>(*x - shift);
            }
            total += f64::from(sum_lanes(&lanes));
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    kernel! {
        /// `y = eˣ`.
        fn exp_into[FMA](x: &[f32], y: &mut [f32]) {
            for (y, x) in y.iter_mut().zip(x) {
                *y = exp::<FMA>(*x);
            }
        }
    }

    fn exp32(x: f32) -> f32 {
        let mut y = [0.0];
        exp_into(&[x], &mut y);
        y[0]
    }

    /// Worst error in units in the last place of the result (of the smallest subnormal for tiny results).
    fn worst(f: impl Fn(f32) -> f32) -> f64 {
        let mut worst = 0.0f64;
        for i in -1_045_000..=887_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            let ulp = (want.log2().floor() - 23.0).max(-149.0).exp2();
            worst = worst.max((f64::from(f(x)) - want).abs() / ulp);
        }
        worst
    }

    #[test]
    fn exp_is_within_two_ulp_on_both_paths() {
        let (dispatched, plain) = (worst(exp32), worst(exp::<false>));
        assert!(dispatched <= 2.0 && plain <= 2.0, "{dispatched} {plain}");
    }

    #[test]
    fn exp_has_the_right_limits() {
        for f in [exp32, exp::<false>] {
            assert_eq!(f(0.0), 1.0);
            assert_eq!(f(-0.0), 1.0);
            assert_eq!(f(f32::NEG_INFINITY), 0.0);
            assert_eq!(f(-1e30), 0.0);
            assert_eq!(f(f32::INFINITY), f32::INFINITY);
            assert_eq!(f(88.73), f32::INFINITY);
            assert!(f(88.72).is_finite());
            assert!(f(f32::NAN).is_nan() && f(-f32::NAN).is_nan());
        }
    }

    #[test]
    fn sums_of_exponentials_count_every_element_once() {
        for len in [0, 1, 31, 32, 33, 2047, 2048, 2049, 5000] {
            let mut x = vec![3.0f32; len];
            assert_eq!(sum_exp(&x, 3.0), len as f64);
            assert_eq!(exp_shift_sum(&mut x, 3.0), len as f64);
            assert!(x.iter().all(|&x| x == 1.0));
        }
    }

    #[test]
    fn silu_and_its_derivative() {
        for i in -400..=400 {
            let x = i as f32 * 0.05;
            let s = 1.0 / (1.0 + (-f64::from(x)).exp());
            let want = f64::from(x) * s;
            assert!((f64::from(silu::<false>(x)) - want).abs() <= 4e-7 * want.abs().max(1e-3));
            let want = s * (1.0 + f64::from(x) * (1.0 - s));
            assert!((f64::from(silu_grad::<false>(x)) - want).abs() <= 1e-6);
        }
        assert!(silu::<false>(f32::NAN).is_nan());
    }
}
