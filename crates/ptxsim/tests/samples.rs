//! Whole kernels as people write them (`cu/samples.cu`): CUB collectives, norms, attention, sorting, scans.

mod common;
use common::{Rng, bf16, clean, module};
use ptxsim::{Arg, Config, Memory, Module};

fn both(f: impl Fn(&Module, &mut Memory)) {
    for arch in ["samples.compute_80", "samples.compute_90a"] {
        f(&module(arch), &mut Memory::new());
    }
}

fn cfg(grid: u32, block: u32) -> Config {
    Config::new([grid, 1, 1], [block, 1, 1])
}

fn ints(n: usize, modulus: u64) -> Vec<i32> {
    let mut r = Rng(77);
    (0..n).map(|_| (r.next() % modulus) as i32).collect()
}

#[test]
fn cub_collectives() {
    both(|m, mem| {
        let x = ints(512, 1000);
        let (a, b) = (mem.upload(&x), mem.alloc(2048));
        clean(m, "k_scan", mem, &cfg(1, 128), &[Arg::Ptr(a), Arg::Ptr(b)]);
        let mut sum = 0;
        for (v, d) in x.iter().zip(mem.download::<i32>(b, 128).unwrap()) {
            sum += v;
            assert_eq!(d, sum);
        }
        clean(m, "k_sort", mem, &cfg(1, 128), &[Arg::Ptr(a), Arg::Ptr(b)]);
        let mut want = x.clone();
        want.sort_unstable();
        assert_eq!(mem.download::<i32>(b, 512).unwrap(), want);
        let bytes: Vec<u8> = x.iter().map(|v| *v as u8).collect();
        let (c, h) = (mem.upload(&bytes), mem.alloc(1024));
        clean(m, "k_hist", mem, &cfg(1, 128), &[Arg::Ptr(c), Arg::Ptr(h)]);
        let mut want = vec![0; 256];
        bytes.iter().for_each(|v| want[*v as usize] += 1);
        assert_eq!(mem.download::<i32>(h, 256).unwrap(), want);
        let f: Vec<f32> = x.iter().map(|v| *v as f32).collect();
        let (a, b) = (mem.upload(&f), mem.alloc(2048));
        clean(m, "k_bred", mem, &cfg(1, 256), &[Arg::Ptr(a), Arg::Ptr(b)]);
        assert_eq!(mem.download::<f32>(b, 1).unwrap()[0], f[..256].iter().sum::<f32>());
        clean(m, "k_load", mem, &cfg(1, 128), &[Arg::Ptr(a), Arg::Ptr(b)]);
        assert!(mem.download::<f32>(b, 512).unwrap().iter().zip(&f).all(|(d, x)| *d == 2.0 * x));
    });
}

#[test]
fn single_pass_scan_and_compaction() {
    both(|m, mem| {
        let x = ints(1024, 50);
        let (a, o) = (mem.upload(&x), mem.alloc(4096));
        let (state, ticket) = (mem.upload(&[0i32; 16]), mem.upload(&[0i32]));
        clean(m, "k_lookback", mem, &cfg(8, 128), &[a, o, state, ticket].map(Arg::Ptr));
        let mut sum = 0;
        for (v, d) in x.iter().zip(mem.download::<i32>(o, 1024).unwrap()) {
            sum += v;
            assert_eq!(d, sum);
        }
        let count = mem.upload(&[0i32]);
        clean(m, "k_compact", mem, &cfg(5, 64), &[Arg::Ptr(a), Arg::Ptr(o), Arg::Ptr(count), Arg::I32(300)]);
        let mut want: Vec<i32> = x[..300].iter().copied().filter(|v| *v > 5).collect();
        let n = mem.download::<i32>(count, 1).unwrap()[0] as usize;
        let mut got = mem.download::<i32>(o, n).unwrap();
        want.sort_unstable();
        got.sort_unstable();
        assert_eq!(got, want);
    });
}

#[test]
fn sorting_and_simulation() {
    both(|m, mem| {
        let x = ints(256, 10_000);
        let a = mem.upload(&x);
        clean(m, "k_bitonic", mem, &cfg(1, 256), &[Arg::Ptr(a)]);
        let mut want = x;
        want.sort_unstable();
        assert_eq!(mem.download::<i32>(a, 256).unwrap(), want);
        let mut r = Rng(3);
        let p: Vec<f32> = (0..512).map(|_| r.f32()).collect();
        let (a, f) = (mem.upload(&p), mem.alloc(128 * 12));
        clean(m, "k_nbody", mem, &cfg(2, 64), &[Arg::Ptr(a), Arg::Ptr(f), Arg::I32(128)]);
        let out = mem.download::<f32>(f, 384).unwrap();
        for i in 0..128 {
            let mut want = [0f64; 3];
            for j in 0..128 {
                let d: [f64; 3] = std::array::from_fn(|k| (p[4 * j + k] - p[4 * i + k]) as f64);
                let r2 = d.iter().map(|x| x * x).sum::<f64>() + 1e-3;
                (0..3).for_each(|k| want[k] += d[k] * p[4 * j + 3] as f64 / (r2 * r2 * r2).sqrt());
            }
            for k in 0..3 {
                assert!((out[3 * i + k] as f64 - want[k]).abs() < 1e-2 + want[k].abs() * 1e-3, "{i} {k}");
            }
        }
    });
}

#[test]
fn norms_attention_and_optimiser() {
    both(|m, mem| {
        let mut r = Rng(8);
        let x: Vec<u16> = (0..256).map(|_| bf16(r.f32())).collect();
        let w: Vec<u16> = (0..128).map(|_| bf16(r.f32())).collect();
        let (a, b, c) = (mem.upload(&x), mem.upload(&w), mem.alloc(512));
        let args = [Arg::Ptr(a), Arg::Ptr(b), Arg::Ptr(c), Arg::I32(128), Arg::F32(1e-5)];
        clean(m, "k_rms", mem, &cfg(2, 128), &args);
        let f = |x: u16| half::bf16::from_bits(x).to_f64();
        for (i, d) in mem.download::<u16>(c, 256).unwrap().into_iter().enumerate() {
            let row = i / 128 * 128;
            let ms = x[row..row + 128].iter().map(|v| f(*v) * f(*v)).sum::<f64>() / 128.0;
            let want = f(x[i]) / (ms + 1e-5).sqrt() * f(w[i % 128]);
            assert!((f(d) - want).abs() <= want.abs() / 128.0 + 1e-6, "{i}: {} {want}", f(d));
        }
        let (t, dim) = (80usize, 32usize);
        let v: Vec<Vec<f32>> = (0..3).map(|_| (0..t * dim).map(|_| r.f32()).collect()).collect();
        let p: Vec<u64> = v.iter().map(|x| mem.upload(x)).collect();
        let o = mem.alloc(t * dim * 4);
        let args = [Arg::Ptr(p[0]), Arg::Ptr(p[1]), Arg::Ptr(p[2]), Arg::Ptr(o), Arg::I32(t as i32), Arg::F32(0.3)];
        clean(m, "k_attn", mem, &cfg(3, 32), &args);
        let out = mem.download::<f32>(o, t * dim).unwrap();
        for i in 0..t {
            let score = |j: usize| {
                (0..dim).map(|d| v[0][i * dim + d] as f64 * v[1][j * dim + d] as f64).sum::<f64>() * 0.3f32 as f64
            };
            let weights: Vec<f64> = (0..=i).map(|j| score(j).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..dim {
                let want: f64 = weights.iter().enumerate().map(|(j, e)| e / total * v[2][j * dim + d] as f64).sum();
                assert!((out[i * dim + d] as f64 - want).abs() < 1e-5, "{i} {d}");
            }
        }
        let g: Vec<f32> = (0..100).map(|_| r.f32()).collect();
        let (pp, pg, pm, pv) =
            (mem.upload(&[1f32; 100]), mem.upload(&g), mem.upload(&[0f32; 100]), mem.upload(&[0f32; 100]));
        let ptrs = [pp, pg, pm, pv].map(Arg::Ptr);
        let rest =
            [Arg::I32(100), Arg::F32(0.1), Arg::F32(0.9), Arg::F32(0.99), Arg::F32(1e-8), Arg::F32(0.01), Arg::I32(1)];
        clean(m, "k_adamw", mem, &cfg(4, 32), &[&ptrs[..], &rest[..]].concat());
        for (d, g) in mem.download::<f32>(pp, 100).unwrap().into_iter().zip(g) {
            // After one step from zero moments the update is the sign of the gradient.
            let want = 1.0 - 0.1 * (g as f64 / (g as f64).abs() + 0.01);
            assert!((d as f64 - want).abs() < 1e-4, "{d} {want}");
        }
    });
}

#[test]
fn convolution_philox_and_mandelbrot() {
    both(|m, mem| {
        let (w, h) = (30usize, 21usize);
        let x = ints(w * h, 9);
        let f: Vec<f32> = x.iter().map(|v| *v as f32).collect();
        let (sym, _) = m.symbol(mem, "kern").unwrap();
        mem.write(sym, &(0..9u32).flat_map(|i| (i as f32 - 3.0).to_le_bytes()).collect::<Vec<_>>()).unwrap();
        let (a, b) = (mem.upload(&f), mem.alloc(w * h * 4));
        let args = [Arg::Ptr(a), Arg::Ptr(b), Arg::I32(w as i32), Arg::I32(h as i32)];
        clean(m, "k_conv", mem, &Config::new([2, 2, 1], [16, 16, 1]), &args);
        let out = mem.download::<f32>(b, w * h).unwrap();
        let at = |y: i32, x_: i32| {
            if y < 0 || x_ < 0 || y >= h as i32 || x_ >= w as i32 { 0 } else { x[y as usize * w + x_ as usize] }
        };
        for (i, out) in out.iter().enumerate() {
            let (y, x_) = ((i / w) as i32, (i % w) as i32);
            let want: i32 = (0..9).map(|k| (k - 3) * at(y + k / 3 - 1, x_ + k % 3 - 1)).sum();
            assert_eq!(*out, want as f32);
        }
        // Philox4x32-10 of Salmon et al., key (0, 0), counter 0: from the known-answer tests of Random123.
        let o = mem.alloc(2 * 64 * 16);
        clean(m, "k_philox", mem, &cfg(2, 64), &[Arg::Ptr(o), Arg::Bytes(vec![0; 8])]);
        assert_eq!(mem.download::<u32>(o, 4).unwrap(), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let img = mem.alloc(128 * 16);
        clean(m, "k_mandel", mem, &Config::new([4, 16, 1], [32, 1, 1]), &[Arg::Ptr(img), Arg::I32(128)]);
        let got = mem.download::<u8>(img, 128 * 16).unwrap();
        let steps = |x: usize, y: usize| {
            let (cr, ci) = ((x as f32 * 3.0) / 128.0 - 2.0, (y as f32 * 2.0) / 128.0 - 1.0);
            let (mut a, mut b, mut n) = (0f32, 0f32, 0);
            while a * a + b * b < 4.0 && n < 255 {
                (a, b) = (a * a - b * b + cr, 2.0 * a * b + ci);
                n += 1;
            }
            n as u8
        };
        let near = (0..got.len()).filter(|i| got[*i] == steps(i % 128, i / 128)).count();
        // Contraction into fused operations moves a few points at the border.
        assert!(near * 100 > got.len() * 97, "{near}");
    });
}
