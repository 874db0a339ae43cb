//! Ctrl-C in mid-training.
#![cfg(unix)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::{command, json, listing, loss, workplace};

#[test]
fn what_there_is_is_saved() {
    let dir = workplace();
    let mut child = command(dir.path())
        .args(["train", "--data", "text.txt", "--steps", "100000", "--batch", "2", "--seq-len", "32"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("step ") {
        line.clear();
        assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "training ended by itself");
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    // Read to the end, or the pipe may fill up.
    let rest: Vec<String> = stdout.lines().map(|l| l.unwrap()).collect();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}\n{rest:?}");
    assert!(stderr.contains("interrupted after step"), "{stderr}");

    assert_eq!(listing(dir.path()), ["lowrank-out", "text.txt"]);
    let summary = json(dir.path().join("lowrank-out/summary.json"));
    let steps = summary["steps"].as_u64().unwrap();
    assert!(steps >= 1 && summary["interrupted"] == true, "{summary}");
    let metrics = fs::read_to_string(dir.path().join("lowrank-out/metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count() as u64, steps);
    assert!(loss(dir.path(), &["--adapter", "lowrank-out"]).is_finite());
}

/// A limit on the size of files is the nearest thing to a full disk that needs no rights.
#[test]
fn a_full_disk_leaves_nothing() {
    let dir = workplace();
    let script = format!(
        "trap '' XFSZ; ulimit -f 60; exec {} train --data text.txt --steps 2 --batch 2 --seq-len 32",
        env!("CARGO_BIN_EXE_lowrank")
    );
    let output = Command::new("sh").arg("-c").arg(script).current_dir(dir.path()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.contains("adapter_model.safetensors"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1);
    assert_eq!(listing(dir.path()), ["text.txt"]);
}
