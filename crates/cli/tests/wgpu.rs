//! The commands with `--device wgpu`, against the same on the CPU.
//!
//! Without an adapter these tests say so and pass; `LOWRANK_REQUIRE=wgpu` makes that a failure.
#![cfg(feature = "wgpu")]

mod common;

use std::path::Path;

use common::{json, loss, ok, run, train_args, workplace};

/// What `lowrank devices` says, if there is an adapter.
fn adapters(dir: &Path) -> Option<String> {
    let devices = ok(dir, &["devices"]);
    if devices.lines().any(|line| line.starts_with("wgpu:0 (")) {
        return Some(devices);
    }
    let required = std::env::var("LOWRANK_REQUIRE").is_ok_and(|names| names.split(',').any(|n| n.trim() == "wgpu"));
    assert!(!required, "{devices}");
    eprintln!("skipped: {devices}");
    None
}

#[test]
fn the_adapter_and_its_limits_are_shown() {
    let dir = workplace();
    let Some(devices) = adapters(dir.path()) else { return };
    let line = devices.lines().find(|line| line.starts_with("  wgpu:0 (")).expect("a line of the adapter");
    assert!(line.contains("driver "), "{line}");
    for limit in ["binding ", "buffer ", "workgroup memory ", "invocations, subgroup "] {
        assert!(devices.contains(limit), "no {limit}in {devices}");
    }
    // One that was not asked for by number and pretends to be a GPU is named before anything is computed on it.
    let note = |device: &str| {
        let output = run(dir.path(), &["plan", "--data", "text.txt", "--device", device]);
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).lines().filter(|l| l.starts_with("note: ")).collect::<String>()
    };
    if line.contains("a software adapter") {
        let said = note("wgpu");
        assert!(said.contains("no GPU was found") && said.contains("wgpu:0 ("), "{said}");
    } else {
        assert_eq!(note("wgpu"), "");
    }
    assert_eq!(note("wgpu:0"), "");
    let error = run(dir.path(), &["plan", "--data", "text.txt", "--device", "wgpu:99"]);
    assert!(String::from_utf8_lossy(&error.stderr).contains("wgpu:99"));
}

#[test]
fn every_command_gives_what_the_cpu_gives() {
    let dir = workplace();
    let dir = dir.path();
    if adapters(dir).is_none() {
        return;
    }
    // Adapters, sweeps and merged models of both devices, from the same commands.
    let on = |device: &'static str| move |args: &[&str]| ok(dir, &[args, &["--device", device]].concat());
    let (mut texts, mut losses, mut sweeps, mut healthy) = (vec![], vec![], vec![], vec![]);
    for device in ["cpu", "wgpu"] {
        let (out, merged, grid) = (format!("adapter-{device}"), format!("merged-{device}"), format!("grid-{device}"));
        on(device)(&train_args(&["--quiet", "--lr", "1e-2", "--out", &out]));
        losses.push(loss(dir, &["--adapter", &out]));
        losses.push(json(dir.join(&out).join("summary.json"))["val_loss_after"].as_f64().unwrap());
        on(device)(&["merge", "--adapter", &out, "--out", &merged]);
        let greedy = ["generate", "--prompt", "Ham. ", "--temperature", "0", "--max-new", "8"];
        texts.push(on(device)(&[&greedy[..], &["--adapter", &out]].concat()));
        texts.push(on(device)(&[&greedy[..], &["--model", &merged]].concat()));
        let small = ["--data", "text.txt", "--batch", "2", "--seq-len", "32", "--steps", "2"];
        on(device)(&[&["sweep", "--quiet", "--lrs", "1e-3,1e-2", "--out", &grid], &small[..]].concat());
        sweeps.push(json(dir.join(&grid).join("sweep.json")));
        healthy.push(on(device)(&[&["doctor", "--out", "-", "--adapter", &out], &small[..]].concat()));
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
    assert!(losses.iter().all(|loss| (loss - losses[0]).abs() < 1e-3), "{losses:?}");
    let cells = |i: usize| sweeps[i]["sweep"]["cells"].as_array().expect("cells").clone();
    assert_eq!(cells(0).len(), 2);
    for (cpu, wgpu) in cells(0).iter().zip(&cells(1)) {
        let after = |cell: &serde_json::Value| cell["loss"].as_f64().expect("a loss");
        assert!((after(cpu) - after(wgpu)).abs() < 1e-3, "{cpu} {wgpu}");
    }
    // The same tables but for the device's name and the last digits.
    let lines = |i: usize| healthy[i].lines().count();
    assert_eq!(lines(0), lines(1), "{healthy:?}");
    // The driver writes to stderr too.
    for option in ["--precision", "--activations"] {
        let refused = run(dir, &["eval", "--data", "text.txt", "--device", "wgpu:0", option, "bf16"]);
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && error.contains("bf16") && error.contains("wgpu:0"), "{error}");
    }
}
