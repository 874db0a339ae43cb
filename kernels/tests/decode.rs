//! `cu/decode.cu` against plain loops: every row count, tails, types, the low-rank part.

mod common;
use common::{Gpu, close, mutate, one_more};
use lowrank_kernels::decode::{Decode, Tail};
use lowrank_kernels::launch::{Operand, Type};
use ptxsim::Report;

#[derive(Clone, Copy, Debug)]
struct Case {
    mnk: [usize; 3],
    /// x, w, y
    types: [Type; 3],
    r: usize,
    bias: bool,
    add: bool,
    shift: usize,
}

const PLAIN: Case = Case { mnk: [1, 16, 256], types: [Type::F32; 3], r: 0, bias: false, add: false, shift: 0 };

fn run(c: Case, exact: bool, mutant: Option<String>) -> (Report, Vec<f64>, Vec<f64>, Vec<f64>) {
    let Case { mnk: [m, n, k], types, r, bias, add, shift } = c;
    let mut gpu = Gpu::new((m + 100 * n + k) as u64);
    (gpu.exact, gpu.mutant) = (exact, mutant);
    let (x, vx) = gpu.shifted(m * k, types[0], shift);
    let (w, vw) = gpu.shifted(n * k, types[1], shift);
    let (y, old) = gpu.random(m * n, types[2]);
    let y = if add { y } else { gpu.alloc(m * n, types[2]) };
    let (b, vb) = gpu.shifted(n, Type::F32, shift);
    let (h, vh) = gpu.random(m * r, Type::F32);
    let (lb, vlb) = gpu.random(n * r, Type::F32);
    let tail = (r > 0).then_some(Tail { h, b: lb, r, s: 0.5 });
    let d = Decode { m, n, k, x, w, y, bias: bias.then_some(b), tail, alpha: 2.0, add };
    let report = gpu.run(&d.launch().unwrap().unwrap());
    let (mut want, mut abs) = (vec![0.0; m * n], vec![0.0; m * n]);
    for i in 0..m {
        for j in 0..n {
            let low = (0..r).map(|t| 0.5 * vh[i * r + t] * vlb[j * r + t]);
            let terms = (0..k).map(|t| vx[i * k + t] * vw[j * k + t]).chain(low);
            let rest = if bias { vb[j] } else { 0.0 } + if add { old[i * n + j] } else { 0.0 };
            let (s, a) = terms.fold((0.0, 0.0), |(s, a), t| (s + t, a + t.abs()));
            want[i * n + j] = 2.0 * s + rest;
            abs[i * n + j] = 2.0 * a + rest.abs();
        }
    }
    (report, gpu.read(y, m * n), want, abs)
}

fn check(c: Case) {
    for exact in [true, false] {
        let (report, got, want, abs) = run(c, exact, None);
        assert!(report.is_clean(), "{c:?}: {report}");
        assert_eq!(report.counters.bank_conflicts, 0, "{c:?}");
        let out = match c.types[2] {
            Type::F32 => 0.0,
            Type::Bf16 => 2f64.powi(-8),
            Type::F16 => 2f64.powi(-11),
        };
        // A lane's share of k, five levels of lanes, two halves.
        let sums = (c.mnk[2] / 32 + c.r + 12) as f64 * 2f64.powi(-24);
        let bound = |i: usize| 1.01 * out * want[i].abs() + if exact { 0.0 } else { sums * abs[i] + 1e-30 };
        close(&format!("{c:?}"), &got, &want, bound);
    }
}

#[test]
fn every_number_of_rows() {
    for m in 1..=16 {
        let types = [Type::F32, if m % 2 == 0 { Type::Bf16 } else { Type::F32 }, Type::F32];
        check(Case { mnk: [m, 18, 520], types, r: 3, ..PLAIN });
    }
}

#[test]
fn tails_in_every_dimension() {
    for mnk in [[1, 1, 1], [3, 5, 7], [2, 17, 255], [4, 31, 257], [1, 20, 1030], [16, 33, 1100], [5, 16, 0]] {
        check(Case { mnk, ..PLAIN });
        check(Case { mnk, types: [Type::F32, Type::Bf16, Type::F32], bias: true, ..PLAIN });
    }
}

#[test]
fn types_modes_ranks_and_unaligned_operands() {
    use Type::*;
    for types in [[Bf16, Bf16, Bf16], [F16, F16, F16], [F32, F16, F32], [Bf16, F32, F32]] {
        check(Case { mnk: [2, 19, 320], types, add: true, bias: true, r: 40, ..PLAIN });
        check(Case { mnk: [3, 19, 320], types, shift: 1, ..PLAIN });
    }
    check(Case { mnk: [1, 16, 256], r: 128, ..PLAIN });
}

/// More k than x has room in shared memory.
#[test]
fn long_rows() {
    check(Case { mnk: [1, 3, 8192 + 300], ..PLAIN });
    check(Case { mnk: [7, 3, 2100], types: [Type::F32, Type::F16, Type::F32], ..PLAIN });
}

#[test]
fn rows_do_not_depend_on_their_neighbours() {
    let [n, k] = [16, 700];
    let mut gpu = Gpu::new(1);
    let (x, _) = gpu.random(16 * k, Type::F32);
    let (w, _) = gpu.random(n * k, Type::Bf16);
    let mut go = |first: usize, m: usize| {
        let x = Operand::new(x.at + (first * k * 4) as u64, Type::F32);
        let y = gpu.alloc(m * n, Type::F32);
        let d = Decode { m, n, k, x, w, y, bias: None, tail: None, alpha: 1.0, add: false };
        gpu.clean(&d.launch().unwrap().unwrap());
        gpu.read(y, m * n)
    };
    let all = go(0, 16);
    assert_eq!(go(7, 1), all[7 * n..8 * n]);
    assert_eq!(go(3, 5), all[3 * n..8 * n]);
}

#[test]
fn every_byte_of_w_is_read_once() {
    for (ty, x) in [(Type::F32, Type::F32), (Type::Bf16, Type::F32), (Type::Bf16, Type::Bf16)] {
        let [m, n, k] = [4, 64, 2048];
        let (report, ..) = run(Case { mnk: [m, n, k], types: [x, ty, x], ..PLAIN }, true, None);
        // x once for each of the four blocks.
        let floor = (n * k * ty.size() + n / 16 * m * k * x.size() + m * n * x.size()) / 32;
        assert_eq!(report.counters.global_sectors as usize, floor, "{ty:?} {x:?}");
    }
}

#[test]
fn faults_are_caught() {
    let text = lowrank_kernels::DECODE.ptx;
    let case = Case { mnk: [3, 20, 2600], types: [Type::F32, Type::Bf16, Type::F32], r: 40, ..PLAIN };
    let caught = |mutant: String| {
        let (report, got, want, abs) = run(case, false, Some(mutant));
        !report.is_clean() || !(0..got.len()).all(|i| (got[i] - want[i]).abs() <= 1e-4 * abs[i])
    };
    assert!(!caught(text.to_string()));
    for i in 0..5 {
        assert!(caught(mutate(text, "decode_4_16bit", "bar.sync", i, |_| String::new())), "barrier {i}");
    }
    // k one too large.
    assert!(caught(mutate(text, "decode_4_16bit", "_param_0+56]", 0, one_more)));
}
