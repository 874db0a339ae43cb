//! Atomics, locks, flags, grid-wide synchronisation, and the barriers and pipelines of libcu++ (`cu/atomics.cu`).

#![allow(clippy::needless_range_loop, clippy::type_complexity)]
mod common;
use common::{clean, module};
use ptxsim::{Arg, Config, Memory};

const ARCHS: [&str; 2] = ["atomics.compute_80", "atomics.compute_90a"];

#[test]
fn every_atomic() {
    for arch in ARCHS {
        let (m, mut mem) = (module(arch), Memory::new());
        let mut p0 = vec![0i32; 320];
        (p0[2], p0[4], p0[9]) = (50, -1, 7);
        let (p, u, f) = (mem.upload(&p0), mem.upload(&[0u32; 192]), mem.upload(&[0f32; 192]));
        let (d, l, sl) = (mem.upload(&[0f64]), mem.upload(&[0u64; 3]), mem.upload(&[0i64]));
        let (h, b, hh, bb) = (mem.upload(&[0u32]), mem.upload(&[0u32]), mem.upload(&[0u16; 2]), mem.upload(&[0u16; 2]));
        let args = [p, u, f, d, l, sl, h, b, hh, bb].map(Arg::Ptr);
        clean(&m, "k_atom", &mut mem, &Config::new([2, 1, 1], [64, 1, 1]), &args);
        let v = mem.download::<i32>(p, 320).unwrap();
        let sum = 127 * 128 / 2;
        assert_eq!(v[..8], [sum, -sum, 0, 127, !0xffff, 0xffff, (0..128).fold(0, |a, b| a ^ b), 0], "{arch}");
        assert_eq!(v[11..13], [128, 128]);
        // Exchanges hand every thread's number on exactly once.
        let mut seen: Vec<i32> = v[64..192].to_vec();
        seen.push(v[8]);
        seen.sort_unstable();
        let mut want: Vec<i32> = (0..128).collect();
        want.push(0);
        want.sort_unstable();
        assert_eq!(seen, want);
        assert_eq!(v[9], 5);
        let w = mem.download::<u32>(u, 192).unwrap();
        // 41 steps bring `inc` back to 0.
        assert_eq!((w[0], w[1]), (128 % 41, 0));
        assert!((0..128).all(|i| w[64..192].iter().filter(|x| **x == i as u32 % 41).count() >= 1));
        let g = mem.download::<f32>(f, 192).unwrap();
        assert_eq!((g[0], g[1]), (192.0, 256.0));
        let mut old = g[64..].to_vec();
        old.sort_by(f32::total_cmp);
        assert!(old.iter().enumerate().all(|(i, x)| *x == 2.0 * i as f32));
        assert_eq!(mem.download::<f64>(d, 1).unwrap(), [256.0]);
        assert_eq!(mem.download::<u64>(l, 3).unwrap(), [384, 0, 127]);
        assert_eq!(mem.download::<i64>(sl, 1).unwrap(), [-127]);
        let one =
            |x: u16, bf: bool| if bf { half::bf16::from_bits(x).to_f32() } else { half::f16::from_bits(x).to_f32() };
        let pair = |x: u32, bf| (one(x as u16, bf), one((x >> 16) as u16, bf));
        assert_eq!(pair(mem.download::<u32>(h, 1).unwrap()[0], false), (128.0, 128.0));
        assert_eq!(pair(mem.download::<u32>(b, 1).unwrap()[0], true), (128.0, 128.0));
        assert_eq!(one(mem.download::<u16>(hh, 1).unwrap()[0], false), 128.0);
        assert_eq!(one(mem.download::<u16>(bb, 1).unwrap()[0], true), 256.0);
    }
}

#[test]
fn histogram() {
    let a: Vec<u8> = (0..5000u32).map(|i| (i * i % 251) as u8).collect();
    for arch in ARCHS {
        let (m, mut mem) = (module(arch), Memory::new());
        let (p, o) = (mem.upload(&a), mem.upload(&[0i32; 256]));
        clean(
            &m,
            "k_histogram",
            &mut mem,
            &Config::new([4, 1, 1], [128, 1, 1]),
            &[Arg::Ptr(p), Arg::Ptr(o), Arg::I32(5000)],
        );
        let mut want = vec![0i32; 256];
        a.iter().for_each(|x| want[*x as usize] += 1);
        assert_eq!(mem.download::<i32>(o, 256).unwrap(), want);
    }
}

#[test]
fn locks_between_warps_blocks_and_lanes() {
    for arch in ARCHS {
        let m = module(arch);
        for (k, grid, block, want) in [("k_lock", 3, 128, 12), ("k_lanelock", 1, 32, 32), ("k_lanelock", 2, 64, 128)] {
            let mut mem = Memory::new();
            let (lock, count) = (mem.upload(&[0i32]), mem.upload(&[0i32]));
            clean(&m, k, &mut mem, &Config::new([grid, 1, 1], [block, 1, 1]), &[Arg::Ptr(lock), Arg::Ptr(count)]);
            assert_eq!(mem.download::<i32>(count, 1).unwrap(), [want], "{arch} {k}");
        }
    }
}

#[test]
fn blocks_wait_for_each_other() {
    for arch in ARCHS {
        let (m, mut mem) = (module(arch), Memory::new());
        let a = [mem.upload(&[0i32]), mem.upload(&[0i32]), mem.alloc(4)];
        clean(&m, "k_flag", &mut mem, &Config::new([2, 1, 1], [32, 1, 1]), &a.map(Arg::Ptr));
        assert_eq!(mem.download::<i32>(a[2], 1).unwrap(), [42]);
    }
}

#[test]
fn the_whole_grid_synchronises() {
    for arch in ARCHS {
        let (m, mut mem) = (module(arch), Memory::new());
        let n = 5 * 64;
        let a = [mem.alloc(n * 4), mem.alloc(n * 4)];
        clean(&m, "k_grid", &mut mem, &Config::new([5, 1, 1], [64, 1, 1]), &a.map(Arg::Ptr));
        let want: Vec<i32> = (0..n).map(|i| (n - 1 - (i + 1) % n) as i32).collect();
        assert_eq!(mem.download::<i32>(a[0], n).unwrap(), want);
    }
}

#[test]
fn libcu_barriers_and_pipelines() {
    for arch in ARCHS {
        let (m, mut mem) = (module(arch), Memory::new());
        let x: Vec<f32> = (0..640).map(|i| i as f32).collect();
        let a = [mem.upload(&x), mem.alloc(2560)];
        let cfg = Config::new([1; 3], [128, 1, 1]);
        clean(&m, "k_cupipe", &mut mem, &cfg, &[Arg::Ptr(a[0]), Arg::Ptr(a[1]), Arg::I32(5)]);
        let y = mem.download::<f32>(a[1], 640).unwrap();
        assert!((0..640).all(|i| y[i] == x[i / 128 * 128 + 127 - i % 128]));
        let x: Vec<i32> = (0..256).collect();
        let a = [mem.upload(&x), mem.alloc(1024)];
        clean(&m, "k_cubar", &mut mem, &cfg, &a.map(Arg::Ptr));
        assert_eq!(mem.download::<i32>(a[1], 128).unwrap(), (0..128).map(|i| i * 2).collect::<Vec<_>>());
        clean(&m, "k_cgmemcpy", &mut mem, &Config::new([1; 3], [256, 1, 1]), &a.map(Arg::Ptr));
        assert_eq!(mem.download::<i32>(a[1], 256).unwrap(), (0..256).rev().collect::<Vec<_>>());
    }
}
