//! A training step of a Llama: LoRA of rank 16 on all its linears, through the loop of `lowrank train`.

use std::sync::atomic::AtomicBool;

use half::bf16;
use lowrank_core::{DType, Precision, philox};
use lowrank_lora::{Adapter, LoraConfig};
use lowrank_models::Llama;
use lowrank_train::{Dataset, Example, Length, Observer, Options, StepRecord, train};
use safetensors::tensor::{Dtype, TensorView};

use crate::{Outcome, Setup};

/// The model's sizes, and those of a batch.
struct Shape {
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
    batch: usize,
    length: usize,
    steps: usize,
}

/// A third of a model of 1.1 billion parameters, as PEFT's script beside this has it.
const REAL: Shape = Shape {
    hidden: 2048,
    inner: 5632,
    layers: 8,
    heads: 32,
    kv_heads: 4,
    vocab: 32000,
    batch: 4,
    length: 1024,
    steps: 14,
};
const TINY: Shape =
    Shape { hidden: 32, inner: 40, layers: 1, heads: 2, kv_heads: 1, vocab: 64, batch: 1, length: 8, steps: 5 };

impl Shape {
    fn config(&self) -> String {
        let Shape { hidden, inner, layers, heads, kv_heads, vocab, length, .. } = self;
        format!(
            r#"{{"model_type": "llama", "hidden_size": {hidden}, "intermediate_size": {inner}, "num_hidden_layers": {layers},
            "num_attention_heads": {heads}, "num_key_value_heads": {kv_heads}, "vocab_size": {vocab},
            "max_position_embeddings": {length}, "rms_norm_eps": 1e-6, "hidden_act": "silu"}}"#
        )
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let &Shape { hidden, inner, layers, vocab, heads, kv_heads, .. } = self;
        let kv = hidden / heads * kv_heads;
        let mut all = vec![("model.embed_tokens".to_string(), vec![vocab, hidden])];
        for i in 0..layers {
            let linears = [
                ("self_attn.q_proj", [hidden, hidden]),
                ("self_attn.k_proj", [kv, hidden]),
                ("self_attn.v_proj", [kv, hidden]),
                ("self_attn.o_proj", [hidden, hidden]),
                ("mlp.gate_proj", [inner, hidden]),
                ("mlp.up_proj", [inner, hidden]),
                ("mlp.down_proj", [hidden, inner]),
            ];
            all.extend(linears.map(|(name, shape)| (format!("model.layers.{i}.{name}"), shape.to_vec())));
            let norms = ["input_layernorm", "post_attention_layernorm"];
            all.extend(norms.map(|name| (format!("model.layers.{i}.{name}"), vec![hidden])));
        }
        all.push(("model.norm".to_string(), vec![hidden]));
        all.push(("lm_head".to_string(), vec![vocab, hidden]));
        all
    }

    /// Random weights of a trained model's size, as a safetensors file of bf16.
    fn weights(&self) -> Outcome<Vec<u8>> {
        let mut rng = philox::Rng::new(4, 0);
        let tensors: Vec<(String, Vec<usize>, Vec<bf16>)> = self
            .tensors()
            .into_iter()
            .map(|(name, shape)| {
                let scale = if shape.len() == 1 { 0.0 } else { (shape[1] as f32).powf(-0.5) / (1u32 << 31) as f32 };
                let one = |word: u32| bf16::from_f32(word as i32 as f32 * scale + f32::from(u8::from(scale == 0.0)));
                let values = (0..shape.iter().product()).map(|_| one(rng.next_u32())).collect();
                (format!("{name}.weight"), shape, values)
            })
            .collect();
        let views: Vec<(&str, TensorView<'_>)> = tensors
            .iter()
            .map(|(name, shape, values)| {
                TensorView::new(Dtype::BF16, shape.clone(), bytemuck::cast_slice(values)).map(|v| (name.as_str(), v))
            })
            .collect::<Result<_, _>>()?;
        Ok(safetensors::serialize(views, None)?)
    }
}

/// Tokens per second of every step.
#[derive(Default)]
struct Rates(Vec<f64>);

impl Observer for Rates {
    fn step(&mut self, record: &StepRecord) -> lowrank_train::Result<()> {
        self.0.push(record.tokens_per_s);
        Ok(())
    }
}

/// Activations and products: that of `scripts/peers/gpu.py` first.
const MODES: [(DType, Precision); 3] =
    [(DType::BF16, Precision::Bf16), (DType::F32, Precision::Bf16), (DType::F32, Precision::Tf32)];

/// Prints tokens per second.
pub fn steps(setup: &Setup) -> Outcome {
    let shape = if setup.tiny { &TINY } else { &REAL };
    let bytes = shape.weights()?;
    let files = [("model.safetensors".to_string(), &bytes[..])];
    let device = &setup.device;
    let mut model = Llama::from_files("config.json", &shape.config(), &files, device, DType::BF16)?;
    drop(bytes);
    let mut rng = philox::Rng::new(5, 0);
    let mut example = || {
        let tokens: Vec<u32> = (0..=shape.length).map(|_| rng.below(shape.vocab as u32)).collect();
        Example::next_tokens(&tokens)
    };
    let data = Dataset {
        train: (0..shape.batch * shape.steps).map(|_| example()).collect(),
        valid: vec![example()],
        cut: 0,
        dropped: 0,
    };
    println!(
        "\na training step, Llama of hidden {}, {} layers, inner {}, vocabulary {}; {} x {} tokens, W in bf16, r = 16",
        shape.hidden, shape.layers, shape.inner, shape.vocab, shape.batch, shape.length
    );
    for (activations, precision) in MODES {
        device.set_precision(precision)?;
        device.set_activations(activations)?;
        let adapter = Adapter::create(&model, "default", LoraConfig { r: 16, ..LoraConfig::default() }, 1)?;
        let options =
            Options { batch: shape.batch, length: Length::Steps(shape.steps), eval_batch: 1, ..Options::default() };
        let mut rates = Rates::default();
        let before = device.stats();
        let summary = train(&mut model, &adapter, &data, &options, &mut rates, &AtomicBool::new(false))?;
        let after = device.stats();
        // The first steps compile, and record.
        let mut late = rates.0.split_off(rates.0.len().min(4));
        late.sort_by(f64::total_cmp);
        let rate = late.get(late.len() / 2).copied().unwrap_or(f64::NAN);
        println!(
            "activations {:<4}, products {:<4} {:>10.0} tokens/s, {:.2} ms a step, {} kernels a step, {} graph launches in {} steps, peak {:.0} MiB",
            activations.name(),
            precision.name(),
            rate,
            1e3 * (shape.batch * shape.length) as f64 / rate,
            (after.launches - before.launches) / shape.steps as u64,
            after.graph_launches - before.graph_launches,
            shape.steps,
            summary.peak_bytes as f64 / f64::from(1 << 20),
        );
    }
    device.set_activations(DType::F32)?;
    Ok(device.set_precision(Precision::Full)?)
}
