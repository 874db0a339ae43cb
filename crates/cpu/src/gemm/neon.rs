//! The f32 microkernel for NEON: tiles of up to 6×16, the loops of the portable path with 128-bit vectors.
//!
//! 24 of 32 registers are sums, four hold a row of b, one a broadcast element of a.

// Indices name registers.
#![allow(clippy::needless_range_loop)]

use std::arch::aarch64::*;

use super::kernel::{Job, Kernel, STRIDE, by_rows, copy_plain, put_edge, transpose_plain};

const LANES: usize = 4;
const VECTORS: usize = 4;
const COLS: usize = VECTORS * LANES;

pub(crate) static KERNEL: Kernel = Kernel {
    rows: 6,
    cols: COLS,
    lanes: COLS,
    grain: 1,
    state: None,
    run,
    run_and_pack: None,
    transpose: transpose_plain::<COLS>,
    copy: copy_plain::<COLS>,
};

#[target_feature(enable = "neon")]
unsafe fn run(rows: usize, job: &Job) {
    // SAFETY: the caller's promise.
    unsafe { by_rows!(rows, [1 2 3 4 5 6], M => tile::<M>(job)) }
}

#[target_feature(enable = "neon")]
unsafe fn tile<const M: usize>(job: &Job) {
    let mut sums = [[vdupq_n_f32(0.0); VECTORS]; M];
    // SAFETY: rows of a, b, c and start by the caller's promise; columns beyond `cols` are read in b only.
    unsafe {
        for p in 0..job.k {
            let b = job.b.add(p * job.b_stride);
            let row = [vld1q_f32(b), vld1q_f32(b.add(LANES)), vld1q_f32(b.add(2 * LANES)), vld1q_f32(b.add(3 * LANES))];
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = vdupq_n_f32(*job.a.add(i * STRIDE + p));
                for v in 0..VECTORS {
                    sums[v] = vfmaq_f32(sums[v], x, row[v]);
                }
            }
        }
        put_edge(M, sums.as_ptr().cast(), COLS, job);
    }
}
