//! `lowrank combine`, `lowrank rerank` and the variants that they refuse or take, as a user runs them.

mod common;

use common::{fails, ok, train_args, workplace};

/// The held-out loss that `eval` prints.
fn eval(dir: &std::path::Path, adapter: &str) -> f64 {
    let text = ok(dir, &["eval", "--data", "text.txt", "--seq-len", "32", "--adapter", adapter]);
    let (_, rest) = text.split_once(", loss ").unwrap_or_else(|| panic!("{text}"));
    rest.split(',').next().unwrap().parse().unwrap()
}

#[test]
fn adapters_are_combined() {
    let dir = workplace();
    let dir = dir.path();
    ok(dir, &train_args(&["--quiet", "--targets", "q_proj,v_proj", "--rank", "2", "--out", "a"]));
    ok(dir, &train_args(&["--quiet", "--rank", "4", "--rslora", "--seed", "1", "--out", "b"]));
    let text = ok(dir, &["combine", "--adapter", "a:0.5", "--adapter", "b:0.5", "--out", "cat"]);
    assert!(text.contains("ranks 4 to 6"), "{text}");
    let text = ok(
        dir,
        &["combine", "--adapter", "a:0.5", "--adapter", "b:0.5", "--method", "svd", "--rank", "6", "--out", "svd"],
    );
    assert!(text.contains("truncation error 0.00 %"), "{text}");
    // Six ranks hold all of it: the two compute the same up to rounding.
    assert!((eval(dir, "cat") - eval(dir, "svd")).abs() < 1e-4);
    let text = ok(dir, &["rerank", "--adapter", "b", "--rank", "2", "--out", "small"]);
    assert!(text.contains("rank 2") && text.contains("truncation error"), "{text}");
    ok(dir, &["rerank", "--adapter", "b", "--rank", "8", "--out", "large"]);
    assert!((eval(dir, "b") - eval(dir, "large")).abs() < 1e-5);
    let e = fails(dir, &["combine", "--adapter", "a", "--adapter", "b", "--method", "ties", "--out", "t"]);
    assert!(e.contains("a has no `model.layers.0"), "{e}");
    let e = fails(dir, &["combine", "--adapter", "a:x", "--out", "t"]);
    assert!(e.contains("a:x"), "{e}");
    assert!(!dir.join("t").exists());
}

#[test]
fn dora_trains_merges_and_has_no_algebra() {
    let dir = workplace();
    let dir = dir.path();
    ok(dir, &train_args(&["--quiet", "--dora", "--lora-plus", "4", "--dropout", "0.1", "--out", "d"]));
    let text = ok(dir, &["merge", "--adapter", "d", "--out", "merged", "--dtype", "bf16"]);
    assert!(text.contains("rounding to bf16: ") && text.contains("of the update was lost"), "{text}");
    assert!(ok(dir, &["inspect", "d"]).contains("DoRA"));
    assert!(fails(dir, &["combine", "--adapter", "d", "--out", "t"]).contains("is DoRA"));
    ok(dir, &train_args(&["--quiet", "--freeze-a", "--out", "fa"]));
}

#[test]
fn gguf_goes_out_and_comes_back() {
    let dir = workplace();
    let dir = dir.path();
    ok(dir, &train_args(&["--quiet", "--targets", "q_proj,k_proj,down_proj", "--out", "a"]));
    ok(dir, &["export", "--adapter", "a", "--out", "a.gguf"]);
    // Plain LoRA in f32 keeps its bits.
    assert_eq!(eval(dir, "a"), eval(dir, "a.gguf"));
    assert!(fails(dir, &["export", "--adapter", "a", "--out", "a.gguf"]).contains("exists"));
    ok(dir, &train_args(&["--quiet", "--dora", "--out", "d"]));
    assert!(fails(dir, &["export", "--adapter", "d", "--out", "d.gguf"]).contains("is DoRA"));
    assert!(!dir.join("d.gguf").exists());
}
