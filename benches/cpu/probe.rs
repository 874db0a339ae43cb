//! What one core can do, and how much time the process has used.

use std::hint::black_box;

/// Seconds of processor time of all threads of this process.
#[cfg(target_os = "linux")]
pub fn processor_seconds() -> f64 {
    #[repr(C)]
    struct Timespec {
        seconds: i64,
        nanoseconds: i64,
    }
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    }
    /// CLOCK_PROCESS_CPUTIME_ID
    const PROCESS: i32 = 2;
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: `time` has the layout of a 64-bit timespec.
    unsafe { clock_gettime(PROCESS, &mut time) };
    time.seconds as f64 + time.nanoseconds as f64 * 1e-9
}

/// Elsewhere the clock has to do.
#[cfg(not(target_os = "linux"))]
pub fn processor_seconds() -> f64 {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// GFLOP/s of independent multiply-adds in registers on one core, by processor time.
pub fn multiply_adds() -> f64 {
    const STEPS: usize = 200_000;
    let start = processor_seconds();
    let lanes = black_box(chains(black_box(STEPS)));
    (STEPS * CHAINS * lanes * 2) as f64 / (processor_seconds() - start) / 1e9
}

const CHAINS: usize = 24;

fn chains(steps: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: just detected.
            unsafe { wide(steps) };
            return 16;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: just detected.
            unsafe { narrow(steps) };
            return 8;
        }
    }
    let mut x: [f32; CHAINS] = std::array::from_fn(|i| i as f32);
    for _ in 0..steps {
        x.iter_mut().for_each(|x| *x = *x * 0.999 + 0.001);
    }
    black_box(x);
    1
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn wide(steps: usize) {
    use std::arch::x86_64::*;
    let mut x: [__m512; CHAINS] = std::array::from_fn(|i| _mm512_set1_ps(i as f32));
    let (a, b) = (_mm512_set1_ps(0.999), _mm512_set1_ps(0.001));
    for _ in 0..steps {
        x.iter_mut().for_each(|x| *x = _mm512_fmadd_ps(*x, a, b));
    }
    black_box(x);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn narrow(steps: usize) {
    use std::arch::x86_64::*;
    let mut x: [__m256; CHAINS] = std::array::from_fn(|i| _mm256_set1_ps(i as f32));
    let (a, b) = (_mm256_set1_ps(0.999), _mm256_set1_ps(0.001));
    for _ in 0..steps {
        x.iter_mut().for_each(|x| *x = _mm256_fmadd_ps(*x, a, b));
    }
    black_box(x);
}

/// Reads a buffer once on all threads.
pub fn read(buffer: &[f32]) {
    use rayon::prelude::*;
    let sum: f32 = buffer
        .par_chunks(1 << 16)
        .map(|chunk| {
            let mut lanes = [0.0f32; 64];
            for block in chunk.as_chunks::<64>().0 {
                lanes.iter_mut().zip(block).for_each(|(l, x)| *l += x);
            }
            lanes.iter().sum::<f32>()
        })
        .sum();
    black_box(sum);
}
