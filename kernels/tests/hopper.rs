//! `cu/lora_forward.sm90a.cu` against plain loops: more tiles than blocks, tails in every dimension, ranks, both results.

mod common;
use common::{Gpu, close, mutate, one_more};
use lowrank_kernels::hopper::{BOX_COLS, Forward, MAP_BYTES};
use lowrank_kernels::launch::{Operand, Type};
use ptxsim::{Report, Swizzle, TensorMap};

#[derive(Clone, Copy, Debug)]
struct Case {
    mnk: [usize; 3],
    r: usize,
    bias: bool,
    y: Type,
    blocks: usize,
}

const PLAIN: Case = Case { mnk: [128, 256, 64], r: 0, bias: false, y: Type::F32, blocks: 2 };

fn run(c: Case, exact: bool, mutant: Option<String>) -> (Report, Vec<f64>, Vec<f64>, Vec<f64>) {
    let Case { mnk: [m, n, k], r, bias, y, blocks } = c;
    let mut gpu = Gpu::new((m + n + k + r) as u64);
    (gpu.exact, gpu.mutant) = (exact, mutant);
    let (x, vx) = gpu.random(m * k, Type::Bf16);
    let (w, vw) = gpu.random(n * k, Type::Bf16);
    let (h, vh) = gpu.random(m * r.max(1), Type::Bf16);
    let (b, vb) = gpu.random(n * r.max(1), Type::Bf16);
    let (add, va) = gpu.random(n, Type::F32);
    let y: Operand = gpu.alloc(m * n, y);
    let tail = (r > 0).then_some((h.at, b.at, r));
    let f = Forward { m, n, k, x: x.at, w: w.at, tail, bias: bias.then_some(add), y };
    let (mut launch, maps) = f.launch(blocks).unwrap().unwrap();
    for (i, map) in maps.iter().enumerate() {
        let map = TensorMap {
            base: map.at,
            data_type: 9,
            dims: vec![map.cols as u64, map.rows as u64],
            strides: vec![map.cols as u64 * 2],
            boxes: vec![BOX_COLS, map.box_rows],
            swizzle: Swizzle::B128,
            nan_fill: false,
        };
        launch.params[i * MAP_BYTES..][..MAP_BYTES].copy_from_slice(&map.encode().unwrap());
    }
    let report = gpu.run(&launch);
    let (mut want, mut abs) = (vec![0.0; m * n], vec![0.0; m * n]);
    for i in 0..m {
        for j in 0..n {
            let low = (0..r).map(|t| vh[i * r + t] * vb[j * r + t]);
            let terms = (0..k).map(|t| vx[i * k + t] * vw[j * k + t]).chain(low);
            let (s, a) = terms.fold((0.0, 0.0), |(s, a), t| (s + t, a + t.abs()));
            let more = if bias { va[j] } else { 0.0 };
            (want[i * n + j], abs[i * n + j]) = (s + more, a + more.abs());
        }
    }
    (report, gpu.read(y, m * n), want, abs)
}

fn check(c: Case) {
    for exact in [true, false] {
        let (report, got, want, abs) = run(c, exact, None);
        assert!(report.is_clean(), "{c:?}: {report}");
        let out = if c.y == Type::F32 { 0.0 } else { 1.01 * 2f64.powi(-8) };
        let sums = (c.mnk[2] + c.r + 3) as f64 * 2f64.powi(-24);
        let bound = |i: usize| out * want[i].abs() + if exact { 0.0 } else { sums * abs[i] };
        close(&format!("{c:?}"), &got, &want, bound);
    }
}

#[test]
fn tails_in_every_dimension() {
    check(PLAIN);
    check(Case { mnk: [1, 3, 8], r: 8, y: Type::Bf16, ..PLAIN });
    check(Case { mnk: [130, 258, 72], r: 16, bias: true, ..PLAIN });
    check(Case { mnk: [77, 264, 136], r: 72, bias: true, y: Type::Bf16, ..PLAIN });
}

/// Blocks take several tiles each, and stages go round several times.
#[test]
fn persistent_blocks() {
    check(Case { mnk: [300, 520, 200], r: 16, y: Type::Bf16, blocks: 2, ..PLAIN });
    check(Case { mnk: [140, 300, 456], r: 0, blocks: 3, ..PLAIN });
}

/// TMA's traffic is in boxes; what the threads themselves write is whole sectors.
#[test]
fn results_are_written_in_whole_sectors() {
    for (y, bytes) in [(Type::F32, 4), (Type::Bf16, 2)] {
        let (report, ..) = run(Case { y, ..PLAIN }, true, None);
        assert_eq!(report.counters.global_sectors as usize, 128 * 256 * bytes / 32, "{y:?}");
    }
}

#[test]
fn operands_that_tma_cannot_read_are_left_to_others() {
    let y = Operand::new(0, Type::F32);
    let f = Forward { m: 8, n: 8, k: 8, x: 256, w: 512, tail: None, bias: None, y };
    assert!(f.launch(1).unwrap().is_some());
    let others = [Forward { k: 12, ..f }, Forward { x: 258, ..f }, Forward { tail: Some((256, 256, 4)), ..f }];
    others.iter().for_each(|f| assert!(f.launch(1).unwrap().is_none(), "{f:?}"));
}

#[test]
fn faults_are_caught() {
    let text = lowrank_kernels::LORA_FORWARD_SM90A.ptx;
    let case = Case { mnk: [300, 300, 392], r: 16, blocks: 2, ..PLAIN };
    let caught = |mutant: String| {
        let (report, got, want, abs) = run(case, false, Some(mutant));
        !report.is_clean() || !(0..got.len()).all(|i| (got[i] - want[i]).abs() <= 1e-4 * (abs[i] + 1.0))
    };
    let entry = "lora_forward";
    let gone = |needle: &str, nth: usize| mutate(text, entry, needle, nth, |_| String::new());
    assert!(!caught(text.to_string()));
    assert!(caught(gone("bar.sync", 0)), "initialised barriers");
    assert!(caught(gone("wgmma.wait_group.sync.aligned 0", 0)), "sums that are still in flight");
    assert!(caught(gone("wgmma.fence", 0)), "sums set to zero beside wgmma");
    let late = mutate(text, entry, "wgmma.wait_group.sync.aligned 1", 0, |l| l.replace("aligned 1", "aligned 2"));
    assert!(caught(late), "wait_group off by one: a stage is given back too early");
    // Nobody waits for data, or for an empty stage.
    assert!(caught(mutate(text, entry, "done bra again", 0, |_| String::new())), "empty");
    assert!(caught(mutate(text, entry, "done bra again", 1, |_| String::new())), "full");
    // m one too large wherever a result is written.
    let more = |l: &str| if l.contains("ld.param") && l.contains("[%rd2];") { one_more(l) } else { l.to_string() };
    assert!(caught(text.lines().map(more).collect::<Vec<_>>().join("\n")), "bound");
}
