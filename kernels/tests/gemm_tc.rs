//! The tensor-core products of `cu/gemm_tc.cuh` against plain loops: layouts, types, tails, modes, the low-rank tail.

mod common;
mod products;

use common::{close, mutate, one_more};
use lowrank_kernels::gemm::{Layout, Math};
use lowrank_kernels::launch::Type;
use products::{Case, PLAIN, run, unit};

const LAYOUTS: [Layout; 3] = [Layout::NN, Layout::NT, Layout::TN];
const ROUNDED: [Math; 3] = [Math::Bf16, Math::Bf16x3, Math::Tf32];

/// Relative error of one product of numbers that the mode rounds first.
fn rounding(math: Math) -> f64 {
    match math {
        Math::Bf16 => 2.0 * 2f64.powi(-8) + 2f64.powi(-16),
        // What two parts leave over, and the product of the small parts.
        Math::Bf16x3 => 3.0 * 2f64.powi(-16),
        // The same of two tf32, which is how a tail of f32 goes with native products.
        Math::Native => 3.0 * 2f64.powi(-22),
        Math::Tf32 => 2.0 * 2f64.powi(-11) + 2f64.powi(-22),
    }
}

fn check(c: Case) {
    let math = c.math.unwrap();
    let name = format!("{math:?} {:?} {:?} {:?} batch {} tail {:?}", c.layout, c.mnk, c.types, c.batch, c.tail);
    for exact in [true, false] {
        let (reports, got, want, size) = run(c, exact, None);
        for r in &reports {
            assert!(r.is_clean(), "{name}: {r}");
            assert_eq!(r.counters.bank_conflicts, 0, "{name}");
        }
        let out = if c.types[2] == Type::F32 { 0.0 } else { 1.01 * unit(c.types[2]) };
        let terms = 3.0 * (c.mnk[2] + c.tail.map_or(0, |t| t.0) + 3) as f64;
        // Native products are exact; a tail of another type is not.
        let exact_tail = c.tail.is_none() || c.low == c.types[0];
        let round = if math == Math::Native && exact_tail { 0.0 } else { rounding(math) };
        let dropped = c.tail.is_some_and(|t| t.1 > 0.0 && t.1 != 0.5);
        let bound = |i: usize| {
            let sum = if exact && !dropped { 0.0 } else { (terms * 2f64.powi(-24) + round) * size[i] + 1e-30 };
            sum + out * want[i].abs()
        };
        close(&name, &got, &want, bound);
    }
}

#[test]
fn every_layout_with_tails_in_every_dimension() {
    for layout in LAYOUTS {
        for (i, mnk) in [[1, 1, 1], [130, 70, 33], [65, 129, 17], [36, 140, 68]].into_iter().enumerate() {
            check(Case { layout, mnk, math: Some(ROUNDED[i % 3]), ..PLAIN });
            check(Case { layout, mnk, math: Some(ROUNDED[(i + 1) % 3]), ..PLAIN });
        }
    }
}

#[test]
fn mixed_types() {
    use Type::*;
    for (i, math) in ROUNDED.into_iter().enumerate() {
        let types = [[F32, Bf16, F32], [F32, F16, F32], [Bf16, F32, Bf16]][i];
        check(Case { layout: LAYOUTS[i], types, mnk: [36, 72, 40], bias: Some(F32), math: Some(math), ..PLAIN });
        check(Case {
            layout: LAYOUTS[2 - i],
            types,
            mnk: [35, 70, 19],
            add: true,
            shift: 1,
            math: Some(math),
            ..PLAIN
        });
    }
}

#[test]
fn native_types() {
    for ty in [Type::Bf16, Type::F16] {
        for layout in LAYOUTS {
            let types = [ty, ty, if layout == Layout::NT { ty } else { Type::F32 }];
            let plain = Case { layout, types, math: Some(Math::Native), ..PLAIN };
            check(Case { mnk: [136, 72, 200], ..plain });
            check(Case { mnk: [33, 35, 37], shift: 1, add: true, bias: Some(ty), ..plain });
            check(Case { mnk: [20, 24, 0], batch: 2, ..plain });
            check(Case { mnk: [24, 40, 48], batch: 2, ..plain });
        }
    }
}

/// y = x Wᵀ + s h Bᵀ + bias, and dx = gy W + (u A) ⊙ mask.
#[test]
fn low_rank_tails_with_and_without_a_mask() {
    for (i, (layout, mnk)) in
        [(Layout::NT, [66, 130, 40]), (Layout::NN, [130, 36, 24]), (Layout::NN, [17, 37, 5])].into_iter().enumerate()
    {
        for (j, tail) in [(16, 0.0), (40, 0.5), (5, 0.1)].into_iter().enumerate() {
            let math = Some(ROUNDED[(i + j) % 3]);
            check(Case { layout, mnk, tail: Some(tail), bias: Some(Type::F32), math, ..PLAIN });
            // Activations in bf16, with the low-rank part in f32, and rounded with the rest.
            for (low, y, add) in
                [(Type::F32, Type::F32, false), (Type::F32, Type::Bf16, true), (Type::Bf16, Type::Bf16, false)]
            {
                let types = [Type::Bf16, Type::Bf16, y];
                check(Case { layout, mnk, types, tail: Some(tail), low, add, math: Some(Math::Native), ..PLAIN });
            }
        }
    }
}

/// The tiles of a problem that they divide move every byte in whole sectors.
#[test]
fn transactions_are_the_fewest_possible() {
    let [m, n, k] = [256, 128, 128];
    for layout in LAYOUTS {
        for (math, ty, out) in [
            (Math::Native, Type::Bf16, Type::F32),
            (Math::Native, Type::Bf16, Type::Bf16),
            (Math::Bf16, Type::F32, Type::F32),
            (Math::Tf32, Type::F32, Type::F32),
        ] {
            for add in [false, true] {
                let types = [ty, ty, out];
                let case = Case { layout, mnk: [m, n, k], types, add, math: Some(math), ..PLAIN };
                let (reports, ..) = run(case, true, None);
                let floor = (2 * 2 * 128 * k * ty.size() + (1 + usize::from(add)) * m * n * out.size()) / 32;
                assert_eq!(reports[0].counters.global_sectors as usize, floor, "{layout:?} {math:?} {out:?} add {add}");
            }
        }
    }
}

/// Each kind of kernel with a barrier removed, a wait too short and a row too many. The tail, its mask and more steps of k
/// than there are stages make every barrier count: the tail's loop, three about its mask, the main loop, for operands that are
/// copied the one behind it, and two about the way out.
#[test]
fn faults_are_caught() {
    use Type::*;
    use lowrank_kernels as k;
    for (file, math, ty, barriers) in [
        (k::GEMM_TC_BF16_BF16, Math::Native, Bf16, 8),
        (k::GEMM_TC_F16_F16, Math::Native, F16, 8),
        (k::GEMM_TC_BF16, Math::Bf16, F32, 7),
        (k::GEMM_TC_BF16X3, Math::Bf16x3, F32, 7),
        (k::GEMM_TC_TF32, Math::Tf32, F32, 7),
    ] {
        let entry = file.name.replace("gemm_tc_", "gemm_tc_nt_");
        let case = Case { mnk: [136, 72, 200], types: [ty, ty, F32], tail: Some((40, 0.5)), math: Some(math), ..PLAIN };
        let caught = |case: Case, mutant: String| {
            let (reports, got, want, size) = run(case, false, Some(mutant));
            let right = got.iter().zip(&want).enumerate().all(|(i, (g, w))| (g - w).abs() <= 1e-2 * (size[i] + 1e-3));
            !right || reports.iter().any(|r| !r.is_clean())
        };
        assert!(!caught(case, file.ptx.to_string()), "{entry}");
        let body = file.ptx.split(".entry ").find(|e| e.starts_with(&entry)).unwrap();
        assert_eq!(body.matches("bar.sync").count(), barriers, "{entry}");
        for i in 0..barriers {
            let gone = mutate(file.ptx, &entry, "bar.sync", i, |_| String::new());
            assert!(caught(case, gone), "{entry} barrier {i}");
        }
        if math == Math::Native {
            let late = |l: &str| l.replace("wait_group 2", "wait_group 3");
            assert!(caught(case, mutate(file.ptx, &entry, "cp.async.wait_group 2", 0, late)), "{entry} wait");
        }
        // m one too large.
        assert!(caught(case, mutate(file.ptx, &entry, "_param_0+56]", 0, one_more)), "{entry}");
    }
}
