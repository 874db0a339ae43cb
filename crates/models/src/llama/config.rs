//! `config.json` of a Llama, Mistral or Qwen2 model. What changes the arithmetic and is not built is refused by name.

use serde_json::Value;

use super::fields::Fields;
use super::rope;
use crate::{Result, in_file};
use lowrank_core::ops::Llama3Scaling;

/// The supported values of `model_type`.
const SUPPORTED: [&str; 3] = ["llama", "mistral", "qwen2"];

/// The sizes and constants of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// `llama`, `mistral` or `qwen2`.
    pub model_type: String,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads, a multiple of `num_key_value_heads`.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Elements of a head, even.
    pub head_dim: usize,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Llama 3's stretching of the rotary frequencies.
    pub rope_scaling: Option<Llama3Scaling>,
    /// Added to the mean square in the norms.
    pub rms_norm_eps: f64,
    /// Whether the output head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether `q_proj`, `k_proj` and `v_proj` have a bias.
    pub attention_bias: bool,
    /// Whether `o_proj` has a bias.
    pub o_bias: bool,
    /// Whether `gate_proj`, `up_proj` and `down_proj` have a bias.
    pub mlp_bias: bool,
    /// The token that starts a text.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text.
    pub eos_token_ids: Vec<u32>,
}

impl LlamaConfig {
    /// Reads and checks the text of a `config.json`. `file` is its name in messages.
    pub fn from_json(file: &str, json: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(json).map_err(|e| in_file(file, format!("not JSON: {e}")))?;
        let f = Fields::new(file, &value)?;
        let model_type = match f.text("model_type")? {
            Some(t) if SUPPORTED.contains(&t) => t,
            Some(t) => {
                return Err(f.error("model_type", format!("`{t}` is not supported; {} are", SUPPORTED.join(", "))));
            }
            None => return Err(f.error("model_type", format!("is missing; {} are supported", SUPPORTED.join(", ")))),
        };
        let (llama, qwen2) = (model_type == "llama", model_type == "qwen2");
        let hidden_size = f.size("hidden_size", None, 1 << 17)?;
        let num_attention_heads = f.size("num_attention_heads", None, 1 << 12)?;
        let num_key_value_heads = f.size("num_key_value_heads", Some(num_attention_heads), 1 << 12)?;
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            let detail = format!("{num_key_value_heads} does not divide num_attention_heads = {num_attention_heads}");
            return Err(f.error("num_key_value_heads", detail));
        }
        let head_dim = head_dim(&f, hidden_size, num_attention_heads)?;
        let max_position_embeddings = f.size("max_position_embeddings", None, 1 << 24)?;
        let vocab_size = f.size("vocab_size", None, 1 << 24)?;
        let (rope_theta, rope_scaling) = rope::settings(&f)?;
        refuse_what_is_not_built(&f)?;
        refuse_sliding_window(&f, model_type, max_position_embeddings)?;

        // Hugging Face's Mistral and Qwen2 have these biases hard-wired; only Llama's are a matter of configuration.
        let attention_bias = f.flag("attention_bias", qwen2)?;
        let mlp_bias = f.flag("mlp_bias", false)?;
        if !llama && mlp_bias || model_type == "mistral" && attention_bias {
            let field = if mlp_bias { "mlp_bias" } else { "attention_bias" };
            return Err(f.error(field, format!("{model_type} has no such bias")));
        }
        let config = LlamaConfig {
            model_type: model_type.to_string(),
            vocab_size,
            hidden_size,
            intermediate_size: f.size("intermediate_size", None, 1 << 20)?,
            num_hidden_layers: f.size("num_hidden_layers", None, 1 << 10)?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings,
            rope_theta,
            rope_scaling,
            rms_norm_eps: f.number("rms_norm_eps", Some(1e-6), 1e-12..=1.0)?,
            tie_word_embeddings: f.flag("tie_word_embeddings", false)?,
            attention_bias,
            o_bias: llama && attention_bias,
            mlp_bias,
            bos_token_id: f.tokens("bos_token_id")?.first().copied(),
            eos_token_ids: f.tokens("eos_token_id")?,
        };
        for (field, ids) in [("bos_token_id", config.bos_token_id.as_slice()), ("eos_token_id", &config.eos_token_ids)]
        {
            if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
                return Err(f.error(field, format!("{id} is not below vocab_size = {vocab_size}")));
            }
        }
        Ok(config)
    }
}

fn head_dim(f: &Fields<'_>, hidden: usize, heads: usize) -> Result<usize> {
    if f.get("head_dim").is_none() && !hidden.is_multiple_of(heads) {
        let detail = format!("is missing, and hidden_size = {hidden} is no multiple of num_attention_heads = {heads}");
        return Err(f.error("head_dim", detail));
    }
    let dim = f.size("head_dim", Some(hidden / heads), 1 << 12)?;
    if !dim.is_multiple_of(2) {
        return Err(f.error("head_dim", format!("{dim} is odd; rotary embeddings need an even one")));
    }
    Ok(dim)
}

/// Fields that change the arithmetic.
fn refuse_what_is_not_built(f: &Fields<'_>) -> Result<()> {
    match f.text("hidden_act")? {
        None | Some("silu") => {}
        Some(act) => return Err(f.error("hidden_act", format!("`{act}` is not supported; silu is"))),
    }
    if f.get("quantization_config").is_some() {
        return Err(
            f.error("quantization_config", "quantised weights are not supported; use the model's plain weights")
        );
    }
    if let Some(p) = f.get("attention_dropout")
        && p.as_f64() != Some(0.0)
    {
        return Err(f.error("attention_dropout", format!("{p} is not supported; 0 is")));
    }
    if let Some(part) = f.get("partial_rotary_factor")
        && part.as_f64() != Some(1.0)
    {
        return Err(f.error("partial_rotary_factor", format!("{part} is not supported; 1 is")));
    }
    Ok(())
}

/// Attention here sees all earlier positions. A window that no sequence outgrows makes no difference.
fn refuse_sliding_window(f: &Fields<'_>, model_type: &str, positions: usize) -> Result<()> {
    if f.flag("use_sliding_window", false)? {
        return Err(f.error("use_sliding_window", "sliding-window attention is not supported"));
    }
    if let Some(layers) = f.get("layer_types") {
        let full = |v: &Value| v.as_str() == Some("full_attention");
        if !layers.as_array().is_some_and(|l| l.iter().all(full)) {
            return Err(f.error("layer_types", "has something other than `full_attention`, which alone is supported"));
        }
    }
    if model_type != "mistral" || f.is_null("sliding_window") {
        return Ok(());
    }
    // 4096 is what Hugging Face takes where Mistral's field is absent.
    let window = f.size("sliding_window", Some(4096), usize::MAX)?;
    if window < positions {
        let detail = format!(
            "{window} is less than max_position_embeddings = {positions}; sliding-window attention is not supported. \
             Lower max_position_embeddings to {window} to use the model on sequences up to there"
        );
        return Err(f.error("sliding_window", detail));
    }
    Ok(())
}
