//! f32 values as sums of two bf16: x ≈ hi + lo, for [`Precision::Bf16x3`](lowrank_backend::Precision::Bf16x3).
//!
//! hi is x rounded to the nearest bf16 (8 bits), lo the rest rounded likewise: |x − hi| ≤ 2⁻⁸|x|, |x − hi − lo| ≤ 2⁻¹⁷|x|.
//! The rest is exact in f32 (16 bits at most). A finite value that would round to infinity (within 2⁻⁹ of the largest f32) is
//! cut off instead of rounded, in both parts, so that their sum stays finite: there the bounds are 2⁻⁸ and 2⁻¹⁶. Infinities and
//! NaN are hi alone, lo is 0: ∞ − ∞ would make NaN of them. hi + lo is always exact in f32.

use crate::simd::kernel;

/// The bits of hi and lo as f32; the lower 16 of each are zero. No branches, so that loops of it vectorise.
#[inline(always)]
pub(crate) fn split(x: f32) -> (u32, u32) {
    const EXPONENT: u32 = 0x7f80_0000;
    const UPPER: u32 = 0xffff_0000;
    let nearest = |bits: u32| bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let bits = x.to_bits();
    let special = bits & EXPONENT == EXPONENT;
    let cut = nearest(bits) & EXPONENT == EXPONENT;
    // A NaN whose upper half says infinity must not become one.
    let quiet = if bits & !(1 << 31) > EXPONENT { 1 << 22 } else { 0 };
    let hi = (if cut | special { bits } else { nearest(bits) } | quiet) & UPPER;
    let rest = (x - f32::from_bits(hi)).to_bits();
    let lo = if cut { rest } else { nearest(rest) } & UPPER;
    (hi, if special { 0 } else { lo })
}

kernel! {
    /// x ← hi + lo.
    fn round[FMA](values: &mut [f32]) {
        for x in values {
            let (hi, lo) = split(*x);
            *x = f32::from_bits(hi) + f32::from_bits(lo);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn parts(x: f32) -> (f32, f32) {
        let (hi, lo) = split(x);
        assert!(hi & 0xffff == 0 && lo & 0xffff == 0, "{x} is not split into bf16");
        (f32::from_bits(hi), f32::from_bits(lo))
    }

    /// Every 1021st f32, so every exponent and all kinds of mantissas.
    #[test]
    fn the_parts_are_the_nearest_ones_and_their_sum_is_within_the_bound() {
        for bits in (0..=u32::MAX).step_by(1021) {
            let x = f32::from_bits(bits);
            let (hi, lo) = parts(x);
            if !x.is_finite() {
                assert!(lo == 0.0 && (hi == x || hi.is_nan() && x.is_nan()), "{bits:x}");
                continue;
            }
            let (wide, size) = (f64::from(x), f64::from(x.abs()));
            let error = (wide - f64::from(hi) - f64::from(lo)).abs();
            assert!(hi.is_finite() && (hi + lo).is_finite(), "{bits:x}");
            assert_eq!(f64::from(hi) + f64::from(lo), f64::from(hi + lo), "{bits:x}: the sum is exact");
            if bf16::from_f32(x).is_infinite() {
                assert!(error <= size * 2f64.powi(-16), "{bits:x}");
                continue;
            }
            assert_eq!(hi, bf16::from_f32(x).to_f32(), "{bits:x}");
            assert_eq!(lo, bf16::from_f32(x - hi).to_f32(), "{bits:x}");
            // Denormals have fewer bits: down to 2⁻¹³³ of bf16.
            assert!(error <= (size * 2f64.powi(-17)).max(2f64.powi(-134)), "{bits:x}");
        }
    }

    #[test]
    fn by_hand() {
        assert_eq!(parts(0.0), (0.0, 0.0));
        assert!(parts(-0.0).0.is_sign_negative());
        assert_eq!(parts(257.0), (256.0, 1.0), "a tie goes to even");
        assert_eq!(parts(1.0 + 2f32.powi(-7)), (1.0 + 2f32.powi(-7), 0.0));
        // 255·2¹²⁰ and the next 8 bits.
        assert_eq!(parts(f32::MAX), (f32::from_bits(0x7f7f_0000), 255.0 * 2f32.powi(112)));
        assert_eq!(parts(f32::NEG_INFINITY), (f32::NEG_INFINITY, 0.0));
        for nan in [0x7f80_0001, 0xff80_0001, 0x7fff_ffff, 0x7fc0_0000] {
            let (hi, lo) = parts(f32::from_bits(nan));
            assert!(hi.is_nan() && lo == 0.0, "{nan:x}");
        }
    }
}
