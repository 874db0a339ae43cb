//! Adapters and inits that cannot be: ranks above what a layer or a gradient has, other architectures, combinations without
//! a meaning, scales that f16 cannot hold, GGUF files of another model. One line each, and nothing half-written.

mod common;

use std::fs;
use std::path::Path;

use common::{json, ok, refused, train_args, workplace};
use serde_json::Value;

#[test]
fn ranks_that_a_layer_or_its_gradient_does_not_have() {
    let dir = workplace();
    let refused = |more: &[&str], parts: &[&str]| refused(dir.path(), &train_args(more), parts);
    // k_proj is [64, 128]; training more than 64 is allowed, taking 65 singular vectors from it is not.
    for init in ["pissa", "pissa:niter=4", "olora"] {
        let name = init.split(':').next().unwrap();
        let more = ["--init", init, "--rank", "65", "--targets", "k_proj", "--allow-rank-above-min"];
        refused(&more, &["model.layers.0.self_attn.k_proj", name, "rank 65", "64"]);
        refused(&more[..6], &["65", "64", "k_proj"]);
    }
    // EVA's A needs as many directions of the inputs, of which there are 128 at most.
    let eva = ["--init", "eva:batches=5", "--targets", "k_proj", "--allow-rank-above-min", "--rank", "129"];
    refused(&eva, &["k_proj", "eva needs 129 directions", "span only 1"]);
    refused(&["--init", "eva:batches=5", "--targets", "k_proj", "--rank", "65"], &["--rank", "65", "64", "k_proj"]);
    let ga = |rank, more: &'static [&'static str]| {
        [&["--init", "lora-ga", "--targets", "k_proj", "--rank", rank], more].concat()
    };
    refused(&ga("33", &[]), &["model.layers.0.self_attn.k_proj", "2r = 66", "only 64"]);
    // One example of 16 tokens: no gradient has more than rank 16.
    for init in ["lora-ga:batches=1", "lora-ga:batches=1,estimator=streamed"] {
        let more = ["--init", init, "--targets", "q_proj", "--rank", "12", "--seq-len", "16"];
        refused(&more, &["q_proj", "2r = 24", "gradient has rank 1"]);
    }
    refused(&["--init", "eva:batches=1", "--targets", "q_proj", "--rank", "40", "--seq-len", "16"], &["q_proj", "eva"]);
    refused(&["--init", "orthogonal", "--rank", "3"], &["orthogonal", "even rank"]);
    refused(&["--init", "lora-ga:scale=gd", "--alpha", "0"], &["model.layers.0", "length of A and B is inf", "s is 0"]);
    refused(&["--init", "pissa", "--dora"], &["use_dora", "pissa"]);
    refused(&["--alpha", "1e300"], &["lora_alpha", "f32"]);
}

#[test]
fn adapters_of_other_architectures() {
    let dir = workplace();
    let golden = |name: &str| format!("{}/../../tests/golden/tiny/{name}", env!("CARGO_MANIFEST_DIR"));
    let built_in = common::model(dir.path()).display().to_string();
    for (name, parts) in [
        ("mistral-regex-layers", &["k_proj", "shape"][..]),
        ("qwen2-bias-all", &["q_proj"]),
        ("llama-bias-lora-only", &["bias"]),
    ] {
        let adapter = golden(name);
        for command in ["eval", "swap", "doctor"] {
            let args = [command, "--model", &built_in, "--adapter", &adapter, "--data", "text.txt", "--seq-len", "32"];
            refused(dir.path(), &args, parts);
        }
        for command in ["merge", "export"] {
            refused(dir.path(), &[command, "--model", &built_in, "--adapter", &adapter, "--out", "out"], parts);
        }
        refused(dir.path(), &["combine", "--model", &built_in, "--adapter", &adapter, "--out", "out"], parts);
        refused(
            dir.path(),
            &["rerank", "--model", &built_in, "--adapter", &adapter, "--rank", "2", "--out", "o"],
            parts,
        );
    }
}

#[test]
fn combinations_without_a_meaning() {
    let dir = workplace();
    let dir = dir.path();
    ok(dir, &train_args(&["--quiet", "--targets", "q_proj", "--rank", "2", "--out", "q"]));
    ok(dir, &train_args(&["--quiet", "--targets", "v_proj", "--rank", "2", "--out", "v"]));
    ok(dir, &train_args(&["--quiet", "--targets", "q_proj", "--rank", "4", "--out", "q4"]));
    ok(dir, &train_args(&["--quiet", "--targets", "q_proj", "--modules-to-save", "norm", "--out", "saved"]));
    for method in ["ties", "dare", "dare-ties"] {
        let combine = |a: &str, b: &str, parts: &[&str]| {
            refused(dir, &["combine", "--adapter", a, "--adapter", b, "--method", method, "--out", "o"], parts);
        };
        combine("q", "v", &[method, "has no `model.layers.0.self_attn."]);
        combine("q", "q4", &["rank 2", "and 4", "one rank"]);
        let args = ["combine", "--adapter", "q", "--method", method, "--density", "0", "--out", "o"];
        refused(dir, &args, &["density", "(0, 1]"]);
    }
    // Zeros have a meaning for these two: other targets are fine.
    ok(dir, &["combine", "--adapter", "q", "--adapter", "v:-1", "--method", "cat", "--out", "both"]);
    assert_eq!(json(dir.join("both/adapter_config.json"))["target_modules"].as_array().unwrap().len(), 8);
    refused(dir, &["combine", "--adapter", "saved", "--out", "o"], &["saved whole"]);
    let svd = ["combine", "--adapter", "q", "--method", "svd", "--rank", "0", "--out", "o"];
    refused(dir, &svd, &["rank", "0"]);
    refused(dir, &["combine", "--adapter", "q", "--method", "cat", "--rank", "2", "--out", "o"], &["--rank"]);
}

fn edit(dir: &Path, key: &str, value: Value) {
    let path = dir.join("adapter_config.json");
    let mut config = json(&path);
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

/// s is a number of the configuration: a file may hold one that makes the product overflow where it is rounded.
#[test]
fn scales_that_f16_cannot_hold() {
    let dir = workplace();
    let dir = dir.path();
    ok(dir, &train_args(&["--quiet", "--targets", "q_proj,v_proj", "--lr", "1e-2", "--out", "a"]));
    let merge = ["merge", "--adapter", "a", "--out", "m"];
    edit(&dir.join("a"), "lora_alpha", 1e12.into());
    // The base is stored in f16, and merged into f16 by default.
    refused(dir, &merge, &["q_proj", "inf in f16"]);
    ok(dir, &[&merge[..], &["--dtype", "f32"]].concat());
    edit(&dir.join("a"), "lora_alpha", 1.into());
    edit(&dir.join("a"), "alpha_pattern", serde_json::json!({ "v_proj": 1e12 }));
    let export = ["export", "--adapter", "a", "--out", "a.gguf"];
    refused(dir, &[&export[..], &["--dtype", "f16"]].concat(), &["attn_v.weight.lora_b", "range of f16"]);
    ok(dir, &export);
    for (key, value) in [("lora_alpha", 1e300.into()), ("alpha_pattern", serde_json::json!({ "v_proj": -1e39 }))] {
        edit(&dir.join("a"), "lora_alpha", 16.into());
        edit(&dir.join("a"), key, value);
        refused(dir, &["merge", "--adapter", "a", "--out", "n"], &["adapter_config.json", key, "f32"]);
    }
}

#[test]
fn gguf_files_of_another_model() {
    let dir = workplace();
    let dir = dir.path();
    ok(dir, &train_args(&["--quiet", "--targets", "q_proj", "--out", "a"]));
    ok(dir, &["export", "--adapter", "a", "--out", "a.gguf"]);
    let bytes = fs::read(dir.join("a.gguf")).unwrap();
    let find = |what: &[u8]| bytes.windows(what.len()).position(|w| w == what).unwrap();
    let spoiled = |at: usize, new: &[u8], parts: &[&str]| {
        let mut bytes = bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        fs::write(dir.join("b.gguf"), bytes).unwrap();
        let parts = [&["b.gguf"], parts].concat();
        refused(dir, &["eval", "--adapter", "b.gguf", "--data", "text.txt", "--seq-len", "32"], &parts);
        refused(dir, &["merge", "--adapter", "b.gguf", "--out", "m"], &parts);
        refused(dir, &["combine", "--adapter", "b.gguf", "--out", "m"], &parts);
    };
    spoiled(find(b"llama"), b"gemma", &["general.architecture", "gemma"]);
    spoiled(find(b"adapter"), b"weights", &[]);
    // The first dimension of q's A: 128 in this model.
    spoiled(find(b"blk.0.attn_q.weight.lora_a") + 26 + 4, &[64], &["attn_q", "shape"]);
    spoiled(0, b"GGML", &["no GGUF file"]);
    fs::write(dir.join("b.gguf"), &bytes[..bytes.len() / 2]).unwrap();
    refused(dir, &["eval", "--adapter", "b.gguf", "--data", "text.txt"], &["b.gguf"]);
}
