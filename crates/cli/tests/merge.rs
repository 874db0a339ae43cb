//! Merge, generate, inspect.

mod common;

use std::fs;

use common::{fails, json, listing, loss, ok, train_args, workplace};

const GREEDY: [&str; 7] = ["generate", "--prompt", "Ham. ", "--temperature", "0", "--max-new", "12"];

fn generate(dir: &std::path::Path, more: &[&str]) -> String {
    ok(dir, &[&GREEDY[..], more].concat())
}

#[test]
fn merged_equals_unmerged() {
    let dir = workplace();
    let dir = dir.path();
    ok(dir, &train_args(&["--quiet", "--lr", "1e-2"]));
    let stdout = ok(dir, &["merge", "--adapter", "lowrank-out", "--out", "merged", "--dtype", "f32"]);
    assert!(stdout.contains("logits merged and unmerged differ"), "{stdout}");
    assert_eq!(listing(&dir.join("merged")), ["config.json", "model.safetensors", "tokenizer.json"]);
    let config = json(dir.join("merged/config.json"));
    assert_eq!((&config["torch_dtype"], &config["tie_word_embeddings"]), (&"float32".into(), &true.into()));

    let (apart, merged) = (loss(dir, &["--adapter", "lowrank-out"]), loss(dir, &["--model", "merged"]));
    assert!((apart - merged).abs() < 1e-4, "{apart} {merged}");
    assert!((apart - loss(dir, &[])).abs() > 1e-2);
    let text = generate(dir, &["--adapter", "lowrank-out"]);
    assert!(text.starts_with("Ham. ") && text.len() > 10, "{text}");
    assert_eq!(text, generate(dir, &["--model", "merged"]));
    assert_ne!(text, generate(dir, &[]));

    let error = fails(dir, &["merge", "--adapter", "lowrank-out", "--out", "merged"]);
    assert!(error.contains("merged") && error.contains("--out"), "{error}");
}

/// One model, four adapters of different kinds, in turn and merged in between: everything comes back, by hash.
#[test]
fn adapters_are_swapped_and_the_base_keeps_its_bits() {
    let dir = workplace();
    let dir = dir.path();
    ok(dir, &train_args(&["--quiet", "--lr", "1e-2", "--out", "a"]));
    ok(dir, &train_args(&["--quiet", "--lr", "1e-2", "--dora", "--targets", "q_proj", "--out", "b"]));
    ok(dir, &train_args(&["--quiet", "--method", "full", "--targets", "v_proj", "--out", "c"]));
    ok(dir, &train_args(&["--quiet", "--method", "bottleneck", "--rank", "4", "--out", "d"]));
    let args = ["swap", "--adapter", "a", "--adapter", "b", "--adapter", "c", "--adapter", "d", "--data", "text.txt"];
    let args = [&args[..], &["--seq-len", "32"]].concat();
    let text = ok(dir, &args);
    assert!(text.contains("after 8 swaps, merges and unmerges") && text.contains("cannot be merged"), "{text}");
    let report: serde_json::Value = serde_json::from_str(&ok(dir, &[&args[..], &["--json"]].concat())).unwrap();
    assert!(text.contains(report["weights"].as_str().unwrap()), "{text}");
    for (i, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let shown = &report["adapters"][i];
        assert_eq!(shown["loss"], loss(dir, &["--adapter", name]), "{name}");
        assert_eq!(shown["loss_merged"].is_null(), name == "d");
    }
    assert_eq!(report["loss"], loss(dir, &[]));
    let error = fails(dir, &["swap", "--adapter", "a", "--adapter", "nowhere", "--data", "text.txt"]);
    assert!(error.contains("nowhere"), "{error}");
}

#[test]
fn by_default_the_dtype_of_the_base_is_kept() {
    let dir = workplace();
    let dir = dir.path();
    ok(dir, &train_args(&["--quiet"]));
    ok(dir, &["merge", "--adapter", "lowrank-out", "--out", "deep/merged"]);
    let config = json(dir.join("deep/merged/config.json"));
    assert_eq!(config["torch_dtype"], "float16");
    let base = fs::metadata(std::path::Path::new(common::DATA).join("glass-en/model.safetensors")).unwrap().len();
    let merged = fs::metadata(dir.join("deep/merged/model.safetensors")).unwrap().len();
    assert!(merged.abs_diff(base) < 2000, "{merged} {base}");
    let (apart, merged) = (loss(dir, &["--adapter", "lowrank-out"]), loss(dir, &["--model", "deep/merged"]));
    assert!((apart - merged).abs() < 2e-3, "{apart} {merged}");
}

#[test]
fn a_tied_head_is_untied_where_the_embedding_has_an_adapter() {
    let dir = workplace();
    let dir = dir.path();
    ok(dir, &train_args(&["--quiet", "--lr", "1e-2", "--targets", "embed_tokens,q_proj"]));
    let stdout = ok(dir, &["merge", "--adapter", "lowrank-out", "--out", "merged", "--dtype", "f32"]);
    assert!(stdout.contains("tied"), "{stdout}");
    assert_eq!(json(dir.join("merged/config.json"))["tie_word_embeddings"], false);
    let (apart, merged) = (loss(dir, &["--adapter", "lowrank-out"]), loss(dir, &["--model", "merged"]));
    assert!((apart - merged).abs() < 1e-4, "{apart} {merged}");
}

#[test]
fn sampling_is_seeded_and_limits_are_named() {
    let dir = workplace();
    let dir = dir.path();
    let draw = |seed: &str| ok(dir, &["generate", "--prompt", "Alice", "--max-new", "20", "--seed", seed]);
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
    let error = fails(dir, &["generate", "--prompt", "Alice", "--max-new", "500"]);
    assert!(error.contains("--max-new") && error.contains("max_position_embeddings"), "{error}");
    let long = "word ".repeat(300);
    let error = fails(dir, &["generate", "--prompt", &long]);
    assert!(error.contains("--prompt") && error.contains("max_position_embeddings"), "{error}");
    let error = fails(dir, &["generate", "--prompt", "x", "--top-p", "2"]);
    assert!(error.contains("top_p"), "{error}");
}

#[test]
fn inspect_tells_adapters_and_models_apart() {
    let dir = workplace();
    let dir = dir.path();
    ok(dir, &train_args(&["--quiet", "--rank", "4"]));
    let adapter = ok(dir, &["inspect", "lowrank-out"]);
    for part in ["lowrank/glass-en", "q_proj", "down_proj", "36,848"] {
        assert!(adapter.contains(part), "{part}: {adapter}");
    }
    let model = ok(dir, &["inspect"]);
    for part in ["lowrank/glass-en", "model.embed_tokens", "852,608"] {
        assert!(model.contains(part), "{part}: {model}");
    }
    // An adapter says what it is without its model.
    let config = dir.join("lowrank-out/adapter_config.json");
    let text = fs::read_to_string(&config).unwrap().replace("lowrank/glass-en", "somewhere/else");
    fs::write(&config, text).unwrap();
    assert!(ok(dir, &["inspect", "lowrank-out"]).contains("somewhere/else"));
    let error = fails(dir, &["inspect", "."]);
    assert!(error.contains("adapter_config.json") && error.contains("config.json"), "{error}");
}
