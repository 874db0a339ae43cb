//! Puts a model together from its configuration and its tensors, with Hugging Face's names.

use std::path::Path;

use lowrank_core::{DType, Device};
use lowrank_lora::{Embedding, Linear, Norm};

use super::block::Block;
use super::load::{Weights, with_directory};
use super::rope::Rope;
use super::{Llama, LlamaConfig};
use crate::{Result, in_file, invalid};

impl Llama {
    /// From the text of a `config.json` and the bytes of one or several safetensors files, each with its name for
    /// messages.
    ///
    /// `dtype` is the storage of matrices (embedding and linears): f32, bf16, f16 or f64. Norms, biases and activations
    /// are f32; with f64 everything is. A tensor that is missing, of another shape or of no use here is an error.
    pub fn from_files(
        config_file: &str,
        config: &str,
        weights: &[(String, &[u8])],
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        assemble(config_file, config, Weights::parse(weights)?, device, dtype)
    }

    /// From a directory with `config.json` and either `model.safetensors` or shards with
    /// `model.safetensors.index.json`. Files are mapped into memory, not read at once.
    ///
    /// `dtype` as in [`Llama::from_files`]; `None` is bf16 if all matrices are stored so, else f32.
    pub fn load(dir: &Path, device: &Device, dtype: Option<DType>) -> Result<Self> {
        let mut model = with_directory(dir, |config_file, config, weights| {
            let weights = Weights::parse(weights)?;
            let dtype = dtype.map_or_else(|| weights.natural_dtype(), Ok)?;
            assemble(config_file, config, weights, device, dtype)
        })?;
        model.base_name = Some(dir.display().to_string());
        Ok(model)
    }
}

fn assemble(file: &str, json: &str, weights: Weights<'_>, device: &Device, dtype: DType) -> Result<Llama> {
    if !dtype.is_float() {
        return Err(invalid("Llama", format!("weights cannot be stored as {dtype}")));
    }
    let config = LlamaConfig::from_json(file, json)?;
    let activations = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let mut parts = Parts { weights, device, matrices: dtype, vectors: activations };

    let c = &config;
    let (hidden, vocab) = (c.hidden_size, c.vocab_size);
    let table = parts.weights.take("model.embed_tokens.weight", &[vocab, hidden], dtype, device)?;
    let embed = Embedding::new("model.embed_tokens", table.clone());
    let blocks = (0..c.num_hidden_layers).map(|i| parts.block(i, c)).collect::<Result<_>>()?;
    let norm = parts.norm("model.norm", c)?;
    let head = if c.tie_word_embeddings {
        Linear::new("lm_head", table, None)
    } else {
        parts.linear("lm_head", vocab, hidden, false)?
    };
    // Old files keep the rotary frequencies, and some keep the tied head a second time.
    parts
        .weights
        .finish(|name| name.ends_with("rotary_emb.inv_freq") || c.tie_word_embeddings && name == "lm_head.weight")?;
    let json = serde_json::from_str(json).map_err(|e| in_file(file, format!("not JSON: {e}")))?;
    let rope = Rope::new(&config, activations, device)?;
    let device = device.clone();
    Ok(Llama { config, json, base_name: None, device, dtype: activations, rope, embed, blocks, norm, head })
}

struct Parts<'a> {
    weights: Weights<'a>,
    device: &'a Device,
    /// Storage of matrices.
    matrices: DType,
    /// Storage of norms and biases.
    vectors: DType,
}

impl Parts<'_> {
    fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear> {
        let weight = self.weights.take(&format!("{name}.weight"), &[outputs, inputs], self.matrices, self.device)?;
        let bias = match bias {
            true => Some(self.weights.take(&format!("{name}.bias"), &[outputs], self.vectors, self.device)?),
            false => None,
        };
        Ok(Linear::new(name, weight, bias))
    }

    fn norm(&mut self, name: &str, c: &LlamaConfig) -> Result<Norm> {
        let weight = self.weights.take(&format!("{name}.weight"), &[c.hidden_size], self.vectors, self.device)?;
        Ok(Norm::new(name, weight, None, c.rms_norm_eps))
    }

    fn block(&mut self, i: usize, c: &LlamaConfig) -> Result<Block> {
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let (hidden, inner) = (c.hidden_size, c.intermediate_size);
        let (queries, keys) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        Ok(Block {
            input_norm: self.norm(&name("input_layernorm"), c)?,
            q: self.linear(&name("self_attn.q_proj"), queries, hidden, c.attention_bias)?,
            k: self.linear(&name("self_attn.k_proj"), keys, hidden, c.attention_bias)?,
            v: self.linear(&name("self_attn.v_proj"), keys, hidden, c.attention_bias)?,
            o: self.linear(&name("self_attn.o_proj"), hidden, queries, c.o_bias)?,
            post_norm: self.norm(&name("post_attention_layernorm"), c)?,
            gate: self.linear(&name("mlp.gate_proj"), inner, hidden, c.mlp_bias)?,
            up: self.linear(&name("mlp.up_proj"), inner, hidden, c.mlp_bias)?,
            down: self.linear(&name("mlp.down_proj"), hidden, inner, c.mlp_bias)?,
        })
    }
}
