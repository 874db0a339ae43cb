//! A Llama of one small block with random weights: what the interpreter takes seconds for.

use lowrank_core::{DType, Device, philox};
use lowrank_models::Llama;
use safetensors::tensor::{Dtype, TensorView};

use crate::Outcome;

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 1024, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": true}"#;

const TENSORS: [(&str, &[usize]); 11] = [
    ("model.embed_tokens", &[1024, 16]),
    ("model.layers.0.self_attn.q_proj", &[16, 16]),
    ("model.layers.0.self_attn.k_proj", &[8, 16]),
    ("model.layers.0.self_attn.v_proj", &[8, 16]),
    ("model.layers.0.self_attn.o_proj", &[16, 16]),
    ("model.layers.0.mlp.gate_proj", &[24, 16]),
    ("model.layers.0.mlp.up_proj", &[24, 16]),
    ("model.layers.0.mlp.down_proj", &[16, 24]),
    ("model.layers.0.input_layernorm", &[16]),
    ("model.layers.0.post_attention_layernorm", &[16]),
    ("model.norm", &[16]),
];

/// The model, the same on every device.
pub fn model(device: &Device) -> Outcome<Llama> {
    model_in(DType::F32, device)
}

/// The same with its weights stored in another dtype.
pub fn model_in(dtype: DType, device: &Device) -> Outcome<Llama> {
    let mut rng = philox::Rng::new(21, 0);
    let tensors = TENSORS.map(|(name, shape)| {
        let norm = shape.len() == 1;
        let one = |u: f64| if norm { 1.0 } else { u as f32 - 0.5 };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| one(rng.uniform())).collect();
        (format!("{name}.weight"), shape.to_vec(), values)
    });
    let views: Vec<(&str, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, shape, values)| {
            TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values)).map(|v| (name.as_str(), v))
        })
        .collect::<Result<_, _>>()?;
    let bytes = safetensors::serialize(views, None)?;
    Ok(Llama::from_files("config.json", CONFIG, &[("model.safetensors".to_string(), &bytes[..])], device, dtype)?)
}
