//! The built-in model and text of the command, for runs that are a second long.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use lowrank_core::{DType, Device, Tensor};
use lowrank_lora::{Adapter, LoraConfig, Targets};
use lowrank_models::{Llama, Tokenizer};
use lowrank_train::{DataOptions, Dataset, Examination, Fault, Format, Options, Result, Summary, train};

pub static GO_ON: AtomicBool = AtomicBool::new(false);

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../cli/data")
}

pub fn model(dtype: DType) -> Llama {
    Llama::load(&data().join("glass-en"), &Device::cpu().unwrap(), Some(dtype)).unwrap()
}

/// About 16,000 bytes of Hamlet.
pub fn dataset(model: &Llama, seq_len: usize) -> Dataset {
    let tokenizer = Tokenizer::load_for(&data().join("glass-en"), model.config()).unwrap();
    let text = std::fs::read(data().join("hamlet.txt")).unwrap();
    let options = DataOptions { seq_len, seed: 0, eos: None, vocab_size: model.config().vocab_size };
    let encode = |text: &str, special: bool| tokenizer.encode(text, special);
    Dataset::from_bytes("hamlet", &text[3000..19_000], Format::Text, &encode, &options).unwrap()
}

pub fn list(names: &str) -> Targets {
    names.parse().unwrap()
}

pub fn config(r: usize) -> LoraConfig {
    LoraConfig { r, ..LoraConfig::default() }
}

pub fn adapter(model: &Llama, config: LoraConfig, seed: u64) -> Adapter {
    Adapter::create(model, "default", config, seed).unwrap()
}

pub fn alone(model: &mut Llama, adapter: &Adapter, data: &Dataset, options: &Options) -> Result<Summary> {
    train(model, adapter, data, options, &mut (), &GO_ON)
}

/// What the doctor says, and of which layer.
pub fn faults(e: &Examination) -> Vec<(Fault, Option<&str>)> {
    e.findings.iter().map(|f| (f.fault, f.layer.as_deref())).collect()
}

/// Changes elements in place.
pub fn plant(t: &Tensor, value: impl Fn(usize, f32) -> f32) {
    let old = t.to_vec::<f32>().unwrap();
    t.set(&old.iter().enumerate().map(|(i, &v)| value(i, v)).collect::<Vec<f32>>()).unwrap();
}
