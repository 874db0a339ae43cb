use lowrank_core::philox::Rng;
use lowrank_core::{DType, Device, Tensor};

use super::*;
use crate::testing::{orthonormal_columns, random};

fn difference(a: &Matrix, b: &Matrix) -> f64 {
    assert_eq!((a.rows, a.cols), (b.rows, b.cols));
    a.data.iter().zip(&b.data).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

fn assert_orthonormal(q: &Matrix, bound: f64) {
    let gram = q.transposed().times(q);
    for (i, x) in gram.data.iter().enumerate() {
        let want = if i / gram.cols == i % gram.cols { 1.0 } else { 0.0 };
        assert!((x - want).abs() < bound, "{i}: {x}");
    }
}

#[test]
fn qr_of_tall_wide_and_thin() {
    for (m, n) in [(7, 3), (3, 7), (5, 5), (1, 4), (4, 1), (200, 33)] {
        let a = random(m, n, 1);
        let (q, r) = thin_qr(&a).unwrap();
        assert_eq!((q.rows, q.cols, r.rows, r.cols), (m, m.min(n), m.min(n), n));
        assert_orthonormal(&q, 1e-13);
        assert!(difference(&q.times(&r), &a) < 1e-12, "{m} {n}");
        for i in 0..r.rows {
            assert!(r.data[i * n..i * n + i.min(n)].iter().all(|&x| x == 0.0));
        }
    }
}

#[test]
fn svd_by_hand_and_planted() {
    // [[3, 0], [4, 5]] has singular values √45 and √5.
    let hand = svd(&Matrix::new(2, 2, vec![3.0, 0.0, 4.0, 5.0]).unwrap()).unwrap();
    assert!((hand.s[0] - 45f64.sqrt()).abs() < 1e-12 && (hand.s[1] - 5f64.sqrt()).abs() < 1e-12);
    for (m, n) in [(40, 25), (25, 40)] {
        let p = m.min(n);
        let (u, v) = (orthonormal_columns(m, p, 2), orthonormal_columns(n, p, 3));
        let s: Vec<f64> = (0..p).map(|i| 1.0 / (1.0 + i as f64)).collect();
        let found = svd(&u.scale_columns(&s).times(&v.transposed())).unwrap();
        for (i, s) in s.iter().enumerate() {
            assert!((found.s[i] - s).abs() < 1e-13);
            // The planted vectors up to the sign, which has to be the conventional one.
            let dot: f64 = (0..m).map(|r| u.data[r * p + i] * found.u.data[r * p + i]).sum();
            assert!((dot.abs() - 1.0).abs() < 1e-10, "{dot}");
            let largest = (0..m).map(|r| found.u.data[r * p + i]).max_by(|a, b| a.abs().total_cmp(&b.abs()));
            assert!(largest.unwrap() > 0.0);
        }
    }
    assert!(svd(&Matrix::new(1, 2, vec![1.0, f64::NAN]).unwrap()).is_err());
}

#[test]
fn the_leading_triples_are_the_planted_ones() {
    for (m, n, dtype, bound) in [(96, 64, DType::F64, 1e-10), (64, 96, DType::F32, 2e-5)] {
        let device = Device::reference().unwrap();
        let (u, v) = (orthonormal_columns(m, 64, 4), orthonormal_columns(n, 64, 5));
        let s: Vec<f64> = (0..64).map(|i| 0.5f64.powi(i)).collect();
        let g = u.scale_columns(&s).times(&v.transposed()).to_tensor(dtype, &device).unwrap();
        let found = svd_lowrank(&g, 16, 4, &mut Rng::new(0, 0)).unwrap();
        assert_orthonormal(&found.u, bound);
        assert_orthonormal(&found.v, bound);
        for (i, planted) in s.iter().enumerate().take(8) {
            assert!((found.s[i] - planted).abs() < bound, "{i}: {} {planted}", found.s[i]);
            let at = |x: &Matrix, r: usize, q: usize| x.data[r * x.cols + q];
            let du: f64 = (0..m).map(|r| at(&u, r, i) * at(&found.u, r, i)).sum();
            let dv: f64 = (0..n).map(|r| at(&v, r, i) * at(&found.v, r, i)).sum();
            assert!((du * dv - 1.0).abs() < 100.0 * bound, "{i}: {du} {dv}");
        }
    }
}

#[test]
fn rank_deficiency_shows_and_bad_input_is_refused() {
    let device = Device::reference().unwrap();
    let g = random(30, 5, 6).times(&random(5, 20, 7)).to_tensor(DType::F32, &device).unwrap();
    let found = svd_lowrank(&g, 12, 2, &mut Rng::new(0, 0)).unwrap();
    assert_eq!(found.rank(1e-6), 5);
    assert!(svd_lowrank(&g, 21, 2, &mut Rng::new(0, 0)).is_err());
    let nan = Tensor::full(f64::NAN, &[4, 4], DType::F32, &device).unwrap();
    assert!(svd_lowrank(&nan, 2, 0, &mut Rng::new(0, 0)).unwrap_err().to_string().contains("not finite"));
}

/// Blocks of nothing but rounding errors, up to as many columns as there are dimensions: the basis stays orthonormal, and
/// what the matrix has is found as well as without them.
#[test]
fn a_low_rank_leaves_no_trace_of_the_noise_below_it() {
    let device = Device::reference().unwrap();
    for seed in 0..6 {
        let (u, v) = (orthonormal_columns(33, 9, 40 + seed), orthonormal_columns(33, 9, 60 + seed));
        let s: Vec<f64> = (1..=9).map(|i| 1.0 / f64::from(i)).collect();
        let g = u.scale_columns(&s).times(&v.transposed());
        let found = svd_lowrank(&g.to_tensor(DType::F32, &device).unwrap(), 12, 4, &mut Rng::new(seed, 0)).unwrap();
        assert_orthonormal(&found.u, 1e-5);
        let six: Vec<usize> = (0..6).collect();
        let leading = |u: &Matrix, s: &[f64], v: &Matrix| {
            u.columns(&six).scale_columns(&s[..6]).times(&v.columns(&six).transposed())
        };
        let off = difference(&leading(&found.u, &found.s, &found.v), &leading(&u, &s, &v));
        assert!(off < 2e-5, "seed {seed}: {off:.1e}");
    }
}

#[cfg(feature = "cpu")]
#[test]
fn the_same_bits_for_any_number_of_threads() {
    let device = Device::cpu().unwrap();
    let g = random(300, 200, 8).to_tensor(DType::F32, &device).unwrap();
    let run = || svd_lowrank(&g, 32, 4, &mut Rng::new(0, 0)).unwrap();
    let one = run();
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert!(pool.install(run) == one, "{threads}");
    }
}
