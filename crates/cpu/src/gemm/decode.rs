//! At most 16 rows against a transposed right operand (decoding): dot products over rows of W as they are stored.
//!
//! Packing W would cost more than the product. Floor: W is read once from wherever it lies, 4nk bytes (2nk in bf16).
//! Rows go in pairs, each with the bits it has alone.

use lowrank_backend::Mode;

use super::operand::Operand;
use crate::parallel::{Tile, with_scratch};
use crate::simd;
use crate::view::Floats;

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
        let row = |i: usize| match a.plain() {
            Some(x) => &x[a.start + (i0 + i) * a.stride..][..k],
            None => &converted[i * k..][..k],
        };
        if let (1, Floats::BF16(b_data), None) = (m, b.data, b.mask) {
            // Read as it is stored: a copy in f32 is worth its while from the second row on.
            let a = row(0);
            for (j, c) in c.row(0).iter_mut().enumerate() {
                let value = alpha * simd::dot_bf16(a, &b_data[b.start + (j0 + j) * b.stride..][..k]);
                *c = if mode == Mode::Add { *c + value } else { value };
            }
            return;
        }
        for j in 0..n {
            let b = b.row(j0 + j, 0, k, b_scratch);
            let mut put = |i: usize, value: f32| {
                let c = &mut c.row(i)[j];
                *c = if mode == Mode::Add { *c + alpha * value } else { alpha * value };
            };
            for i in (1..m).step_by(2) {
                let (first, second) = simd::dot_pair(row(i - 1), row(i), b);
                put(i - 1, first);
                put(i, second);
            }
            if m % 2 == 1 {
                put(m - 1, simd::dot(row(m - 1), b));
            }
        }
    });
}
