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

/// GFLOP/s of bf16 tiles on one core, by processor time: products in resident tiles, and 2×2 tiles that are fed from panels of
/// 1 MiB together. None without AMX. The two tell a slow state of the machine's tiles from a slow kernel.
pub fn tiles() -> Option<[f64; 2]> {
    #[cfg(target_arch = "x86_64")]
    if lowrank_cpu::Path::Amx.available() {
        const STEPS: usize = 256;
        const ROUNDS: usize = 400;
        let panels = [vec![0u8; STEPS * 2048 + 64], vec![0u8; STEPS * 2048 + 64]];
        let [a, b] = panels.each_ref().map(|panel| panel.as_ptr().wrapping_add(panel.as_ptr().align_offset(64)));
        let flops = (STEPS * ROUNDS * 4 * 16 * 16 * 32 * 2) as f64;
        let rate = |feed: bool| {
            let start = processor_seconds();
            // SAFETY: the processor has tiles; the panels hold that many steps.
            unsafe { walk(a, b, STEPS, ROUNDS, feed) };
            flops / (processor_seconds() - start) / 1e9
        };
        return Some([false, true].map(|feed| (0..5).map(|_| rate(feed)).fold(0.0, f64::max)));
    }
    None
}

/// Walks two panels of `steps` × 2 KiB `rounds` times, four products a step, with or without loading the tiles.
#[cfg(target_arch = "x86_64")]
unsafe fn walk(a: *const u8, b: *const u8, steps: usize, rounds: usize, feed: bool) {
    use std::arch::asm;
    #[repr(C, align(64))]
    struct Config([u8; 64]);
    let mut config = Config([0; 64]);
    config.0[0] = 1;
    for t in 0..8 {
        (config.0[16 + 2 * t], config.0[48 + t]) = (64, 16);
    }
    // SAFETY: the caller's promise; the configuration is valid and every tile is written before it is read.
    unsafe {
        asm!("ldtilecfg [{}]", "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
            in(reg) &config, options(nostack));
        for _ in 0..rounds {
            if feed {
                asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "2:",
                    "tileloadd tmm4, [{a} + {s}*1]", "tileloadd tmm6, [{b} + {s}*1]",
                    "tileloadd tmm7, [{b} + {s}*1 + 1024]", "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{a} + {s}*1 + 1024]", "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {a}, 2048", "add {b}, 2048", "dec {n}", "jnz 2b",
                    a = inout(reg) a => _, b = inout(reg) b => _, n = inout(reg) steps => _, s = in(reg) 64usize,
                    options(nostack));
            } else {
                asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "2:",
                    "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                    "dec {n}", "jnz 2b",
                    n = inout(reg) steps => _, options(nostack));
            }
        }
        asm!("tilerelease", options(nostack));
    }
}
