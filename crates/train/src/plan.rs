//! What a run is going to do, and the memory it needs.

use std::collections::BTreeMap;

use lowrank_lora::{Adapter, Host, LowRank};
use lowrank_models::Llama;

use crate::{Dataset, Error, Options, Result};

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
}

/// Bytes on the device during training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The model's weights.
    pub weights: usize,
    /// The adapter's weights, and what its init took off the base.
    pub adapter: usize,
    /// Their gradients.
    pub gradients: usize,
    /// AdamW's two averages.
    pub optimiser: usize,
    /// An estimate of what a micro-batch keeps for its backward pass.
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
        for name in adapter.layers.keys() {
            *targets.entry(name.rsplit('.').next().unwrap_or(name)).or_default() += 1;
        }
        let examples = data.train.len();
        let steps = options.steps(examples);
        let longest = data.longest();
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
            memory: Memory {
                weights: model.state().iter().map(|(_, t)| t.bytes()).sum(),
                adapter: report.bytes + adapter.layers.values().map(offset_bytes).sum::<usize>(),
                gradients: report.bytes,
                optimiser: 2 * report.bytes,
                activations: activations(model, adapter, options.batch.min(examples), longest),
            },
        }
    }
}

/// Floats that the tape keeps for one micro-batch, counted rule by rule, and the logits.
fn activations(model: &Llama, adapter: &Adapter, batch: usize, length: usize) -> usize {
    let c = model.config();
    let (hidden, inner) = (c.hidden_size, c.intermediate_size);
    let q = c.num_attention_heads * c.head_dim;
    let kv = c.num_key_value_heads * c.head_dim;
    // Norm inputs and results twice; q, k, v after rope, attention's result, its log-sum-exp; gate, up, their product.
    let block = 4 * hidden + 2 + 2 * q + 2 * kv + c.num_attention_heads + 3 * inner;
    let ranks: usize = adapter.layers.values().map(|l| l.full_rank()).sum();
    let blocks = c.num_hidden_layers - first_block(adapter).min(c.num_hidden_layers);
    let token = blocks * block + 2 * hidden + ranks + c.vocab_size;
    batch * length * token * model.dtype().size()
}

/// The lowest block that a trained tensor is in, or feeds: nothing is kept of the ones below it.
fn first_block(adapter: &Adapter) -> usize {
    let block = |name: &str| match name.split_once(".layers.") {
        Some((_, rest)) => rest.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0),
        None if name.contains("embed_tokens") => 0,
        // The last norm and the head.
        None => usize::MAX,
    };
    adapter.parameters().iter().map(|(name, _)| block(name)).min().unwrap_or(0)
}

/// Bytes of what an init took off the base.
fn offset_bytes(layer: &LowRank) -> usize {
    layer.offset.as_ref().map_or(0, |o| o.a.bytes() + o.b.bytes())
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
