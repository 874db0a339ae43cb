//! Warp-level operations and block-wide patterns (`cu/warp.cu`).

#![allow(clippy::needless_range_loop, clippy::type_complexity)]
mod common;
use common::{clean, module};
use ptxsim::{Arg, Config, Memory};

const ARCHS: [&str; 2] = ["warp.compute_80", "warp.compute_90a"];

fn one(n: u32) -> Config {
    Config::new([1; 3], [n, 1, 1])
}

#[test]
fn shuffles() {
    let x: Vec<i32> = (0..32).map(|i| i * i).collect();
    let l: Vec<u64> = (0..32).map(|i| (i as u64) << 40 | 5).collect();
    for arch in ARCHS {
        let (m, mut mem) = (module(arch), Memory::new());
        let a = [mem.upload(&x), mem.alloc(640), mem.upload(&l), mem.alloc(256)];
        clean(&m, "k_shfl", &mut mem, &one(32), &a.map(Arg::Ptr));
        let q = mem.download::<i32>(a[1], 160).unwrap();
        for t in 0..32usize {
            assert_eq!(q[t], x[3]);
            assert_eq!(q[32 + t], if t % 16 >= 2 { x[t - 2] } else { x[t] });
            assert_eq!(q[64 + t], if t % 8 + 3 < 8 { x[t + 3] } else { x[t] });
            assert_eq!(q[96 + t], x[t ^ 5]);
            assert_eq!(q[128 + t], x[t / 8 * 8 + t * 7 % 8]);
        }
        assert_eq!(mem.download::<u64>(a[3], 32).unwrap(), (0..32).map(|t| l[t ^ 9]).collect::<Vec<_>>());
    }
}

#[test]
fn votes_matches_and_reductions() {
    let x: Vec<i32> = (0..32).map(|i| i * 7 % 5).collect();
    for arch in ARCHS {
        let (m, mut mem) = (module(arch), Memory::new());
        let a = [mem.upload(&x), mem.alloc(384 * 4)];
        clean(&m, "k_vote", &mut mem, &one(32), &a.map(Arg::Ptr));
        let q = mem.download::<u32>(a[1], 384).unwrap();
        let mask = |f: &dyn Fn(i32) -> bool| (0..32).fold(0u32, |m, i| m | (f(x[i]) as u32) << i);
        for t in 0..32 {
            let same = mask(&|v| v == x[t]);
            let want = [
                1 + 4,
                mask(&|v| v & 1 == 1),
                same,
                0,
                u32::MAX.wrapping_add(1),
                x.iter().sum::<i32>() as u32,
                4,
                -9i32 as u32,
                x.iter().fold(0, |a, b| a ^ b) as u32,
                mask(&|v| v > 3).count_ones(),
                1,
                0,
            ];
            for (k, v) in want.iter().enumerate() {
                assert_eq!(q[k * 32 + t], *v, "{arch} value {k} of lane {t}");
            }
        }
    }
}

#[test]
fn lanes_meet_again_after_divergence() {
    let x: Vec<i32> = (0..32).map(|i| 1000 + i).collect();
    for arch in ARCHS {
        let (m, mut mem) = (module(arch), Memory::new());
        let a = [mem.upload(&x), mem.alloc(256)];
        clean(&m, "k_divergent", &mut mem, &one(32), &a.map(Arg::Ptr));
        let q = mem.download::<i32>(a[1], 64).unwrap();
        let sum = |t: usize| x[t] + (0..t as i32).sum::<i32>();
        let end: Vec<i32> = (0..32).map(|t| if t & 1 == 1 { x[t ^ 2] } else { sum(t) }).collect();
        for t in 0..32usize {
            assert_eq!(q[t], if t & 1 == 1 { x[t ^ 2] + 16 } else { sum(t ^ 4) }, "{arch} lane {t}");
            assert_eq!(q[32 + t], end[31 - t], "{arch} lane {t}");
        }
    }
}

#[test]
fn cooperative_groups() {
    let x: Vec<f32> = (0..64).map(|i| (i * 5 % 13) as f32).collect();
    for arch in ARCHS {
        let (m, mut mem) = (module(arch), Memory::new());
        let a = [mem.upload(&x), mem.alloc(320 * 4)];
        clean(&m, "k_cg", &mut mem, &one(64), &a.map(Arg::Ptr));
        let g = mem.download::<f32>(a[1], 320).unwrap();
        for t in 0..64usize {
            let (w, e) = (t / 32 * 32, t / 8 * 8);
            assert_eq!(g[t], x[w..w + 32].iter().sum::<f32>());
            assert_eq!(g[64 + t], x[e..e + 8].iter().fold(f32::MIN, |a, b| a.max(*b)));
            assert_eq!(g[128 + t], if t % 8 < 7 { x[t + 1] } else { x[t] });
            assert_eq!(
                g[192 + t],
                (t % 32 / 8) as f32 + (t / 32 * 4) as f32 * 0.0 + if t >= 32 { 4.0 } else { 0.0 },
                "rank {t}"
            );
            let big: Vec<usize> = (w..w + 32).filter(|i| x[*i] > 5.0).collect();
            let want = big.iter().position(|i| *i == t).map_or(-1.0, |r| (big.len() * 100 + r) as f32);
            assert_eq!(g[256 + t], want);
        }
    }
}

#[test]
fn softmax_and_transpose() {
    for arch in ARCHS {
        let (m, mut mem) = (module(arch), Memory::new());
        let n = 300;
        let x: Vec<f32> = (0..3 * n).map(|i| ((i * 37) % 101) as f32 / 20.0 - 2.0).collect();
        let a = [mem.upload(&x), mem.alloc(3 * n * 4)];
        let cfg = Config { shared: n * 4, ..Config::new([3, 1, 1], [128, 1, 1]) };
        clean(&m, "k_softmax", &mut mem, &cfg, &[Arg::Ptr(a[0]), Arg::Ptr(a[1]), Arg::I32(n as i32)]);
        let y = mem.download::<f32>(a[1], 3 * n).unwrap();
        for r in 0..3 {
            let row = &x[r * n..(r + 1) * n];
            let max = row.iter().fold(f32::MIN, |a, b| a.max(*b)) as f64;
            let sum: f64 = row.iter().map(|v| (*v as f64 - max).exp()).sum();
            for (i, v) in row.iter().enumerate() {
                let want = (*v as f64 - max).exp() / sum;
                assert!((y[r * n + i] as f64 - want).abs() < 1e-6 * want + 1e-9);
            }
        }
        let n = 70;
        let x: Vec<f32> = (0..n * n).map(|i| i as f32).collect();
        let a = [mem.upload(&x), mem.alloc(n * n * 4)];
        let args = [Arg::Ptr(a[0]), Arg::Ptr(a[1]), Arg::I32(n as i32)];
        clean(&m, "k_transpose", &mut mem, &Config::new([3, 3, 1], [32, 8, 1]), &args);
        let y = mem.download::<f32>(a[1], n * n).unwrap();
        assert!((0..n * n).all(|i| y[i] == x[i % n * n + i / n]));
    }
}

#[test]
fn cache_hints_change_nothing() {
    for arch in ARCHS {
        let (m, mut mem) = (module(arch), Memory::new());
        let x: Vec<f32> = (0..40).map(|i| i as f32).collect();
        let c: Vec<i32> = (0..128).collect();
        let a = [mem.upload(&x), mem.alloc(512), mem.upload(&c), mem.alloc(1024)];
        clean(&m, "k_hints", &mut mem, &one(32), &a.map(Arg::Ptr));
        let b = mem.download::<f32>(a[1], 128).unwrap();
        assert!(
            (0..32).all(|t| b[t] == 5.0 * t as f32 + 3.0 && b[32 + t] == 1.0 && b[64 + t] == 2.0 && b[96 + t] == 3.0)
        );
        assert_eq!(mem.download::<i32>(a[3], 256).unwrap(), [c.clone(), c].concat());
    }
}
