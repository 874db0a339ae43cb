//! Products of bf16 for AMX: 32×32 tiles of c in four tile registers, two of a and two of b stream past them.
//!
//! A step takes 32 depths: `tdpbf16ps` multiplies 16×32 by 32×16 in 16 cycles. Packed rows are tiles as they lie: 16 rows
//! of 64 bytes, [`STRIDE`] apart, b is a panel of pairs of 32 columns, 16 rows of 128 bytes; depths are padded with zeros to
//! a multiple of 32. Plain bf16: per step 4 loads feed 4 products. Split f32 (hi + lo, see `split`): hi and lo of a step lie
//! side by side, 8 loads feed 12 products: a_hi·b_lo, a_hi·b_hi, a_lo·b_hi. Floor: rows·cols·k/8192 `tdpbf16ps`, thrice that for split operands.
//! The instruction takes denormals for zero, flushes results and rounds to nearest even.
//!
//! Split operands know no infinities: ∞·b_lo is NaN for b_lo = 0, and a_hi·b_hi may pass the largest f32
//! where a·b does not. So a sum that is not finite is taken again in plain f32 (rare, and decided for each element by its own row
//! and column, so that bits do not depend on neighbours).
//!
//! All registers live within one `asm!`. `tilerelease` afterwards: a process that keeps tiles alive pays for them at each
//! switch of threads. Tested natively where AMX is, elsewhere by emulation of the very instructions; never yet timed.

use std::arch::asm;
use std::mem::MaybeUninit;

use super::avx512;
use super::kernel::{Job, Kernel, STRIDE, TileState};
use super::split::split;

/// Rows and columns of a tile.
const TILE: usize = 16;
/// Rows and columns of four.
const SIDE: usize = 2 * TILE;
/// Depths of a step.
pub(super) const STEP: usize = 32;

const STATE: Option<TileState> = Some(TileState { enter, leave });

/// bf16 operands, packed as for AVX512-BF16.
pub(crate) static KERNEL: Kernel =
    Kernel { rows: SIDE, cols: SIDE, grain: STEP, run, run_and_pack: None, state: STATE, ..avx512::KERNELS };
/// Operands split in two.
pub(crate) static SPLIT: Kernel =
    Kernel { rows: SIDE, cols: SIDE, grain: STEP, run: run_split, run_and_pack: None, state: STATE, ..avx512::KERNELS };

#[repr(C, align(64))]
struct Config([u8; 64]);

/// Configures the tiles for jobs on `rows` rows: tmm0 … 3 are c, 4 and 5 rows of a, 6 and 7 columns of b.
unsafe fn enter(rows: usize) {
    let mut config = Config([0; 64]);
    config.0[0] = 1;
    // The second half of up to 16 rows is not used, but a tile without rows would be refused.
    let second = if rows > TILE { rows - TILE } else { TILE };
    let heights = [rows.min(TILE), rows.min(TILE), second, second, rows.min(TILE), second, TILE, TILE];
    for (t, height) in heights.into_iter().enumerate() {
        config.0[16 + 2 * t] = 64;
        config.0[48 + t] = height as u8;
    }
    // SAFETY: the path has the instructions; the configuration is valid.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
}

unsafe fn leave() {
    // SAFETY: as above.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// 32 sums, rows of [`SIDE`].
#[repr(C, align(64))]
struct Sums([f32; SIDE * SIDE]);

/// What the sums of a job start from, and where they go: rows of 32 values, so many bytes apart.
struct Ends {
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
}

/// One row of zeros for all rows of a tile.
static ZEROS: Sums = Sums([0.0; SIDE * SIDE]);

/// The loop over steps, for two rows of tiles or one. `$step` are the loads and products of one.
macro_rules! steps {
    ($job:expr, $ends:expr, $a_step:literal, $b_step:literal, two, $($step:literal)*) => {
        steps!(@ $job, $ends, $a_step, $b_step,
            ["lea {x}, [{f} + {x}]" "tileloadd tmm2, [{x} + {fs}*1]" "tileloadd tmm3, [{x} + {fs}*1 + 64]"]
            ["lea {x}, [{t} + {x}]" "tilestored [{x} + {ts}*1], tmm2" "tilestored [{x} + {ts}*1 + 64], tmm3"]
            [$($step)*])
    };
    ($job:expr, $ends:expr, $a_step:literal, $b_step:literal, one, $($step:literal)*) => {
        steps!(@ $job, $ends, $a_step, $b_step, [] [] [$($step)*])
    };
    (@ $job:expr, $ends:expr, $a_step:literal, $b_step:literal, [$($load:literal)*] [$($store:literal)*] [$($step:literal)*]) => {
        asm!(
            "tileloadd tmm0, [{f} + {fs}*1]",
            "tileloadd tmm1, [{f} + {fs}*1 + 64]",
            "mov {x}, {fs}",
            "shl {x}, 4",
            $($load,)*
            "2:",
            $($step,)*
            concat!("add {a}, ", $a_step),
            concat!("add {b}, ", $b_step),
            "dec {n}",
            "jnz 2b",
            "tilestored [{t} + {ts}*1], tmm0",
            "tilestored [{t} + {ts}*1 + 64], tmm1",
            "mov {x}, {ts}",
            "shl {x}, 4",
            $($store,)*
            n = inout(reg) $job.k => _, a = inout(reg) $job.a => _, b = inout(reg) $job.b => _,
            as_ = in(reg) STRIDE * 4, bs = in(reg) SIDE * 4,
            f = in(reg) $ends.from, fs = in(reg) $ends.from_stride,
            t = in(reg) $ends.to, ts = in(reg) $ends.to_stride, x = out(reg) _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        )
    };
}

// The displacement of the second row of tiles in the text below.
const _: () = assert!(TILE * STRIDE * 4 == 33792);

/// # Safety
/// The tiles are configured for `rows`; the job's rows and panel hold `job.k` ≥ 1 steps of bf16; `ends` has 32 columns.
unsafe fn multiply(rows: usize, job: &Job, ends: &Ends) {
    // SAFETY: the caller's promise.
    unsafe {
        if rows > TILE {
            steps!(job, ends, "64", "2048", two,
                "tileloadd tmm4, [{a} + {as_}*1]"
                "tileloadd tmm6, [{b} + {bs}*1]"
                "tileloadd tmm7, [{b} + {bs}*1 + 64]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tileloadd tmm5, [{a} + {as_}*1 + 33792]"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tdpbf16ps tmm2, tmm5, tmm6"
                "tdpbf16ps tmm3, tmm5, tmm7");
        } else {
            steps!(job, ends, "64", "2048", one,
                "tileloadd tmm4, [{a} + {as_}*1]"
                "tileloadd tmm6, [{b} + {bs}*1]"
                "tileloadd tmm7, [{b} + {bs}*1 + 64]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7");
        }
    }
}

/// # Safety
/// The same with operands split in two.
unsafe fn multiply_split(rows: usize, job: &Job, ends: &Ends) {
    // SAFETY: the caller's promise.
    unsafe {
        if rows > TILE {
            steps!(job, ends, "128", "4096", two,
                "tileloadd tmm4, [{a} + {as_}*1]"
                "tileloadd tmm6, [{b} + {bs}*1 + 2048]"
                "tileloadd tmm7, [{b} + {bs}*1 + 2112]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tileloadd tmm5, [{a} + {as_}*1 + 33792]"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tdpbf16ps tmm2, tmm5, tmm6"
                "tdpbf16ps tmm3, tmm5, tmm7"
                "tileloadd tmm6, [{b} + {bs}*1]"
                "tileloadd tmm7, [{b} + {bs}*1 + 64]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tdpbf16ps tmm2, tmm5, tmm6"
                "tdpbf16ps tmm3, tmm5, tmm7"
                "tileloadd tmm4, [{a} + {as_}*1 + 64]"
                "tileloadd tmm5, [{a} + {as_}*1 + 33856]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tdpbf16ps tmm2, tmm5, tmm6"
                "tdpbf16ps tmm3, tmm5, tmm7");
        } else {
            steps!(job, ends, "128", "4096", one,
                "tileloadd tmm4, [{a} + {as_}*1]"
                "tileloadd tmm6, [{b} + {bs}*1 + 2048]"
                "tileloadd tmm7, [{b} + {bs}*1 + 2112]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tileloadd tmm6, [{b} + {bs}*1]"
                "tileloadd tmm7, [{b} + {bs}*1 + 64]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tileloadd tmm4, [{a} + {as_}*1 + 64]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7");
        }
    }
}

/// Whole tiles go from c to c; edges by way of the stack.
unsafe fn run(rows: usize, job: &Job) {
    let (start, start_stride) = match job.start.is_null() {
        true => (ZEROS.0.as_ptr(), 0),
        false => (job.start, job.start_stride * 4),
    };
    if job.cols == SIDE {
        let ends = Ends { from: start, from_stride: start_stride, to: job.c, to_stride: job.c_stride * 4 };
        // SAFETY: the caller's promise; start and c have 32 columns.
        return unsafe { multiply(rows, job, &ends) };
    }
    let mut sums = Sums([0.0; SIDE * SIDE]);
    let own = sums.0.as_mut_ptr();
    let ends = Ends { from: own, from_stride: SIDE * 4, to: own, to_stride: SIDE * 4 };
    // SAFETY: start and c are valid for rows × job.cols elements; the sums have all 32 columns.
    unsafe {
        for i in 0..rows {
            let start = start.byte_add(i * start_stride);
            start.copy_to_nonoverlapping(own.add(i * SIDE), job.cols);
        }
        multiply(rows, job, &ends);
        for i in 0..rows {
            own.add(i * SIDE).copy_to_nonoverlapping(job.c.add(i * job.c_stride), job.cols);
        }
    }
}

/// Sums from zero on the stack, looked at before what they start from is added.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
unsafe fn run_split(rows: usize, job: &Job) {
    let mut sums = MaybeUninit::<Sums>::uninit();
    let own = sums.as_mut_ptr().cast::<f32>();
    let ends = Ends { from: ZEROS.0.as_ptr(), from_stride: 0, to: own, to_stride: SIDE * 4 };
    // SAFETY: the sums have 32 columns and rows; the product writes `rows` of them in full.
    unsafe { multiply_split(rows, job, &ends) };
    for i in 0..rows {
        // SAFETY: row i was written; start and c are valid for rows × job.cols elements.
        unsafe {
            let sums = &mut *own.add(i * SIDE).cast::<[f32; SIDE]>();
            if !sums.iter().fold(0.0, |zero, &x| zero + 0.0 * x).is_finite() {
                again(i, job, sums);
            }
            if !job.start.is_null() {
                let start = std::slice::from_raw_parts(job.start.add(i * job.start_stride), job.cols);
                sums.iter_mut().zip(start).for_each(|(sum, start)| *sum += start);
            }
            sums.as_ptr().copy_to_nonoverlapping(job.c.add(i * job.c_stride), job.cols);
        }
    }
}

/// Takes the sums of row i that are not finite again, in f32, from hi + lo.
///
/// # Safety
/// As for `run_split`.
#[cold]
unsafe fn again(i: usize, job: &Job, sums: &mut [f32; SIDE]) {
    let half = |words: *const u16, lo: usize| {
        // SAFETY: inside the packed row or panel, and so is its lower part.
        let (hi, lo) = unsafe { (*words, *words.add(lo)) };
        let part = |bits: u16| f32::from_bits(u32::from(bits) << 16);
        part(hi) + part(lo)
    };
    for (j, sum) in sums.iter_mut().enumerate().take(job.cols).filter(|(_, sum)| !sum.is_finite()) {
        *sum = 0.0;
        for p in 0..job.k * STEP {
            let (step, p) = (p / STEP, p % STEP);
            // SAFETY: the layout of `split_row` and `split_columns`.
            unsafe {
                let a = half(job.a.add(i * STRIDE + step * STEP).cast::<u16>().add(p), STEP);
                let b = job.b.add(step * STEP * SIDE + p / 2 * SIDE + j).cast::<u16>().add(p % 2);
                *sum = a.mul_add(half(b, STEP * SIDE), *sum);
            }
        }
    }
}

/// Splits a row of whole steps, in place: of each 32 values the 32 bf16 of hi, then those of lo.
///
/// # Safety
/// The processor has AVX-512.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
pub(super) unsafe fn split_row(row: &mut [f32]) {
    for step in row.as_chunks_mut::<STEP>().0 {
        let values = *step;
        let halves: &mut [u16] = bytemuck::cast_slice_mut(step.as_mut_slice());
        for (p, x) in values.into_iter().enumerate() {
            let (hi, lo) = split(x);
            (halves[p], halves[STEP + p]) = ((hi >> 16) as u16, (lo >> 16) as u16);
        }
    }
}

/// Splits a panel of whole steps of 32 columns, in place: of each 32 rows 16 rows of pairs of hi, then those of lo.
///
/// # Safety
/// The processor has AVX-512.
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,fma")]
pub(super) unsafe fn split_columns(panel: &mut [f32]) {
    for step in panel.as_chunks_mut::<{ STEP * SIDE }>().0 {
        let mut low = [[0u32; SIDE]; STEP / 2];
        let words: &mut [[u32; SIDE]] = bytemuck::cast_slice_mut(step.as_mut_slice());
        for (i, low) in low.iter_mut().enumerate() {
            let (first, second) = (words[2 * i], words[2 * i + 1]);
            for j in 0..SIDE {
                let (first, second) = (split(f32::from_bits(first[j])), split(f32::from_bits(second[j])));
                words[i][j] = first.0 >> 16 | second.0;
                low[j] = first.1 >> 16 | second.1;
            }
        }
        words[STEP / 2..].copy_from_slice(&low);
    }
}
