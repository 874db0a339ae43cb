//! The rank-r sums of `cu/lora.cu` against plain loops: ranks, tails in every dimension, types, masks, both modes.

mod common;
mod lora_sums;

use common::{Gpu, close, mutate, one_more};
use lora_sums::run;
use lowrank_kernels::launch::{Operand, Type};
use lowrank_kernels::lora::{Plan, Slot};

fn check(sizes: [usize; 4], ty: Type, p: f64, shift: usize) {
    for exact in [true, false] {
        let (reports, results) = run(false, sizes, ty, p, shift, exact, None);
        for r in reports {
            assert!(r.is_clean(), "{sizes:?} {ty:?} p {p}: {r}");
        }
        let terms = (sizes[0].max(sizes[1]).max(sizes[2]) + 4) as f64;
        for (what, got, want, abs) in results {
            let name = format!("{what} {sizes:?} {ty:?} p {p} shift {shift}");
            // 1/(1−½) is exact.
            let exact = exact && (p == 0.0 || p == 0.5);
            close(&name, &got, &want, |i| if exact { 0.0 } else { terms * 2f64.powi(-24) * abs[i] + 1e-30 });
        }
    }
}

#[test]
fn every_rank() {
    for sizes in
        [[1, 1, 1, 1], [17, 9, 13, 3], [33, 40, 70, 16], [20, 300, 36, 20], [16, 64, 68, 64], [18, 70, 130, 100]]
    {
        check(sizes, Type::F32, 0.0, 0);
    }
}

/// More columns than a slice has, more rows than a block.
#[test]
fn several_slices_and_row_blocks() {
    check([70, 520, 1030, 4], Type::F32, 0.0, 0);
    check([40, 131, 260, 65], Type::F32, 0.0, 0);
}

#[test]
fn masks() {
    check([19, 20, 37, 5], Type::F32, 0.5, 0);
    check([35, 8, 520, 16], Type::F32, 0.1, 0);
}

#[test]
fn storage_types_and_unaligned_operands() {
    check([19, 24, 40, 8], Type::Bf16, 0.0, 0);
    check([18, 24, 40, 8], Type::F16, 0.5, 0);
    check([17, 24, 40, 8], Type::F32, 0.0, 1);
    check([17, 24, 40, 8], Type::Bf16, 0.5, 1);
}

/// One result without the other, and each alone equal to both together.
#[test]
fn u_and_db_alone_have_the_same_bits() {
    let [m, n, r] = [50, 600, 12];
    let mut gpu = Gpu::new(3);
    let (gy, _) = gpu.random(m * n, Type::F32);
    let (b, _) = gpu.random(n * r, Type::F32);
    let (h, _) = gpu.random(m * r, Type::F32);
    let plan = Plan::new(m, n, r).unwrap();
    let scratch = gpu.mem.alloc(plan.scratch());
    let mut go = |with_u: bool, with_db: bool| {
        let (u, db) = (gpu.alloc(m * r, Type::F32), gpu.alloc(n * r, Type::F32));
        let slot = Slot { out: db, add: false };
        let l = plan.u_db(gy, with_u.then_some((b, u)), with_db.then_some((h, slot)), 0.3, scratch).unwrap();
        l.iter().for_each(|l| drop(gpu.clean(l)));
        (if with_u { gpu.read(u, m * r) } else { vec![] }, if with_db { gpu.read(db, n * r) } else { vec![] })
    };
    let both = go(true, true);
    assert_eq!(go(true, false).0, both.0);
    assert_eq!(go(false, true).1, both.1);
}

/// A row has the same bits alone and in a batch.
#[test]
fn rows_do_not_depend_on_their_neighbours() {
    let [k, r] = [700, 16];
    let mut gpu = Gpu::new(4);
    let (x, _) = gpu.random(90 * k, Type::F32);
    let (a, _) = gpu.random(r * k, Type::F32);
    let mut go = |first: usize, m: usize| {
        let plan = Plan::new(m, k, r).unwrap();
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

#[test]
fn gy_is_read_once_and_main_loops_meet_no_bank_twice() {
    for (r, ty) in [16, 32, 64, 128].into_iter().flat_map(|r| [(r, Type::F32), (r, Type::Bf16)]) {
        let [m, n] = [64, 8192 / r];
        let mut gpu = Gpu::new(1);
        gpu.exact = true;
        let (gy, _) = gpu.random(m * n, ty);
        let (b, _) = gpu.random(n * r, Type::F32);
        let (h, _) = gpu.random(m * r, Type::F32);
        let (u, db) = (gpu.alloc(m * r, Type::F32), gpu.alloc(n * r, Type::F32));
        let plan = Plan::new(m, n, r).unwrap().cut(2);
        let scratch = gpu.mem.alloc(plan.scratch());
        let slot = Slot { out: db, add: false };
        let l = plan.u_db(gy, Some((b, u)), Some((h, slot)), 1.0, scratch).unwrap();
        let c = gpu.clean(&l[0]).counters;
        assert_eq!(c.bank_conflicts, 0, "r {r} {ty:?}");
        // gy, h, partial u; b and partial db once for each of two blocks.
        let floor = (m * n * ty.size() + (2 * m * r + 2 * 2 * n * r) * 4) / 32;
        assert_eq!(c.global_sectors as usize, floor, "r {r} {ty:?}");
    }
}

#[test]
fn faults_are_caught() {
    let text = lowrank_kernels::LORA.ptx;
    let caught = |mutant: String| {
        let (reports, results) = run(false, [70, 30, 36, 5], Type::F32, 0.0, 0, false, Some(mutant));
        let off = |(_, got, want, abs): &(_, Vec<f64>, Vec<f64>, Vec<f64>)| {
            !(0..got.len()).all(|i| (got[i] - want[i]).abs() <= 1e-4 * (abs[i] + 1e-3))
        };
        results.iter().any(off) || reports.iter().any(|r| !r.is_clean())
    };
    assert!(!caught(text.to_string()));
    // m one too large.
    assert!(caught(mutate(text, "lora_uv_16", "_param_0+48]", 0, one_more)));
    for entry in ["lora_u_16", "lora_v_16", "lora_uv_16"] {
        for i in 0..2 {
            assert!(caught(mutate(text, entry, "bar.sync", i, |_| String::new())), "{entry} barrier {i}");
        }
    }
}
