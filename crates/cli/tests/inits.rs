//! Inits that look at the model and its data, and the adapters they leave.

mod common;

use std::fs;

use common::{command, fails, json, loss, ok, train_args, workplace};

/// The saved adapter is a plain one of rank 2r, and on the untouched base it is what was trained.
#[test]
fn split_inits_leave_plain_adapters_of_twice_the_rank() {
    let dir = workplace();
    let base = loss(dir.path(), &[]);
    for (i, init) in
        ["lora-ga", "lora-ga:estimator=streamed,passes=4,batches=2", "pissa:niter=2", "olora"].into_iter().enumerate()
    {
        let out = format!("out{i}");
        let more = ["--init", init, "--rank", "4", "--targets", "q_proj,down_proj", "--lr", "3e-4", "--out", &out];
        let stdout = ok(dir.path(), &train_args(&more));
        let summary = json(dir.path().join(&out).join("summary.json"));
        let number = |key: &str| summary[key].as_f64().unwrap();
        assert!((number("val_loss_before") - base).abs() < 1e-5, "{init}: {summary} {base}");
        assert!(number("val_loss_after") < base, "{init}: {summary}");
        assert_eq!(number("trainable_params") as usize, 4 * 4 * (128 + 128 + 128 + 341));
        let after = loss(dir.path(), &["--adapter", &out]);
        assert!((after - number("val_loss_after")).abs() < 1e-5, "{init}: {after} {summary}");
        let config = json(dir.path().join(&out).join("adapter_config.json"));
        assert_eq!((&config["r"], &config["lora_alpha"]), (&8.into(), &32.into()));
        assert_eq!(config["init_lora_weights"], true);
        if init.starts_with("lora-ga") {
            let estimated = init.contains("streamed");
            assert!(stdout.contains("cos(first step, -G)") && stdout.contains("init took"), "{stdout}");
            assert_eq!(stdout.contains('≈'), estimated, "{stdout}");
        }
    }
}

#[test]
fn other_forms_of_the_same_adapter() {
    let dir = workplace();
    let train = |out: &str, form: &str| {
        let more = ["--init", "lora-ga", "--targets", "q_proj", "--lr", "3e-4", "--save-as", form, "--out", out];
        let stdout = ok(dir.path(), &train_args(&more));
        (stdout, json(dir.path().join(out).join("summary.json"))["val_loss_after"].as_f64().unwrap())
    };
    let (stdout, after) = train("small", "recompressed");
    assert!(stdout.contains("recompressed to rank r:") && stdout.contains("% of the change is lost"), "{stdout}");
    assert_eq!(json(dir.path().join("small/adapter_config.json"))["r"], 8);
    assert!((loss(dir.path(), &["--adapter", "small"]) - after).abs() < 0.05);

    let (_, after) = train("pair", "pair");
    assert!((loss(dir.path(), &["--adapter", "pair"]) - after).abs() < 1e-5);
    // The same model stored otherwise is another base.
    let error = fails(dir.path(), &["eval", "--data", "text.txt", "--adapter", "pair", "--dtype", "bf16"]);
    assert!(error.contains("belongs to another base") && error.contains("q_proj"), "{error}");
    assert!(ok(dir.path(), &["inspect", "pair"]).contains("q_proj"));
}

#[test]
fn eva_and_orthogonal_start_as_the_base() {
    let dir = workplace();
    let base = loss(dir.path(), &[]);
    for init in ["eva:batches=4", "orthogonal"] {
        ok(dir.path(), &train_args(&["--init", init, "--targets", "v_proj", "--out", init]));
        let summary = json(dir.path().join(init).join("summary.json"));
        assert!((summary["val_loss_before"].as_f64().unwrap() - base).abs() < 1e-5, "{init}: {summary}");
        assert_eq!(json(dir.path().join(init).join("adapter_config.json"))["r"], 8);
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let dir = workplace();
    let adapter = |out: &str, threads: &str| {
        let more = ["--init", "lora-ga", "--targets", "q_proj", "--out", out, "--quiet", "--threads", threads];
        ok(dir.path(), &train_args(&more));
        fs::read(dir.path().join(out).join("adapter_model.safetensors")).unwrap()
    };
    assert_eq!(adapter("a", "1"), adapter("b", "2"));
}

#[test]
fn what_cannot_be_is_one_line() {
    let dir = workplace();
    let error = |more: &[&str]| fails(dir.path(), &train_args(more));
    let e = error(&["--init", "lora-ga", "--rank", "65"]);
    assert!(e.contains("2r = 130") && e.contains("model.layers.0"), "{e}");
    let e = error(&["--init", "lora-ga:batches=100000"]);
    assert!(e.contains("--init") && e.contains("training examples"), "{e}");
    let e = error(&["--init", "olora", "--targets", "embed_tokens"]);
    assert!(e.contains("model.embed_tokens") && e.contains("for linear layers"), "{e}");
    let e = error(&["--save-as", "pair"]);
    assert!(e.contains("--save-as"), "{e}");
    for (option, value) in [("--init", "lora-ga:speed=9"), ("--save-as", "gguf")] {
        let output = command(dir.path()).args(train_args(&[option, value])).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
    }
    assert!(!dir.path().join("lowrank-out").exists());
}

/// PEFT's pissa: refused as it is, converted with its start; the file keeps no trace of the residual base.
#[test]
fn a_residual_adapter_is_converted() {
    let dir = workplace();
    let model = common::model(dir.path()).display().to_string();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/pissa");
    let (trained, start) = (format!("{golden}/trained"), format!("{golden}/start"));
    let error = fails(dir.path(), &["eval", "--data", "text.txt", "--model", &model, "--adapter", &trained]);
    assert!(error.contains("\"pissa\"") && error.contains("lowrank convert"), "{error}");
    let convert = ["convert", "--adapter", &trained, "--model", &model];
    let out = ok(dir.path(), &[&convert[..], &["--start", &start, "--out", "plain"]].concat());
    assert!(out.contains("saved plain: 4 layers of rank 8"), "{out}");
    let config = json(dir.path().join("plain/adapter_config.json"));
    assert_eq!((&config["r"], &config["init_lora_weights"]), (&8.into(), &true.into()));
    let exact = loss(dir.path(), &["--model", &model, "--adapter", "plain"]);
    let args = ["--start", &start, "--save-as", "recompressed", "--out", "small"];
    assert!(ok(dir.path(), &[&convert[..], &args].concat()).contains("recompressed to rank r"));
    assert_eq!(json(dir.path().join("small/adapter_config.json"))["r"], 4);
    assert!((loss(dir.path(), &["--model", &model, "--adapter", "small"]) - exact).abs() < 1.0);
    // The original base as its own residual base.
    let error = fails(dir.path(), &[&convert[..], &["--residual", &model, "--out", "no"]].concat());
    assert!(error.contains("q_proj: the two bases have the same weight"), "{error}");
    assert!(!dir.path().join("no").exists());
}
