//! Products of bf16 pairs for AVX512-BF16: tiles of up to 14×32, summed in f32.
//!
//! One step takes two depths: `sum += a₀ b₀ + a₁ b₁` per lane (`vdpbf16ps`). A packed row is its bf16 values in order, so one
//! broadcast of 32 bits is a pair; a row of a panel holds the pairs of its 32 columns. Registers and the order of loads
//! are those of the f32 kernel, at half the steps. Floor: rows·cols·k/32 of these instructions over the units there are.
//! The instruction takes denormals for zero and rounds to nearest even whatever the control register says.

// Indices name registers.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use half::bf16;

use super::avx512::{self, lanes};
use super::kernel::{Job, Kernel, STRIDE, Unpacked, by_rows};

const LANES: usize = 16;
/// Steps between hints: half of those of f32, since a block has half as many.
const RUN: usize = 8;

pub(crate) static KERNEL: Kernel = Kernel { grain: 2, run, run_and_pack: Some(run_and_pack), ..avx512::KERNELS };
/// Depths after which rows of b that are asked for where they are stored are multiplied.
const REACH: usize = 32;

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,fma")]
unsafe fn run(rows: usize, job: &Job) {
    // SAFETY: the caller's promise.
    unsafe {
        if job.cols > LANES {
            by_rows!(rows, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], M => tile::<M, 2>(job))
        } else {
            by_rows!(rows, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], M => tile::<M, 1>(job))
        }
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,fma")]
unsafe fn run_and_pack(rows: usize, job: &Job, from: Unpacked) {
    // SAFETY: the caller's promise.
    unsafe { by_rows!(rows, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], M => tile_and_pack::<M>(job, from)) }
}

/// One pair of depths: `sums += a row`. A macro with indices, as in the f32 kernel.
macro_rules! step {
    ($sums:ident[$rows:ident, $vectors:expr] += $a:ident * $row:expr) => {
        let row = $row;
        for i in 0..$rows {
            let x = _mm512_set1_epi32(*$a.add(i * STRIDE));
            for v in 0..$vectors {
                // SAFETY: both are 512 bits of bf16.
                let x = std::mem::transmute::<__m512i, __m512bh>(x);
                let y = std::mem::transmute::<__m512i, __m512bh>(row[v]);
                $sums[i][v] = _mm512_dpbf16_ps($sums[i][v], x, y);
            }
        }
        $a = $a.add(1);
    };
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,fma")]
unsafe fn tile<const M: usize, const V: usize>(job: &Job) {
    let mut sums = [[_mm512_setzero_ps(); V]; M];
    // SAFETY: rows of a and b by the caller's promise; lanes beyond `cols` are read in b only.
    unsafe {
        let (mut a, mut b) = (job.a.cast::<i32>(), job.b);
        avx512::prefetch::<M, V>(job);
        let mut ahead = job.ahead;
        let mut left = job.k;
        while left > 0 {
            avx512::hint(&mut ahead);
            let run = left.min(RUN);
            left -= run;
            for _ in 0..run {
                let mut row = [_mm512_setzero_si512(); V];
                for v in 0..V {
                    row[v] = _mm512_loadu_si512(b.add(v * LANES).cast());
                }
                step!(sums[M, V] += a * row);
                b = b.add(job.b_stride);
            }
        }
        let done = sums;
        avx512::put::<M, V>(&done, job);
    }
}

/// The same for 32 columns of bf16 whose first depths, an even number, are read where they are stored; their pairs are put
/// into the panel on the way.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,fma")]
unsafe fn tile_and_pack<const M: usize>(job: &Job, from: Unpacked) {
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    // SAFETY: as above, with `from.depth` rows of b elsewhere; the panel is this thread's to write.
    unsafe {
        let (mut a, mut b, mut src) = (job.a.cast::<i32>(), job.b.cast_mut(), from.start);
        avx512::prefetch::<M, 2>(job);
        let [low, high] = halves();
        let mut ahead = job.ahead;
        let mut left = from.depth / 2;
        while left > 0 {
            avx512::hint(&mut ahead);
            let run = left.min(RUN);
            left -= run;
            for _ in 0..run {
                let rows = [src, src.wrapping_add(from.stride)];
                for row in rows {
                    _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(REACH * from.stride).cast());
                }
                let [first, second] = rows.map(|row| _mm512_loadu_si512(row.cast()));
                let pairs = [low, high].map(|of| _mm512_permutex2var_epi16(first, of, second));
                _mm512_storeu_si512(b.cast(), pairs[0]);
                _mm512_storeu_si512(b.add(LANES).cast(), pairs[1]);
                step!(sums[M, 2] += a * pairs);
                b = b.add(2 * LANES);
                src = src.wrapping_add(2 * from.stride);
            }
        }
        for _ in from.depth / 2..job.k {
            step!(sums[M, 2] += a * [_mm512_loadu_si512(b.cast()), _mm512_loadu_si512(b.add(LANES).cast())]);
            b = b.add(2 * LANES);
        }
        let done = sums;
        avx512::put::<M, 2>(&done, job);
    }
}

/// Where the pairs of the first and of the last 16 columns come from: word i of the first row, 32 + i of the second.
#[target_feature(enable = "avx512f,avx512bw")]
fn halves() -> [__m512i; 2] {
    const WORDS: [[u16; 32]; 2] = {
        let mut words = [[0; 32]; 2];
        let mut i = 0;
        while i < 64 {
            words[i / 32][i % 32] = (i / 2 + i % 2 * 32) as u16;
            i += 1;
        }
        words
    };
    // SAFETY: 64 bytes each.
    WORDS.map(|words| unsafe { _mm512_loadu_si512(words.as_ptr().cast()) })
}

/// Rounds a row to bf16, in place: value i goes to half-word i; an odd last one gets a zero beside it.
///
/// # Safety
/// The processor has AVX512-BF16.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,fma")]
pub(super) unsafe fn pair_row(row: &mut [f32]) {
    let (data, len) = (row.as_mut_ptr(), row.len());
    for i in (0..len).step_by(LANES) {
        // SAFETY: masked to the row; the result lies at or before what is read next.
        unsafe {
            let values = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(lanes(len - i), data.add(i)));
            let mask = lanes((len - i).min(LANES).div_ceil(2)) as __mmask8;
            _mm256_mask_storeu_epi32(data.add(i / 2).cast(), mask, std::mem::transmute::<__m256bh, __m256i>(values));
        }
    }
}

/// Words of two rows: the first below the second; zeros behind them.
///
/// # Safety
/// The processor has AVX512-BF16.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,fma")]
pub(super) unsafe fn interleave(low: &[bf16], high: &[bf16], out: &mut [u32]) {
    for (i, out) in out.chunks_mut(LANES).enumerate() {
        let mask = lanes(low.len().saturating_sub(i * LANES)) & lanes(out.len());
        let load = |row: &[bf16]| {
            // SAFETY: masked to the row.
            _mm512_cvtepu16_epi32(unsafe {
                _mm256_maskz_loadu_epi16(mask, row.as_ptr().wrapping_add(i * LANES).cast())
            })
        };
        let words = _mm512_or_si512(load(low), _mm512_slli_epi32::<16>(load(high)));
        // SAFETY: masked to the result.
        unsafe { _mm512_mask_storeu_epi32(out.as_mut_ptr().cast(), lanes(out.len()), words) };
    }
}

/// Rounds a panel of rows of `width` values to bf16, in place: rows 2i and 2i + 1 become row i of pairs.
///
/// # Safety
/// The processor has AVX512-BF16.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,fma")]
pub(super) unsafe fn pair_columns(panel: &mut [f32], width: usize) {
    let depth = panel.len() / width;
    let data = panel.as_mut_ptr();
    for p in (0..depth).step_by(2) {
        for j in (0..width).step_by(LANES) {
            // SAFETY: rows p and p + 1, if there is one, lie in the panel, whose width is a multiple of the lanes; row
            // p/2 was read before.
            unsafe {
                let at = data.add(p * width + j);
                let low = _mm512_loadu_ps(at);
                let high = if p + 1 < depth { _mm512_loadu_ps(at.add(width)) } else { _mm512_setzero_ps() };
                let half = |x| _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)));
                let pairs = _mm512_or_si512(half(low), _mm512_slli_epi32::<16>(half(high)));
                _mm512_storeu_si512(data.add(p / 2 * width + j).cast(), pairs);
            }
        }
    }
}
