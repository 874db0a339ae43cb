//! Planted faults are caught, and the correct versions of the same kernels stay clean and compute the right values.
//!
//! The kernels are `cu/faults.cu`, compiled once without and once with each fault.

#![allow(clippy::needless_range_loop, clippy::type_complexity)]
mod common;
use common::module;
use ptxsim::{Arg, Config, FindingKind as K, Memory, Report, launch};

/// Runs kernel `k` of the version with fault `n`; returns the report and the output buffer.
fn run(n: u32, k: &str) -> (Report, Vec<f32>) {
    let m = module(&format!("faults{n}"));
    let mut mem = Memory::new();
    let ramp: Vec<f32> = (0..4096).map(|i| (i % 61) as f32).collect();
    let a = mem.upload(&ramp);
    let out = mem.alloc(4096 * 4);
    let cfg = |g, b| Config::new([g, 1, 1], [b, 1, 1]);
    let (cfg, args) = match k {
        "reverse" => (cfg(3, 256), vec![Arg::Ptr(a), Arg::Ptr(out)]),
        "reduce" => (cfg(1, 256), vec![Arg::Ptr(a), Arg::Ptr(out), Arg::I32(1024)]),
        "pipeline" => (cfg(1, 128), vec![Arg::Ptr(a), Arg::Ptr(out), Arg::I32(6)]),
        "scale" => {
            let x = mem.upload(&ramp[..100]);
            let r = launch(&m, k, &mut mem, &cfg(1, 128), &[Arg::Ptr(x), Arg::I32(100), Arg::F32(2.0)]).unwrap();
            return (r, mem.download(x, 100).unwrap());
        }
        "stencil" => (cfg(8, 64), vec![Arg::Ptr(a), Arg::Ptr(out)]),
        "window" | "overrun" => (cfg(1, 64), vec![Arg::Ptr(a), Arg::Ptr(out)]),
        "diverge" => (cfg(1, 64), vec![Arg::Ptr(out)]),
        "named" => (cfg(1, 128), vec![Arg::Ptr(out)]),
        "neighbours" | "vectors" => (cfg(1, 32), vec![Arg::Ptr(a), Arg::Ptr(out)]),
        "last_block" => {
            let partial = mem.alloc(16 * 4);
            (cfg(16, 64), vec![Arg::Ptr(a), Arg::Ptr(partial), Arg::Ptr(out)])
        }
        "pairs" => {
            let r = launch(&m, k, &mut mem, &cfg(2, 64), &[Arg::Ptr(a), Arg::Ptr(out)]).unwrap();
            return (r, vec![]);
        }
        _ => unreachable!(),
    };
    let r = launch(&m, k, &mut mem, &cfg, &args).unwrap();
    (r, mem.download(out, 4096).unwrap())
}

#[test]
fn correct_kernels_are_clean_and_right() {
    let a = |i: usize| (i % 61) as f32;
    type Expect<'a> = (&'a str, usize, Box<dyn Fn(usize) -> f32>);
    let expect: Vec<Expect> = vec![
        ("reverse", 768, Box::new(move |i| a(i / 256 * 256 + 255 - i % 256))),
        ("reduce", 1, Box::new(move |_| (0..1024).map(a).sum())),
        ("pipeline", 6 * 512, Box::new(move |i| a(i / 512 * 512 + (127 - i % 512 / 4) * 4 + i % 4))),
        ("scale", 100, Box::new(move |i| 2.0 * a(i))),
        ("stencil", 512, Box::new(a)),
        (
            "window",
            64,
            Box::new(move |i| (if i > 0 { a(i - 1) } else { 0.0 }) + a(i) + if i < 63 { a(i + 1) } else { 0.0 }),
        ),
        ("diverge", 64, Box::new(|i| 63.0 - i as f32)),
        ("named", 64, Box::new(|i| i as f32)),
        ("neighbours", 32, Box::new(move |i| a(i ^ 1))),
        ("last_block", 1, Box::new(move |_| (0..1024).map(a).sum())),
        ("vectors", 128, Box::new(a)),
        ("overrun", 64, Box::new(move |i| a((i + 1) % 64))),
    ];
    for (k, n, f) in expect {
        let (r, v) = run(0, k);
        assert!(r.is_clean(), "{k}: {r}");
        for (i, x) in v[..n].iter().enumerate() {
            assert_eq!(*x, f(i), "{k}[{i}]");
        }
    }
    let (r, _) = run(0, "pairs");
    assert!(r.is_clean(), "pairs: {r}");
}

#[test]
fn planted_faults_are_caught() {
    for (n, k, kind) in [
        (1, "reverse", K::Race),
        (2, "reduce", K::Race),
        (3, "reduce", K::Race),
        (4, "pipeline", K::InFlight),
        (5, "pipeline", K::InFlight),
        (6, "pipeline", K::Race),
        (7, "scale", K::OutOfBounds),
        (8, "stencil", K::RaceBetweenCtas),
        (9, "stencil", K::RaceBetweenCtas),
        (10, "window", K::Uninitialised),
        (11, "diverge", K::DivergentBarrier),
        (12, "named", K::Misuse),
        (13, "neighbours", K::Race),
        (14, "last_block", K::RaceBetweenCtas),
        (15, "vectors", K::Misaligned),
        (16, "pairs", K::Race),
        (17, "overrun", K::OutOfBounds),
    ] {
        let (r, _) = run(n, k);
        assert!(r.has(kind), "fault {n} in {k}: expected {kind:?}, found {r}");
        let f = r.findings.iter().find(|f| f.kind == kind).unwrap();
        assert!(f.line > 0 && f.kernel == k, "{f}");
    }
}

#[test]
fn a_report_names_both_sides() {
    let (r, _) = run(1, "reverse");
    let text = r.to_string();
    assert!(text.contains("kernel reverse") && text.contains("shared byte") && text.contains("thread ("), "{text}");
    let (r, _) = run(7, "scale");
    assert!(r.to_string().contains("4 bytes at offset 400 of an allocation of 400 bytes"), "{r}");
    assert_eq!(r.findings[0].thread, [100, 0, 0]);
}
