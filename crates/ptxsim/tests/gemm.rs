//! Matrix products from compiled CUDA (`cu/gemm.cu`) against plain loops, and the speed and determinism they must keep.

#![allow(clippy::needless_range_loop, clippy::type_complexity)]
mod common;
use common::{Rng, bf16, clean, module};
use half::f16;
use ptxsim::{Arg, Config, FindingKind, Memory, Report};

fn gemm(m: usize, n: usize, k: usize) -> (Report, f64, Vec<f32>) {
    let md = module("gemm.compute_80");
    let mut mem = Memory::new();
    let mut r = Rng(5);
    let a: Vec<u16> = (0..m * k).map(|_| bf16(r.f32())).collect();
    let b: Vec<u16> = (0..n * k).map(|_| bf16(r.f32())).collect();
    let (pa, pb, pc) = (mem.upload(&a), mem.upload(&b), mem.alloc(m * n * 4));
    let cfg = Config { shared: 61440, count: true, ..Config::new([n as u32 / 128, m as u32 / 128, 1], [256, 1, 1]) };
    let args = [Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(pc), Arg::I32(m as i32), Arg::I32(n as i32), Arg::I32(k as i32)];
    let rep = clean(&md, "gemm_bf16", &mut mem, &cfg, &args);
    let c = mem.download::<f32>(pc, m * n).unwrap();
    let f = |x: u16| half::bf16::from_bits(x).to_f64();
    let mut worst = 0f64;
    for i in (0..m).step_by(7) {
        for j in (0..n).step_by(5) {
            let want: f64 = (0..k).map(|t| f(a[i * k + t]) * f(b[j * k + t])).sum();
            worst = worst.max((c[i * n + j] as f64 - want).abs());
        }
    }
    (rep, worst, c)
}

#[test]
fn bf16_gemm_is_right_and_free_of_bank_conflicts() {
    for (m, n, k) in [(128, 128, 32), (128, 256, 96), (256, 128, 256)] {
        let (r, err, _) = gemm(m, n, k);
        assert!(err < 1e-4, "{m} {n} {k}: {err}");
        // Padded rows: ldmatrix never meets a bank twice.
        assert_eq!(r.counters.bank_conflicts, 0);
        let mmas = r.counters.instructions.iter().find(|(k, _)| k.starts_with("mma.sync")).unwrap().1.0;
        assert_eq!(mmas as usize, m * n * k / (16 * 8 * 16));
        assert!(r.counters.global_sectors > 0 && r.counters.global_lines <= r.counters.global_sectors);
    }
}

#[test]
fn same_results_and_report_for_any_number_of_threads() {
    let runs: Vec<_> = [1, 2, 3, 8]
        .map(|n| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
            pool.install(|| {
                let (r, _, c) = gemm(256, 256, 64);
                let racy = [racy(400), racy(200)];
                (r, c.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), racy)
            })
        })
        .into();
    assert!(runs.windows(2).all(|w| w[0] == w[1]));
    let [(races, _), (fatal, _)] = &runs[0].2;
    assert!(races.has(FindingKind::RaceBetweenCtas) && races.fatal().is_none(), "{races}");
    assert!(fatal.has(FindingKind::OutOfBounds), "{fatal}");
}

/// A kernel whose blocks race, or run past the end of `n` elements: the report and even the memory must not depend on
/// scheduling.
fn racy(n: usize) -> (Report, Vec<u32>) {
    let m = ptxsim::Module::parse(".version 8.0 .target sm_80 .address_size 64
        .entry k(.param .u64 p) { .reg .b32 %r<9>; .reg .b64 %rd<9>; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %tid.x; ld.param.u64 %rd1, [p];
        add.u32 %r3, %r1, %r2; mul.wide.u32 %rd2, %r3, 4; add.u64 %rd3, %rd1, %rd2; ld.global.u32 %r4, [%rd3]; mad.lo.u32 %r4, %r4, 3, %r1; st.global.u32 [%rd3], %r4; ret; }").unwrap();
    let mut mem = Memory::new();
    let p = mem.upload(&vec![1u32; n]);
    let r = ptxsim::launch(&m, "k", &mut mem, &Config::new([300, 1, 1], [64, 1, 1]), &[Arg::Ptr(p)]).unwrap();
    (r, mem.download(p, n).unwrap())
}

#[test]
fn f32_gemm() {
    let (n, m, mut mem) = (96usize, module("gemm.compute_80"), Memory::new());
    let mut r = Rng(9);
    let (a, b): (Vec<f32>, Vec<f32>) = (0..n * n).map(|_| (r.f32(), r.f32())).unzip();
    let (pa, pb, pc) = (mem.upload(&a), mem.upload(&b), mem.alloc(n * n * 4));
    let args = [Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(pc), Arg::I32(n as i32)];
    clean(&m, "sgemm", &mut mem, &Config::new([6, 6, 1], [16, 16, 1]), &args);
    let c = mem.download::<f32>(pc, n * n).unwrap();
    for i in 0..n {
        for j in 0..n {
            // The same order of fused operations gives the same bits.
            let want = (0..n).fold(0f32, |s, t| a[i * n + t].mul_add(b[t * n + j], s));
            assert_eq!(c[i * n + j], want);
        }
    }
}

#[test]
fn wmma_shapes_and_layouts() {
    let m = module("gemm.compute_80");
    let mut mem = Memory::new();
    let mut r = Rng(31);
    let mut ints = |n: usize| (0..n).map(|_| (r.next() % 7) as i32 - 3).collect::<Vec<i32>>();
    let (a, b, c0) = (ints(512), ints(512), ints(256));
    let h = |v: &[i32]| v.iter().map(|x| f16::from_f32(*x as f32).to_bits()).collect::<Vec<u16>>();
    let bf = |v: &[i32]| v.iter().map(|x| bf16(*x as f32)).collect::<Vec<u16>>();
    let i8s = |v: &[i32]| v.iter().map(|x| *x as i8).collect::<Vec<i8>>();
    let c: Vec<f32> = (0..5).flat_map(|_| c0.iter().map(|x| *x as f32)).collect();
    let args = [
        mem.upload(&h(&a)),
        mem.upload(&h(&b)),
        mem.upload(&bf(&a)),
        mem.upload(&bf(&b)),
        mem.upload(&i8s(&a)),
        mem.upload(&i8s(&b)),
        mem.upload(&c),
        mem.upload(&c0),
        mem.upload(&h(&c0)),
    ];
    clean(&m, "k_wmma", &mut mem, &Config::new([1; 3], [32, 1, 1]), &args.map(Arg::Ptr));
    let out = mem.download::<f32>(args[6], 1280).unwrap();
    let row = |i: usize, t: usize| a[i * 16 + t];
    let col = |t: usize, j: usize| b[j * 16 + t];
    let check = |name: &str,
                 got: &dyn Fn(usize) -> f32,
                 m: usize,
                 n: usize,
                 fa: &dyn Fn(usize, usize) -> i32,
                 fb: &dyn Fn(usize, usize) -> i32| {
        for i in 0..m {
            for j in 0..n {
                let want = c0[i * n + j] + (0..16).map(|t| fa(i, t) * fb(t, j)).sum::<i32>();
                assert_eq!(got(i * n + j), want as f32, "{name} ({i},{j})");
            }
        }
    };
    check("16x16", &|i| out[i], 16, 16, &row, &col);
    check("16x16 transposed", &|i| out[256 + i], 16, 16, &|i, t| a[t * 16 + i], &|t, j| b[t * 16 + j]);
    check("32x8", &|i| out[512 + i], 32, 8, &row, &col);
    check("8x32", &|i| out[768 + i], 8, 32, &row, &col);
    check("bf16", &|i| out[1024 + i], 16, 16, &row, &col);
    let ci = mem.download::<i32>(args[7], 256).unwrap();
    check("s8", &|i| ci[i] as f32, 16, 16, &row, &col);
    let ch = mem.download::<u16>(args[8], 256).unwrap();
    check("f16", &|i| f16::from_bits(ch[i]).to_f32(), 16, 16, &row, &|t, j| b[t * 16 + j]);
}
