//! Train, save, reload, measure.

mod common;

use std::fs;

use common::{command, fails, json, listing, loss, model, ok, run, train_args, workplace};

#[test]
fn a_run_leaves_what_it_promises() {
    let dir = workplace();
    let stdout = ok(dir.path(), &train_args(&[]));
    assert_eq!(listing(dir.path()), ["lowrank-out", "text.txt"]);
    let out = dir.path().join("lowrank-out");
    assert_eq!(
        listing(&out),
        ["adapter_config.json", "adapter_model.safetensors", "loss.svg", "metrics.jsonl", "summary.json"]
    );

    let summary = json(out.join("summary.json"));
    let number = |key: &str| summary[key].as_f64().unwrap_or_else(|| panic!("{key}: {summary}"));
    assert_eq!((number("steps"), number("seed")), (3.0, 0.0));
    assert_eq!(summary["interrupted"], false);
    assert_eq!(summary["device"], "cpu");
    // r (in + out) of the seven linears of 128/64/341 in 4 layers.
    let per_layer = 2 * (128 + 128) + 2 * (128 + 64) + 3 * (128 + 341);
    assert_eq!(number("trainable_params") as usize, 8 * 4 * per_layer);
    assert_eq!(number("total_params") as usize, 852_608 + 8 * 4 * per_layer);
    for key in ["val_loss_before", "val_loss_after", "seconds", "tokens_per_s", "peak_bytes"] {
        assert!(number(key) > 0.0 && number(key).is_finite(), "{key}");
    }
    assert!(number("val_loss_after") < number("val_loss_before"));

    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(line["step"], i + 1);
        for key in ["loss", "lr", "grad_norm", "tokens_per_s"] {
            assert!(line[key].as_f64().unwrap() > 0.0, "{key}: {line}");
        }
    }
    assert!(fs::read_to_string(out.join("loss.svg")).unwrap().starts_with("<svg"));

    let config = json(out.join("adapter_config.json"));
    assert_eq!((&config["peft_type"], &config["r"], &config["lora_alpha"]), (&"LORA".into(), &8.into(), &16.into()));
    assert_eq!(config["base_model_name_or_path"], "lowrank/glass-en");

    // The same tokens give the same loss.
    let after = loss(dir.path(), &["--adapter", "lowrank-out"]);
    assert!((after - number("val_loss_after")).abs() < 1e-5, "{after}");
    let before = loss(dir.path(), &["--batch", "3"]);
    assert!((before - number("val_loss_before")).abs() < 1e-5, "{before}");

    for promised in ["q_proj ×4", "trainable", "memory", "held-out loss", "step 3/3", "prompt", "generate --adapter"] {
        assert!(stdout.contains(promised), "{promised}: {stdout}");
    }
}

/// What stands under "next" is to be pasted.
#[test]
fn the_next_commands_work() {
    let dir = workplace();
    let stdout = ok(dir.path(), &train_args(&["--out", "my out", "--seed", "3"]));
    let next: Vec<&str> = stdout.lines().skip_while(|l| *l != "next:").skip(1).collect();
    assert_eq!(next.len(), 4, "{stdout}");
    for line in next {
        let (_, arguments) = line.split_once("-- ").unwrap_or(("", line));
        let line = format!("{} {arguments}", env!("CARGO_BIN_EXE_lowrank"));
        let output = std::process::Command::new("sh").arg("-c").arg(&line).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stdout.is_empty(), "{line}");
    }
    assert!(dir.path().join("my out-merged/model.safetensors").exists());
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let dir = workplace();
    let adapter = |out: &str, more: &[&str]| {
        let mut args = train_args(&["--out", out, "--dropout", "0.1", "--quiet"]);
        args.extend(more);
        assert_eq!(ok(dir.path(), &args), "");
        fs::read(dir.path().join(out).join("adapter_model.safetensors")).unwrap()
    };
    let first = adapter("a", &[]);
    assert_eq!(first, adapter("b", &[]));
    assert_eq!(first, adapter("c", &["--threads", "1"]));
    assert_eq!(first, adapter("d", &["--threads", "2"]));
    assert_ne!(first, adapter("e", &["--seed", "1"]));
}

#[test]
fn accumulation_equals_one_large_batch() {
    let dir = workplace();
    let lines = [
        r#"{"prompt":"Who's ","completion":"there?"}"#,
        r#"{"prompt":"Nay, answer ","completion":"me: stand, and unfold yourself."}"#,
        r#"{"text":"Long live the king! He is my friend, and so are you."}"#,
        r#"{"prompt":"Bernardo? ","completion":"He. You come most carefully upon your hour."}"#,
        r#"{"text":"For this relief much thanks: 'tis bitter cold."}"#,
    ];
    fs::write(dir.path().join("d.jsonl"), lines.join("\n")).unwrap();
    let losses = |out: &str, batch: &str, accum: &str| {
        let args = ["train", "--data", "d.jsonl", "--steps", "3", "--seq-len", "32", "--out", out, "--batch", batch];
        ok(dir.path(), &[&args[..], &["--grad-accum", accum, "--quiet"]].concat());
        let metrics = fs::read_to_string(dir.path().join(out).join("metrics.jsonl")).unwrap();
        let line = |l: &str| {
            let v: serde_json::Value = serde_json::from_str(l).unwrap();
            (v["loss"].as_f64().unwrap(), v["grad_norm"].as_f64().unwrap())
        };
        metrics.lines().map(line).collect::<Vec<_>>()
    };
    let (one, four) = (losses("one", "4", "1"), losses("four", "1", "4"));
    for ((l1, g1), (l4, g4)) in one.iter().zip(&four) {
        assert!((l1 - l4).abs() < 1e-4 && (g1 - g4).abs() < 1e-3 * g1, "{one:?} {four:?}");
    }
    assert_eq!(one.len(), 3);
}

#[test]
fn a_model_on_disk_equals_the_built_in_one() {
    let dir = workplace();
    model(dir.path());
    ok(dir.path(), &train_args(&["--out", "a", "--quiet"]));
    ok(dir.path(), &train_args(&["--out", "b", "--quiet", "--model", "model"]));
    let tensors = |out: &str| fs::read(dir.path().join(out).join("adapter_model.safetensors")).unwrap();
    assert_eq!(tensors("a"), tensors("b"));
    assert_eq!(json(dir.path().join("b/adapter_config.json"))["base_model_name_or_path"], "model");
    // The base is found through the adapter; elsewhere it has to be given.
    loss(dir.path(), &["--adapter", "b"]);
    fs::rename(dir.path().join("model"), dir.path().join("moved")).unwrap();
    let error = fails(dir.path(), &["eval", "--adapter", "b"]);
    assert!(error.contains("base_model_name_or_path") && error.contains("--model"), "{error}");
    loss(dir.path(), &["--adapter", "b", "--model", "moved"]);
}

#[test]
fn nothing_is_overwritten() {
    let dir = workplace();
    fs::create_dir(dir.path().join("lowrank-out")).unwrap();
    fs::write(dir.path().join("lowrank-out/precious"), "x").unwrap();
    let error = fails(dir.path(), &train_args(&[]));
    assert!(error.contains("lowrank-out") && error.contains("--out"), "{error}");
    assert_eq!(listing(&dir.path().join("lowrank-out")), ["precious"]);
    assert_eq!(listing(dir.path()), ["lowrank-out", "text.txt"]);
}

#[test]
fn bf16_weights_and_many_options_train() {
    let dir = workplace();
    let more = [
        "--dtype",
        "bf16",
        "--rank",
        "4",
        "--alpha",
        "8",
        "--rslora",
        "--init",
        "gaussian",
        "--targets",
        "re:.*\\.(q|v)_proj",
        "--schedule",
        "cosine",
        "--warmup",
        "1",
        "--weight-decay",
        "0.1",
        "--clip",
        "0.5",
        "--modules-to-save",
        "model.norm",
        "--grad-accum",
        "2",
        "--eval-batch",
        "5",
        "--device",
        "auto",
    ];
    ok(dir.path(), &train_args(&more));
    let config = json(dir.path().join("lowrank-out/adapter_config.json"));
    assert_eq!((&config["r"], &config["use_rslora"]), (&4.into(), &true.into()));
    let summary = json(dir.path().join("lowrank-out/summary.json"));
    let after = loss(dir.path(), &["--adapter", "lowrank-out", "--dtype", "bf16"]);
    assert!((after - summary["val_loss_after"].as_f64().unwrap()).abs() < 1e-5, "{after} {summary}");
}

#[test]
fn help_has_examples() {
    let dir = workplace();
    let output = run(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("train"));
    for name in ["train", "eval", "generate", "merge", "inspect", "devices", "plan", "sweep", "doctor", "study"] {
        let help = ok(dir.path(), &[name, "--help"]);
        assert!(help.contains("Example") && help.contains(&format!("lowrank {name}")), "{name}: {help}");
    }
    let output = command(dir.path()).args(["train", "--steps", "3", "--epochs", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(ok(dir.path(), &["devices"]).contains("cpu"));
}
