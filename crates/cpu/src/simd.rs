//! Loops compiled three times: for any processor, for AVX2 with FMA, and for AVX-512, chosen at run time.
//!
//! The body is plain loops over slices that LLVM vectorises. `FMA` tells it whether a fused multiply-add is one
//! instruction here; results may differ between the two paths in the last bit, never within one path.

/// Defines a function from a body that may use the constant named in brackets, true where multiply-add is fused.
macro_rules! kernel {
    ($(#[$doc:meta])* fn $name:ident[$fma:ident]($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        pub(crate) fn $name($($arg: $ty),*) $(-> $ret)? {
            #[allow(clippy::too_many_arguments)]
            #[inline(always)]
            fn body<const $fma: bool>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx2,fma")]
                fn wide($($arg: $ty),*) $(-> $ret)? {
                    body::<true>($($arg),*)
                }
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
                fn widest($($arg: $ty),*) $(-> $ret)? {
                    body::<true>($($arg),*)
                }
                match crate::path::loops() {
                    $crate::path::Path::Portable | $crate::path::Path::Neon => {}
                    // SAFETY: only paths that this processor has are ever chosen.
                    $crate::path::Path::Avx2 => return unsafe { wide($($arg),*) },
                    // SAFETY: as above.
                    _ => return unsafe { widest($($arg),*) },
                }
            }
            body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
}
pub(crate) use kernel;

/// a·b + c, fused where that is one instruction.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Accumulators of a sum over f32 lanes: enough independent chains to hide the latency of an addition.
pub(crate) const LANES: usize = 32;

/// The sum of the lanes, pairwise, in a fixed order.
///
/// Not inlined: the shape of this tree would make LLVM build the loop that fills the lanes from vectors of two.
#[inline(never)]
pub(crate) fn sum_lanes(lanes: &[f32; LANES]) -> f32 {
    let mut sums = *lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0]
}

kernel! {
    /// Σ a·b.
    fn dot[FMA](a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let (a_blocks, a_rest) = a.as_chunks::<LANES>();
        let (b_blocks, b_rest) = b.as_chunks::<LANES>();
        for (a, b) in a_blocks.iter().zip(b_blocks) {
            for l in 0..LANES {
                lanes[l] = fma::<FMA>(a[l], b[l], lanes[l]);
            }
        }
        for (l, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
            lanes[l] = fma::<FMA>(*a, *b, lanes[l]);
        }
        sum_lanes(&lanes)
    }
}

kernel! {
    /// Σ a·c and Σ b·c, each with the bits of [`dot`].
    fn dot_pair[FMA](a: &[f32], b: &[f32], c: &[f32]) -> (f32, f32) {
        let (mut first, mut second) = ([0.0f32; LANES], [0.0f32; LANES]);
        let (a_blocks, a_rest) = a.as_chunks::<LANES>();
        let (b_blocks, b_rest) = b.as_chunks::<LANES>();
        let (c_blocks, c_rest) = c.as_chunks::<LANES>();
        for ((a, b), c) in a_blocks.iter().zip(b_blocks).zip(c_blocks) {
            for l in 0..LANES {
                first[l] = fma::<FMA>(a[l], c[l], first[l]);
                second[l] = fma::<FMA>(b[l], c[l], second[l]);
            }
        }
        for (l, ((a, b), c)) in a_rest.iter().zip(b_rest).zip(c_rest).enumerate() {
            first[l] = fma::<FMA>(*a, *c, first[l]);
            second[l] = fma::<FMA>(*b, *c, second[l]);
        }
        (sum_lanes(&first), sum_lanes(&second))
    }
}

kernel! {
    /// Σ a·b in f64.
    fn dot_wide[FMA](a: &[f32], b: &[f32]) -> f64 {
        let mut lanes = [0.0f64; 8];
        let (a_blocks, a_rest) = a.as_chunks::<8>();
        let (b_blocks, b_rest) = b.as_chunks::<8>();
        for (a, b) in a_blocks.iter().zip(b_blocks) {
            for l in 0..8 {
                lanes[l] += f64::from(a[l]) * f64::from(b[l]);
            }
        }
        for (l, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
            lanes[l] += f64::from(*a) * f64::from(*b);
        }
        pairwise(lanes)
    }
}

kernel! {
    /// Σ x in f64.
    fn sum_wide[FMA](x: &[f32]) -> f64 {
        let mut lanes = [0.0f64; 8];
        let (blocks, rest) = x.as_chunks::<8>();
        for block in blocks {
            for l in 0..8 {
                lanes[l] += f64::from(block[l]);
            }
        }
        for (l, x) in rest.iter().enumerate() {
            lanes[l] += f64::from(*x);
        }
        pairwise(lanes)
    }
}

#[inline(always)]
fn pairwise(l: [f64; 8]) -> f64 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

kernel! {
    /// `sums += x` in f64.
    fn add_wide[FMA](x: &[f32], sums: &mut [f64]) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += f64::from(*x);
        }
    }
}

kernel! {
    /// `y += c x`.
    fn axpy[FMA](c: f32, x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = fma::<FMA>(c, *x, *y);
        }
    }
}

kernel! {
    /// `y += x`.
    fn add[FMA](x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += *x;
        }
    }
}

kernel! {
    /// `y *= c`.
    fn scale[FMA](c: f32, y: &mut [f32]) {
        for y in y.iter_mut() {
            *y *= c;
        }
    }
}

kernel! {
    /// The largest element, NaN left out; −∞ when there is none.
    fn max[FMA](x: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (blocks, rest) = x.as_chunks::<LANES>();
        for block in blocks {
            for l in 0..LANES {
                lanes[l] = if block[l] > lanes[l] { block[l] } else { lanes[l] };
            }
        }
        for (l, x) in rest.iter().enumerate() {
            lanes[l] = if *x > lanes[l] { *x } else { lanes[l] };
        }
        lanes.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact_on_integers_of_every_length() {
        for len in 0..100usize {
            let x: Vec<f32> = (0..len).map(|i| i as f32 - 7.0).collect();
            let y: Vec<f32> = (0..len).map(|i| (i % 5) as f32).collect();
            let want: i64 = (0..len as i64).map(|i| (i - 7) * (i % 5)).sum();
            assert_eq!(dot(&x, &y), want as f32);
            assert_eq!(dot_pair(&y, &x, &y), (dot(&y, &y), want as f32));
            assert_eq!(dot_wide(&x, &y), want as f64);
            assert_eq!(sum_wide(&x), (0..len as i64).map(|i| i - 7).sum::<i64>() as f64);
            assert_eq!(max(&x), if len == 0 { f32::NEG_INFINITY } else { len as f32 - 8.0 });
        }
    }

    #[test]
    fn in_place_kernels() {
        let mut y = vec![1.0; 37];
        axpy(2.0, &[3.0; 37], &mut y);
        add(&[1.0; 37], &mut y);
        scale(0.5, &mut y);
        assert_eq!(y, vec![4.0; 37]);
    }
}
