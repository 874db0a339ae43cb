//! The rank-r sums of `cu/lora_tc.cuh` against plain loops: ranks, tails in every dimension, types, masks, both modes.

mod common;
mod lora_sums;

use common::{Gpu, close, mutate, one_more};
use lora_sums::run;
use lowrank_kernels::launch::{Dropout, Operand, Type};
use lowrank_kernels::lora::{Copies, Plan, Slot};

fn check(sizes: [usize; 4], ty: Type, p: f64, shift: usize) {
    for exact in [true, false] {
        let (reports, results) = run(true, sizes, ty, p, shift, exact, None);
        for r in reports {
            assert!(r.is_clean(), "{sizes:?} {ty:?} p {p}: {r}");
        }
        // Both factors are rounded to bf16.
        let terms = (sizes[0].max(sizes[1]).max(sizes[2]) + 4) as f64 * 2f64.powi(-24);
        let round = 2.0 * 2f64.powi(-8) + 2f64.powi(-16);
        for (what, got, want, abs) in results {
            let name = format!("{what} {sizes:?} {ty:?} p {p} shift {shift}");
            // Small integers are exact in bf16, and so is 1/(1−½).
            let exact = exact && (p == 0.0 || p == 0.5);
            close(&name, &got, &want, |i| if exact { 0.0 } else { (terms + round) * abs[i] + 1e-30 });
        }
    }
}

#[test]
fn every_rank() {
    for sizes in
        [[1, 1, 1, 1], [17, 9, 13, 3], [70, 40, 72, 16], [36, 300, 36, 20], [33, 64, 68, 64], [40, 70, 130, 100]]
    {
        check(sizes, Type::F32, 0.0, 0);
        check(sizes, Type::Bf16, 0.0, 0);
    }
}

#[test]
fn several_slices() {
    check([70, 520, 1032, 4], Type::F32, 0.0, 0);
    check([40, 136, 264, 65], Type::Bf16, 0.0, 0);
}

#[test]
fn masks() {
    check([35, 20, 37, 5], Type::F32, 0.5, 0);
    check([35, 8, 520, 16], Type::F32, 0.1, 0);
    check([35, 8, 136, 40], Type::Bf16, 0.5, 0);
}

#[test]
fn storage_types_and_unaligned_operands() {
    check([18, 24, 40, 8], Type::F16, 0.5, 0);
    check([17, 24, 40, 8], Type::F32, 0.0, 1);
    check([17, 24, 40, 8], Type::Bf16, 0.5, 1);
}

/// A row has the same bits alone and in a batch.
#[test]
fn rows_do_not_depend_on_their_neighbours() {
    let [k, r] = [700, 16];
    let mut gpu = Gpu::new(4);
    let (x, _) = gpu.random(90 * k, Type::F32);
    let (a, _) = gpu.random(r * k, Type::F32);
    let mut go = |first: usize, m: usize| {
        let plan = Plan::new(m, k, r).unwrap().tensor();
        let scratch = gpu.mem.alloc(plan.scratch());
        let h = gpu.alloc(m * r, Type::F32);
        let x = Operand::new(x.at + (first * k * 4) as u64, Type::F32);
        plan.h(x, a, h, None, scratch).unwrap().iter().for_each(|l| drop(gpu.clean(l)));
        gpu.read(h, m * r)
    };
    let all = go(0, 90);
    assert_eq!(go(37, 1), all[37 * r..38 * r]);
    assert_eq!(go(20, 33), all[20 * r..53 * r]);
}

/// What is left in bf16 is what it is a copy of, rounded: x without its mask, the sums times a factor, the other operand.
/// It costs what it writes, and changes nothing else.
#[test]
fn copies_are_the_numbers_rounded() {
    let rounded =
        |v: &[f64], s: f32| v.iter().map(|v| half::bf16::from_f32(*v as f32 * s).to_f64()).collect::<Vec<_>>();
    for ([m, c, r], both) in
        [([35, 80, 8], false), ([64, 1040, 16], true), ([33, 144, 40], false), ([40, 64, 128], true)]
    {
        let mut gpu = Gpu::new((m + c) as u64);
        let (x, vx) = gpu.random(m * c, Type::F32);
        let (b, vb) = gpu.random(c * r, Type::F32);
        let (h, _) = gpu.random(m * r, Type::F32);
        let scalars = gpu.mem.upload(&[9.0f32; 64]);
        let mask = Some(Dropout { scalars, seed: 3, stream: 1, threshold: 1 << 31, keep: 2.0 });
        let (u, db) = (gpu.alloc(m * r, Type::F32), gpu.alloc(c * r, Type::F32));
        let copies = [m * c, m * r, c * r].map(|len| gpu.alloc(len, Type::Bf16));
        let [to_x, to_u, to_b] = copies.map(|copy| copy.at);
        let copying = Copies { x: Some(to_x), u: Some((to_u, 0.3)), other: Some((b.at, to_b, c * r)) };
        let plan = Plan::new(m, c, r).unwrap().cut(2).tensor();
        let scratch = gpu.mem.alloc(plan.scratch());
        let mut go = |plan: Plan| {
            let launches = match both {
                true => plan.u_db(x, Some((b, u)), Some((h, Slot { out: db, add: false })), 2.0, scratch).unwrap(),
                false => plan.h(x, b, u, mask, scratch).unwrap(),
            };
            let first = gpu.clean(&launches[0]).counters.global_sectors as usize;
            gpu.clean(&launches[1]);
            (gpu.read(u, m * r), first)
        };
        let (without, with) = (go(plan), go(plan.copying(copying)));
        assert_eq!(with.0, without.0);
        assert_eq!(with.1, without.1 + m * c * 2 / 32, "{m} {c} {r}");
        assert_eq!(gpu.read(copies[0], m * c), rounded(&vx, 1.0));
        assert_eq!(gpu.read(copies[1], m * r), rounded(&with.0, 0.3));
        assert_eq!(gpu.read(copies[2], c * r), rounded(&vb, 1.0));
    }
}

#[test]
fn gy_is_read_once_and_main_loops_meet_no_bank_twice() {
    for (r, ty) in [(16, Type::F32), (16, Type::Bf16), (32, Type::Bf16), (64, Type::F32), (128, Type::Bf16)] {
        let n = 8192 / r;
        let count = |m: usize| {
            let mut gpu = Gpu::new(1);
            gpu.exact = true;
            let (gy, _) = gpu.random(m * n, ty);
            let (b, _) = gpu.random(n * r, Type::F32);
            let (h, _) = gpu.random(m * r, Type::F32);
            let (u, db) = (gpu.alloc(m * r, Type::F32), gpu.alloc(n * r, Type::F32));
            let plan = Plan::new(m, n, r).unwrap().cut(1).tensor();
            let scratch = gpu.mem.alloc(plan.scratch());
            let slot = Slot { out: db, add: false };
            let l = plan.u_db(gy, Some((b, u)), Some((h, slot)), 1.0, scratch).unwrap();
            gpu.clean(&l[0]).counters
        };
        let (less, more) = (count(32), count(96));
        // gy, h, partial u; b and partial db once.
        let floor = (96 * n * ty.size() + 2 * 96 * r * 4 + 2 * n * r * 4) / 32;
        assert_eq!(more.global_sectors as usize, floor, "r {r} {ty:?}");
        assert_eq!(more.bank_conflicts, less.bank_conflicts, "r {r} {ty:?}: conflicts for each 32 rows");
    }
}

/// Every kernel without each of its barriers, and with a row too many.
#[test]
fn faults_are_caught() {
    use lowrank_kernels as k;
    for (file, rank, r) in
        [(k::LORA_TC_16, 16, 5), (k::LORA_TC_32, 32, 20), (k::LORA_TC_64, 64, 40), (k::LORA_TC_128, 128, 100)]
    {
        for (ty, suffix) in [(Type::F32, "f32"), (Type::Bf16, "16bit")] {
            let caught = |mutant: String| {
                let (reports, results) = run(true, [134, 30, 36, r], ty, 0.0, 0, false, Some(mutant));
                let off = |(_, got, want, abs): &(_, Vec<f64>, Vec<f64>, Vec<f64>)| {
                    !(0..got.len()).all(|i| (got[i] - want[i]).abs() <= 1e-2 * (abs[i] + 1e-3))
                };
                results.iter().any(off) || reports.iter().any(|r| !r.is_clean())
            };
            assert!(!caught(file.ptx.to_string()), "{rank} {suffix}");
            for sum in ["u", "v", "uv"] {
                let entry = format!("lora_tc_{sum}_{rank}_{suffix}");
                let body = file.ptx.split(".entry ").find(|e| e.starts_with(&format!("{entry}("))).unwrap();
                let barriers = body.matches("bar.sync").count();
                let missed = |&i: &usize| !caught(mutate(file.ptx, &entry, "bar.sync", i, |_| String::new()));
                assert_eq!((0..barriers).filter(missed).collect::<Vec<_>>(), [0; 0], "{entry} of {barriers}");
                // m one too large.
                assert!(caught(mutate(file.ptx, &entry, "_param_0+48]", 0, one_more)), "{entry}");
            }
        }
    }
}
