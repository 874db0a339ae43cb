//! Products aᵀ b with few columns of a: `dA = uᵀ x̂` and, transposed, `dB = gyᵀ h`.
//!
//! b `[k,n]` is read once, row by row as it is stored and without being packed: its rows feed the microkernel directly.
//! Tasks own strips of columns; a strip is summed over chunks of 32 rows, whose tile of the result stays in the cache.
//! The order of the sum is: chunks of 32 in ascending order, each summed from 0.
//! Floor: 2·k·n·r FLOPs against 4·k·n bytes, so below r ≈ 16 it is bound by memory.

use lowrank_backend::Mode;

use super::kernel::{Ahead, DEPTH, Job, Kernel, STRIDE};
use super::operand::Operand;
use super::pack;
use crate::parallel::{Shared, Tile, tasks, with_scratch, with_shared};
use crate::path::Path;
use crate::simd;

/// Most rows of the result.
pub(crate) const FEW: usize = 64;
/// Rows of b that are summed before the result is touched again.
const CHUNK: usize = 32;
const STRIP: usize = 256;

/// `c (+)= alpha aᵀ b` for a stored `[k,r]` and b stored `[k,n]`; c is `[r,n]`, or `[n,r]` if `turned`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn few_rows(
    path: Path,
    [r, n, k]: [usize; 3],
    a: Operand<'_>,
    b: Operand<'_>,
    alpha: f32,
    mode: Mode,
    turned: bool,
    c: &mut [f32],
) {
    let kernel = path.kernel();
    let blocks = k.div_ceil(DEPTH);
    with_shared(blocks * r * STRIDE, |packed| {
        for q in 0..blocks {
            let (p, depth) = (q * DEPTH, DEPTH.min(k - q * DEPTH));
            pack::rows(kernel, &a, [0, p], [r, depth], alpha, &mut packed[q * r * STRIDE..][..r * STRIDE]);
        }
        let packed = &*packed;
        let c = Shared::new(c);
        tasks(n.div_ceil(STRIP), k.saturating_mul(n * r) / 4, |task| {
            let (j, cols) = (task * STRIP, STRIP.min(n - task * STRIP));
            with_scratch(r * STRIP, |sums| {
                strip(kernel, packed, &b, [r, k], [j, cols], &mut Tile::new(sums, r, STRIP));
                for i in 0..r {
                    let sums = &sums[i * STRIP..][..cols];
                    if turned {
                        // SAFETY: one strip of rows per task.
                        let c = unsafe { c.part(j * r, cols * r) };
                        for (c, sum) in c[i..].iter_mut().step_by(r).zip(sums) {
                            *c = if mode == Mode::Add { *c + sum } else { *sum };
                        }
                    } else {
                        // SAFETY: one strip of columns per task.
                        let c = unsafe { c.part(i * n + j, cols) };
                        if mode == Mode::Add { simd::add(sums, c) } else { c.copy_from_slice(sums) }
                    }
                }
            });
        });
    });
}

/// The sums of one strip, rows of [`STRIP`] values.
fn strip(
    kernel: &Kernel,
    packed: &[f32],
    b: &Operand<'_>,
    [r, k]: [usize; 2],
    [j0, cols]: [usize; 2],
    sums: &mut Tile<'_>,
) {
    if k == 0 {
        return (0..r).for_each(|i| sums.row(i).fill(0.0));
    }
    // Whole groups of lanes can be read where they lie; the last columns, and what is converted, from a copy.
    let whole = if b.plain().is_some() { cols / kernel.lanes * kernel.lanes } else { 0 };
    with_scratch(CHUNK * STRIP, |copy| {
        copy.fill(0.0);
        for p in (0..k).step_by(CHUNK) {
            let depth = CHUNK.min(k - p);
            if whole < cols {
                for (i, out) in copy.chunks_exact_mut(STRIP).take(depth).enumerate() {
                    b.load(p + i, j0 + whole, &mut out[..cols - whole]);
                }
            }
            let a = &packed[p / DEPTH * r * STRIDE + p % DEPTH..];
            let direct = |j: usize| match b.plain() {
                Some(x) if j < whole => {
                    (&x[b.start + p * b.stride + j0 + j..][..(depth - 1) * b.stride + whole - j], b.stride)
                }
                _ => (&copy[j - whole..], STRIP),
            };
            let mut j = 0;
            while j < cols {
                let end = if j < whole { whole } else { cols };
                let width = kernel.cols.min(end - j);
                let (source, b_stride) = direct(j);
                if let (Some(x), true) = (b.plain(), j < whole) {
                    prefetch(x, b.start + (p + depth) * b.stride + j0 + j, b.stride, CHUNK.min(k - p - depth));
                }
                multiply_rows(kernel, a, (source.as_ptr(), b_stride, depth), p == 0, &mut sums.part(0, j, r, width));
                j += width;
            }
        }
    });
}

/// Asks for the same columns of the next chunk: the hardware sees runs that are too short.
fn prefetch(x: &[f32], start: usize, stride: usize, rows: usize) {
    #[cfg(target_arch = "x86_64")]
    for row in 0..rows {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let at = x.as_ptr().wrapping_add(start + row * stride).cast();
        // SAFETY: a hint; it never faults.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(at);
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(64));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, start, stride, rows);
}

/// `sums (+)= a b`: a in rows of [`STRIDE`], b `(start, distance of rows, rows)` readable in whole groups of lanes.
pub(super) fn multiply_rows(
    kernel: &Kernel,
    a: &[f32],
    (b, b_stride, depth): (*const f32, usize, usize),
    first: bool,
    sums: &mut Tile<'_>,
) {
    let (r, cols, stride) = (sums.rows(), sums.cols(), sums.stride());
    let mut groups = r.div_ceil(kernel.rows);
    let mut i = 0;
    while i < r {
        let rows = (r - i).div_ceil(groups);
        let c = sums.as_mut_ptr().wrapping_add(i * stride);
        let job = Job {
            k: depth,
            a: a[i * STRIDE..].as_ptr(),
            b,
            b_stride,
            c,
            c_stride: stride,
            start: if first { std::ptr::null() } else { c.cast_const() },
            start_stride: stride,
            cols,
            ahead: [Ahead::NONE; 2],
        };
        // SAFETY: rows of a up to r, `depth` rows of b with whole groups of lanes, and the tile hold the job.
        unsafe { (kernel.run)(rows, &job) };
        i += rows;
        groups -= 1;
    }
}
