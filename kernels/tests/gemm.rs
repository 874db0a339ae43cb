//! The FMA products of `cu/gemm.cu` against plain loops: layouts, types, tails, modes, batches, the low-rank tail.

mod common;
mod products;

use common::{close, mutate, one_more};
use lowrank_kernels::gemm::Layout;
use lowrank_kernels::launch::Type;
use products::{Case, PLAIN, run, unit};

fn check(c: Case) {
    let name = format!("{:?} {:?} {:?} batch {} tail {:?}", c.layout, c.mnk, c.types, c.batch, c.tail);
    for exact in [true, false] {
        let (reports, got, want, size) = run(c, exact, None);
        for r in &reports {
            assert!(r.is_clean(), "{name}: {r}");
            assert_eq!(r.counters.bank_conflicts, 0, "{name}");
        }
        let (u, out) = (2f64.powi(-24), unit(c.types[2]));
        let terms = (c.mnk[2] + c.tail.map_or(0, |t| t.0) + 3) as f64;
        let dropped = c.tail.is_some_and(|t| t.1 > 0.0);
        let bound = |i: usize| match exact && !dropped {
            true => want[i].abs() * out * f64::from(u8::from(c.types[2] != Type::F32)),
            false => terms * u * size[i] + 1.01 * out * want[i].abs() + 1e-30,
        };
        close(&name, &got, &want, bound);
    }
}

const LAYOUTS: [Layout; 3] = [Layout::NN, Layout::NT, Layout::TN];

#[test]
fn every_layout_with_tails_in_every_dimension() {
    for layout in LAYOUTS {
        for mnk in [[1, 1, 1], [2, 3, 5], [64, 64, 16], [65, 63, 17], [30, 68, 36], [129, 66, 33]] {
            check(Case { layout, mnk, ..PLAIN });
        }
    }
}

#[test]
fn every_type() {
    use Type::*;
    for (i, types) in [[F32, Bf16, F32], [F32, F16, F32], [Bf16, Bf16, Bf16], [F16, F32, F16], [Bf16, F16, F32]]
        .into_iter()
        .enumerate()
    {
        let layout = LAYOUTS[i % 3];
        check(Case { layout, types, mnk: [36, 72, 20], bias: Some(types[1]), ..PLAIN });
        check(Case { layout, types, mnk: [35, 70, 19], add: true, shift: 1, ..PLAIN });
    }
}

#[test]
fn batches_accumulation_and_nothing_to_sum() {
    for layout in LAYOUTS {
        check(Case { layout, batch: 3, mnk: [20, 40, 24], add: true, ..PLAIN });
        check(Case { layout, batch: 2, mnk: [7, 9, 5], ..PLAIN });
        check(Case { layout, mnk: [10, 12, 0], bias: Some(Type::F32), ..PLAIN });
    }
}

/// y = x Wᵀ + s h Bᵀ + bias, and dx = gy W + (u A) ⊙ mask.
#[test]
fn low_rank_tails_with_and_without_a_mask() {
    for (layout, mnk) in [(Layout::NT, [66, 70, 40]), (Layout::NN, [33, 64, 24]), (Layout::NN, [17, 37, 5])] {
        for tail in [(1, 0.0), (16, 0.0), (20, 0.5), (5, 0.1)] {
            check(Case { layout, mnk, tail: Some(tail), bias: Some(Type::F32), ..PLAIN });
        }
    }
    let types = [Type::F32, Type::Bf16, Type::F32];
    check(Case { mnk: [40, 50, 60], types, tail: Some((8, 0.25)), add: true, ..PLAIN });
}

#[test]
fn large_tiles() {
    for (i, layout) in LAYOUTS.into_iter().enumerate() {
        let tail = (layout != Layout::TN).then_some((3, 0.25 * i as f64));
        check(Case { layout, mnk: [150 + i, 130 + 2 * i, 18], tail, tile: 128, ..PLAIN });
    }
}

/// The tiles of a problem that they divide move every byte in whole sectors.
#[test]
fn transactions_are_the_fewest_possible() {
    for layout in LAYOUTS {
        let [m, n, k] = [128, 128, 64];
        let (reports, ..) = run(Case { layout, mnk: [m, n, k], ..PLAIN }, true, None);
        // Tiles of 64: each of 2 x 2 reads 64 x k of a and of b, and writes its part of c.
        let floor = (4 * 2 * 64 * k + m * n) * 4 / 32;
        assert_eq!(reports[0].counters.global_sectors as usize, floor, "{layout:?}");
    }
}

#[test]
fn faults_are_caught() {
    let text = lowrank_kernels::GEMM.ptx;
    let case = Case { layout: Layout::NN, mnk: [70, 66, 50], tail: Some((3, 0.5)), ..PLAIN };
    let entry = "gemm_nn_64";
    let caught = |mutant: String| {
        let (reports, got, want, size) = run(case, false, Some(mutant));
        let right = got.iter().zip(&want).enumerate().all(|(i, (g, w))| (g - w).abs() <= 1e-4 * (size[i] + 1e-3));
        !right || reports.iter().any(|r| !r.is_clean())
    };
    assert!(!caught(text.to_string()));
    // In the order of the text: the main loop's, after the mask, before the result is read. The last one of all keeps a
    // second group of rows away, and the small tile has one group.
    for i in 0..3 {
        assert!(caught(mutate(text, entry, "bar.sync", i, |_| String::new())), "barrier {i}");
    }
    // m, and then k, one too large.
    for offset in [56, 64] {
        assert!(caught(mutate(text, entry, &format!("_param_0+{offset}]"), 0, one_more)), "bound at {offset}");
    }
}
