//! TMA, mbarrier and wgmma pipelines: correct ones are clean and right, planted faults are caught.
//!
//! The kernels are `cu/hopper_faults.cu`.

#![allow(clippy::needless_range_loop, clippy::type_complexity)]
mod common;
use common::{Rng, bf16, module};
use ptxsim::{Arg, Config, FindingKind as K, Memory, Report, Swizzle, TensorMap, launch};

fn map(base: u64, data_type: u32, dims: [u64; 2], size: u64, boxes: [u32; 2], swizzle: Swizzle) -> Arg {
    let m = TensorMap {
        base,
        data_type,
        dims: dims.to_vec(),
        strides: vec![dims[0] * size],
        boxes: boxes.to_vec(),
        swizzle,
        nan_fill: false,
    };
    Arg::Bytes(m.encode().unwrap().to_vec())
}

/// 100 × 70 floats in tiles of 32 × 32: the last tiles hang over the edges.
fn add_one(fault: u32) -> (Report, Vec<f32>) {
    let m = module(&format!("hopper_faults{fault}"));
    let mut mem = Memory::new();
    let a = mem.upload(&(0..7000).map(|i| i as f32).collect::<Vec<_>>());
    let b = mem.alloc(7000 * 4);
    let args = [map(a, 7, [100, 70], 4, [32, 32], Swizzle::None), map(b, 7, [100, 70], 4, [32, 32], Swizzle::None)];
    let r = launch(&m, "add_one", &mut mem, &Config::new([4, 3, 1], [128, 1, 1]), &args).unwrap();
    (r, mem.download(b, 7000).unwrap())
}

fn gemm(fault: u32, k: usize) -> (Report, f64) {
    let m = module(&format!("hopper_faults{fault}"));
    let mut mem = Memory::new();
    let mut rng = Rng(7);
    let a: Vec<u16> = (0..64 * k).map(|_| bf16(rng.f32())).collect();
    let b: Vec<u16> = (0..16 * k).map(|_| bf16(rng.f32())).collect();
    let (pa, pb) = (mem.upload(&a), mem.upload(&b));
    let c = mem.alloc(64 * 16 * 4);
    let args = [
        map(pa, 9, [k as u64, 64], 2, [64, 64], Swizzle::B128),
        map(pb, 9, [k as u64, 16], 2, [64, 16], Swizzle::B128),
        Arg::Ptr(c),
        Arg::I32(k as i32),
    ];
    let r = launch(&m, "gemm_ws", &mut mem, &Config::new([1; 3], [160, 1, 1]), &args).unwrap();
    let out = mem.download::<f32>(c, 64 * 16).unwrap();
    let f = |x: u16| half::bf16::from_bits(x).to_f64();
    let mut worst = 0f64;
    for i in 0..64 {
        for j in 0..16 {
            let want: f64 = (0..k).map(|t| f(a[i * k + t]) * f(b[j * k + t])).sum();
            worst = worst.max((out[i * 16 + j] as f64 - want).abs());
        }
    }
    (r, worst)
}

#[test]
fn correct_pipelines_are_clean_and_right() {
    let (r, v) = add_one(0);
    assert!(r.is_clean(), "{r}");
    assert!(v.iter().enumerate().all(|(i, x)| *x == i as f32 + 1.0));
    for k in [64, 128, 192, 512] {
        let (r, err) = gemm(0, k);
        assert!(r.is_clean(), "k {k}: {r}");
        assert!(err < 1e-4, "k {k}: error {err}");
    }
}

#[test]
fn planted_faults_are_caught() {
    for (n, kinds) in [
        (1, vec![K::MissingProxyFence]),
        (3, vec![K::InFlight, K::Race]),
        (5, vec![K::Deadlock]),
        (6, vec![K::Race]),
        (7, vec![K::InFlight]),
        (9, vec![K::Race, K::Misuse]),
    ] {
        let (r, _) = add_one(n);
        assert!(kinds.iter().any(|k| r.has(*k)), "fault {n}: expected {kinds:?}, found {r}");
    }
    for (n, kinds) in [
        (2, vec![K::InFlight, K::Race, K::Deadlock]),
        (4, vec![K::Race, K::InFlight, K::Misuse]),
        (8, vec![K::InFlight, K::Race]),
    ] {
        let (r, _) = gemm(n, 512);
        assert!(kinds.iter().any(|k| r.has(*k)), "fault {n}: expected {kinds:?}, found {r}");
    }
}
