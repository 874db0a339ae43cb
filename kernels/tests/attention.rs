//! `cu/attention.cu` against plain loops in f64: grouped heads, causal masks with earlier keys, tails, all head sizes.

mod attentions;
mod common;
use attentions::{SMALL, caught, check, run};
use common::{close, mutate, one_more};
use lowrank_kernels::attention::{Attention, Gradient, Saved};
use lowrank_kernels::launch::Type;

#[test]
fn grouped_heads_and_causal_masks() {
    check(SMALL, 0);
    check(Attention { batch: 2, heads: 4, kv_heads: 2, q_len: 7, kv_len: 7, causal: false, ..SMALL }, 0);
    check(Attention { q_len: 1, kv_len: 1, heads: 1, ..SMALL }, 0);
    check(Attention { q_len: 1, kv_len: 70, heads: 3, ..SMALL }, 0);
    check(Attention { q_len: 3, kv_len: 80, batch: 2, ..SMALL }, 0);
}

#[test]
fn several_tiles() {
    check(Attention { q_len: 70, kv_len: 70, heads: 1, ..SMALL }, 0);
    check(Attention { q_len: 65, kv_len: 130, heads: 1, dim: 20, ..SMALL }, 0);
    check(Attention { q_len: 66, kv_len: 67, causal: false, dim: 64, scale: 0.125, ..SMALL }, 0);
}

#[test]
fn every_head_size() {
    for dim in [1, 3, 16, 30, 64, 65, 80, 128, 130, 256] {
        let scale = 1.0 / (dim as f32).sqrt();
        check(Attention { q_len: 18, kv_len: 35, dim, scale, ..SMALL }, 0);
    }
}

/// Heads too large for tensor cores stay here in every precision.
#[test]
fn activations_in_bf16() {
    for (dim, shift) in [(129, 0), (130, 0), (160, 1), (256, 0)] {
        let scale = 1.0 / (dim as f32).sqrt();
        check(Attention { q_len: 18, kv_len: 35, dim, scale, ty: Type::Bf16, rounded: shift > 0, ..SMALL }, shift);
    }
}

#[test]
fn operands_that_are_not_aligned() {
    check(Attention { q_len: 9, kv_len: 12, ..SMALL }, 1);
}

/// Scores of hundreds: the running maximum keeps exp in range.
#[test]
fn large_scores() {
    let a = Attention { q_len: 40, kv_len: 100, heads: 1, scale: 100.0, dim: 8, ..SMALL };
    let (reports, results) = run(a, 0, None);
    reports.iter().for_each(|r| assert!(r.is_clean(), "{r}"));
    for o in &results[..2] {
        close(o.what, &o.got, &o.want, |i| 2e-3 * (1.0 + o.want[i].abs()));
    }
}

#[test]
fn gradients_that_nobody_wants_are_not_computed() {
    let saved = Saved { q: 0, k: 0, v: 0, y: 0, lse: 0, gy: 0 };
    let some = Some(Gradient { at: 256, add: false });
    let names =
        |a: Attention, g| -> Vec<String> { a.backward(&saved, g, 0).unwrap().into_iter().map(|l| l.entry).collect() };
    assert_eq!(names(SMALL, [None; 3]), [""; 0]);
    assert_eq!(names(SMALL, [some, None, None]), ["attention_delta", "attention_dq_64"]);
    assert_eq!(names(SMALL, [None, None, some]), ["attention_delta", "attention_dkv_64"]);
    let large = Attention { dim: 100, rounded: true, ..SMALL };
    assert_eq!(names(large, [None, some, None]), ["attention_delta", "attention_tc_f32_dkv_128"]);
    let exact = Attention { dim: 64, ty: Type::Bf16, ..SMALL };
    assert_eq!(names(exact, [some, None, None]), ["attention_delta", "attention_tc_full_dq_64"]);
    let larger = Attention { dim: 129, rounded: true, ty: Type::Bf16, ..SMALL };
    assert_eq!(names(larger, [some, None, None]), ["attention_delta", "attention_dq_256"]);
}

#[test]
fn faults_are_caught() {
    let text = lowrank_kernels::ATTENTION.ptx;
    let a = Attention { q_len: 70, kv_len: 70, heads: 1, dim: 12, ..SMALL };
    assert!(!caught(a, text.to_string()));
    // q_len one too large.
    assert!(caught(a, mutate(text, "attention_forward_64", "_param_0+108]", 0, one_more)));
    for (entry, barriers) in [("attention_forward_64", 4), ("attention_dq_64", 2), ("attention_dkv_64", 2)] {
        for i in 0..barriers {
            assert!(caught(a, mutate(text, entry, "bar.sync", i, |_| String::new())), "{entry} barrier {i}");
        }
        // Between P in shared memory and its readers.
        assert!(caught(a, mutate(text, entry, "bar.warp.sync", 1, |_| String::new())), "{entry}");
    }
}
