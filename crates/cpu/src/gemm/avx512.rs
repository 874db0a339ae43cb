//! The f32 microkernel for AVX-512: tiles of up to 14×32.
//!
//! 28 of 32 registers are sums, two hold a row of b, one a broadcast element of a; per step 16 loads feed 28 fused
//! multiply-adds, so two load ports keep two multiply-add units busy. Up to 16 columns one register per row is enough (the
//! low-rank side products). Floor: rows·cols·k/16 multiply-adds over the units there are.
//! Read in assembly: the loop of 14×32 is 28 vfmadd231ps, 14 vbroadcastss, 2 loads, nothing on the stack.
//!
//! On resident panels it reaches 96 % of independent multiply-adds at depth 512 and 94 % at 128 (Zen 5, turns of 0.2 ms), and
//! 94 % in turns of 5 ms, where the clock gives way: that is the ceiling of everything above it. 13×32, 12×32, 9×48, 8×48 and
//! 6×64, rows of a side by side instead of one behind the other, steps unrolled by 2 and 4: all within 0.5 % of it.
//! What it lost beside that was the way to its next rows, whose 14 streams out of the last-level cache no prefetcher of the
//! hardware follows: see [`Ahead`].

// Indices name registers.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::kernel::{Ahead, Job, Kernel, LINE, Matrix, STRIDE, Unpacked, by_rows, copy_plain};

const LANES: usize = 16;
/// Steps between hints.
const RUN: usize = 16;
/// Steps after which a row of b that is asked for where it is stored is multiplied.
const REACH: usize = 16;

pub(crate) static KERNEL: Kernel = KERNELS;
pub(super) const KERNELS: Kernel = Kernel {
    rows: 14,
    cols: 2 * LANES,
    lanes: LANES,
    grain: 1,
    state: None,
    run,
    run_and_pack: Some(run_and_pack),
    transpose,
    copy,
};

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
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

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
unsafe fn run_and_pack(rows: usize, job: &Job, from: Unpacked) {
    // SAFETY: the caller's promise.
    unsafe { by_rows!(rows, [1 2 3 4 5 6 7 8 9 10 11 12 13 14], M => tile_and_pack::<M>(job, from)) }
}

/// The first `n` lanes.
pub(super) fn lanes(n: usize) -> __mmask16 {
    if n >= LANES { !0 } else { (1u16 << n) - 1 }
}

/// One depth: `sums += a row`, a in rows of [`STRIDE`]. A macro with indices: what a function is given by reference, or an
/// iterator walks over, lies in memory.
macro_rules! step {
    ($sums:ident[$rows:ident, $vectors:expr] += $a:ident * $row:expr) => {
        let row = $row;
        for i in 0..$rows {
            let x = _mm512_set1_ps(*$a.add(i * STRIDE));
            for v in 0..$vectors {
                $sums[i][v] = _mm512_fmadd_ps(x, row[v], $sums[i][v]);
            }
        }
        $a = $a.add(1);
    };
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
unsafe fn tile<const M: usize, const V: usize>(job: &Job) {
    let mut sums = [[_mm512_setzero_ps(); V]; M];
    // SAFETY: rows of a, b, c and start by the caller's promise; lanes beyond `cols` are read in b only.
    unsafe {
        let (mut a, mut b) = (job.a, job.b);
        prefetch::<M, V>(job);
        let mut ahead = job.ahead;
        let mut left = job.k;
        while left > 0 {
            hint(&mut ahead);
            let run = left.min(RUN);
            left -= run;
            for _ in 0..run {
                let mut row = [_mm512_setzero_ps(); V];
                for v in 0..V {
                    row[v] = _mm512_loadu_ps(b.add(v * LANES));
                }
                step!(sums[M, V] += a * row);
                b = b.add(job.b_stride);
            }
        }
        // A copy: where `put` is not inlined, it is this that lies in memory, not what the loop sums.
        let done = sums;
        put::<M, V>(&done, job);
    }
}

/// The same for 32 columns whose first depths are read where they are stored and put into the panel on the way: the
/// multiply-adds hide what packing waits for.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
unsafe fn tile_and_pack<const M: usize>(job: &Job, from: Unpacked) {
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    // SAFETY: as above, with `from.depth` rows of b elsewhere; the panel is this thread's to write.
    unsafe {
        let (mut a, mut b, mut src) = (job.a, job.b.cast_mut(), from.start.cast::<f32>());
        prefetch::<M, 2>(job);
        let mut ahead = job.ahead;
        let mut left = from.depth;
        while left > 0 {
            hint(&mut ahead);
            let run = left.min(RUN);
            left -= run;
            for _ in 0..run {
                let row = [_mm512_loadu_ps(src), _mm512_loadu_ps(src.add(LANES))];
                let later = src.wrapping_byte_add(REACH * from.stride);
                _mm_prefetch::<_MM_HINT_T0>(later.cast());
                _mm_prefetch::<_MM_HINT_T0>(later.wrapping_add(LANES).cast());
                _mm512_storeu_ps(b, row[0]);
                _mm512_storeu_ps(b.add(LANES), row[1]);
                step!(sums[M, 2] += a * row);
                b = b.add(2 * LANES);
                src = src.wrapping_byte_add(from.stride);
            }
        }
        for _ in from.depth..job.k {
            step!(sums[M, 2] += a * [_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(LANES))]);
            b = b.add(2 * LANES);
        }
        let done = sums;
        put::<M, 2>(&done, job);
    }
}

/// Asks for one run each of what will be wanted: hints, which never fault.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
pub(super) fn hint(ahead: &mut [Ahead; 2]) {
    for ahead in ahead {
        if ahead.rows > 0 {
            for line in 0..ahead.lines {
                _mm_prefetch::<_MM_HINT_T1>(ahead.start.wrapping_add(line * LINE).cast());
            }
            ahead.start = ahead.start.wrapping_add(ahead.stride);
            ahead.rows -= 1;
        }
    }
}

/// Asks for the tile of c: hints, which never fault.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
pub(super) fn prefetch<const M: usize, const V: usize>(job: &Job) {
    for i in 0..M {
        let c = job.c.wrapping_add(i * job.c_stride);
        _mm_prefetch::<_MM_HINT_T0>(c.cast());
        if V == 2 {
            _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(LANES).cast());
        }
    }
}

/// Puts finished sums where a job wants them.
///
/// # Safety
/// AVX-512; the job's c and start are valid for `M` × `job.cols` elements.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
pub(super) unsafe fn put<const M: usize, const V: usize>(sums: &[[__m512; V]; M], job: &Job) {
    let masks = [lanes(job.cols), lanes(job.cols.saturating_sub(LANES))];
    for i in 0..M {
        for v in 0..V {
            let mut sum = sums[i][v];
            // SAFETY: masked to the tile.
            unsafe {
                if !job.start.is_null() {
                    let start = job.start.wrapping_add(i * job.start_stride + v * LANES);
                    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(masks[v], start));
                }
                let c = job.c.wrapping_add(i * job.c_stride + v * LANES);
                _mm512_mask_storeu_ps(c, masks[v], sum);
            }
        }
    }
}

/// 16×16 blocks: pairs, quadruples, then quarters of registers change places, 64 shuffles for 256 elements.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
unsafe fn transpose(m: Matrix, dst: *mut f32, stride: usize) {
    for i in (0..m.rows).step_by(LANES) {
        for j in (0..m.cols).step_by(LANES) {
            let (rows, cols) = (LANES.min(m.rows - i), LANES.min(m.cols - j));
            // SAFETY: the block lies inside the matrix and, padded to 16 of its rows, inside the result.
            unsafe { block(m.start.add(i * m.stride + j), m.stride, rows, cols, dst.add(j * stride + i), stride) };
        }
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
unsafe fn block(src: *const f32, ss: usize, rows: usize, cols: usize, dst: *mut f32, ds: usize) {
    let mut r = [_mm512_setzero_ps(); LANES];
    let mask = lanes(cols);
    // SAFETY: masked to the block.
    unsafe {
        if rows == LANES && cols == LANES {
            for i in 0..LANES {
                r[i] = _mm512_loadu_ps(src.add(i * ss));
            }
        } else {
            for (i, r) in r.iter_mut().enumerate().take(rows) {
                *r = _mm512_maskz_loadu_ps(mask, src.add(i * ss));
            }
        }
    }
    // groups[g][j]: in lane L the elements of column 4L + j of rows 4g .. 4g + 4.
    let mut groups = [[_mm512_setzero_ps(); 4]; 4];
    for g in 0..4 {
        let [r0, r1, r2, r3] = [r[4 * g], r[4 * g + 1], r[4 * g + 2], r[4 * g + 3]].map(|x| x);
        let (a, b) = (_mm512_castps_pd(_mm512_unpacklo_ps(r0, r1)), _mm512_castps_pd(_mm512_unpackhi_ps(r0, r1)));
        let (c, d) = (_mm512_castps_pd(_mm512_unpacklo_ps(r2, r3)), _mm512_castps_pd(_mm512_unpackhi_ps(r2, r3)));
        groups[g] = [
            _mm512_castpd_ps(_mm512_unpacklo_pd(a, c)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(a, c)),
            _mm512_castpd_ps(_mm512_unpacklo_pd(b, d)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(b, d)),
        ];
    }
    for j in 0..4 {
        let even = _mm512_shuffle_f32x4::<0x88>(groups[0][j], groups[1][j]);
        let odd = _mm512_shuffle_f32x4::<0xdd>(groups[0][j], groups[1][j]);
        let even2 = _mm512_shuffle_f32x4::<0x88>(groups[2][j], groups[3][j]);
        let odd2 = _mm512_shuffle_f32x4::<0xdd>(groups[2][j], groups[3][j]);
        r[j] = _mm512_shuffle_f32x4::<0x88>(even, even2);
        r[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd, odd2);
        r[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even, even2);
        r[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd, odd2);
    }
    // SAFETY: `cols` rows of the result with room for 16 elements each.
    unsafe {
        if cols == LANES {
            for j in 0..LANES {
                _mm512_storeu_ps(dst.add(j * ds), r[j]);
            }
        } else {
            for (j, r) in r.iter().enumerate().take(cols) {
                _mm512_storeu_ps(dst.add(j * ds), *r);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
unsafe fn copy(m: Matrix, dst: *mut f32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe { copy_plain::<LANES>(m, dst, stride) }
}
