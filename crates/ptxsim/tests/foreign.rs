//! What ordinary programs use beyond plain kernels (`cu/foreign.cu`), for both targets, against plain Rust.

#![allow(clippy::needless_range_loop)]
mod common;
use common::{Rng, clean, module};
use ptxsim::{Arg, Config, Memory, Module};

fn both(f: impl Fn(&Module)) {
    for target in ["compute_80", "compute_90a"] {
        f(&module(&format!("foreign.{target}")));
    }
}

fn one(grid: u32, block: u32) -> Config {
    Config::new([grid, 1, 1], [block, 1, 1])
}

#[test]
fn cooperative_groups() {
    both(|m| {
        let mut mem = Memory::new();
        let v: Vec<i32> = (0..3000).map(|i| i * 37 % 101 - 50).collect();
        let (a, o) = (mem.upload(&v), mem.upload(&[0i32; 4]));
        clean(m, "groups", &mut mem, &one(3, 128), &[Arg::Ptr(a), Arg::Ptr(o), Arg::I32(3000)]);
        let thirds = (0..128).filter(|t| t % 3 == 0).count() as i32;
        let squares: i32 = (0..4)
            .flat_map(|w| (0..4).map(move |l| (w, l)))
            .map(|(w, l)| (0..32).filter(|i| v[w * 32 + i] & 3 == l).count() as i32)
            .map(|n| n * n)
            .sum();
        let want = [v.iter().sum(), 127, 3 * thirds, 3 * squares];
        assert_eq!(mem.download::<i32>(o, 4).unwrap(), want);
        let x: Vec<f32> = (0..256).map(|i| (i * 31 % 64) as f32).collect();
        let (p, o) = (mem.upload(&x), mem.alloc(1024));
        clean(m, "relax", &mut mem, &one(4, 64), &[Arg::Ptr(p), Arg::Ptr(o), Arg::I32(256), Arg::I32(5)]);
        let step = |x: Vec<f32>| (0..256).map(|i| 0.5 * (x[(i + 255) % 256] + x[(i + 1) % 256])).collect();
        assert_eq!(mem.download::<f32>(o, 256).unwrap(), (0..5).fold(x, |x, _| step(x)));
    });
}

#[test]
fn blocks_that_wait_for_each_other() {
    both(|m| {
        let mut mem = Memory::new();
        let v: Vec<i32> = (0..20 * 128).map(|i| i * 29 % 41 - 20).collect();
        let (a, o) = (mem.upload(&v), mem.alloc(v.len() * 4));
        clean(m, "lookback", &mut mem, &one(20, 128), &[a, o].map(Arg::Ptr));
        let mut sum = 0;
        for (got, x) in mem.download::<i32>(o, v.len()).unwrap().iter().zip(&v) {
            sum += x;
            assert_eq!(*got, sum);
        }
        // Plain looks before atomic updates are no races.
        let f: Vec<f32> = (0..256).map(|i| (i * 37 % 251) as f32).collect();
        let (a, mx, best) = (mem.upload(&f), mem.upload(&[-1f32]), mem.upload(&[-1i32]));
        clean(m, "largest", &mut mem, &one(4, 64), &[a, mx, best].map(Arg::Ptr));
        assert_eq!(mem.download::<f32>(mx, 1).unwrap(), [250.0]);
        assert_eq!(mem.download::<i32>(best, 1).unwrap(), [250]);
    });
}

#[test]
fn pointers_to_functions() {
    both(|m| {
        let mut mem = Memory::new();
        let f: Vec<f32> = (0..32).map(|i| i as f32 + 0.5).collect();
        let (a, o) = (mem.upload(&f), mem.alloc(256));
        clean(m, "pointers", &mut mem, &one(1, 32), &[a, o].map(Arg::Ptr));
        let got = mem.download::<f32>(o, 64).unwrap();
        for t in 0..32 {
            assert_eq!(got[t], [f[t] + 2.0, f[t] * 2.0, f[t] - 2.0][t % 3]);
            assert_eq!(got[32 + t], if t % 2 == 1 { f[t] + 1.0 } else { f[t] - 1.0 });
        }
        clean(m, "methods", &mut mem, &one(1, 32), &[Arg::Ptr(a), Arg::Ptr(o), Arg::I32(10)]);
        let got = mem.download::<f32>(o, 32).unwrap();
        (0..32).for_each(|t| assert_eq!(got[t], if t < 10 { f[t] * 3.0 } else { f[t] + 7.0 }));
    });
}

#[test]
fn nth_bit_and_alignment_of_dynamic_memory() {
    both(|m| {
        let (mut mem, mut r) = (Memory::new(), Rng(9));
        let masks: Vec<u32> = (0..32).map(|_| r.next() as u32).collect();
        let (a, o) = (mem.upload(&masks), mem.alloc(256));
        clean(m, "nth", &mut mem, &one(1, 32), &[a, o].map(Arg::Ptr));
        let got = mem.download::<u32>(o, 32).unwrap();
        for t in 0..32i32 {
            let (mask, n) = (masks[t as usize], t * 5 % 13 - 6);
            let set = |i: &i32| mask >> i & 1 == 1;
            let want = match n {
                0 => Some(t).filter(set),
                1.. => (t..32).filter(set).nth(n as usize - 1),
                _ => (0..=t).rev().filter(set).nth(-n as usize - 1),
            };
            assert_eq!(got[t as usize], want.map_or(u32::MAX, |w| w as u32), "lane {t}");
        }
        let cfg = Config { shared: 64, ..one(1, 64) };
        clean(m, "aligned_dynamic", &mut mem, &cfg, &[Arg::Ptr(o)]);
        let got = mem.download::<i32>(o, 64).unwrap();
        (0..64).for_each(|t: usize| assert_eq!(got[t], (t % 3 + (t ^ 1)) as i32));
    });
}

#[test]
fn directed_fused_multiply_add() {
    // Products with tails below the last place; the exact value comes from 128-bit integers over 2^-60.
    let v = |k: i64| (1.0 + k as f64 / (1u64 << 30) as f64, k + (1 << 30));
    let mut r = Rng(3);
    let mut small = || (r.next() % 1000) as i64 * 2 + 1;
    let (mut a, mut b, mut c, mut exact) = (vec![], vec![], vec![], vec![]);
    for i in 0..32 {
        let ((x, xi), (y, yi)) = (v(small()), v(small()));
        let k = small() * if i % 2 == 0 { 1 } else { -1 };
        a.push(if i % 3 == 0 { -x } else { x });
        b.push(y);
        c.push(k as f64);
        let sign = if i % 3 == 0 { -1 } else { 1 };
        exact.push(sign * xi as i128 * yi as i128 + ((k as i128) << 60));
    }
    both(|m| {
        let mut mem = Memory::new();
        let args = [mem.upload(&a), mem.upload(&b), mem.upload(&c), mem.alloc(32 * 24)];
        clean(m, "fma_modes", &mut mem, &one(1, 32), &args.map(Arg::Ptr));
        let got = mem.download::<f64>(args[3], 96).unwrap();
        let value = |x: f64| {
            let bits = x.to_bits();
            let (e, frac) = ((bits >> 52 & 0x7ff) as i32 - 1075 + 60, (bits & ((1 << 52) - 1) | 1 << 52) as i128);
            assert!(e >= 0);
            (frac << e) * if x < 0.0 { -1 } else { 1 }
        };
        for i in 0..32 {
            let (z, down, up) = (got[3 * i], got[3 * i + 1], got[3 * i + 2]);
            assert!(value(down) <= exact[i] && exact[i] <= value(up), "{i}: {down} {up}");
            assert!(down == up || down.next_up() == up, "{i}: {down} {up}");
            assert_eq!(z, if exact[i] > 0 { down } else { up });
        }
    });
}

#[test]
fn eight_bit_floats() {
    /// Every finite value of a format with `e` exponent and `m` mantissa bits, by code.
    fn values(e: i32, m: i32, top: u8) -> Vec<f64> {
        (0..=top as i32)
            .map(|c| {
                let (x, f) = (c >> m, c & ((1 << m) - 1));
                let bias = (1 << (e - 1)) - 1;
                let scale = 2f64.powi(x.max(1) - bias - m);
                (f + if x > 0 { 1 << m } else { 0 }) as f64 * scale
            })
            .collect()
    }
    fn nearest(v: &[f64], x: f32) -> u8 {
        let a = x.abs() as f64;
        let best =
            (0..v.len()).min_by(|i, j| ((v[*i] - a).abs(), i & 1).partial_cmp(&((v[*j] - a).abs(), j & 1)).unwrap());
        let best = if a >= v[v.len() - 1] { v.len() - 1 } else { best.unwrap() };
        best as u8 | (x.is_sign_negative() as u8) << 7
    }
    let (v4, v5) = (values(4, 3, 0x7e), values(5, 2, 0x7b));
    let mut r = Rng(2);
    let mut x: Vec<f32> = vec![0.0, -0.0, 448.0, 464.0, -470.0, 57344.0, 61440.0, 1e9, f32::INFINITY, -1e-9];
    x.extend([2f32.powi(-9), 2f32.powi(-10), 1.5 * 2f32.powi(-10), 2f32.powi(-16), 2f32.powi(-17), 0.0625]);
    x.extend((0..112).map(|i| r.f32() * 10f32.powi(i % 9 - 5)));
    both(|m| {
        let mut mem = Memory::new();
        let args = [mem.upload(&x), mem.alloc(128), mem.alloc(128), mem.alloc(1024)];
        clean(m, "bytes", &mut mem, &one(1, 128), &args.map(Arg::Ptr));
        let (e4, e5) = (mem.download::<u8>(args[1], 128).unwrap(), mem.download::<u8>(args[2], 128).unwrap());
        let back = mem.download::<f32>(args[3], 256).unwrap();
        for i in 0..128 {
            assert_eq!((e4[i], e5[i]), (nearest(&v4, x[i]), nearest(&v5, x[i])), "{}", x[i]);
            let sign = if x[i].is_sign_negative() { -1.0 } else { 1.0 };
            assert_eq!(back[2 * i] as f64, sign * v4[e4[i] as usize & 127]);
            assert_eq!(back[2 * i + 1] as f64, sign * v5[e5[i] as usize & 127]);
        }
    });
}

#[test]
fn wmma_of_doubles_nibbles_and_bits() {
    let mut r = Rng(8);
    let mut small =
        |n: usize, low: i64, span: u64| -> Vec<i64> { (0..n).map(|_| low + (r.next() % span) as i64).collect() };
    let (a, b) = (small(8 * 4, -9, 19), small(8 * 4, -9, 19));
    let (an, bn) = (small(8 * 32, -8, 16), small(8 * 32, -8, 16));
    let (ab, bb) = (small(8 * 128, 0, 2), small(8 * 128, 0, 2));
    let pack = |v: &[i64], bits: usize| -> Vec<u8> {
        let per = 8 / bits;
        v.chunks(per)
            .map(|c| c.iter().rev().fold(0u8, |s, x| ((s as u16) << bits) as u8 | (*x as u8 & ((1 << bits) - 1))))
            .collect()
    };
    let dot =
        |a: &[i64], b: &[i64], k: usize, i: usize| -> i64 { (0..k).map(|t| a[i / 8 * k + t] * b[i % 8 * k + t]).sum() };
    both(|m| {
        let mut mem = Memory::new();
        let f = |v: &[i64]| v.iter().map(|x| *x as f64).collect::<Vec<_>>();
        let args = [mem.upload(&f(&a)), mem.upload(&f(&b)), mem.alloc(512)];
        clean(m, "doubles", &mut mem, &one(1, 32), &args.map(Arg::Ptr));
        let got = mem.download::<f64>(args[2], 64).unwrap();
        (0..64).for_each(|i| assert_eq!(got[i], (dot(&a, &b, 4, i) + 1) as f64));
        let args = [mem.upload(&pack(&an, 4)), mem.upload(&pack(&bn, 4)), mem.alloc(256)];
        clean(m, "nibbles", &mut mem, &one(1, 32), &args.map(Arg::Ptr));
        let got = mem.download::<i32>(args[2], 64).unwrap();
        (0..64).for_each(|i| assert_eq!(got[i] as i64, dot(&an, &bn, 32, i)));
        let args = [mem.upload(&pack(&ab, 1)), mem.upload(&pack(&bb, 1)), mem.alloc(256)];
        clean(m, "binary", &mut mem, &one(1, 32), &args.map(Arg::Ptr));
        let got = mem.download::<i32>(args[2], 64).unwrap();
        for i in 0..64 {
            let differ = (0..128).filter(|t| ab[i / 8 * 128 + t] != bb[i % 8 * 128 + t]).count();
            assert_eq!(got[i], differ as i32);
        }
    });
}

#[test]
fn vector_atomics_and_remote_updates() {
    let m = module("foreign.compute_90a");
    let mut mem = Memory::new();
    let (f, g) = (mem.upload(&[0f32; 2]), mem.upload(&[0f32; 4]));
    clean(&m, "vector_atomics", &mut mem, &one(1, 64), &[f, g].map(Arg::Ptr));
    assert_eq!(mem.download::<f32>(f, 2).unwrap(), [2016.0, 64.0]);
    assert_eq!(mem.download::<f32>(g, 4).unwrap(), [64.0, 128.0, 192.0, 2016.0]);
    let (o, s) = (mem.alloc(512), mem.alloc(8));
    clean(&m, "push", &mut mem, &one(2, 64), &[o, s].map(Arg::Ptr));
    let want: Vec<i32> = (0..128).map(|i| if i < 64 { i + 100 } else { i - 64 }).collect();
    assert_eq!(mem.download::<i32>(o, 128).unwrap(), want);
    assert_eq!(mem.download::<u32>(s, 2).unwrap(), [2023; 2]);
}
