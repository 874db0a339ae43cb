//! Tiles of dot products for AVX-512: up to 6 rows of a against 4 rows of W as they are stored, f32 or bf16.
//!
//! Each product is summed in the 16 lanes of one register, depth after depth, and then the upper half of the lanes is added to
//! the lower until one is left: a row has the same bits alone and in any company. 24 of 32 registers are sums; per 16 depths 10
//! loads feed 24 multiply-adds, in bf16 beside 8 conversions. One or two rows stream through whole rows of W; more are copied
//! into blocks of 256 depths, which stay in the first-level cache next to 4 rows of W (rows of a power of two apart would push
//! each other out of it), and keep their sums in memory between blocks.
//! Floor: W read once, 4nk bytes (2nk in bf16), or m·n·k/16 multiply-adds over the units there are.
//!
//! Measured in turns (Zen 5, two threads, W `[4096,4096]`), milliseconds, in brackets a dot product of each pair of rows by
//! itself, which is what this was: f32, 1 row 1.25 (1.20), 4 rows 1.74 (2.13), 7 rows 1.60 (2.93), 16 rows 2.84 (6.30), where adding
//! W up takes 1.42 to 1.62; bf16 0.76 (1.12), 0.92 (2.10), 1.04 (3.30), 1.82 (6.29). Hints into the first-level cache take 5 to 45 %
//! off from 7 rows on; into the second-level cache they cost 15 to 33 % in f32. For one row hints cost 20 to 50 % in f32 at any distance;
//! in bf16 hints for the next 4 rows take 25 % off at `[4096,4096]` and cost 30 % where W stays in the last-level cache.
//! 32 lanes, so 3 rows of a at a time: 8 to 20 % slower.

// Indices name registers.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::avx512::lanes;
use super::kernel::by_rows;
use super::operand::Operand;
use crate::parallel::{Tile, with_scratch};
use crate::path::Path;
use crate::view::Floats;

/// Rows of W and of a at a time.
const QUAD: usize = 4;
const ROWS: usize = 6;
/// Rows of a that need no copy.
const DIRECT: usize = 2;
/// Depths at a time of those that do, and how many of a, in all rows, stay in the cache.
const BLOCK: usize = 256;
const CACHED: usize = 6144;
/// Rows of W that are converted at a time, if they are neither f32 nor bf16.
const CONVERTED: usize = 32;
const LANES: usize = 16;
/// Depths after which W is read when it is asked for.
const AHEAD: usize = 512;
/// Bytes of a W in bf16 from which on one or two rows ask for the next rows of W: it comes from memory then, not from a cache.
const FAR: usize = 16 << 20;

/// One tile: rows of a `a_stride` values apart, rows of W where `w` says.
struct Job {
    a: *const f32,
    a_stride: usize,
    w: [*const u8; QUAD],
    depth: usize,
    /// Sums of the first product; those of the next row of W follow, those of the next row of a lie 4 products on.
    sums: *mut f32,
    /// Nothing is summed yet.
    first: bool,
    /// What will be wanted of W: as many bytes of each row as the job reads, of the rows from `.1` to before `.2`.
    ahead: ([*const u8; QUAD], usize, usize),
}

/// Whether this processor has what it takes.
pub(super) fn here() -> bool {
    matches!(crate::path::loops(), Path::Avx512 | Path::Avx512Bf16 | Path::Amx)
}

/// Rows of a: blocks of so many depths, in each all rows `stride` values apart.
struct Blocks<'a> {
    data: &'a [f32],
    stride: usize,
    block: usize,
    k: usize,
}

/// Rows of W where they are stored, `stride` bytes apart, `size` bytes an element.
struct Rows {
    start: *const u8,
    stride: usize,
    size: usize,
    /// Whether the next rows are to be asked for even if a has one or two rows.
    far: bool,
}

/// `put(c_ij, Σ a_i W_j)` for all elements of c: rows of k values of a, `stride` apart, and rows of W from `j0` on. There is at
/// least one of each.
pub(super) fn tiles(
    (rows, stride): (&[f32], usize),
    k: usize,
    w: &Operand<'_>,
    j0: usize,
    c: &mut Tile<'_>,
    put: impl Fn(&mut f32, f32),
) {
    let m = c.rows();
    assert!(m * c.cols() * k > 0 && rows.len() >= (m - 1) * stride + k);
    if m <= DIRECT {
        return strips(&Blocks { data: rows, stride, block: k, k }, w, j0, c, put);
    }
    let block = if m <= ROWS { CACHED / m / BLOCK * BLOCK } else { BLOCK };
    with_scratch(k.div_ceil(block) * m * block, |copy| {
        for (p, out) in copy.chunks_exact_mut(m * block).enumerate() {
            let depth = block.min(k - p * block);
            for (i, out) in out.chunks_exact_mut(block).enumerate() {
                out[..depth].copy_from_slice(&rows[i * stride + p * block..][..depth]);
            }
        }
        strips(&Blocks { data: copy, stride: block, block, k }, w, j0, c, put);
    });
}

/// W as it is stored, or, if it is neither f32 nor bf16, some rows at a time in f32.
fn strips(a: &Blocks<'_>, w: &Operand<'_>, j0: usize, c: &mut Tile<'_>, put: impl Fn(&mut f32, f32)) {
    let (m, n, k) = (c.rows(), c.cols(), a.k);
    let (first, end) = (w.start + j0 * w.stride, w.start + (j0 + n - 1) * w.stride + k);
    let stored = match w.data {
        Floats::F32(x) if w.mask.is_none() => Some((x[first..end].as_ptr().cast::<u8>(), 4, false)),
        Floats::BF16(x) if w.mask.is_none() => Some((x[first..end].as_ptr().cast(), 2, size_of_val(x) >= FAR)),
        _ => None,
    };
    if let Some((start, size, far)) = stored {
        return quads(a, &Rows { start, stride: w.stride * size, size, far }, c, &put);
    }
    for j in (0..n).step_by(CONVERTED) {
        let there = CONVERTED.min(n - j);
        with_scratch(there * k, |copy| {
            copy.chunks_exact_mut(k).enumerate().for_each(|(i, out)| w.load(j0 + j + i, 0, out));
            let rows = Rows { start: copy.as_ptr().cast(), stride: 4 * k, size: 4, far: false };
            quads(a, &rows, &mut c.part(0, j, m, there), &put);
        });
    }
}

/// All rows of a against as many rows of W as c has columns.
fn quads(a: &Blocks<'_>, w: &Rows, c: &mut Tile<'_>, put: &impl Fn(&mut f32, f32)) {
    let &Blocks { data, stride, block, k } = a;
    let (m, n) = (c.rows(), c.cols());
    // Rows are shared out evenly.
    let parts = m.div_ceil(ROWS);
    let asked = if m > DIRECT || w.far { QUAD } else { 0 };
    with_scratch(m * QUAD * LANES, |sums| {
        for j in (0..n).step_by(QUAD) {
            let there = QUAD.min(n - j);
            // Rows that are not there are computed as the last one is.
            let rows_of = |j: usize, p: usize| {
                let row = |q: usize| w.start.wrapping_add((j + q.min(there - 1)) * w.stride + p * w.size);
                std::array::from_fn(row)
            };
            for p in (0..k).step_by(block) {
                // The same rows further on, or the next ones.
                let later = match p + AHEAD {
                    _ if m <= DIRECT => rows_of(j + QUAD, p),
                    p if p < k => rows_of(j, p),
                    p => rows_of(j + QUAD, p - k),
                };
                for part in 0..parts {
                    let (i, end) = (m * part / parts, m * (part + 1) / parts);
                    let job = Job {
                        a: data[p * m + i * stride..].as_ptr(),
                        a_stride: stride,
                        w: rows_of(j, p),
                        depth: block.min(k - p),
                        sums: sums[i * QUAD * LANES..].as_mut_ptr(),
                        first: p == 0,
                        ahead: (later, asked * part / parts, asked * (part + 1) / parts),
                    };
                    // SAFETY: only called on paths with AVX-512; `tiles` and `strips` have checked that rows of a and of W hold
                    // the job, and so do the sums.
                    unsafe { run(end - i, w.size == 2, &job) };
                }
            }
            for i in 0..m {
                let c = &mut c.row(i)[j..j + there];
                for (c, lanes) in c.iter_mut().zip(sums[i * QUAD * LANES..].as_chunks::<LANES>().0) {
                    // SAFETY: as above.
                    put(c, unsafe { sum(lanes) });
                }
            }
        }
    });
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
unsafe fn run(rows: usize, half: bool, job: &Job) {
    // SAFETY: the caller's promise.
    unsafe {
        if half {
            by_rows!(rows, [1 2 3 4 5 6], M => tile::<M, true>(job))
        } else {
            by_rows!(rows, [1 2 3 4 5 6], M => tile::<M, false>(job))
        }
    }
}

/// 16 values of a row of W, in f32, those that `mask` names.
///
/// # Safety
/// They are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
unsafe fn load<const BF16: bool>(row: *const u8, at: usize, mask: __mmask16) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        if BF16 {
            let words = _mm256_maskz_loadu_epi16(mask, row.cast::<i16>().wrapping_add(at));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(words)))
        } else {
            _mm512_maskz_loadu_ps(mask, row.cast::<f32>().wrapping_add(at))
        }
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
unsafe fn tile<const M: usize, const BF16: bool>(job: &Job) {
    let mut sums = [[_mm512_setzero_ps(); QUAD]; M];
    // SAFETY: rows of a, of W and of sums by the caller's promise; hints never fault.
    unsafe {
        if !job.first {
            for i in 0..M {
                for q in 0..QUAD {
                    sums[i][q] = _mm512_loadu_ps(job.sums.add((i * QUAD + q) * LANES));
                }
            }
        }
        let (_, from, to) = job.ahead;
        let whole = job.depth / LANES * LANES;
        let mut p = 0;
        while p < whole {
            for q in from..to {
                _mm_prefetch::<_MM_HINT_T0>(job.ahead.0[q].wrapping_add(p * if BF16 { 2 } else { 4 }).cast());
            }
            let mut w = [_mm512_setzero_ps(); QUAD];
            for q in 0..QUAD {
                w[q] = load::<BF16>(job.w[q], p, !0);
            }
            for i in 0..M {
                let a = _mm512_loadu_ps(job.a.add(i * job.a_stride + p));
                for q in 0..QUAD {
                    sums[i][q] = _mm512_fmadd_ps(a, w[q], sums[i][q]);
                }
            }
            p += LANES;
        }
        if whole < job.depth {
            let mask = lanes(job.depth - whole);
            for i in 0..M {
                let a = _mm512_maskz_loadu_ps(mask, job.a.wrapping_add(i * job.a_stride + whole));
                for q in 0..QUAD {
                    sums[i][q] = _mm512_mask3_fmadd_ps(a, load::<BF16>(job.w[q], whole, mask), sums[i][q], mask);
                }
            }
        }
        for i in 0..M {
            for q in 0..QUAD {
                _mm512_storeu_ps(job.sums.add((i * QUAD + q) * LANES), sums[i][q]);
            }
        }
    }
}

/// The sum of the lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
unsafe fn sum(lanes: &[f32; LANES]) -> f32 {
    // SAFETY: 16 values.
    let sum = unsafe { _mm512_loadu_ps(lanes.as_ptr()) };
    let sum = _mm256_add_ps(_mm512_castps512_ps256(sum), _mm512_extractf32x8_ps::<1>(sum));
    let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)))
}
