//! Full fine-tuning of layers and bottleneck adapters: trained, saved, loaded, merged or refused by name.

mod common;

use common::{fails, json, loss, ok, train_args, workplace};

#[test]
fn full_is_trained_saved_and_merged() {
    let dir = workplace();
    let base = loss(dir.path(), &[]);
    let more = ["--method", "full", "--targets", "q_proj,down_proj", "--lr", "1e-3", "--out", "full"];
    let stdout = ok(dir.path(), &train_args(&more));
    assert!(stdout.contains("q_proj ×4, ") || stdout.contains("down_proj ×4"), "{stdout}");
    let summary = json(dir.path().join("full/summary.json"));
    assert_eq!(summary["trainable_params"], 4 * (128 * 128 + 128 * 341));
    let after = loss(dir.path(), &["--adapter", "full"]);
    assert!(after < base && (after - summary["val_loss_after"].as_f64().unwrap()).abs() < 1e-5, "{after} {summary}");
    // The form in which PEFT reads it.
    let config = json(dir.path().join("full/adapter_config.json"));
    assert_eq!((&config["peft_type"], &config["target_modules"]), (&"LORA".into(), &"dummy-target-modules".into()));
    assert_eq!(config["modules_to_save"].as_array().unwrap().len(), 8);
    assert!(ok(dir.path(), &["inspect", "full"]).contains("layers trained whole"));
    ok(dir.path(), &["merge", "--adapter", "full", "--out", "merged"]);
    assert!((loss(dir.path(), &["--model", "merged"]) - after).abs() < 1e-5);
    let e = fails(dir.path(), &["export", "--adapter", "full", "--out", "full.gguf"]);
    assert!(e.contains("is saved whole"), "{e}");
    let args = ["doctor", "--adapter", "full", "--data", "text.txt", "--seq-len", "32", "--out", "report"];
    let stdout = ok(dir.path(), &args);
    assert!(stdout.contains("trained whole") && stdout.contains("nothing wrong"), "{stdout}");
    assert_eq!(json(dir.path().join("report/doctor.json"))["whole"].as_array().unwrap().len(), 8);
    let e = fails(dir.path(), &train_args(&["--method", "full", "--init", "pissa", "--out", "no"]));
    assert!(e.contains("init_lora_weights: means nothing with method full"), "{e}");
}

#[test]
fn a_bottleneck_is_trained_and_saved_and_not_merged() {
    let dir = workplace();
    let base = loss(dir.path(), &[]);
    let more = ["--method", "bottleneck", "--rank", "16", "--lr", "3e-3", "--out", "houlsby"];
    let stdout = ok(dir.path(), &train_args(&more));
    assert!(stdout.contains("bottlenecks of width 16 behind o_proj,down_proj"), "{stdout}");
    let summary = json(dir.path().join("houlsby/summary.json"));
    assert_eq!(summary["trainable_params"], 8 * (2 * 16 * 128 + 16 + 128));
    let after = loss(dir.path(), &["--adapter", "houlsby"]);
    assert!(after < base && (after - summary["val_loss_after"].as_f64().unwrap()).abs() < 1e-5, "{after} {summary}");
    assert!(ok(dir.path(), &["inspect", "houlsby"]).contains("bottlenecks behind layers"));
    for args in [
        &["merge", "--adapter", "houlsby", "--out", "merged"][..],
        &["export", "--adapter", "houlsby", "--out", "houlsby.gguf"],
        &["rerank", "--adapter", "houlsby", "--rank", "4", "--out", "smaller"],
    ] {
        let e = fails(dir.path(), args);
        assert!(e.contains("has a bottleneck behind it"), "{e}");
    }
    let stdout = ok(dir.path(), &["doctor", "--adapter", "houlsby", "--data", "text.txt", "--seq-len", "32"]);
    assert!(stdout.contains("‖up·down‖/√n") && stdout.contains("nothing wrong"), "{stdout}");
    assert!(stdout.contains("note: a bottleneck is no change of a weight"), "{stdout}");
}
