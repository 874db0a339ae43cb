//! Columns of a matrix stored in bf16, packed as pairs of depths without a way through f32.
//!
//! A pair is one word: depths 2i and 2i + 1 of a column. Of a transposed operand (x Wᵀ) pairs lie in memory as they are
//! wanted, so words are turned like f32 values, half as many; of a straight one (gy W) two rows are interleaved. The bits
//! are those of the way through f32, whose rounding changes nothing here.

use half::bf16;

use super::avx512bf16::interleave;
use super::kernel::{Kernel, Matrix};
use super::operand::Operand;
use crate::view::Floats;

/// The stored values, if columns of `depth` from `p0` on can be packed this way.
pub(super) fn stored<'a>(b: &Operand<'a>, p0: usize, depth: usize) -> Option<&'a [bf16]> {
    match b.data {
        // Words of a transposed operand have to start at even places in every row.
        Floats::BF16(x) if b.mask.is_none() && depth.is_multiple_of(2) => {
            let even = b.start.is_multiple_of(2) && b.stride.is_multiple_of(2) && p0.is_multiple_of(2);
            (!b.trans || even).then_some(x)
        }
        _ => None,
    }
}

/// Depths `p0 .. p0 + depth` of b, columns `j0 .. j0 + cols`, as pairs in panels of `kernel.cols` columns, `distance` words
/// apart. False, and nothing done, if b is stored otherwise or the depth is odd.
pub(super) fn columns(
    kernel: &Kernel,
    b: &Operand<'_>,
    [p0, j0]: [usize; 2],
    [depth, cols]: [usize; 2],
    out: &mut [f32],
    distance: usize,
) -> bool {
    let Some(x) = stored(b, p0, depth) else { return false };
    if depth == 0 {
        return true;
    }
    let (width, pairs) = (kernel.cols, depth / 2);
    if b.trans {
        for (panel, out) in out.chunks_mut(distance).take(cols.div_ceil(width)).enumerate() {
            let (j, rows) = (j0 + panel * width, width.min(cols - panel * width));
            let block = &x[b.start + j * b.stride + p0..][..(rows - 1) * b.stride + depth];
            assert!(out.len() >= pairs * width);
            let words = Matrix { start: block.as_ptr().cast(), stride: b.stride / 2, rows, cols: pairs };
            // SAFETY: words of the block; the result has `pairs` rows of `width` ≥ the padded number of rows of the block.
            unsafe { (kernel.transpose)(words, out.as_mut_ptr(), width) };
        }
        return true;
    }
    // A few rows at a time, so that they are read as long runs.
    const RUN: usize = 4;
    for first in (0..pairs).step_by(RUN) {
        for j in (0..cols).step_by(width) {
            let count = width.min(cols - j);
            for i in first..pairs.min(first + RUN) {
                let row = |p: usize| &x[b.start + (p0 + p) * b.stride + j0 + j..][..count];
                let out = &mut out[j / width * distance + i * width..][..width];
                // SAFETY: the kernels that consume pairs have AVX-512.
                unsafe { interleave(row(2 * i), row(2 * i + 1), bytemuck::cast_slice_mut(out)) };
            }
        }
    }
    true
}
