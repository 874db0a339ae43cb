//! A Llama with adapters against PEFT: logits, loss, gradients, five AdamW steps, merged weights.
//!
//! `tests/golden/make_golden.py` made the values with PEFT 0.21 in f32 on the model in `crates/cli/data/glass-en`.
//! `merged_logits` of `embedding` is no target: PEFT merges into the tied head as well.
//! `tests/golden/make_tiny.py` made `tiny/*`: other architectures and options on tiny random models of their own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use libtest_mimic::Failed;
use lowrank_core::{DType, Device, Tensor, no_grad};
use lowrank_lora::{Adapter, Host, attach, merge, peft, unmerge};
use lowrank_models::Llama;
use safetensors::SafeTensors;

use crate::devices::{Checks, Target};
use crate::report::{Outcome, ensure, remember, same_bits, within};

/// Learning rate of `flow::adamw` and of the golden steps.
const LR: f64 = 1e-3;

/// The trials of this module.
pub const CHECKS: Checks = &[
    ("lora/gradients", |t| gradients("lora", t)),
    ("lora/steps", |t| steps("lora", t)),
    ("lora/merged", |t| merged("lora", t)),
    ("rslora-patterns/gradients", |t| gradients("rslora-patterns", t)),
    ("rslora-patterns/steps", |t| steps("rslora-patterns", t)),
    ("rslora-patterns/merged", |t| merged("rslora-patterns", t)),
    ("dora/gradients", |t| gradients("dora", t)),
    ("dora/steps", |t| steps("dora", t)),
    ("dora/merged", |t| merged("dora", t)),
    ("embedding/gradients", |t| gradients("embedding", t)),
    ("embedding/steps", |t| steps("embedding", t)),
    ("embedding/merged", |t| merged("embedding", t)),
    ("tiny/qwen2-bias-all", |t| all("tiny/qwen2-bias-all", t)),
    ("tiny/llama3-head-saved-norm", |t| all("tiny/llama3-head-saved-norm", t)),
    ("tiny/mistral-regex-layers", |t| all("tiny/mistral-regex-layers", t)),
    ("tiny/llama-bias-lora-only", |t| all("tiny/llama-bias-lora-only", t)),
    ("tiny/embedding-saved", |t| all("tiny/embedding-saved", t)),
];

fn all(name: &'static str, target: &Target) -> Outcome {
    gradients(name, target)?;
    steps(name, target)?;
    merged(name, target)
}

/// A directory of this repository, or of a copy of its data: `LOWRANK_TEST_DATA` says where on another machine.
pub fn root(path: &str) -> PathBuf {
    let data = std::env::var_os("LOWRANK_TEST_DATA").map(PathBuf::from);
    data.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).join(path)
}

/// The small model that comes with the command.
pub fn glass(device: &Device) -> Result<Llama, Failed> {
    let dir = root("crates/cli/data/glass-en");
    let config = std::fs::read_to_string(dir.join("config.json"))?;
    let weights = std::fs::read(dir.join("model.safetensors"))?;
    let files = [("model.safetensors".to_string(), &weights[..])];
    Ok(Llama::from_files("config.json", &config, &files, device, DType::F32)?)
}

struct Golden {
    name: &'static str,
    bytes: Vec<u8>,
    model: Llama,
    adapter: Adapter,
    ids: Tensor,
    targets: Tensor,
    /// Rows that count.
    denominator: f64,
}

impl Golden {
    fn open(name: &'static str, target: &Target) -> Result<Self, Failed> {
        let device = target.open()?;
        let dir = root("tests/golden").join(name);
        let mut model =
            if dir.join("config.json").exists() { Llama::load(&dir, &device, None)? } else { glass(&device)? };
        let adapter = peft::load(&dir, &model)?;
        attach(&mut model, &adapter)?;
        let bytes = std::fs::read(dir.join("golden.safetensors"))?;
        let file = SafeTensors::deserialize(&bytes)?;
        let view = file.tensor("input_ids")?;
        let ids: Vec<u32> =
            bytemuck::pod_collect_to_vec::<u8, i64>(view.data()).into_iter().map(|id| id as u32).collect();
        let &[batch, len] = view.shape() else { return Err("input_ids is not a matrix".into()) };
        // The last position of each row predicts nothing.
        let targets: Vec<u32> =
            (0..batch * len).map(|i| if (i + 1) % len == 0 { u32::MAX } else { ids[i + 1] }).collect();
        let ids = Tensor::from_slice(&ids, &[batch, len], &device)?;
        let targets = Tensor::from_slice(&targets, &[batch * len], &device)?;
        Ok(Golden { name, model, adapter, ids, targets, denominator: (batch * (len - 1)) as f64, bytes })
    }

    fn value(&self, name: &str) -> Result<Vec<f64>, Failed> {
        let file = SafeTensors::deserialize(&self.bytes)?;
        // PEFT names a module that is trained whole after its wrapper; the adapter's files and we do not.
        let same = |n: &&str| n.replace(".modules_to_save", "") == name;
        let stored = file.names().into_iter().find(same).ok_or_else(|| format!("no {name} among the golden values"))?;
        let view = file.tensor(stored)?;
        Ok(bytemuck::pod_collect_to_vec::<u8, f32>(view.data()).into_iter().map(f64::from).collect())
    }

    fn names(&self, prefix: &str) -> Result<Vec<String>, Failed> {
        let file = SafeTensors::deserialize(&self.bytes)?;
        let mut names: Vec<String> = file
            .names()
            .into_iter()
            .filter_map(|n| n.strip_prefix(prefix))
            .map(|n| n.replace(".modules_to_save", ""))
            .collect();
        names.sort();
        Ok(names)
    }

    fn logits(&self) -> Result<Vec<f64>, Failed> {
        Ok(no_grad(|| self.model.forward(&self.ids))?.to_f64()?)
    }

    fn loss(&self) -> Result<Tensor, Failed> {
        self.model.device().begin_step(0)?;
        Ok(self.model.loss(&self.ids, &self.targets, self.denominator)?)
    }

    fn compare(&self, what: &str, got: &[f64], want: &[f64], allowed: f64, target: &Target) -> Outcome {
        let ratio = within(what, got, want, &vec![allowed; want.len()])?;
        remember("golden", self.name, &target.name, what, ratio);
        Ok(())
    }
}

/// PEFT's name of a parameter: its file leaves `.weight` off a magnitude.
fn in_memory(key: &str) -> String {
    if key.ends_with("lora_magnitude_vector") { format!("{key}.weight") } else { key.to_string() }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

fn gradients(name: &'static str, target: &Target) -> Outcome {
    let golden = Golden::open(name, target)?;
    golden.compare("logits", &golden.logits()?, &golden.value("logits")?, 1e-4, target)?;
    let loss = golden.loss()?;
    golden.compare("loss", &loss.to_f64()?, &golden.value("loss")?, 1e-5, target)?;
    loss.backward()?;
    let parameters = golden.adapter.parameters();
    let names: Vec<String> = parameters.iter().map(|(name, _)| in_memory(name)).collect();
    let want = golden.names("grad.")?;
    ensure(names == want, || format!("parameters are {names:?}, PEFT's are {want:?}"))?;
    for (name, parameter) in parameters {
        let Some(grad) = parameter.grad() else { return Err(format!("{name} got no gradient").into()) };
        let want = golden.value(&format!("grad.{}", in_memory(&name)))?;
        golden.compare(&format!("gradient of {name}"), &grad.to_f64()?, &want, 1e-4 * largest(&want), target)?;
    }
    Ok(())
}

fn steps(name: &'static str, target: &Target) -> Outcome {
    let golden = Golden::open(name, target)?;
    let mut optimiser = crate::flow::adamw(golden.adapter.parameters(), 0.01)?;
    let mut losses = Vec::new();
    for _ in 0..5 {
        optimiser.zero_grad();
        let loss = golden.loss()?;
        losses.push(loss.item()?);
        loss.backward()?;
        optimiser.step(1.0, None)?;
    }
    losses.push(golden.loss()?.item()?);
    golden.compare("losses", &losses, &golden.value("losses")?, 1e-4, target)?;
    for (name, parameter) in golden.adapter.parameters() {
        let want = golden.value(&format!("after.{}", in_memory(&name)))?;
        golden.compare(&format!("{name} after 5 steps"), &parameter.to_f64()?, &want, 2.0 * LR, target)?;
    }
    Ok(())
}

fn merged(name: &'static str, target: &Target) -> Outcome {
    let mut golden = Golden::open(name, target)?;
    let apart = golden.logits()?;
    let before = weights(&golden.model)?;
    merge(&mut golden.model)?;
    let logits = golden.logits()?;
    golden.compare("merged against unmerged", &logits, &apart, 1e-4, target)?;
    if name != "embedding" {
        golden.compare("merged logits", &logits, &golden.value("merged_logits")?, 1e-3, target)?;
    }
    let after = weights(&golden.model)?;
    let changed = before.iter().filter(|(name, values)| after.get(*name) != Some(values)).count();
    ensure(changed == golden.adapter.layers.len(), || {
        format!("merging changed {changed} tensors, the adapter has {} layers", golden.adapter.layers.len())
    })?;
    unmerge(&mut golden.model)?;
    for (name, after) in weights(&golden.model)? {
        same_bits(&format!("{name} after unmerge"), &after, before.get(&name).map_or(&[], |b| b))?;
    }
    same_bits("logits after unmerge", &golden.logits()?, &apart)
}

fn weights(model: &Llama) -> Result<BTreeMap<String, Vec<f64>>, Failed> {
    model.state().into_iter().map(|(name, t)| Ok((name, t.to_f64()?))).collect()
}
