use half::{bf16, f16};
use lowrank_backend::{DType, Error, Gemm, Precision};

use super::*;

/// `alpha · op(a) op(b)` by its definition, in f64.
fn oracle(op: &Gemm, a: &[f32], b: &[f32]) -> Vec<f32> {
    let &Gemm { batch, m, n, k, ta, tb, alpha, .. } = op;
    let mut c = Vec::new();
    for z in 0..batch {
        for i in 0..m {
            for j in 0..n {
                let term = |p: usize| {
                    let a = a[z * m * k + if ta { p * m + i } else { i * k + p }];
                    let b = b[z * k * n + if tb { j * k + p } else { p * n + j }];
                    f64::from(a) * f64::from(b)
                };
                c.push((alpha * (0..k).map(term).sum::<f64>()) as f32);
            }
        }
    }
    c
}

#[test]
fn exact_on_integers_in_every_form_and_size() {
    on_every_path(|cpu| {
        let sizes = [
            (1, 1, 1),
            (1, 7, 5),
            (3, 1, 300),
            (16, 70, 33),
            (17, 70, 33),
            (129, 257, 40),
            (64, 300, 513),
            (5, 4, 0),
            (0, 3, 2),
        ];
        for (i, (m, n, k)) in sizes.into_iter().enumerate() {
            for op in [Gemm::nn(m, n, k), Gemm::nt(m, n, k), Gemm::tn(m, n, k)] {
                for op in [op, op.alpha(-2.0), op.batch(3)] {
                    let (a, b) = (integers(i as u64, op.batch * m * k), integers(99, op.batch * n * k));
                    let old = integers(7, op.batch * m * n);
                    let want = oracle(&op, &a, &b);
                    let mut c = empty(&cpu, want.len());
                    let (a, b) = (put(&cpu, &a), put(&cpu, &b));
                    cpu.gemm(&op, a.view(), b.view(), c.set()).unwrap();
                    assert_close(&format!("{op:?}"), &c.f32(), &want, 0.0);
                    let mut c = put(&cpu, &old);
                    cpu.gemm(&op, a.view(), b.view(), c.add()).unwrap();
                    let want: Vec<f32> = want.iter().zip(&old).map(|(x, y)| x + y).collect();
                    assert_close(&format!("{op:?} add"), &c.f32(), &want, 0.0);
                }
            }
        }
    });
}

#[test]
fn half_storage_gives_the_bits_of_its_f32_values() {
    on_every_path(|cpu| {
        // k above the depth of converted panels.
        for (m, n, k) in [(1, 5, 40), (9, 33, 1100), (20, 40, 2500)] {
            let x = put(&cpu, &random(1, m * k));
            let w = random(2, n * k);
            let b16: Vec<bf16> = w.iter().map(|&x| bf16::from_f32(x)).collect();
            let h16: Vec<f16> = w.iter().map(|&x| f16::from_f32(x)).collect();
            let wide: Vec<Vec<f32>> =
                vec![b16.iter().map(|x| x.to_f32()).collect(), h16.iter().map(|x| x.to_f32()).collect()];
            for (narrow, wide) in [put(&cpu, &b16), put(&cpu, &h16)].iter().zip(&wide) {
                let wide = put(&cpu, wide);
                for op in [Gemm::nt(m, n, k), Gemm::nn(m, n, k)] {
                    let (mut c, mut d) = (empty(&cpu, m * n), empty(&cpu, m * n));
                    cpu.gemm(&op, x.view(), narrow.view(), c.set()).unwrap();
                    cpu.gemm(&op, x.view(), wide.view(), d.set()).unwrap();
                    assert_eq!(bits(&c.f32()), bits(&d.f32()));
                }
                let op = Gemm::tn(n, m, k);
                let (mut c, mut d) = (empty(&cpu, m * n), empty(&cpu, m * n));
                cpu.gemm(&op, narrow.view(), x.view(), c.set()).unwrap();
                cpu.gemm(&op, wide.view(), x.view(), d.set()).unwrap();
                assert_eq!(bits(&c.f32()), bits(&d.f32()));
            }
        }
    });
}

/// Decoding: exact at every number of rows, at depths around blocks and lanes, and each row as if alone; W in every storage.
#[test]
fn few_rows_are_exact_and_as_if_alone() {
    let cpu = Cpu::new();
    for k in [1, 15, 16, 17, 255, 257, 513, 1600] {
        for m in 1..=16 {
            let n = [1, 3, 4, 5, 38][(m + k) % 5];
            let (op, x, w) = (Gemm::nt(m, n, k), integers(1, m * k), integers(2, n * k));
            let (b16, h16): (Vec<bf16>, Vec<f16>) = w.iter().map(|&x| (bf16::from_f32(x), f16::from_f32(x))).unzip();
            let want = oracle(&op, &x, &w);
            for w in [put(&cpu, &w), put(&cpu, &b16), put(&cpu, &h16)] {
                let mut c = empty(&cpu, m * n);
                cpu.gemm(&op, put(&cpu, &x).view(), w.view(), c.set()).unwrap();
                assert_close(&format!("{op:?}"), &c.f32(), &want, 0.0);
            }
            let (x, w) = (random(3, m * k), put(&cpu, &random(4, n * k)));
            let rows = |x: &[f32]| {
                let m = x.len() / k;
                let mut c = empty(&cpu, m * n);
                cpu.gemm(&Gemm::nt(m, n, k), put(&cpu, x).view(), w.view(), c.set()).unwrap();
                bits(&c.f32())
            };
            let all = rows(&x);
            assert!((0..m).all(|i| rows(&x[i * k..][..k]) == all[i * n..][..n]), "{m} {n} {k}");
        }
    }
}

/// Rows of a product have the same bits at any place in any batch above 16 rows, and in any batch up to 16 rows.
#[test]
fn rows_do_not_depend_on_the_batch() {
    on_every_path(|cpu| {
        let (n, k) = (301, 700);
        let x = random(1, 300 * k);
        let w = put(&cpu, &random(2, n * k));
        let product = |rows: std::ops::Range<usize>, op: fn(usize, usize, usize) -> Gemm, add: bool| {
            let m = rows.len();
            let x = put(&cpu, &x[rows.start * k..rows.end * k]);
            let mut c = put(&cpu, &vec![0.25f32; m * n]);
            cpu.gemm(&op(m, n, k).alpha(0.3), x.view(), w.view(), c.slot(add)).unwrap();
            bits(&c.f32())
        };
        for op in [Gemm::nn as fn(usize, usize, usize) -> Gemm, Gemm::nt] {
            for add in [false, true] {
                let all = product(0..300, op, add);
                for (start, end) in [(0, 17), (100, 117), (283, 300), (100, 229), (1, 130)] {
                    assert!(product(start..end, op, add) == all[start * n..end * n], "{start}..{end}");
                }
                let few = product(40..56, op, add);
                assert!(product(43..44, op, add) == few[3 * n..4 * n]);
                assert!(product(50..56, op, add) == few[10 * n..]);
            }
        }
    });
}

#[test]
fn the_number_of_threads_changes_nothing() {
    against_reference("gemm", 1e-5, |b| {
        let mut outputs = Vec::new();
        for op in [Gemm::nt(70, 130, 300), Gemm::nt(3, 200, 300), Gemm::tn(16, 300, 70), Gemm::nn(40, 33, 50).batch(9)]
        {
            let (x, w) = (put(b, &random(3, op.batch * op.m * op.k)), put(b, &random(4, op.batch * op.k * op.n)));
            let mut c = put(b, &random(5, op.batch * op.m * op.n));
            b.gemm(&op.alpha(0.7), x.view(), w.view(), c.add()).unwrap();
            outputs.push(c.f32());
        }
        outputs
    });
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    on_every_path(|cpu| {
        let (a, b) = (put(&cpu, &[1.0f32; 4]), put(&cpu, &[1.0f32; 4]));
        let mut c = empty(&cpu, 4);
        let op = Gemm::nn(2, 2, 2);
        let mut error = |op: Gemm| cpu.gemm(&op, a.view(), b.view(), c.set()).unwrap_err().to_string();
        assert_eq!(error(op.precision(Precision::Tf32)), "gemm: cpu does not support precision tf32");
        assert_eq!(error(Gemm { ta: true, tb: true, ..op }), "gemm: both operands transposed");
        assert_eq!(error(Gemm::nn(2, 2, 3)), "gemm: a has 4 elements, expected 6");
        assert_eq!(error(Gemm::nn(usize::MAX, 2, 3)), format!("gemm: sizes [1, {}, 3] overflow", usize::MAX));
        let d = put(&cpu, &[1.0f64; 4]);
        let error = cpu.gemm(&op, d.view(), b.view(), c.set()).unwrap_err();
        assert_eq!(error.to_string(), "gemm: cpu does not support f64 (a); use the reference device");
        let reference = Reference::new();
        let foreign = put(&reference, &[1.0f32; 4]);
        assert!(matches!(cpu.gemm(&op, foreign.view(), b.view(), c.set()), Err(Error::DeviceMismatch { .. })));
        assert!(!cpu.supports_precision(Precision::Tf32) && !cpu.supports_dtype(DType::F64));
    });
}

#[test]
fn nan_is_never_lost() {
    on_every_path(|cpu| {
        for m in [3, 40] {
            let mut x = vec![0.0f32; m * 20];
            x[7] = f32::NAN;
            let (x, w) = (put(&cpu, &x), put(&cpu, &vec![0.0f32; 50 * 20]));
            let mut c = empty(&cpu, m * 50);
            cpu.gemm(&Gemm::nt(m, 50, 20), x.view(), w.view(), c.set()).unwrap();
            let c = c.f32();
            assert!(c[..50].iter().all(|x| x.is_nan()) && c[50..].iter().all(|&x| x == 0.0));
        }
    });
}
