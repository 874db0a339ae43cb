//! Every bad input gives one line that names file and field, exit code 1, and nothing half-written.

mod common;

use std::fs;
use std::path::Path;

use common::{model, ok, refused, train_args, workplace};
use serde_json::Value;

#[test]
fn options() {
    let dir = workplace();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--rank", "0"], &["r: ", "rank 0"]),
        (&["--rank", "65"], &["--rank", "65 is above 64", "k_proj", "--allow-rank-above-min"]),
        (&["--alpha", "nan"], &["lora_alpha"]),
        (&["--dropout", "1"], &["lora_dropout", "1"]),
        (&["--targets", "c_attn"], &["c_attn", "q_proj"]),
        (&["--device", "cuda:x"], &["cuda:x", "unknown device"]),
        (&["--device", "tpu"], &["tpu", "unknown device"]),
        (&["--precision", "tf32"], &["cpu", "precision tf32"]),
        (&["--threads", "0"], &["--threads"]),
        (&["--batch", "0"], &["--batch"]),
        (&["--lr", "inf"], &["--lr"]),
        (&["--clip=-1"], &["--clip"]),
        (&["--seq-len", "0"], &["--seq-len"]),
        (&["--seq-len", "129"], &["--seq-len", "129", "max_position_embeddings", "128"]),
        (&["--model", "nowhere"], &["nowhere"]),
        (&["--data", "nowhere.txt"], &["nowhere.txt"]),
        (&["--out", "text.txt"], &["text.txt", "no directory"]),
        (&["--out", "text.txt/out"], &["text.txt/out", "cannot be written"]),
        (&["--lr", "1e30", "--clip", "0"], &["step ", "--lr"]),
    ];
    for (more, parts) in cases {
        // The last of two equal options counts.
        refused(dir.path(), &train_args(more), parts);
    }
    ok(dir.path(), &train_args(&["--rank", "65", "--allow-rank-above-min", "--quiet"]));
}

#[test]
fn data() {
    let dir = workplace();
    let cases: &[(&str, &[u8], &[&str])] = &[
        ("e.txt", b"", &["e.txt", "empty"]),
        ("s.txt", b"To be.", &["s.txt", "too few", "--seq-len"]),
        ("b.txt", b"one\ntwo \xff\xfe three", &["b.txt", "line 2", "UTF-8"]),
        ("e.jsonl", b"\n\n", &["e.jsonl", "empty"]),
        ("j.jsonl", b"{\"text\":\"a b\"}\n{\"text\":", &["j.jsonl", "line 2", "JSON"]),
        ("c.jsonl", b"{\"prompt\":\"a\"}\n", &["c.jsonl", "line 1", "completion"]),
        ("t.jsonl", b"{\"text\":\"a b\"}\n{\"text\":7}\n", &["t.jsonl", "line 2", "text"]),
        ("o.jsonl", b"{\"text\":\"only one\"}\n", &["o.jsonl", "at least 2"]),
        ("a.jsonl", b"[]\n", &["a.jsonl", "line 1", "object"]),
    ];
    for (name, content, parts) in cases {
        fs::write(dir.path().join(name), content).unwrap();
        refused(dir.path(), &["train", "--data", name, "--seq-len", "32", "--steps", "1"], parts);
    }
}

/// Changes the header of a safetensors file; the data stay.
fn edit_header(path: &Path, edit: impl FnOnce(&mut Value)) {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    edit(&mut header);
    let header = serde_json::to_vec(&header).unwrap();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header);
    out.extend(&bytes[8 + length..]);
    fs::write(path, out).unwrap();
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = common::json(path);
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn models() {
    type Break = fn(&Path);
    const EMBED: &str = "model.embed_tokens.weight";
    const NORM: &str = "model.norm.weight";
    let weights = "model.safetensors";
    let cases: &[(Break, &[&str])] = &[
        (|m| fs::remove_file(m.join("config.json")).unwrap(), &["config.json"]),
        (|m| fs::write(m.join("config.json"), "{").unwrap(), &["config.json", "JSON"]),
        (|m| edit_json(&m.join("config.json"), |c| c["model_type"] = "gpt2".into()), &["config.json", "gpt2"]),
        (|m| edit_json(&m.join("config.json"), |c| c["hidden_size"] = 0.into()), &["config.json", "hidden_size"]),
        (
            |m| edit_json(&m.join("config.json"), |c| c["vocab_size"] = 1000.into()),
            &["model.safetensors", EMBED, "1000"],
        ),
        (
            |m| edit_json(&m.join("tokenizer.json"), |t| t["model"]["vocab"]["zzzz"] = 5000.into()),
            &["tokenizer.json", "5001", "1024"],
        ),
        (|m| fs::write(m.join("tokenizer.json"), "{}").unwrap(), &["tokenizer.json"]),
        (|m| fs::remove_file(m.join("tokenizer.json")).unwrap(), &["tokenizer.json"]),
        (|m| fs::write(m.join("model.safetensors"), b"").unwrap(), &[weights]),
        (
            |m| {
                let path = m.join("model.safetensors");
                let bytes = fs::read(&path).unwrap();
                fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
            },
            &[weights],
        ),
        (
            |m| {
                let path = m.join("model.safetensors");
                let mut bytes = fs::read(&path).unwrap();
                bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
                fs::write(path, bytes).unwrap();
            },
            &[weights, "header"],
        ),
        (
            |m| {
                // Not a number in the last element of the file.
                let path = m.join("model.safetensors");
                let mut bytes = fs::read(&path).unwrap();
                let end = bytes.len();
                bytes[end - 2..].copy_from_slice(&0x7e00u16.to_le_bytes());
                fs::write(path, bytes).unwrap();
            },
            &[weights, "NaN", "element"],
        ),
        (
            |m| {
                edit_header(&m.join("model.safetensors"), |h| {
                    let norm = h[NORM].take();
                    h.as_object_mut().unwrap().remove(NORM);
                    h["model.other.weight"] = norm;
                })
            },
            &[weights, NORM, "missing"],
        ),
        (|m| edit_header(&m.join("model.safetensors"), |h| h[NORM]["data_offsets"] = vec![0, 256].into()), &[weights]),
        (
            |m| edit_header(&m.join("model.safetensors"), |h| h[NORM]["data_offsets"] = vec![0u64, 1 << 60].into()),
            &[weights, NORM],
        ),
        (
            |m| {
                edit_header(&m.join("model.safetensors"), |h| h[EMBED]["shape"] = vec![u64::MAX, u64::MAX].into());
            },
            &[weights, EMBED],
        ),
    ];
    for (spoil, parts) in cases {
        let dir = workplace();
        let model = model(dir.path());
        spoil(&model);
        refused(dir.path(), &train_args(&["--model", "model"]), parts);
    }
}

#[test]
fn adapters() {
    let dir = workplace();
    let dir = dir.path();
    ok(dir, &train_args(&["--quiet", "--targets", "q_proj"]));
    let good = |file: &str| fs::read(dir.join("lowrank-out").join(file)).unwrap();
    let (config, tensors) = (good("adapter_config.json"), good("adapter_model.safetensors"));
    let spoiled = |config: &[u8], tensors: &[u8], parts: &[&str]| {
        let bad = dir.join("bad");
        fs::create_dir(&bad).unwrap();
        fs::write(bad.join("adapter_config.json"), config).unwrap();
        fs::write(bad.join("adapter_model.safetensors"), tensors).unwrap();
        refused(dir, &["eval", "--data", "text.txt", "--seq-len", "32", "--adapter", "bad"], parts);
        refused(dir, &["merge", "--adapter", "bad", "--out", "merged"], parts);
        fs::remove_dir_all(bad).unwrap();
    };
    let with = |key: &str, value: Value| {
        let mut c: Value = serde_json::from_slice(&config).unwrap();
        c[key] = value;
        c.to_string().into_bytes()
    };
    spoiled(&config, &tensors[..tensors.len() - 1], &["adapter_model.safetensors"]);
    spoiled(b"{", &tensors, &["adapter_config.json", "JSON"]);
    spoiled(&with("r", 0.into()), &tensors, &["adapter_config.json", "r"]);
    spoiled(&with("r", 4.into()), &tensors, &["adapter_model.safetensors", "q_proj"]);
    spoiled(
        &with("use_dora", true.into()),
        &tensors,
        &["adapter_model.safetensors", "lora_magnitude_vector", "use_dora"],
    );
    spoiled(&with("peft_type", "IA3".into()), &tensors, &["adapter_config.json", "peft_type", "IA3"]);
    spoiled(&with("target_modules", vec!["nothing"].into()), &tensors, &["nothing"]);
    refused(dir, &["eval", "--adapter", "nowhere"], &["nowhere", "adapter_config.json"]);
    refused(dir, &["generate", "--prompt", "x", "--adapter", "nowhere"], &["nowhere"]);
    refused(dir, &["merge", "--adapter", "nowhere", "--out", "m"], &["nowhere"]);
    refused(dir, &["inspect", "nowhere"], &["nowhere"]);
}
