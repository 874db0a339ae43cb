//! What a run is going to do, and the memory it needs.

mod bottleneck;
mod dora;
mod llama;
mod meter;
mod modules;
mod rules;
mod shadow;

use std::collections::BTreeMap;

use lowrank_lora::{Adapter, Host, Method};
use lowrank_models::Llama;
use serde::Serialize;

pub use meter::Flops;
pub use modules::{Family, families};

use crate::{Dataset, Error, Example, Options, Result};

/// Facts about a run before it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Name of the device.
    pub device: String,
    /// Targeted modules by the last part of their names, with how many there are.
    pub targets: Vec<(String, usize)>,
    /// Numbers that are trained.
    pub trainable: usize,
    /// Numbers of model and adapter together.
    pub total: usize,
    /// Optimiser steps.
    pub steps: usize,
    /// Passes over the training examples that the steps make.
    pub epochs: f64,
    /// Examples to train on.
    pub train_examples: usize,
    /// Held-out examples.
    pub valid_examples: usize,
    /// Longest example, in tokens.
    pub longest: usize,
    /// JSONL documents that were cut to the sequence length.
    pub cut: usize,
    /// JSONL documents left out because nothing remained to predict.
    pub dropped: usize,
    /// Memory.
    pub memory: Memory,
    /// Necessary FLOPs of one optimiser step.
    pub flops: Flops,
    /// Which modules are adapted and which not.
    pub families: Vec<Family>,
}

/// Bytes on the device at the moment of a run when most are in use, by what they are for. Predicted by playing the
/// operations of an evaluation and of a step without their elements; the kernels' packing buffers, which backends do
/// not count either, are left out. Other devices than the CPU may need more where they lack fused kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The model's weights and rotary tables.
    pub weights: usize,
    /// The adapter's weights, and what its init took off the base.
    pub adapter: usize,
    /// Their gradients, as far as they exist at that moment.
    pub gradients: usize,
    /// AdamW's two averages.
    pub optimiser: usize,
    /// What a micro-batch keeps for its backward pass, results on their way, and the logits.
    pub activations: usize,
}

impl Memory {
    /// The sum.
    pub fn total(&self) -> usize {
        self.weights + self.adapter + self.gradients + self.optimiser + self.activations
    }
}

impl Plan {
    /// The plan of a run.
    pub fn new(model: &Llama, adapter: &Adapter, data: &Dataset, options: &Options) -> Self {
        let report = adapter.report(model);
        let mut targets: BTreeMap<&str, usize> = BTreeMap::new();
        let whole = adapter.saved.keys().filter_map(|p| p.strip_suffix(".weight"));
        let whole = whole.filter(|_| adapter.config.method == Method::Full);
        for name in adapter.layers.keys().chain(adapter.bottlenecks.keys()).map(String::as_str).chain(whole) {
            *targets.entry(name.rsplit('.').next().unwrap_or(name)).or_default() += 1;
        }
        let examples = data.train.len();
        let steps = options.steps(examples);
        let longest = data.longest();
        let length = |part: &[Example]| part.iter().map(|e| e.ids.len()).max().unwrap_or(0);
        let a_step = options.batch.saturating_mul(options.grad_accum).min(examples);
        let sizes = llama::Sizes {
            batch: options.batch.min(examples),
            grad_accum: a_step.div_ceil(options.batch.max(1)),
            eval_batch: options.eval_batch.min(data.valid.len()),
            train_length: length(&data.train),
            eval_length: length(&data.valid),
        };
        let (memory, flops) = llama::play(model, adapter, &sizes);
        Plan {
            device: model.device().name(),
            targets: targets.into_iter().map(|(name, n)| (name.to_string(), n)).collect(),
            trainable: report.trainable,
            total: report.total,
            steps,
            epochs: steps as f64 / options.steps_per_epoch(examples).max(1) as f64,
            train_examples: examples,
            valid_examples: data.valid.len(),
            longest,
            cut: data.cut,
            dropped: data.dropped,
            memory,
            flops,
            families: families(model, adapter),
        }
    }
}

/// Refuses a rank above min(out, in) of its layer: B A can have no higher rank, so the rest is waste.
pub fn check_ranks(adapter: &Adapter) -> Result<()> {
    for (name, layer) in &adapter.layers {
        let (&[rank, inputs], &[outputs, _]) = (layer.a.shape(), layer.b.shape()) else { continue };
        let most = inputs.min(outputs);
        if rank > most {
            let detail = format!(
                "{rank} is above {most}, the smaller side of {name} [{outputs}, {inputs}], and can do no more than \
                 {most}; --allow-rank-above-min trains it all the same"
            );
            return Err(Error::option("--rank", detail));
        }
    }
    Ok(())
}
