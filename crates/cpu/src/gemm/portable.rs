//! The microkernel without any particular instructions: tiles of 4×8, which LLVM puts into eight 128-bit registers.
//!
//! Multiplication and addition round separately: `mul_add` would be a library call where it is no instruction. The same
//! loops in the same order as the other paths, so it is also what they are read against.

use super::kernel::{Job, Kernel, STRIDE, by_rows, copy_plain, put_edge, transpose_plain};

const COLS: usize = 8;

pub(crate) static KERNEL: Kernel = Kernel {
    rows: 4,
    cols: COLS,
    lanes: COLS,
    grain: 1,
    state: None,
    run,
    run_and_pack: None,
    transpose: transpose_plain::<COLS>,
    copy: copy_plain::<COLS>,
};

unsafe fn run(rows: usize, job: &Job) {
    // SAFETY: the caller's promise.
    unsafe { by_rows!(rows, [1 2 3 4], M => tile::<M>(job)) }
}

unsafe fn tile<const M: usize>(job: &Job) {
    let mut sums = [[0.0f32; COLS]; M];
    for p in 0..job.k {
        // SAFETY: row p of b has COLS readable elements, and element p of M packed rows is readable.
        let (b, a) = unsafe { (&*job.b.add(p * job.b_stride).cast::<[f32; COLS]>(), job.a.add(p)) };
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let a = unsafe { *a.add(i * STRIDE) };
            for j in 0..COLS {
                sums[j] += a * b[j];
            }
        }
    }
    // SAFETY: sums are M × COLS; c and start by the caller's promise.
    unsafe { put_edge(M, sums.as_ptr().cast(), COLS, job) };
}
