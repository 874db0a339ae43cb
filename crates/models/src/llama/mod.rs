//! Llama, and its relatives with the same blocks: Mistral and Qwen2.

mod assemble;
mod block;
mod cache;
mod config;
mod export;
mod fields;
mod load;
mod rope;
#[cfg(test)]
mod tests;

use lowrank_core::{DType, Device, Tensor, no_grad};
use lowrank_lora::{Embedding, Host, Linear, Module, ModuleMut, Norm};

use crate::{Result, invalid};
use block::{Block, Place};
pub use cache::KvCache;
pub use config::LlamaConfig;
use rope::Rope;

/// A decoder-only transformer (Touvron et al. 2023) whose every layer can carry an adapter.
///
/// Modules have Hugging Face's names: `model.layers.0.self_attn.q_proj`.
pub struct Llama {
    config: LlamaConfig,
    /// `config.json` as it was read.
    json: serde_json::Map<String, serde_json::Value>,
    base_name: Option<String>,
    device: Device,
    /// Of activations.
    dtype: DType,
    rope: Rope,
    embed: Embedding,
    blocks: Vec<Block>,
    norm: Norm,
    head: Linear,
}

impl Llama {
    /// Sizes and constants.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Token numbers as a tensor `[batch, len]` for [`Llama::forward`]; each is checked against the vocabulary.
    pub fn ids(&self, ids: &[u32], batch: usize, len: usize) -> Result<Tensor> {
        Ok(Tensor::ids(ids, &[batch, len], self.config.vocab_size, &self.device)?)
    }

    /// Logits `[B,T,vocab]` of token numbers `[B,T]` (u32, from [`Llama::ids`]).
    ///
    /// Sequences stand at positions 0 .. T; T above `max_position_embeddings` is an error.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        self.head.forward(&self.hidden(ids)?)
    }

    /// What the output head sees: the last norm's result `[B,T,hidden]`.
    pub fn hidden(&self, ids: &Tensor) -> Result<Tensor> {
        let &[b, t] = ids.shape() else {
            return Err(invalid("forward", format!("{} is not [B, T]", ids.label("ids"))));
        };
        if b == 0 || t == 0 {
            return Err(invalid("forward", format!("{} is empty", ids.label("ids"))));
        }
        self.check_positions("forward", t)?;
        let rope = self.rope.at_least(t)?;
        let place = Place { config: &self.config, rope: &rope, start: 0 };
        let mut x = self.embed.forward(ids)?;
        for block in &self.blocks {
            x = block.forward(&x, &place, None)?;
        }
        self.norm.forward(&x)
    }

    /// Cross entropy of the next tokens: `Σ (−log p(target)) / denominator` over the rows of ids `[B,T]` whose target
    /// in `targets` (u32, `B·T` of them) is not `u32::MAX`. The logits' memory is reused for their gradient.
    pub fn loss(&self, ids: &Tensor, targets: &Tensor, denominator: f64) -> Result<Tensor> {
        Ok(self.forward(ids)?.cross_entropy(targets, denominator)?)
    }

    /// The losses `[parts]` of batches that go through the model as one, each `(sequences, denominator)`: the first
    /// sequences of ids `[B,T]` are the first batch, and so on. Each has the bits of [`Llama::loss`] on it alone.
    pub fn losses(&self, ids: &Tensor, targets: &Tensor, parts: &[(usize, f64)]) -> Result<Tensor> {
        let logits = self.forward(ids)?;
        let t = logits.shape()[1];
        let rows: Vec<(usize, f64)> = parts.iter().map(|&(b, denominator)| (b * t, denominator)).collect();
        Ok(logits.cross_entropy_parts(targets, &rows)?)
    }

    /// A cache for one sequence of up to `capacity` tokens, at most `max_position_embeddings`.
    pub fn new_cache(&self, capacity: usize) -> Result<KvCache> {
        KvCache::new(&self.config, capacity, self.device.activations(self.dtype), &self.device)
    }

    /// Feeds the next tokens of a sequence and returns the logits `[1,vocab]` after the last of them.
    ///
    /// For inference: nothing is recorded for backward. On an error the cache is as before.
    pub fn forward_cached(&self, ids: &[u32], cache: &mut KvCache) -> Result<Tensor> {
        const OP: &str = "forward_cached";
        if ids.is_empty() {
            return Err(invalid(OP, "no tokens"));
        }
        let (start, t) = (cache.len(), ids.len());
        if cache.layers.len() != self.blocks.len() {
            let detail = format!("the cache has {} layers, the model {}", cache.layers.len(), self.blocks.len());
            return Err(invalid(OP, detail));
        }
        if t > cache.capacity() - start {
            let detail = format!("{start} + {t} tokens exceed the cache's capacity of {}", cache.capacity());
            return Err(invalid(OP, detail));
        }
        self.check_positions(OP, start + t)?;
        let tokens = self.ids(ids, 1, t)?;
        let logits = no_grad(|| -> Result<Tensor> {
            let rope = self.rope.at_least(start + t)?;
            let place = Place { config: &self.config, rope: &rope, start };
            let mut x = self.embed.forward(&tokens)?;
            for (block, layer) in self.blocks.iter().zip(&cache.layers) {
                x = block.forward(&x, &place, Some(layer))?;
            }
            // Norm and head work row by row, so that only the last position needs to go through them.
            let last = x.reshape(&[t, self.config.hidden_size])?.rows_view(t - 1, 1)?;
            self.head.forward(&self.norm.forward(&last)?)
        })?;
        cache.advance(t);
        Ok(logits)
    }

    fn check_positions(&self, op: &'static str, positions: usize) -> Result<()> {
        let max = self.config.max_position_embeddings;
        if positions <= max {
            return Ok(());
        }
        Err(invalid(op, format!("{positions} tokens exceed the model's max_position_embeddings of {max}")))
    }
}

impl Host for Llama {
    fn visit(&self, f: &mut dyn FnMut(Module<'_>)) {
        f(Module::Embedding(&self.embed));
        for block in &self.blocks {
            block.visit(f);
        }
        f(Module::Norm(&self.norm));
        f(Module::Linear(&self.head));
    }

    fn visit_mut(&mut self, f: &mut dyn FnMut(ModuleMut<'_>)) {
        f(ModuleMut::Embedding(&mut self.embed));
        for block in &mut self.blocks {
            block.visit_mut(f);
        }
        f(ModuleMut::Norm(&mut self.norm));
        f(ModuleMut::Linear(&mut self.head));
    }

    fn output_head(&self) -> Option<&str> {
        Some(self.head.name())
    }

    fn device(&self) -> &Device {
        &self.device
    }

    /// Of activations and logits: f32, or f64 for a model loaded as f64.
    fn dtype(&self) -> DType {
        self.dtype
    }

    fn model_type(&self) -> &str {
        &self.config.model_type
    }

    fn base_name(&self) -> Option<&str> {
        self.base_name.as_deref()
    }
}
