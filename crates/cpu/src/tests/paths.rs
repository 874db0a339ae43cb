//! Sizes at which the blocking changes, and values that must travel as IEEE 754 says, on every path.

use lowrank_backend::{Gemm, Linear, Lora, Precision, Weight};

use super::*;

/// `a [m,k] b [k,n]` in f64, inner loops over rows so that it is quick.
pub(super) fn product([m, n, k]: [usize; 3], a: &[f32], b: &[f32]) -> Vec<f32> {
    let mut c = Vec::with_capacity(m * n);
    let mut row = vec![0.0f64; n];
    for a in a.chunks_exact(k).take(m) {
        row.fill(0.0);
        for (&a, b) in a.iter().zip(b.chunks_exact(n)) {
            row.iter_mut().zip(b).for_each(|(c, &b)| *c += f64::from(a) * f64::from(b));
        }
        c.extend(row.iter().map(|&x| x as f32));
    }
    c
}

pub(super) fn transposed(rows: usize, cols: usize, x: &[f32]) -> Vec<f32> {
    (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
}

#[test]
fn exact_where_the_blocking_changes() {
    // Tiles 4, 6 and 14 rows high, 8, 16 and 32 columns wide; depths of 512; strips of 64 … 256 columns; more rows than a
    // phase packs at once (4096) or than fit with two blocks of depth (2500).
    let sizes = [
        [17, 129, 511],
        [18, 160, 512],
        [29, 161, 513],
        [57, 255, 1025],
        [113, 300, 31],
        [4, 1, 1030],
        [31, 33, 1537],
        [2500, 130, 1100],
        [4100, 131, 9],
        [333, 40, 700],
        [7, 333, 129],
    ];
    for [m, n, k] in sizes {
        let (a, b) = (integers(1, m * k), integers(2, k * n));
        let want = product([m, n, k], &a, &b);
        let (at, bt) = (transposed(m, k, &a), transposed(k, n, &b));
        on_every_path(|cpu| {
            for (op, a, b) in [(Gemm::nn(m, n, k), &a, &b), (Gemm::nt(m, n, k), &a, &bt), (Gemm::tn(m, n, k), &at, &b)]
            {
                // Integers this small are bf16 values too.
                for op in [Precision::Full, Precision::Bf16, Precision::Bf16x3].map(|p| op.precision(p)) {
                    // Emulated tiles take their time: the largest sizes in one form.
                    if m > 1000 && op.precision != Precision::Full && !op.tb {
                        continue;
                    }
                    let mut c = empty(&cpu, m * n);
                    cpu.gemm(&op, put(&cpu, a).view(), put(&cpu, b).view(), c.set()).unwrap();
                    assert!(c.f32() == want, "{op:?} on {}", cpu.path());
                }
            }
        });
    }
}

/// s and all inputs are small integers, so that every order of the sums gives the same.
#[test]
fn the_branch_rides_along_at_every_rank_and_depth() {
    // k + r at, and one above, what a packed block holds; ranks above a block; several groups of blocks.
    let sizes = [[30, 140, 500, 28], [30, 140, 500, 29], [40, 150, 20, 520], [2500, 140, 1100, 3], [333, 150, 70, 40]];
    for [m, n, k, r] in sizes {
        let (x, w, bias) = (integers(1, m * k), integers(2, n * k), integers(3, n));
        let (a, b, gy) = (integers(4, r * k), integers(5, n * r), integers(6, m * n));
        let h = product([m, r, k], &x, &transposed(r, k, &a));
        let base = product([m, n, k], &x, &transposed(n, k, &w));
        let branch = product([m, n, r], &h, &transposed(n, r, &b));
        let y: Vec<f32> = (0..m * n).map(|i| base[i] + 2.0 * branch[i] + bias[i % n]).collect();
        let u: Vec<f32> = product([m, r, n], &gy, &b).iter().map(|u| 2.0 * u).collect();
        let (base, branch) = (product([m, k, n], &gy, &w), product([m, k, r], &u, &a));
        let dx: Vec<f32> = base.iter().zip(&branch).map(|(x, y)| x + y).collect();
        on_every_path(|cpu| {
            let (x, w, bias) = (put(&cpu, &x), put(&cpu, &w), put(&cpu, &bias));
            let (a, b, gy, words) = (put(&cpu, &a), put(&cpu, &b), put(&cpu, &gy), put(&cpu, &scalars()));
            // h and u have up to 16 bits, which two bf16 hold.
            for precision in [Precision::Full, Precision::Bf16x3] {
                let w = Weight::Dense(w.view());
                let base = Linear { m, n, k, w, bias: Some(bias.view()), precision };
                let op = Lora { base, r, scale: 2.0, a: a.view(), b: b.view(), dropout: None, scalars: words.view() };
                let (mut out, mut kept, mut grad) = (empty(&cpu, m * n), empty(&cpu, m * r), empty(&cpu, m * k));
                cpu.lora_forward(&op, x.view(), out.out(), kept.out()).unwrap();
                cpu.lora_backward(&op, x.view(), kept.view(), gy.view(), Some(grad.set()), None, None).unwrap();
                // The largest sums pass 2²⁴, so those may round.
                let what = format!("{m} {n} {k} {r} in {} on {}", precision.name(), cpu.path());
                assert!(kept.f32() == h, "h {what}");
                assert_close(&format!("y {what}"), &out.f32(), &y, 1e-7);
                assert_close(&format!("dx {what}"), &grad.f32(), &dx, 1e-7);
            }
        });
    }
}

#[test]
fn infinities_nan_and_denormals_travel() {
    let (m, n, k) = (40, 150, 70);
    let tiny = f32::from_bits(1);
    on_every_path(|cpu| {
        let mut x = vec![0.0f32; m * k];
        x[k] = f32::INFINITY;
        x[2 * k] = f32::NAN;
        x[3 * k + 5] = tiny;
        x[4 * k + 1] = f32::MAX;
        let mut w = vec![1.0f32; n * k];
        w[k] = 0.0;
        w[2 * k] = -1.0;
        w[2 * k + 1] = 2.0;
        let mut c = empty(&cpu, m * n);
        cpu.gemm(&Gemm::nt(m, n, k), put(&cpu, &x).view(), put(&cpu, &w).view(), c.set()).unwrap();
        let (c, path) = (c.f32(), cpu.path());
        assert!(c[..n].iter().all(|&x| x == 0.0), "{path}");
        assert!(c[n] == f32::INFINITY && c[n + 1].is_nan() && c[n + 2] == f32::NEG_INFINITY, "{path}: inf·0 is NaN");
        assert!(c[2 * n..3 * n].iter().all(|x| x.is_nan()), "{path}");
        assert!(c[3 * n..4 * n].iter().all(|&x| x == tiny), "{path}: a denormal is not flushed");
        assert!(c[4 * n] == f32::MAX && c[4 * n + 2] == f32::INFINITY, "{path}");
    });
}

/// Against f64 on random values: |error| ≤ 2·k·2⁻²⁴·Σ|a||b|, the bound of a sum in any order.
#[test]
fn rounding_stays_within_its_bound() {
    for [m, n, k] in [[19, 200, 1300], [3, 70, 999], [200, 9, 600]] {
        let (a, b) = (random(1, m * k), random(2, k * n));
        let bt = transposed(k, n, &b);
        on_every_path(|cpu| {
            let mut c = empty(&cpu, m * n);
            cpu.gemm(&Gemm::nt(m, n, k), put(&cpu, &a).view(), put(&cpu, &bt).view(), c.set()).unwrap();
            for (i, &got) in c.f32().iter().enumerate() {
                let terms = || (0..k).map(|p| f64::from(a[i / n * k + p]) * f64::from(b[p * n + i % n]));
                let bound = 2.0 * k as f64 * 2f64.powi(-24) * terms().map(f64::abs).sum::<f64>();
                assert!((f64::from(got) - terms().sum::<f64>()).abs() <= bound, "[{i}] on {}", cpu.path());
            }
        });
    }
}
