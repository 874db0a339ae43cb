//! Tests on tiny random models.

mod config;
mod export;
mod forward;
mod generate;
mod load;
mod plain;

use lowrank_core::philox::Rng;
use lowrank_core::{DType, Device, Tensor};
use lowrank_lora::write_tensors;
use serde_json::{Value, json};

use super::{Llama, LlamaConfig};

/// The configuration of a tiny Llama with fields replaced or added.
fn config_json(changes: Value) -> String {
    let mut config = json!({
        "model_type": "llama", "hidden_act": "silu", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 6,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16,
        "rms_norm_eps": 1e-5, "rope_theta": 100.0, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2
    });
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    for (key, value) in changes {
        match value.as_str() {
            Some("<absent>") => drop(config.as_object_mut().unwrap().remove(&key)),
            _ => config[key] = value,
        }
    }
    config.to_string()
}

/// Every tensor a configuration asks for, by Hugging Face's names, with its shape.
fn shapes(c: &LlamaConfig) -> Vec<(String, Vec<usize>)> {
    let (h, inner) = (c.hidden_size, c.intermediate_size);
    let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let mut all = vec![("model.embed_tokens.weight".to_string(), vec![c.vocab_size, h])];
    for i in 0..c.num_hidden_layers {
        for (part, n, k, bias) in [
            ("self_attn.q_proj", q, h, c.attention_bias),
            ("self_attn.k_proj", kv, h, c.attention_bias),
            ("self_attn.v_proj", kv, h, c.attention_bias),
            ("self_attn.o_proj", h, q, c.o_bias),
            ("mlp.gate_proj", inner, h, c.mlp_bias),
            ("mlp.up_proj", inner, h, c.mlp_bias),
            ("mlp.down_proj", h, inner, c.mlp_bias),
        ] {
            all.push((format!("model.layers.{i}.{part}.weight"), vec![n, k]));
            if bias {
                all.push((format!("model.layers.{i}.{part}.bias"), vec![n]));
            }
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            all.push((format!("model.layers.{i}.{norm}.weight"), vec![h]));
        }
    }
    all.push(("model.norm.weight".to_string(), vec![h]));
    if !c.tie_word_embeddings {
        all.push(("lm_head.weight".to_string(), vec![c.vocab_size, h]));
    }
    all
}

/// Random weights for a configuration: norms around 1, the rest around 0.
fn tensors(config: &str, dtype: DType, device: &Device) -> Vec<(String, Tensor)> {
    let config = LlamaConfig::from_json("config.json", config).unwrap();
    let mut rng = Rng::new(9, 0);
    let one = |(name, shape): (String, Vec<usize>)| {
        let shift = if name.contains("norm") { 1.0 } else { 0.0 };
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| shift + 0.5 * rng.normal()).collect();
        (name, Tensor::from_f64(&values, &shape, dtype, device).unwrap())
    };
    shapes(&config).into_iter().map(one).collect()
}

/// A tiny random model in f64 on the reference device, and its weights.
fn tiny(changes: Value) -> (Llama, Vec<(String, Tensor)>) {
    let device = Device::reference().unwrap();
    let config = config_json(changes);
    let tensors = tensors(&config, DType::F64, &device);
    let bytes = write_tensors(&tensors).unwrap();
    let files = [("model.safetensors".to_string(), &bytes[..])];
    (Llama::from_files("config.json", &config, &files, &device, DType::F64).unwrap(), tensors)
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}
