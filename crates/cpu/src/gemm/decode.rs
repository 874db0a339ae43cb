//! At most 16 rows against a transposed right operand (decoding): dot products over rows of W as they are stored.
//!
//! Packing W would cost more than the product. Floor: W is read once from wherever it lies, 4nk bytes (2nk in bf16).
//! Each row has the bits it has alone. AVX-512 takes tiles of them (see `dots`); elsewhere rows go in pairs, and W is converted
//! row by row if it is not f32.

use lowrank_backend::Mode;

use super::operand::Operand;
use crate::parallel::{Tile, with_scratch};
use crate::simd;

/// `c (+)= alpha a bᵀ` for the rows from `i0` and columns from `j0` on.
pub(crate) fn dots(
    a: &Operand<'_>,
    b: &Operand<'_>,
    k: usize,
    alpha: f32,
    [i0, j0]: [usize; 2],
    mode: Mode,
    c: &mut Tile<'_>,
) {
    let (m, n) = (c.rows(), c.cols());
    let convert_a = if a.plain().is_some() { 0 } else { m * k };
    with_scratch(convert_a + k, |scratch| {
        let (converted, b_scratch) = scratch.split_at_mut(convert_a);
        if convert_a > 0 {
            converted.chunks_exact_mut(k).enumerate().for_each(|(i, row)| a.load(i0 + i, 0, row));
        }
        let converted = &*converted;
        let (rows, stride) = match a.plain() {
            Some(x) => (&x[a.start + i0 * a.stride..], a.stride),
            None => (converted, k),
        };
        let put = |c: &mut f32, value: f32| *c = if mode == Mode::Add { *c + alpha * value } else { alpha * value };
        #[cfg(target_arch = "x86_64")]
        if super::dots::here() {
            return super::dots::tiles((rows, stride), k, b, j0, c, put);
        }
        let row = |i: usize| &rows[i * stride..][..k];
        for j in 0..n {
            let b = b.row(j0 + j, 0, k, b_scratch);
            for i in (1..m).step_by(2) {
                let (first, second) = simd::dot_pair(row(i - 1), row(i), b);
                put(&mut c.row(i - 1)[j], first);
                put(&mut c.row(i)[j], second);
            }
            if m % 2 == 1 {
                put(&mut c.row(m - 1)[j], simd::dot(row(m - 1), b));
            }
        }
    });
}
