//! The f32 microkernel for AVX2 with FMA: tiles of up to 6×16.
//!
//! 12 of 16 registers are sums, two hold a row of b, one a broadcast element of a: 8 loads feed 12 fused multiply-adds.

// Indices name registers.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::kernel::{Job, Kernel, Matrix, STRIDE, by_rows, copy_plain, put_edge};

const LANES: usize = 8;

pub(crate) static KERNEL: Kernel =
    Kernel { rows: 6, cols: 2 * LANES, lanes: LANES, grain: 1, state: None, run, run_and_pack: None, transpose, copy };

#[target_feature(enable = "avx2,fma")]
unsafe fn run(rows: usize, job: &Job) {
    // SAFETY: the caller's promise.
    unsafe {
        if job.cols > LANES {
            by_rows!(rows, [1 2 3 4 5 6], M => tile::<M, 2>(job))
        } else {
            by_rows!(rows, [1 2 3 4 5 6], M => tile::<M, 1>(job))
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const M: usize, const V: usize>(job: &Job) {
    let mut sums = [[_mm256_setzero_ps(); V]; M];
    // SAFETY: rows of a, b, c and start by the caller's promise; lanes beyond `cols` are read in b only.
    unsafe {
        let (mut a, mut b) = (job.a, job.b);
        for _ in 0..job.k {
            let mut row = [_mm256_setzero_ps(); V];
            for v in 0..V {
                row[v] = _mm256_loadu_ps(b.add(v * LANES));
            }
            for i in 0..M {
                let x = _mm256_set1_ps(*a.add(i * STRIDE));
                for v in 0..V {
                    sums[i][v] = _mm256_fmadd_ps(x, row[v], sums[i][v]);
                }
            }
            a = a.add(1);
            b = b.add(job.b_stride);
        }
        if job.cols < V * LANES {
            return put_edge(M, sums.as_ptr().cast(), V * LANES, job);
        }
        for i in 0..M {
            for v in 0..V {
                let mut sum = sums[i][v];
                if !job.start.is_null() {
                    sum = _mm256_add_ps(sum, _mm256_loadu_ps(job.start.add(i * job.start_stride + v * LANES)));
                }
                _mm256_storeu_ps(job.c.add(i * job.c_stride + v * LANES), sum);
            }
        }
    }
}

/// 8×8 blocks; what is left by plain loops.
#[target_feature(enable = "avx2,fma")]
unsafe fn transpose(m: Matrix, dst: *mut f32, stride: usize) {
    let whole = m.cols / LANES * LANES;
    for i in (0..m.rows).step_by(LANES) {
        let rows = LANES.min(m.rows - i);
        // SAFETY: blocks lie inside the matrix and, padded to 8 of its rows, inside the result.
        unsafe {
            let first = if rows == LANES { whole } else { 0 };
            for j in (0..first).step_by(LANES) {
                block(m.start.add(i * m.stride + j), m.stride, dst.add(j * stride + i), stride);
            }
            let rest = Matrix { start: m.start.add(i * m.stride + first), rows, cols: m.cols - first, ..m };
            super::kernel::transpose_plain::<LANES>(rest, dst.add(first * stride + i), stride);
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn block(src: *const f32, ss: usize, dst: *mut f32, ds: usize) {
    let mut r = [_mm256_setzero_ps(); LANES];
    // SAFETY: eight rows of eight elements.
    unsafe {
        for i in 0..LANES {
            r[i] = _mm256_loadu_ps(src.add(i * ss));
        }
    }
    // groups[g][j]: in lane L the elements of column 4L + j of rows 4g .. 4g + 4.
    let mut groups = [[_mm256_setzero_ps(); 4]; 2];
    for g in 0..2 {
        let (r0, r1, r2, r3) = (r[4 * g], r[4 * g + 1], r[4 * g + 2], r[4 * g + 3]);
        let (a, b) = (_mm256_castps_pd(_mm256_unpacklo_ps(r0, r1)), _mm256_castps_pd(_mm256_unpackhi_ps(r0, r1)));
        let (c, d) = (_mm256_castps_pd(_mm256_unpacklo_ps(r2, r3)), _mm256_castps_pd(_mm256_unpackhi_ps(r2, r3)));
        groups[g] = [
            _mm256_castpd_ps(_mm256_unpacklo_pd(a, c)),
            _mm256_castpd_ps(_mm256_unpackhi_pd(a, c)),
            _mm256_castpd_ps(_mm256_unpacklo_pd(b, d)),
            _mm256_castpd_ps(_mm256_unpackhi_pd(b, d)),
        ];
    }
    // SAFETY: eight rows with room for eight elements.
    unsafe {
        for j in 0..4 {
            let (low, high) = (groups[0][j], groups[1][j]);
            _mm256_storeu_ps(dst.add(j * ds), _mm256_permute2f128_ps::<0x20>(low, high));
            _mm256_storeu_ps(dst.add((4 + j) * ds), _mm256_permute2f128_ps::<0x31>(low, high));
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn copy(m: Matrix, dst: *mut f32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe { copy_plain::<LANES>(m, dst, stride) }
}
