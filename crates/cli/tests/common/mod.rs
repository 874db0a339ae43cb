//! Runs the program as a user does.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

pub const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data");

/// A directory to work in, with a short text: 8,000 bytes of Hamlet.
pub fn workplace() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let hamlet = fs::read_to_string(Path::new(DATA).join("hamlet.txt")).unwrap();
    fs::write(dir.path().join("text.txt"), &hamlet[3000..11_000]).unwrap();
    dir
}

/// A copy of the built-in model as a directory.
pub fn model(dir: &Path) -> PathBuf {
    let model = dir.join("model");
    fs::create_dir(&model).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(Path::new(DATA).join("glass-en").join(file), model.join(file)).unwrap();
    }
    model
}

pub fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowrank"));
    command.current_dir(dir);
    command
}

/// Three small steps, with more arguments.
pub fn train_args<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["train", "--data", "text.txt", "--steps", "3", "--batch", "2", "--seq-len", "32"];
    args.extend(more);
    args
}

pub fn run(dir: &Path, args: &[&str]) -> Output {
    command(dir).args(args).output().unwrap()
}

/// Stdout of a command that must work.
pub fn ok(dir: &Path, args: &[&str]) -> String {
    let output = run(dir, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The one line that a command must fail with.
pub fn fails(dir: &Path, args: &[&str]) -> String {
    let output = run(dir, args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{args:?}: {stderr}");
    stderr.trim_end().to_string()
}

pub fn json(path: impl AsRef<Path>) -> Value {
    let path = path.as_ref();
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

/// `loss` of `eval --json`.
pub fn loss(dir: &Path, args: &[&str]) -> f64 {
    let mut all = vec!["eval", "--data", "text.txt", "--seq-len", "32", "--json"];
    all.extend(args);
    let value: Value = serde_json::from_str(&ok(dir, &all)).unwrap();
    value["loss"].as_f64().unwrap()
}

/// Names of everything in a directory, hidden files too.
pub fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Fails with one line that names everything in `parts`, and leaves the directory as it was.
pub fn refused(dir: &Path, args: &[&str], parts: &[&str]) {
    let before = listing(dir);
    let error = fails(dir, args);
    for part in parts {
        assert!(error.contains(part), "{args:?}: {part:?} is not in: {error}");
    }
    assert_eq!(listing(dir), before, "{args:?}");
}
