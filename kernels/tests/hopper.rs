//! `cu/lora_forward.sm90a.cu`, `cu/lora_backward.sm90a.cu` and `cu/bf16_rows.cu` against plain loops: more tiles than blocks,
//! tails in every dimension, ranks, masks, both results.

mod common;
use common::{Gpu, close, mutate, one_more};
use lowrank_backend::philox;
use lowrank_kernels::hopper::{BOX_COLS, Backward, Forward, MAP_BYTES, Mapped, Rows, Tail, bf16_rows, pitch};
use lowrank_kernels::launch::{Dropout, Launch, Operand, Type};
use ptxsim::{Report, Swizzle, TensorMap};

#[derive(Clone, Copy, Debug)]
struct Case {
    /// Rows, columns of the result, summed dimension.
    mnk: [usize; 3],
    r: usize,
    /// The result's first operand's partner has the result's columns next to each other: dx.
    backward: bool,
    bias: bool,
    add: bool,
    /// Threshold of the mask.
    mask: Option<u32>,
    y: Type,
    /// Elements by which the result starts beside an aligned address.
    shift: usize,
    blocks: usize,
}

const PLAIN: Case = Case {
    mnk: [128, 256, 64],
    r: 0,
    backward: false,
    bias: false,
    add: false,
    mask: None,
    y: Type::F32,
    shift: 0,
    blocks: 2,
};
const DX: Case = Case { backward: true, ..PLAIN };

/// What `cuTensorMapEncodeTiled` does.
fn encoded(mapped: Mapped) -> Launch {
    let Mapped { mut launch, maps } = mapped;
    for (i, map) in maps.iter().enumerate() {
        let map = TensorMap {
            base: map.at,
            data_type: 9,
            dims: vec![map.cols as u64, map.rows as u64],
            strides: vec![map.pitch as u64 * 2],
            boxes: vec![BOX_COLS, map.box_rows],
            swizzle: Swizzle::B128,
            nan_fill: false,
        };
        launch.params[i * MAP_BYTES..][..MAP_BYTES].copy_from_slice(&map.encode().unwrap());
    }
    launch
}

/// A bf16 matrix whose rows lie further apart than they are long; NaN between them, which nothing may read.
fn pitched(gpu: &mut Gpu, rows: usize, cols: usize) -> (u64, Vec<f64>) {
    let (_, v) = gpu.random(rows * cols, Type::Bf16);
    let mut spread = vec![f64::NAN; rows * pitch(cols)];
    v.chunks(cols).enumerate().for_each(|(i, row)| spread[i * pitch(cols)..][..cols].copy_from_slice(row));
    (gpu.upload(&mut spread, Type::Bf16).at, v)
}

fn run(c: Case, exact: bool, mutant: Option<String>) -> (Report, Vec<f64>, Vec<f64>, Vec<f64>) {
    let Case { mnk: [m, n, k], r, backward, bias, add, mask, y, shift, blocks } = c;
    let mut gpu = Gpu::new((m + n + k + r) as u64);
    (gpu.exact, gpu.mutant) = (exact, mutant);
    let (a, va) = pitched(&mut gpu, m, k);
    let (b, vb) = gpu.random(n * k, Type::Bf16);
    let (a2, va2) = pitched(&mut gpu, m, r.max(1));
    let (b2, vb2) = if backward {
        let (b2, v) = gpu.random(n * r.max(1), Type::Bf16);
        (b2.at, v)
    } else {
        pitched(&mut gpu, n, r.max(1))
    };
    let (bias_at, vs) = gpu.random(n, Type::F32);
    let (c_at, vc) = gpu.shifted(m * n, y, shift);
    let (step, scalars) = (5, gpu.upload(&mut [5.0], Type::F32).at);
    let dropout = mask.map(|threshold| Dropout { scalars, seed: 7 << 32 | 9, stream: 3, threshold, keep: 2.0 });
    let tail = (r > 0).then_some(Tail { a: a2, b: b2, r });
    let mapped = if backward {
        Backward { m, n: k, k: n, gy: a, w: b.at, tail, dropout, dx: c_at, add }.launch(blocks)
    } else {
        Forward { m, n, k, x: a, w: b.at, tail, bias: bias.then_some(bias_at), y: c_at }.launch(blocks)
    };
    let report = gpu.run(&encoded(mapped.unwrap().unwrap()));
    // b and b2 are [n,k] and [n,r], backward [k,n] and [r,n].
    let second = |v: &[f64], j: usize, t: usize, len: usize| if backward { v[t * n + j] } else { v[j * len + t] };
    let (mut want, mut abs) = (vec![0.0; m * n], vec![0.0; m * n]);
    for i in 0..m {
        for j in 0..n {
            let kept = |d: Dropout| philox::word(d.seed, d.stream, step, (i * n + j) as u64) >= d.threshold;
            let keep = dropout.map_or(1.0, |d| if kept(d) { 2.0 } else { 0.0 });
            let low = (0..r).map(|t| keep * va2[i * r + t] * second(&vb2, j, t, r));
            let terms = (0..k).map(|t| va[i * k + t] * second(&vb, j, t, k)).chain(low);
            let (s, a) = terms.fold((0.0, 0.0), |(s, a), t| (s + t, a + t.abs()));
            let more = if bias { vs[j] } else { 0.0 } + if add { vc[i * n + j] } else { 0.0 };
            (want[i * n + j], abs[i * n + j]) = (s + more, a + more.abs());
        }
    }
    (report, gpu.read(c_at, m * n), want, abs)
}

fn check(c: Case) {
    for exact in [true, false] {
        let (report, got, want, abs) = run(c, exact, None);
        assert!(report.is_clean(), "{c:?}: {report}");
        let out = if c.y == Type::F32 { 0.0 } else { 1.01 * 2f64.powi(-8) };
        let sums = (c.mnk[2] + c.r + 4) as f64 * 2f64.powi(-24);
        // Sums of integers are exact in f32, so there is one right result in bf16 too.
        let right = |v: &f64| if exact && c.y == Type::Bf16 { half::bf16::from_f64(*v).to_f64() } else { *v };
        let want: Vec<f64> = want.iter().map(right).collect();
        let bound = |i: usize| if exact { 0.0 } else { out * want[i].abs() + sums * abs[i] };
        close(&format!("{c:?}"), &got, &want, bound);
    }
}

#[test]
fn tails_in_every_dimension() {
    check(PLAIN);
    check(Case { mnk: [1, 3, 8], r: 8, y: Type::Bf16, ..PLAIN });
    check(Case { mnk: [130, 258, 72], r: 16, bias: true, ..PLAIN });
    check(Case { mnk: [77, 264, 136], r: 72, bias: true, y: Type::Bf16, ..PLAIN });
    check(Case { mnk: [33, 40, 64], r: 3, ..PLAIN });
}

#[test]
fn tails_in_every_dimension_of_dx() {
    check(DX);
    check(Case { mnk: [1, 8, 3], r: 3, ..DX });
    check(Case { mnk: [130, 264, 75], r: 8, add: true, ..DX });
    check(Case { mnk: [77, 328, 129], r: 40, add: true, ..DX });
    check(Case { mnk: [20, 24, 64], r: 128, ..DX });
}

/// Results in bf16: sixteen bytes at a time, or one by one where they are not aligned; sums are rounded once, also where
/// something is there already.
#[test]
fn dx_in_bf16() {
    let dx = Case { y: Type::Bf16, ..DX };
    check(Case { mnk: [130, 264, 72], r: 8, ..dx });
    check(Case { mnk: [130, 264, 72], r: 8, add: true, ..dx });
    check(Case { mnk: [70, 520, 200], r: 72, add: true, mask: Some(1 << 30), ..dx });
    check(Case { mnk: [33, 24, 8], add: true, shift: 1, ..dx });
    check(Case { mnk: [33, 26, 72], r: 16, y: Type::Bf16, shift: 1, bias: true, ..PLAIN });
}

#[test]
fn masks_are_those_of_philox() {
    check(Case { mnk: [130, 264, 75], r: 8, mask: Some(1 << 31), ..DX });
    check(Case { mnk: [70, 520, 200], r: 72, mask: Some(1 << 30), add: true, blocks: 1, ..DX });
    // Everything, and (all but) nothing is dropped.
    check(Case { mnk: [3, 16, 5], r: 3, mask: Some(u32::MAX), ..DX });
    check(Case { mnk: [3, 16, 5], r: 3, mask: Some(0), ..DX });
}

/// Blocks take several tiles each, and stages go round several times.
#[test]
fn persistent_blocks() {
    check(Case { mnk: [300, 520, 200], r: 16, y: Type::Bf16, blocks: 2, ..PLAIN });
    check(Case { mnk: [140, 300, 456], r: 0, blocks: 3, ..PLAIN });
    check(Case { mnk: [300, 520, 200], r: 16, blocks: 2, ..DX });
}

/// TMA's traffic is in boxes, each fetched once a tile; what the threads themselves write is whole sectors.
#[test]
fn boxes_are_fetched_once_and_results_written_in_whole_sectors() {
    let f32s = (Type::F32, 4);
    // Boxes of a step: one of x or gy, and one of W or four.
    let bf16s = (Type::Bf16, 2);
    let added = Case { add: true, ..DX };
    for (case, (y, bytes), boxes) in
        [(PLAIN, f32s, 2), (PLAIN, bf16s, 2), (DX, f32s, 5), (DX, bf16s, 5), (added, f32s, 5), (added, bf16s, 5)]
    {
        let case = Case { mnk: [256, 512, 192], r: 8, y, ..case };
        let (report, ..) = run(case, true, None);
        let passes = 1 + usize::from(case.add);
        assert_eq!(report.counters.global_sectors as usize, passes * 256 * 512 * bytes / 32, "{case:?}");
        let fetched = report.counters.instructions.iter().filter(|(op, _)| op.starts_with("cp.async.bulk.tensor"));
        assert_eq!(fetched.map(|(_, count)| count.0).sum::<u64>(), 4 * (3 + 1) * boxes, "{case:?}");
    }
}

#[test]
fn the_same_bits_on_every_run() {
    for case in [Case { mnk: [140, 264, 200], r: 40, ..PLAIN }, Case { mnk: [140, 264, 200], r: 40, ..DX }] {
        let bits =
            |blocks| run(Case { blocks, ..case }, false, None).1.into_iter().map(f64::to_bits).collect::<Vec<_>>();
        let first = bits(1);
        assert!(bits(1) == first && bits(4) == first, "{case:?}");
    }
}

#[test]
fn operands_that_tma_cannot_read_are_left_to_others() {
    let y = Operand::new(0, Type::F32);
    let f = Forward { m: 8, n: 8, k: 8, x: 256, w: 512, tail: None, bias: None, y };
    assert!(f.launch(1).unwrap().is_some());
    let odd = Some(Tail { a: 256, b: 258, r: 4 });
    let others = [Forward { k: 12, ..f }, Forward { x: 258, ..f }, Forward { tail: odd, ..f }];
    others.iter().for_each(|f| assert!(f.launch(1).unwrap().is_none(), "{f:?}"));
    let b = Backward { m: 8, n: 9, k: 8, gy: 256, w: 512, tail: None, dropout: None, dx: y, add: false };
    assert!(b.launch(1).unwrap().is_some());
    let others = [Backward { k: 9, ..b }, Backward { w: 520, ..b }, Backward { tail: odd, ..b }];
    others.iter().for_each(|b| assert!(b.launch(1).unwrap().is_none(), "{b:?}"));
}

/// Three matrices at once, of every storage type, aligned and not; read once and written once.
#[test]
fn rows_of_bf16() {
    let mut gpu = Gpu::new(5);
    let shapes = [(33, 40, Type::F32, 0, 1.0), (7, 13, Type::F32, 1, 0.37), (130, 6, Type::F16, 0, -2.0)];
    let (mut jobs, mut want) = (Vec::new(), Vec::new());
    for (rows, cols, ty, shift, s) in shapes {
        let (x, v) = gpu.shifted(rows * cols, ty, shift);
        let y = gpu.alloc(Rows::bytes(rows, cols) / 2, Type::Bf16);
        jobs.push(Rows { x, y: y.at, rows, cols, s });
        want.push((y, v));
    }
    for count in 1..=3 {
        gpu.clean(&bf16_rows(&jobs[..count]).unwrap().unwrap());
    }
    for (job, (y, v)) in jobs.iter().zip(&want) {
        let got = gpu.read(*y, Rows::bytes(job.rows, job.cols) / 2);
        for (i, got) in got.iter().enumerate() {
            let (row, col) = (i / pitch(job.cols), i % pitch(job.cols));
            let exact = if col < job.cols { (v[row * job.cols + col] as f32 * job.s) as f64 } else { 0.0 };
            assert_eq!(*got, half::bf16::from_f64(exact).to_f64(), "{job:?} {row} {col}");
        }
    }
    assert!(bf16_rows(&[]).unwrap().is_none());
    let (x, _) = gpu.random(128 * 64, Type::F32);
    let y = gpu.alloc(128 * 64, Type::Bf16).at;
    let report = gpu.clean(&bf16_rows(&[Rows { x, y, rows: 128, cols: 64, s: 1.0 }]).unwrap().unwrap());
    assert_eq!(report.counters.global_sectors, 128 * 64 * 6 / 32);
}

/// Each fault is seen: a finding, or a wrong result.
fn faults(text: &str, entry: &str, case: Case, more: &[(&str, String)]) {
    let caught = |mutant: String| {
        let (report, got, want, abs) = run(case, false, Some(mutant));
        !report.is_clean() || !(0..got.len()).all(|i| (got[i] - want[i]).abs() <= 1e-4 * (abs[i] + 1.0))
    };
    let gone = |needle: &str, nth: usize| mutate(text, entry, needle, nth, |_| String::new());
    assert!(!caught(text.to_string()));
    assert!(caught(gone("bar.sync", 0)), "initialised barriers");
    let last = text.matches("wgmma.wait_group.sync.aligned 0").count() - 1;
    assert!(caught(gone("wgmma.wait_group.sync.aligned 0", last)), "sums that are still in flight");
    assert!(caught(gone("wgmma.fence", 0)), "sums set to zero beside wgmma");
    let late = mutate(text, entry, "wgmma.wait_group.sync.aligned 1", 0, |l| l.replace("aligned 1", "aligned 2"));
    assert!(caught(late), "wait_group off by one: a stage is given back too early");
    // Nobody waits for data, or for an empty stage.
    for nth in 0..text.matches("done bra again").count() {
        assert!(caught(gone("done bra again", nth)), "full or empty, {nth}");
    }
    for (what, mutant) in more {
        assert!(caught(mutant.clone()), "{what}");
    }
}

#[test]
fn faults_are_caught() {
    let text = lowrank_kernels::LORA_FORWARD_SM90A.ptx;
    // m one too large wherever a result is written.
    let more = |l: &str| if l.contains("ld.param") && l.contains("[%rd2];") { one_more(l) } else { l.to_string() };
    let bound = ("bound", text.lines().map(more).collect::<Vec<_>>().join("\n"));
    faults(text, "lora_forward", Case { mnk: [300, 300, 392], r: 16, blocks: 2, ..PLAIN }, &[bound]);
}

#[test]
fn faults_in_dx_are_caught() {
    let text = lowrank_kernels::LORA_BACKWARD_SM90A.ptx;
    let case = Case { mnk: [300, 304, 395], r: 72, mask: Some(1 << 31), blocks: 2, ..DX };
    let gone = |needle: &str, nth: usize| mutate(text, "lora_backward", needle, nth, |_| String::new());
    let more = [
        ("the tail in flight while it is masked", gone("wgmma.wait_group.sync.aligned 0", 0)),
        ("a box of W that never comes", gone("cp.async.bulk.tensor", 3)),
        ("lanes that share a Philox block", gone("shfl.sync", 0)),
    ];
    faults(text, "lora_backward", case, &more);
}
