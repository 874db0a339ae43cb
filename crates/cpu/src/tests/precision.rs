//! The modes that narrow operands: bounds against f64, values that must travel, and the same bits in any company.

use lowrank_backend::{Gemm, Linear, Lora, Precision, Weight};

use super::paths::transposed;
use super::*;

/// What a mode may lose of each product, as a power of 2.
const MODES: [(Precision, i32); 2] = [(Precision::Bf16, -8), (Precision::Bf16x3, -15)];

/// |error| ≤ (loss + k·2⁻²³)·Σ|a||b|.
#[test]
fn each_mode_stays_within_its_bound() {
    for [m, n, k] in [[70, 300, 1301], [66, 130, 33]] {
        let (a, bt) = (random(1, m * k), random(2, n * k));
        let (at, b) = (transposed(m, k, &a), transposed(n, k, &bt));
        let pairs = |i: usize| a[i / n * k..][..k].iter().zip(&bt[i % n * k..][..k]);
        let wide = |(&a, &b): (&f32, &f32)| f64::from(a) * f64::from(b);
        let exact: Vec<f64> = (0..m * n).map(|i| pairs(i).map(wide).sum()).collect();
        let size: Vec<f64> = (0..m * n).map(|i| pairs(i).map(wide).map(f64::abs).sum()).collect();
        on_every_path(|cpu| {
            for (precision, loss) in MODES {
                for (op, a, b) in
                    [(Gemm::nn(m, n, k), &a, &b), (Gemm::nt(m, n, k), &a, &bt), (Gemm::tn(m, n, k), &at, &b)]
                {
                    let mut c = empty(&cpu, m * n);
                    cpu.gemm(&op.precision(precision), put(&cpu, a).view(), put(&cpu, b).view(), c.set()).unwrap();
                    let errors = c.f32().into_iter().zip(&exact).zip(&size);
                    let worst = errors.fold(0.0f64, |w, ((c, e), s)| w.max((f64::from(c) - e).abs() / s));
                    let what = format!("{worst:e} {op:?} {} on {}", precision.name(), cpu.path());
                    assert!(worst <= 2f64.powi(loss) + k as f64 * 2f64.powi(-23), "{what}");
                }
            }
        });
    }
}

/// Operands that need 15 bits, one product each: bf16 would lose 2⁻⁹ of them, two of them lose nothing but lo·lo.
#[test]
fn split_operands_keep_sixteen_bits() {
    let (m, n, k) = (40, 150, 70);
    on_every_path(|cpu| {
        let mut x = vec![0.0f32; m * k];
        (0..m).for_each(|i| x[i * k + i] = 16_384.0 + 2.0 * i as f32 + 1.0);
        let w: Vec<f32> = (0..n * k).map(|i| if i % 3 == 0 { 1.0 } else { -2.0 }).collect();
        let op = Gemm::nt(m, n, k).precision(Precision::Bf16x3);
        let mut c = empty(&cpu, m * n);
        cpu.gemm(&op, put(&cpu, &x).view(), put(&cpu, &w).view(), c.set()).unwrap();
        for (i, c) in c.f32().into_iter().enumerate() {
            assert_eq!(c, x[i / n * k + i / n] * w[i % n * k + i / n], "[{i}] on {}", cpu.path());
        }
    });
}

/// As f32 has it, except that instructions for bf16 may take a denormal for zero.
#[test]
fn infinities_nan_and_the_largest_values_travel_when_split() {
    let (m, n, k) = (40, 150, 70);
    let tiny = f32::from_bits(0x0040_0000);
    on_every_path(|cpu| {
        let mut x = vec![0.0f32; m * k];
        (x[k], x[2 * k], x[3 * k + 5], x[4 * k + 1]) = (f32::INFINITY, f32::NAN, tiny, f32::MAX);
        (x[5 * k], x[5 * k + 40]) = (f32::INFINITY, f32::NEG_INFINITY);
        (x[6 * k + 1], x[6 * k + 2]) = (2f32.powi(126) * 1.999, 2f32.powi(126));
        let mut w = vec![1.0f32; n * k];
        // Row 0 of w is all ones, whose lo is 0: where hi and lo are multiplied apart ∞·lo would be NaN.
        (w[k], w[2 * k], w[2 * k + 1], w[3 * k], w[4 * k]) = (0.0, -1.0, 2.0, 1.003, tiny);
        w[149 * k] = f32::NEG_INFINITY;
        let gemm = |precision| {
            let mut c = put(&cpu, &vec![1.0f32; m * n]);
            let op = Gemm::nt(m, n, k).precision(precision);
            cpu.gemm(&op, put(&cpu, &x).view(), put(&cpu, &w).view(), c.add()).unwrap();
            c.f32()
        };
        let (full, split, path) = (gemm(Precision::Full), gemm(Precision::Bf16x3), cpu.path());
        for (i, (full, split)) in full.into_iter().zip(split).enumerate() {
            let same = (full.is_nan() && split.is_nan()) || (full.is_infinite() && full == split);
            let near = full.is_finite() && split.is_finite() && (full - split).abs() <= full.abs() / 32_000.0;
            assert!(same || near, "[{}, {}]: {split}, in f32 {full}, on {path}", i / n, i % n);
        }
    });
}

/// A row next to infinities, and the same row elsewhere, have the same bits; so has every row alone above 16.
#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let (m, n, k) = (75, 200, 700);
    on_every_path(|cpu| {
        let (mut x, w) = (random(1, m * k), put(&cpu, &random(2, n * k)));
        for (precision, _) in MODES {
            let rows = |x: &[f32]| {
                let m = x.len() / k;
                let mut c = empty(&cpu, m * n);
                cpu.gemm(&Gemm::nt(m, n, k).precision(precision), put(&cpu, x).view(), w.view(), c.set()).unwrap();
                bits(&c.f32())
            };
            let all = rows(&x);
            let path = cpu.path();
            for (start, end) in [(0, 17), (20, 53), (58, 75), (1, 66)] {
                assert!(rows(&x[start * k..end * k]) == all[start * n..end * n], "{start}..{end} on {path}");
            }
            let kept = std::mem::replace(&mut x[30 * k + 3], f32::INFINITY);
            let with = rows(&x);
            x[30 * k + 3] = kept;
            assert!(with[..30 * n] == all[..30 * n] && with[31 * n..] == all[31 * n..], "on {path}");
            assert!(with[30 * n..31 * n].iter().all(|&x| f32::from_bits(x).is_infinite()), "on {path}");
        }
    });
}

#[test]
fn the_number_of_threads_changes_nothing_in_any_mode() {
    for sizes in [[130, 170, 601, 7], [1100, 90, 40, 20]] {
        threads_change_nothing(sizes);
    }
}

fn threads_change_nothing(sizes: [usize; 4]) {
    on_every_path(|cpu| {
        for precision in [Precision::Full, Precision::Bf16, Precision::Bf16x3] {
            let step = |threads: usize| {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| low_rank(&Cpu::with_path(cpu.path()).unwrap(), sizes, precision))
            };
            let one = step(1);
            for threads in [2, 3, 8] {
                let same = one.iter().zip(step(threads)).all(|(a, b)| bits(a) == bits(&b));
                assert!(same, "{threads} threads, {} on {}", precision.name(), cpu.path());
            }
        }
    });
}

/// Pairs of a weight in bf16 are packed as they lie, with and without columns of the branch behind them, in whole blocks and
/// odd ones: the bits are those of the same values in f32.
#[test]
fn a_weight_in_bf16_gives_the_bits_of_its_values_in_f32() {
    for sizes in [[45, 150, 602, 7], [50, 172, 1030, 4], [33, 151, 601, 3], [40, 130, 516, 500], [20, 34, 512, 1]] {
        let [_, n, k, _] = sizes;
        let narrow: Vec<half::bf16> = random(2, n * k).into_iter().map(half::bf16::from_f32).collect();
        let wide: Vec<f32> = narrow.iter().map(|x| x.to_f32()).collect();
        on_every_path(|cpu| {
            for (precision, _) in MODES {
                let run = |w| with_weight(&cpu, sizes, w, precision);
                for (i, (a, b)) in run(put(&cpu, &narrow)).iter().zip(run(put(&cpu, &wide))).enumerate() {
                    let what = format!("output {i} of {sizes:?} in {} on {}", precision.name(), cpu.path());
                    assert!(bits(a) == bits(&b), "{what}");
                }
            }
        });
    }
}

/// y, h, dx, dA and dB of random operands.
fn low_rank(cpu: &Cpu, sizes: [usize; 4], precision: Precision) -> Vec<Vec<f32>> {
    let [_, n, k, _] = sizes;
    with_weight(cpu, sizes, put(cpu, &random(2, n * k)), precision)
}

fn with_weight(cpu: &Cpu, [m, n, k, r]: [usize; 4], w: T<'_>, precision: Precision) -> Vec<Vec<f32>> {
    let put = |seed: u64, len: usize| put(cpu, &random(seed, len));
    let (x, a, b, gy) = (put(1, m * k), put(3, r * k), put(4, n * r), put(5, m * n));
    let words = super::put(cpu, &scalars());
    let base = Linear { m, n, k, w: Weight::Dense(w.view()), bias: None, precision };
    let op = Lora { base, r, scale: 0.5, a: a.view(), b: b.view(), dropout: None, scalars: words.view() };
    let mut out = [m * n, m * r, m * k, r * k, n * r].map(|len| empty(cpu, len));
    let [y, h, dx, da, db] = &mut out;
    cpu.lora_forward(&op, x.view(), y.out(), h.out()).unwrap();
    cpu.lora_backward(&op, x.view(), h.view(), gy.view(), Some(dx.set()), Some(da.set()), Some(db.set())).unwrap();
    out.iter().map(T::f32).collect()
}

/// The tiles ran at all: their instructions were counted where they are emulated.
#[test]
#[cfg(target_arch = "x86_64")]
fn tiles_multiply_what_is_for_them() {
    emulate();
    let Ok(cpu) = Cpu::with_path(Path::Amx) else { return };
    let before = amxsim::executed();
    low_rank(&cpu, [64, 160, 200, 4], Precision::Bf16x3);
    let native = std::arch::x86_64::__cpuid_count(7, 0).edx >> 24 & 1 == 1;
    assert!(native || amxsim::executed() > before + 1000);
}

/// Both operands are rounded to bf16 and nothing else: 1 + 2⁻⁹ is 1 there.
#[test]
fn bf16_products_round_their_operands_and_nothing_else() {
    let [m, n, k] = [70, 300, 1301];
    let (a, bt) = (random(1, m * k), random(2, n * k));
    on_every_path(|cpu| {
        let op = Gemm::nt(m, n, k).precision(Precision::Bf16);
        let mut c = empty(&cpu, m * n);
        cpu.gemm(&op, put(&cpu, &a).view(), put(&cpu, &bt).view(), c.set()).unwrap();
        let (mut worst, mut worst_rounded) = (0.0f64, 0.0f64);
        let round = |x: f32| f64::from(half::bf16::from_f32(x));
        for (i, &got) in c.f32().iter().enumerate() {
            let (row, col) = (&a[i / n * k..][..k], &bt[i % n * k..][..k]);
            let pairs = || row.iter().zip(col);
            let size: f64 = pairs().map(|(&a, &b)| f64::from(a * b).abs()).sum();
            let exact: f64 = pairs().map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            let rounded: f64 = pairs().map(|(&a, &b)| round(a) * round(b)).sum();
            worst = worst.max((f64::from(got) - exact).abs() / size);
            worst_rounded = worst_rounded.max((f64::from(got) - rounded).abs() / size);
        }
        let sum = k as f64 * 2f64.powi(-23);
        assert!(worst <= 2f64.powi(-8) + sum, "{worst} on {}", cpu.path());
        assert!(worst > 1e-5, "{worst}: nothing was rounded on {}", cpu.path());
        assert!(worst_rounded <= sum, "{worst_rounded} on {}", cpu.path());
        let x = put(&cpu, &vec![1.0 + 2f32.powi(-9); m * k]);
        cpu.gemm(&op, x.view(), put(&cpu, &vec![1.0f32; n * k]).view(), c.set()).unwrap();
        assert!(c.f32().iter().all(|&c| c == k as f32), "ties go to even on {}", cpu.path());
    });
}

/// The branch, h and the gradients of A and B keep f32 operands; y and dx are within the bound of the mode.
#[test]
fn a_narrow_low_rank_linear_keeps_its_factors_in_f32() {
    on_every_path(|cpu| {
        let run = |precision| low_rank(&cpu, [45, 150, 601, 7], precision);
        let full = run(Precision::Full);
        for (precision, loss) in MODES {
            let narrow = run(precision);
            let what = |i: usize| format!("output {i} in {} on {}", precision.name(), cpu.path());
            for i in [1, 3, 4] {
                assert!(bits(&full[i]) == bits(&narrow[i]), "{}", what(i));
            }
            for i in [0, 2] {
                assert!(bits(&full[i]) != bits(&narrow[i]), "{}", what(i));
                let largest = full[i].iter().fold(0.0f32, |m, x| m.max(x.abs()));
                let error = full[i].iter().zip(&narrow[i]).fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
                assert!(error <= 2.0 * largest * 2f32.powi(loss), "{}: off by {error} of {largest}", what(i));
            }
        }
    });
}
