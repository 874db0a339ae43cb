//! A whole training step: hidden 512, 8 layers, 8 heads, feed-forward 1376, vocabulary 32000, 4×256 tokens, pairs of rank 8
//! on q, k, v and o; forward, cross entropy, backward, AdamW.

use lowrank_core::optim::{AdamW, AdamWOptions, Group};
use lowrank_core::{DType, Device, Precision, Tensor, philox};
use lowrank_lora::{Adapter, LoraConfig, Targets, attach, write_tensors};
use lowrank_models::Llama;

use crate::{median, random, time};

const HIDDEN: usize = 512;
const INNER: usize = 1376;
const LAYERS: usize = 8;
const VOCAB: usize = 32000;
const BATCH: usize = 4;
const LEN: usize = 256;
const STEPS: usize = 9;

fn model(device: &Device, dtype: DType) -> Llama {
    let config = format!(
        r#"{{"model_type": "llama", "hidden_act": "silu", "vocab_size": {VOCAB}, "hidden_size": {HIDDEN},
        "intermediate_size": {INNER}, "num_hidden_layers": {LAYERS}, "num_attention_heads": 8,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": false}}"#
    );
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_string(), vec![VOCAB, HIDDEN]),
        ("lm_head.weight".to_string(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".to_string(), vec![HIDDEN]),
    ];
    for i in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{i}.{part}.weight");
        for part in ["q", "k", "v", "o"] {
            shapes.push((name(&format!("self_attn.{part}_proj")), vec![HIDDEN, HIDDEN]));
        }
        shapes.push((name("mlp.gate_proj"), vec![INNER, HIDDEN]));
        shapes.push((name("mlp.up_proj"), vec![INNER, HIDDEN]));
        shapes.push((name("mlp.down_proj"), vec![HIDDEN, INNER]));
        shapes.push((name("input_layernorm"), vec![HIDDEN]));
        shapes.push((name("post_attention_layernorm"), vec![HIDDEN]));
    }
    let host = Device::from_name("cpu").expect("cpu");
    let tensors: Vec<(String, Tensor)> = shapes
        .into_iter()
        .enumerate()
        .map(|(i, (name, shape))| {
            let mut values = random(shape.iter().product(), i as u32);
            let shift = if shape.len() == 1 { 1.0 } else { 0.0 };
            values.iter_mut().for_each(|x| *x = 0.03 * *x + shift);
            (name, Tensor::from_slice(&values, &shape, &host).expect("tensor"))
        })
        .collect();
    let bytes = write_tensors(&tensors).expect("bytes");
    drop(tensors);
    Llama::from_files("config.json", &config, &[("model.safetensors".into(), &bytes)], device, dtype).expect("model")
}

/// Prints one line.
pub fn run(dtype: DType, precision: Precision) {
    let device = Device::from_name("cpu").expect("cpu");
    device.set_precision(precision).expect("precision");
    device.set_activations(dtype).expect("activations");
    let mut model = model(&device, dtype);
    let list = ["q_proj", "k_proj", "v_proj", "o_proj"].map(String::from).to_vec();
    let config = LoraConfig { r: 8, alpha: 16.0, targets: Targets::List(list), ..LoraConfig::default() };
    let adapter = Adapter::create(&model, "bench", config, 1).expect("adapter");
    for (i, pair) in adapter.layers.values().enumerate() {
        // B = 0 would leave dA = 0.
        let values: Vec<f32> = random(pair.b.len(), 100 + i as u32).iter().map(|x| 0.01 * x).collect();
        pair.b.set(&values).expect("B");
    }
    attach(&mut model, &adapter).expect("attach");
    let group = Group { params: adapter.parameters(), lr: 1e-4, weight_decay: 0.0 };
    let mut optimiser = AdamW::new(vec![group], AdamWOptions::default()).expect("optimiser");
    let mut rng = philox::Rng::new(3, 0);
    let ids: Vec<u32> = (0..BATCH * LEN).map(|_| rng.below(VOCAB as u32)).collect();
    let targets: Vec<u32> = ids.iter().map(|id| (id + 1) % VOCAB as u32).collect();
    let ids = Tensor::from_slice(&ids, &[BATCH, LEN], &device).expect("ids");
    let targets = Tensor::from_slice(&targets, &[BATCH * LEN], &device).expect("targets");

    device.backend().reset_peak();
    let (mut clock, mut processor, mut parts, mut losses) = (Vec::new(), Vec::new(), [0.0; 3], Vec::new());
    for step in 0..STEPS + 2 {
        let mut loss = None;
        let all = time(|| {
            device.begin_step(step as u32).expect("step");
            let forward = time(|| loss = Some(model.loss(&ids, &targets, (BATCH * LEN) as f64).expect("loss")));
            let loss = loss.take().expect("computed");
            losses.push(loss.detach());
            let backward = time(|| loss.backward().expect("backward"));
            let update = time(|| optimiser.step(1.0, Some(1.0)).expect("update"));
            optimiser.zero_grad();
            parts = [forward.processor, backward.processor, update.processor];
        });
        if step >= 2 {
            clock.push(all.clock);
            processor.push(all.processor);
        }
    }
    let (clock, processor) = (median(clock), median(processor));
    let tokens = (BATCH * LEN) as f64;
    let losses = losses.iter().map(|l| l.item().expect("loss")).collect::<Vec<_>>();
    println!(
        "ours\tstep\t{dtype}, {}\tms {:.1}\tprocessor_ms {:.1}\ttokens/s {:.0}\tof processor time {:.0}\tpeak_MiB {}\t\
         forward {:.0} backward {:.0} update {:.1} ms (processor)\tloss {:.4}->{:.4}",
        precision.name(),
        clock * 1e3,
        processor * 1e3,
        tokens / clock,
        tokens / processor,
        device.stats().bytes_peak >> 20,
        parts[0] * 1e3,
        parts[1] * 1e3,
        parts[2] * 1e3,
        losses[0],
        losses[losses.len() - 1]
    );
}
