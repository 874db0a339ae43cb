//! `plan` says what `train` does, and refuses what it refuses.

mod common;

use std::fs;

use common::{fails, json, listing, ok, run, train_args, workplace};
use serde_json::Value;

fn plan<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut args = train_args(more);
    args[0] = "plan";
    args
}

#[test]
fn a_plan_is_what_train_does() {
    let dir = workplace();
    for more in [&["--rank", "4"][..], &["--targets", "v_proj", "--grad-accum", "2", "--dtype", "bf16"]] {
        let plan: Value = serde_json::from_str(&ok(dir.path(), &plan(&[more, &["--json"]].concat()))).unwrap();
        assert_eq!(listing(dir.path()), ["text.txt"]);
        ok(dir.path(), &train_args(&[more, &["--quiet"]].concat()));
        let summary = json(dir.path().join("lowrank-out/summary.json"));
        for key in ["trainable_params", "total_params", "steps", "device"] {
            assert_eq!(plan[key], summary[key], "{key}");
        }
        let (predicted, measured) = (plan["peak_bytes"].as_f64().unwrap(), summary["peak_bytes"].as_f64().unwrap());
        assert!((predicted / measured - 1.0).abs() < 0.05, "{predicted} {measured}");
        fs::remove_dir_all(dir.path().join("lowrank-out")).unwrap();
    }
}

#[test]
fn a_plan_in_words() {
    let dir = workplace();
    let text = ok(dir.path(), &plan(&["--targets", "q_proj,up_proj"]));
    for part in ["trainable", "memory", "at the peak", "work", "adapted", "not adapted", "*.self_attn.k_proj", "rank 8"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(ok(dir.path(), &["plan", "--help"]).contains("lowrank plan --rank 64"));
}

#[test]
fn the_same_refusals() {
    let dir = workplace();
    let cases: [&[&str]; 9] = [
        &["--rank", "0"],
        &["--rank", "65"],
        &["--targets", "c_attn"],
        &["--targets", "norm"],
        &["--lr", "inf"],
        &["--seq-len", "129"],
        &["--data", "nowhere.txt"],
        &["--model", "nowhere"],
        &["--precision", "tf32"],
    ];
    for more in cases {
        assert_eq!(fails(dir.path(), &plan(more)), fails(dir.path(), &train_args(more)), "{more:?}");
    }
    fs::create_dir(dir.path().join("lowrank-out")).unwrap();
    fs::write(dir.path().join("lowrank-out/precious"), "x").unwrap();
    assert!(ok(dir.path(), &plan(&[])).contains("train would refuse its --out"));
}

/// Hash of an adapter in a directory, as `swap` says it.
fn hash_of(dir: &std::path::Path, adapter: &str) -> Value {
    let args = ["swap", "--adapter", adapter, "--data", "text.txt", "--seq-len", "32", "--json"];
    serde_json::from_str::<Value>(&ok(dir, &args)).unwrap()["adapters"][0]["hash"].take()
}

#[test]
fn a_sweep_is_many_trainings() {
    let dir = workplace();
    let args = ["sweep", "--data", "text.txt", "--steps", "2", "--batch", "2", "--seq-len", "32"];
    let grid = ["--lrs", "1e-3,1e30", "--ranks", "2,4", "--inits", "default,gaussian", "--clip", "0"];
    let text = ok(dir.path(), &[&args[..], &grid].concat());
    assert!(text.contains("diverged") && text.contains(" *") && text.contains("best"), "{text}");
    assert_eq!(listing(&dir.path().join("lowrank-sweep")), ["sweep.json", "sweep.md", "sweep.svg"]);
    let sweep = json(dir.path().join("lowrank-sweep/sweep.json"));
    let cells = sweep["sweep"]["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 8);
    // One of them, trained alone.
    let cell = cells.iter().find(|c| c["rank"] == 4 && c["init"] == "gaussian" && c["lr"] == 1e-3).unwrap();
    let alone = ["--steps", "2", "--rank", "4", "--init", "gaussian", "--lr", "1e-3", "--clip", "0", "--quiet"];
    let args = ["train", "--data", "text.txt", "--batch", "2", "--seq-len", "32"];
    ok(dir.path(), &[&args[..], &alone].concat());
    let summary = json(dir.path().join("lowrank-out/summary.json"));
    assert_eq!((&cell["loss"], &cell["loss_before"]), (&summary["val_loss_after"], &summary["val_loss_before"]));
    // The same bits, by hash, as in the file that the run left.
    assert_eq!(cell["hash"], hash_of(dir.path(), "lowrank-out"));
    let grid = ["--ranks", "2,4", "--inits", "lora-ga:batches=2,olora", "--out", "split"];
    ok(
        dir.path(),
        &[&["sweep", "--data", "text.txt", "--steps", "2", "--batch", "2", "--seq-len", "32"], &grid[..]].concat(),
    );
    let split = json(dir.path().join("split/sweep.json"));
    for (i, cell) in split["sweep"]["cells"].as_array().unwrap().iter().enumerate() {
        let (rank, out) = (cell["rank"].to_string(), format!("alone{i}"));
        let more = ["--steps", "2", "--rank", &rank, "--init", cell["init"].as_str().unwrap(), "--out", &out];
        ok(dir.path(), &[&args[..], &more].concat());
        assert_eq!(cell["hash"], hash_of(dir.path(), &out), "{cell}");
    }
    for bad in [&["--ranks", "2,2"][..], &["--lrs", "-1"], &["--ranks", "65"], &["--inits", "nonsense"]] {
        let args = [&["sweep", "--data", "text.txt", "--out", "x"], bad].concat();
        assert!(!run(dir.path(), &args).status.success(), "{bad:?}");
        assert!(!dir.path().join("x").exists());
    }
}

#[test]
fn the_doctor_fails_if_something_is_wrong() {
    let dir = workplace();
    let args = |more: &[&'static str]| {
        [&["doctor", "--data", "text.txt", "--batch", "2", "--seq-len", "32", "--energy", "0"], more].concat()
    };
    let text = ok(dir.path(), &args(&["--out", "report"]));
    assert!(text.contains("nothing wrong"), "{text}");
    assert_eq!(listing(&dir.path().join("report")), ["doctor.json", "doctor.svg"]);
    assert_eq!(listing(dir.path()), ["report", "text.txt"]);
    for (more, fault) in [
        (&["--init", "both-zero"][..], "dead"),
        (&["--init", "both-random"], "broken-identity"),
        (&["--alpha", "16000"], "too-large"),
    ] {
        let output = run(dir.path(), &args(&[more, &["--json"]].concat()));
        assert_eq!((output.status.code(), output.stderr.len()), (Some(1), 0));
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(json["findings"].as_array().unwrap().iter().all(|f| f["fault"] == fault && f["severity"] == "error"));
    }
    ok(dir.path(), &train_args(&["--quiet"]));
    ok(dir.path(), &args(&["--adapter", "lowrank-out", "--energy", "0.9"]));
    assert!(ok(dir.path(), &["doctor", "--help"]).contains("lowrank doctor --adapter"));
}

#[test]
fn a_study_leaves_a_table_and_a_picture() {
    let dir = workplace();
    for _ in 0..2 {
        let text = ok(dir.path(), &["study", "starts", "--steps", "3", "--seeds", "1", "--out", "a/b"]);
        assert!(text.contains("A random, B = 0 (LoRA)"), "{text}");
    }
    assert_eq!(listing(&dir.path().join("a/b")), ["starts.md", "starts.svg"]);
    let table = fs::read_to_string(dir.path().join("a/b/starts.md")).unwrap();
    assert!(table.contains("`lowrank study starts --steps 3 --seeds 1`") && table.contains("(starts.svg)"), "{table}");
    for bad in [&["--steps", "0"][..], &["--seeds", "0"], &["--device", "tpu"]] {
        fails(dir.path(), &[&["study", "starts", "--out", "x"], bad].concat());
    }
    assert_eq!(run(dir.path(), &["study", "nonsense"]).status.code(), Some(2));
    assert_eq!(listing(dir.path()), ["a", "text.txt"]);
}
