//! Compiled scalar code (`cu/simt.cu`) against the same computations in Rust.

#![allow(clippy::needless_range_loop, clippy::type_complexity)]
mod common;
use common::{Rng, clean, module, patterns};
use ptxsim::{Arg, Config, Memory};

const ARCHS: [&str; 2] = ["simt.compute_80", "simt.compute_90a"];

fn one(n: u32) -> Config {
    Config::new([1; 3], [n, 1, 1])
}

#[test]
fn math_functions() {
    let xs: Vec<f32> =
        (0..32).map(|i| [0.001, 0.3, 1.0, 2.5, 7.75, 19.0, 101.5, 30000.0][i % 8] * (1.0 + i as f32 / 64.0)).collect();
    for arch in ARCHS {
        let m = module(arch);
        let mut mem = Memory::new();
        let (p, q) = (mem.upload(&xs), mem.alloc(32 * 21 * 4));
        clean(&m, "k_math", &mut mem, &one(32), &[Arg::Ptr(p), Arg::Ptr(q)]);
        let o = mem.download::<f32>(q, 32 * 21).unwrap();
        let fns: [(usize, fn(f64) -> f64, f64); 18] = [
            (0, f64::exp, 3e-6),
            (1, f64::ln, 1e-6),
            (2, f64::sin, 1e-6),
            (3, f64::cos, 1e-6),
            (4, f64::tanh, 1e-6),
            (5, |x| x.powf(1.7f32 as f64), 1e-6),
            (6, f64::sqrt, 1e-7),
            (7, |x| 1.0 / x, 1e-7),
            (8, |x| 1.0 / x.sqrt(), 3e-7),
            (9, |x| x % 0.3f32 as f64, 1e-6),
            (10, f64::ln_1p, 1e-6),
            (11, f64::exp_m1, 3e-6),
            (12, f64::cbrt, 1e-6),
            (13, |x| x.atan2(2.0), 1e-6),
            (14, |x| x.floor() + x.ceil() + x.round() + x.trunc() + x.round_ties_even(), 1e-6),
            (15, |x| (x / 40000.0).asin(), 1e-6),
            (16, |x| (x / 1000.0).sinh(), 1e-5),
            (17, |x| x * 8.0, 0.0),
        ];
        for (k, f, tol) in fns {
            for (i, x) in xs.iter().enumerate() {
                let (got, want) = (o[k * 32 + i] as f64, f(*x as f64));
                let inf = (want > f32::MAX as f64 && got.is_infinite()) || (want.is_nan() && got.is_nan());
                assert!(
                    inf || (got - want).abs() <= want.abs() * tol + tol * 1e-1,
                    "{arch} function {k} of {x}: {got} not {want}"
                );
            }
        }
        assert!(o[18 * 32..19 * 32].iter().zip(&xs).all(|(d, x)| *d == -x));
        // erf(0.3) and Γ(2.5), from tables.
        assert!((o[19 * 32 + 1] as f64 - libm_erf(xs[1] as f64)).abs() < 1e-6);
        assert!((o[20 * 32 + 3] as f64 - gamma(xs[3] as f64)).abs() < 1e-5);
    }
}

/// erf by its Maclaurin series.
fn libm_erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..60 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// Γ by recurrence into the range of Stirling's series.
fn gamma(mut x: f64) -> f64 {
    let mut div = 1.0;
    while x < 20.0 {
        div *= x;
        x += 1.0;
    }
    let ln =
        (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3));
    ln.exp() / div
}

#[test]
fn double_precision_functions() {
    let xs: Vec<f64> =
        (0..32).map(|i| [0.001, 0.3, 1.0, 2.5, 7.75, 19.0, 101.5, 300.0][i % 8] * (1.0 + i as f64 / 64.0)).collect();
    for arch in ARCHS {
        let m = module(arch);
        let mut mem = Memory::new();
        let (p, q) = (mem.upload(&xs), mem.alloc(32 * 13 * 8));
        clean(&m, "k_double", &mut mem, &one(32), &[Arg::Ptr(p), Arg::Ptr(q)]);
        let o = mem.download::<f64>(q, 32 * 13).unwrap();
        let fns: [fn(f64) -> f64; 13] = [
            f64::exp,
            f64::ln,
            f64::sin,
            f64::sqrt,
            |x| 1.0 / x,
            |x| x.powf(1.5),
            f64::tanh,
            |x| x.mul_add(x, 1.0),
            f64::floor,
            |x| 1.0 / x.sqrt(),
            |x| x % 0.3,
            f64::cbrt,
            |x| (x * 1e6).cos(),
        ];
        for (k, f) in fns.iter().enumerate() {
            for (i, x) in xs.iter().enumerate() {
                let (got, want) = (o[k * 32 + i], f(*x));
                assert!(
                    (got - want).abs() <= want.abs() * 1e-14 + 1e-15,
                    "{arch} function {k} of {x}: {got} not {want}"
                );
            }
        }
    }
}

#[test]
fn integers_of_every_width() {
    let mut r = Rng(3);
    let p: Vec<u32> = patterns(32, 32, 3).iter().map(|x| *x as u32).collect();
    let q: Vec<i32> = patterns(32, 32, 9).iter().map(|x| *x as i32).collect();
    let (z, w): (Vec<u64>, Vec<i64>) = (0..32).map(|_| (r.next(), r.next() as i64)).unzip();
    for arch in ARCHS {
        let m = module(arch);
        let mut mem = Memory::new();
        let args = [mem.upload(&p), mem.upload(&q), mem.upload(&z), mem.upload(&w), mem.alloc(32 * 25 * 8)];
        clean(&m, "k_int", &mut mem, &one(32), &args.map(Arg::Ptr));
        let o = mem.download::<u64>(args[4], 32 * 25).unwrap();
        for i in 0..32 {
            let (x, y, z, w) = (p[i], q[i], z[i], w[i]);
            let (xb, yb) = (x.to_le_bytes(), y.to_le_bytes());
            let bytes = [xb, yb].concat();
            let odd = (x | 1) as i32;
            let want: [u64; 25] = [
                (y / 7) as u32 as u64,
                (y % 13) as u32 as u64,
                y.wrapping_div(odd) as u32 as u64,
                y.wrapping_rem(odd) as u32 as u64,
                (x / 9) as u64,
                (x % (y as u32 | 1)) as u64,
                z / 10,
                z % 7,
                z.wrapping_mul(w as u64),
                z / (w as u64 | 1),
                (w / 10) as u64,
                (w % (y | 1) as i64) as u64,
                ((z as u128 * w as u64 as u128) >> 64) as u64,
                ((w as i128 * z as i64 as i128) >> 64) as u64,
                z << (x & 63),
                (w >> (x & 63)) as u64,
                (((y as u32 as u64) << 32 | x as u64) << (x & 31) >> 32),
                // __byte_perm ignores the sign bit of the selectors.
                u32::from_le_bytes([0, 1, 2, 3].map(|k| bytes[(x >> (4 * k)) as usize & 7])) as u64,
                z.reverse_bits(),
                if z == 0 { 0 } else { z.trailing_zeros() as u64 + 1 },
                u32::from_le_bytes([0, 1, 2, 3].map(|k| xb[k].wrapping_add(yb[k]))) as u64,
                ((x as i16).max(y as i16) as u16 as u64)
                    | (((x >> 16) as i16).max((y >> 16) as i16) as u16 as u64) << 16,
                u32::from_le_bytes([0, 1, 2, 3].map(|k| xb[k].abs_diff(yb[k]))) as u64,
                ((y as i64 + 5 + 1) >> 1) as i32 as i64 as u64,
                w.min(y as i64) as u64,
            ];
            for (k, v) in want.iter().enumerate() {
                assert_eq!(o[k * 32 + i], *v, "{arch} value {k} of {x:#x} {y:#x} {z:#x} {w:#x}");
            }
        }
        let (rv, out) = (mem.upload(&z[..4]), mem.alloc(16));
        clean(&m, "k_int128", &mut mem, &one(1), &[Arg::Ptr(rv), Arg::Ptr(out)]);
        let a = (z[0] as u128).wrapping_mul(z[1] as u128).wrapping_add(z[2] as u128).wrapping_add((z[3] as u128) << 64);
        let a = a.wrapping_sub(z[1] as u128) / (z[2] | 1) as u128;
        assert_eq!(mem.download::<u64>(out, 2).unwrap(), [a as u64, (a >> 64) as u64], "{arch}");
    }
}

#[test]
fn calls_constants_locals_and_structs() {
    for arch in ARCHS {
        let m = module(arch);
        let mut mem = Memory::new();
        let v: Vec<f32> = (0..32).map(|i| i as f32 / 4.0).collect();
        let (p, q) = (mem.upload(&v), mem.alloc(128));
        clean(&m, "k_call", &mut mem, &one(32), &[Arg::Ptr(p), Arg::Ptr(q), Arg::I32(5)]);
        let helper = |a: f32, n: usize| v[..n].iter().fold(a, |s, x| x.mul_add(a, s));
        for (i, d) in mem.download::<f32>(q, 32).unwrap().into_iter().enumerate() {
            assert_eq!(d, helper(v[i], 5) + if v[i] > 3.0 { helper(1.0, 2) } else { 0.0 }, "{arch} k_call {i}");
        }
        let (sym, n) = m.symbol(&mut mem, "ctab").unwrap();
        assert_eq!(n, 256);
        mem.write(sym, &(0..64u32).flat_map(|i| (i as f32 * 0.5).to_le_bytes()).collect::<Vec<_>>()).unwrap();
        let out = mem.alloc(256);
        clean(&m, "k_const", &mut mem, &one(64), &[Arg::Ptr(out)]);
        for (i, d) in mem.download::<f32>(out, 64).unwrap().into_iter().enumerate() {
            assert_eq!(d, i as f32 * 0.5 + [1.0, 2.0, 3.0, 4.0][i & 3] + 3.0);
        }
        let mut buf = v.clone();
        buf.resize(64, 0.0);
        let p = mem.upload(&buf);
        clean(&m, "k_local", &mut mem, &one(32), &[Arg::Ptr(p), Arg::I32(100)]);
        let mut a: Vec<f32> = v.clone();
        (0..100).for_each(|i| a[(i * 7) & 31] += a[(i * 3 + 100) & 31]);
        assert_eq!(mem.download::<f32>(p, 64).unwrap()[40], a.iter().sum::<f32>());
        let big = |k: f32| {
            let mut b: Vec<u8> = (0..20).flat_map(|i| (i as f32 + k).to_le_bytes()).collect();
            b.extend(7i32.to_le_bytes());
            b.resize(88, 0);
            b.extend(2.5f64.to_le_bytes());
            Arg::Bytes(b)
        };
        let out = mem.alloc(128);
        clean(&m, "k_struct", &mut mem, &one(32), &[big(0.0), Arg::Ptr(out), big(100.0)]);
        for (i, d) in mem.download::<f32>(out, 32).unwrap().into_iter().enumerate() {
            assert_eq!(d, (i % 20) as f32 + 9.5 + 100.0 + (i % 19) as f32);
        }
    }
}

#[test]
fn small_integers_switches_and_loops() {
    for arch in ARCHS {
        let m = module(arch);
        let mut mem = Memory::new();
        let a: Vec<i8> = (0..32).map(|i| (i * 9 - 128) as i8).collect();
        let b: Vec<u8> = (0..32).map(|i| (i * 8) as u8).collect();
        let c: Vec<i16> = (0..32).map(|i| (i * 11 - 170) as i16).collect();
        let d: Vec<u16> = (0..32).map(|i| (i * 2047) as u16).collect();
        let args = [mem.upload(&a), mem.upload(&b), mem.upload(&c), mem.upload(&d), mem.alloc(128)];
        clean(&m, "k_small", &mut mem, &one(32), &args.map(Arg::Ptr));
        let (ra, rc) = (mem.download::<i8>(args[0], 32).unwrap(), mem.download::<i16>(args[2], 32).unwrap());
        let (rd, rf) = (mem.download::<u16>(args[3], 32).unwrap(), mem.download::<f32>(args[4], 32).unwrap());
        for i in 0..32 {
            let na = (a[i] as i32 * 3 + b[i] as i32) as i8;
            let nc = (c[i] as i32 * c[i] as i32 / 3) as i16;
            let nd = d[i].wrapping_add(na as i16 as u16);
            assert_eq!((ra[i], rc[i], rd[i]), (na, nc, nd), "{arch} {i}");
            assert_eq!(rf[i], na as f32 + (b[i] >> 1) as f32 * 2.0 + nc as f32 + nd as f32);
        }
        let p: Vec<i32> = (0..32).map(|i| i % 10).collect();
        let (pp, q) = (mem.upload(&p), mem.alloc(128));
        clean(&m, "k_switch", &mut mem, &one(32), &[Arg::Ptr(pp), Arg::Ptr(q)]);
        let case = |x: i32| match x {
            0 => p[1] * 3,
            1 => p[2] + 5,
            2 => p[4] ^ 77,
            3 => p[7].count_ones() as i32,
            4 => p[8] / 3,
            5 => p[11] % 5,
            6 => p[12] << 3,
            7 => -p[13],
            _ => 1,
        };
        assert_eq!(mem.download::<i32>(q, 32).unwrap(), p.iter().map(|x| case(*x)).collect::<Vec<_>>());
        let v: Vec<u32> = (1..=96).collect();
        let (pp, q) = (mem.upload(&v), mem.alloc(384));
        clean(&m, "k_collatz", &mut mem, &one(96), &[Arg::Ptr(pp), Arg::Ptr(q)]);
        let steps = |mut x: u32| {
            let mut n = 0;
            while x != 1 {
                x = if x & 1 == 1 { 3 * x + 1 } else { x / 2 };
                n += 1;
            }
            n
        };
        assert_eq!(mem.download::<u32>(q, 96).unwrap(), v.iter().map(|x| steps(*x)).collect::<Vec<u32>>());
    }
}

#[test]
fn generic_pointers_reach_every_space() {
    for arch in ARCHS {
        let m = module(arch);
        for (n, want) in [(0, 2.0), (1, 2.0), (2, -1.0)] {
            let mut mem = Memory::new();
            let p = mem.upload(&[0f32; 128]);
            clean(&m, "k_generic", &mut mem, &one(64), &[Arg::Ptr(p), Arg::I32(n)]);
            for (i, d) in mem.download::<f32>(p, 128).unwrap()[64..].iter().enumerate() {
                assert_eq!(*d, if n == 2 { i as f32 + 1.0 } else { want }, "{arch} {n} {i}");
            }
        }
    }
}
