//! Kernels that come in pairs (`cu/pairs.cu`, `cu/hopper_pairs.cu`): the correct one must be clean, its twin holds one
//! fault, which must be found as what it is.

mod common;
use common::module;
use ptxsim::{Arg, Config, FindingKind as K, Memory, Module, Report, launch};

const FLOATS: fn(usize) -> Vec<u32> = |n| (0..n).map(|i| (1.0 + i as f32).to_bits()).collect();
const INTS: fn(usize) -> Vec<u32> = |n| (0..n).map(|i| i as u32 % 7).collect();

/// One launch: grid, block, input, words of output (of zeros or never written), third argument.
struct Case {
    name: &'static str,
    shape: (u32, u32),
    input: Vec<u32>,
    out: usize,
    zeros: bool,
    n: i32,
    found: K,
}

fn run(m: &Module, kernel: &str, c: &Case) -> (Report, Vec<u32>) {
    let mut mem = Memory::new();
    let a = mem.upload(&c.input);
    let o = if c.zeros { mem.upload(&vec![0u32; c.out]) } else { mem.alloc(c.out * 4) };
    // A negative third argument stands for a buffer.
    let third = if c.n < 0 { Arg::Ptr(mem.upload(&vec![0u32; -c.n as usize])) } else { Arg::I32(c.n) };
    let block = if c.name == "tile_bounds" { [16, 4, 1] } else { [c.shape.1, 1, 1] };
    let shared = if c.name == "dynamic_past" { 260 } else { 0 };
    let cfg = Config { shared, ..Config::new([c.shape.0, 1, 1], block) };
    let r = launch(m, kernel, &mut mem, &cfg, &[Arg::Ptr(a), Arg::Ptr(o), third]).unwrap();
    (r, mem.download(o, c.out).unwrap())
}

fn check(m: &Module, cases: Vec<Case>) {
    for c in cases {
        let (good, _) = run(m, &format!("{}_ok", c.name), &c);
        assert!(good.is_clean(), "{}: {good}", c.name);
        let (bad, _) = run(m, &format!("{}_bad", c.name), &c);
        assert!(bad.has(c.found), "{}: {bad}", c.name);
    }
}

#[test]
fn pairs() {
    let case = |name, shape, input, out, n, found| Case { name, shape, input, out, zeros: false, n, found };
    let zero = |name, shape, input, out, n, found| Case { name, shape, input, out, zeros: true, n, found };
    check(
        &module("pairs"),
        vec![
            case("before_start", (1, 128), FLOATS(100), 100, 100, K::OutOfBounds),
            case("past_end", (1, 128), FLOATS(100), 100, 100, K::OutOfBounds),
            case("shared_before", (1, 64), FLOATS(64), 64, 0, K::OutOfBounds),
            case("dynamic_past", (1, 64), FLOATS(64), 64, 0, K::OutOfBounds),
            case("tile_bounds", (2, 0), FLOATS(80), 80, 20, K::OutOfBounds),
            case("warp_tail", (1, 64), FLOATS(64), 64, 0, K::Race),
            case("loop_end", (1, 128), FLOATS(384), 128, 0, K::Race),
            case("half_warps", (1, 64), FLOATS(64), 64, 0, K::Race),
            case("shared_hole", (1, 64), FLOATS(64), 64, 0, K::Uninitialised),
            case("local_hole", (1, 32), INTS(8), 32, 0, K::Uninitialised),
            case("unset_value", (1, 32), INTS(32), 32, 0, K::Uninitialised),
            case("recycled", (1, 64), FLOATS(64), 64, 0, K::Race),
            case("misaligned", (1, 32), FLOATS(65), 64, 0, K::Misaligned),
            case("ldm_rows", (1, 32), INTS(132), 128, 0, K::Misaligned),
            case("overlap", (2, 32), FLOATS(64), 64, 0, K::RaceBetweenCtas),
            case("split_k", (4, 64), FLOATS(256), 256, -64, K::RaceBetweenCtas),
            case("no_fence", (4, 64), FLOATS(256), 256, -64, K::RaceBetweenCtas),
            case("flag_wait", (2, 64), INTS(64), 128, -1, K::RaceBetweenCtas),
            case("grid_phase", (4, 64), INTS(256), 512, 256, K::RaceBetweenCtas),
            zero("unlocked", (4, 32), INTS(4), 1, 0, K::RaceBetweenCtas),
            zero("plain_count", (1, 64), INTS(64), 1, 0, K::Race),
            zero("plain_count_shared", (1, 64), INTS(64), 1, 0, K::Race),
            zero("flush_early", (1, 128), INTS(128), 16, 0, K::Race),
            zero("zero_late", (1, 128), INTS(128), 16, 0, K::Race),
            case("inplace", (1, 128), FLOATS(128), 1, 0, K::Race),
            case("byte_race", (1, 32), INTS(16), 16, 0, K::Race),
            case("bar_ids", (1, 128), INTS(64), 64, 0, K::Race),
            case("never_waits", (1, 64), FLOATS(256), 256, 0, K::InFlight),
            case("wrong_stage", (1, 64), FLOATS(256), 256, 0, K::InFlight),
            case("shuffle_hole", (1, 32), INTS(32), 32, 0, K::Uninitialised),
        ],
    );
}

#[test]
fn hopper_pairs() {
    let m = module("hopper_pairs");
    let case =
        |name, grid, out, found| Case { name, shape: (grid, 64), input: FLOATS(128), out, zeros: true, n: 6, found };
    check(
        &m,
        vec![
            case("reused", 1, 128, K::InFlight),
            case("odd_place", 1, 128, K::Misaligned),
            case("odd_size", 1, 128, K::Misaligned),
            case("stale_store", 1, 128, K::MissingProxyFence),
            case("peer_gone", 2, 128, K::Race),
            case("peer_early", 2, 128, K::Race),
            case("peer_race", 2, 128, K::Race),
            case("peer_bounds", 2, 128, K::OutOfBounds),
        ],
    );
    let ring = |kernel: &str, found| {
        let c = Case { name: "ring", shape: (1, 96), input: FLOATS(384), out: 384, zeros: false, n: 6, found };
        run(&m, kernel, &c)
    };
    let (r, out) = ring("ring_ok", K::Race);
    assert!(r.is_clean(), "{r}");
    for (i, v) in out.iter().enumerate() {
        assert_eq!(f32::from_bits(*v), (i / 64 * 64 + 63 - i % 64) as f32 + 1.0);
    }
    for (kernel, kind) in [
        ("ring_phase", K::InFlight),
        ("ring_count", K::Deadlock),
        ("ring_expect_more", K::Deadlock),
        ("ring_expect_less", K::Deadlock),
        ("ring_init", K::Race),
        ("ring_overrun", K::Misuse),
        ("ring_stage", K::InFlight),
    ] {
        let (r, _) = ring(kernel, kind);
        assert!(r.has(kind), "{kernel}: {r}");
    }
}

#[test]
fn wgmma_needs_its_fences_and_waits() {
    let m = module("hopper_pairs");
    let small = |i: usize| (i * 7 % 9) as f32 - 4.0;
    let bf16: Vec<u16> = (0..64 * 16).map(|i| common::bf16(small(i))).collect();
    let go = |kernel: &str| {
        let mut mem = Memory::new();
        let (a, b, o) = (mem.upload(&bf16), mem.upload(&bf16[..128]), mem.alloc(512 * 4));
        let r = launch(&m, kernel, &mut mem, &Config::new([1; 3], [128, 1, 1]), &[a, b, o].map(Arg::Ptr)).unwrap();
        (r, mem.download::<f32>(o, 512).unwrap())
    };
    let (r, out) = go("wg_ok");
    assert!(r.is_clean(), "{r}");
    for (i, v) in out.iter().enumerate() {
        let dot: f32 = (0..16).map(|k| small(i / 8 * 16 + k) * small(i % 8 * 16 + k)).sum();
        assert_eq!(*v, dot + 1.5, "({}, {})", i / 8, i % 8);
    }
    for (kernel, kind) in [
        ("wg_no_fence", K::Misuse),
        ("wg_no_commit", K::InFlight),
        ("wg_no_wait", K::InFlight),
        ("wg_no_proxy", K::MissingProxyFence),
        ("wg_no_sync", K::Race),
    ] {
        let (r, _) = go(kernel);
        assert!(r.has(kind), "{kernel}: {r}");
    }
}
