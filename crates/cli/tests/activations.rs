//! `--activations bf16`: the same commands with half the memory for what flows through the model.

mod common;

use common::{json, loss, ok, train_args, workplace};

/// A run's figures.
fn figures(dir: &std::path::Path, out: &str, more: &[&str]) -> [f64; 3] {
    ok(dir, &train_args(&[&["--out", out], more].concat()));
    let summary = json(dir.join(out).join("summary.json"));
    ["val_loss_before", "val_loss_after", "peak_bytes"]
        .map(|key| summary[key].as_f64().unwrap_or_else(|| panic!("{key}: {summary}")))
}

#[test]
fn a_run_takes_less_memory_and_learns_the_same() {
    let dir = workplace();
    let wide = figures(dir.path(), "wide", &[]);
    let narrow = figures(dir.path(), "narrow", &["--activations", "bf16"]);
    // Losses of some 5, whose logits were rounded to 8 bits.
    assert!((narrow[0] - wide[0]).abs() < 0.02 && (narrow[1] - wide[1]).abs() < 0.02, "{narrow:?} {wide:?}");
    assert!(narrow[0] != wide[0] && narrow[1] < narrow[0], "{narrow:?} {wide:?}");
    assert!(narrow[2] < wide[2], "{narrow:?} {wide:?}");
    // What was saved is an adapter like any other. (Batches of another size sum in another order, and bf16 rounds either way.)
    let again = loss(dir.path(), &["--adapter", "narrow", "--activations", "bf16"]);
    assert!((again - narrow[1]).abs() < 1e-3, "{again} {narrow:?}");
    let elsewhere = loss(dir.path(), &["--adapter", "narrow"]);
    assert!((elsewhere - narrow[1]).abs() < 0.02, "{elsewhere} {narrow:?}");
    let all = ["--activations", "bf16", "--precision", "bf16", "--dtype", "bf16"];
    let smallest = figures(dir.path(), "all", &all);
    assert!((smallest[1] - wide[1]).abs() < 0.05 && smallest[2] < narrow[2], "{smallest:?} {narrow:?}");
}

#[test]
fn methods_inits_and_the_other_commands_take_them() {
    let dir = workplace();
    let bf16 = ["--activations", "bf16"];
    let ways: [(&str, &[&str]); 5] = [
        ("dora", &["--dora", "--dropout", "0.1"]),
        ("bottleneck", &["--method", "bottleneck"]),
        ("full", &["--method", "full", "--targets", "o_proj", "--lr", "3e-4"]),
        ("eva", &["--init", "eva", "--rank", "4"]),
        ("lora-ga", &["--init", "lora-ga:estimator=streamed,passes=4,batches=2", "--rank", "4", "--lr", "3e-4"]),
    ];
    for (out, way) in ways {
        let wide = figures(dir.path(), &format!("{out}-wide"), way);
        let narrow = figures(dir.path(), out, &[way, &bf16[..]].concat());
        assert!((narrow[1] - wide[1]).abs() < 0.05, "{out}: {narrow:?} {wide:?}");
    }
    let run = |words: &[&str]| ok(dir.path(), &[words, &bf16[..]].concat());
    // Greedy, with a cache of keys and values.
    let text = run(&["generate", "--adapter", "dora", "--prompt", "the glass", "--max-new", "8", "--temperature", "0"]);
    assert!(text.len() > 8, "{text}");
    assert!(run(&["doctor", "--data", "text.txt", "--batch", "2"]).contains("loss"));
    assert!(ok(dir.path(), &["devices"]).contains("activations f32 bf16"));
}
