//! One block: attention and a gated MLP, each behind a norm and beside the residual stream.

use lowrank_core::Tensor;
use lowrank_core::ops::RopeTables;
use lowrank_lora::{Linear, Module, ModuleMut, Norm};

use super::LlamaConfig;
use super::cache::LayerCache;
use crate::Result;

/// `x ← x + o(attention(norm(x)))`, then `x ← x + down(silu(gate(h)) ⊙ up(h))` with `h = norm(x)`.
pub(crate) struct Block {
    pub(crate) input_norm: Norm,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) o: Linear,
    pub(crate) post_norm: Norm,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// Where a block's tokens stand.
pub(crate) struct Place<'a> {
    pub(crate) config: &'a LlamaConfig,
    pub(crate) rope: &'a RopeTables,
    /// Position of the first token.
    pub(crate) start: usize,
}

impl Block {
    /// x `[B,T,hidden]` → the same shape. With a cache, B is 1 and the tokens also see the cached positions.
    pub(crate) fn forward(&self, x: &Tensor, place: &Place<'_>, cache: Option<&LayerCache>) -> Result<Tensor> {
        let x = x.add(&self.attention(&self.input_norm.forward(x)?, place, cache)?)?;
        let h = self.post_norm.forward(&x)?;
        let h = self.gate.forward(&h)?.swiglu(&self.up.forward(&h)?)?;
        Ok(x.add(&self.down.forward(&h)?)?)
    }

    fn attention(&self, x: &Tensor, place: &Place<'_>, cache: Option<&LayerCache>) -> Result<Tensor> {
        let &Place { config, rope, start } = place;
        let (b, t) = (x.shape()[0], x.shape()[1]);
        let (heads, kv_heads, dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let q = self.q.forward(x)?.reshape(&[b, t, heads, dim])?.rope(rope, start)?;
        let mut k = self.k.forward(x)?.reshape(&[b, t, kv_heads, dim])?.rope(rope, start)?;
        let mut v = self.v.forward(x)?.reshape(&[b, t, kv_heads, dim])?;
        if let Some(cache) = cache {
            (k, v) = cache.append(start, &k, &v)?;
        }
        let y = q.attention(&k, &v, true, None)?.reshape(&[b, t, heads * dim])?;
        self.o.forward(&y)
    }

    pub(crate) fn visit(&self, f: &mut dyn FnMut(Module<'_>)) {
        f(Module::Norm(&self.input_norm));
        for linear in [&self.q, &self.k, &self.v, &self.o] {
            f(Module::Linear(linear));
        }
        f(Module::Norm(&self.post_norm));
        for linear in [&self.gate, &self.up, &self.down] {
            f(Module::Linear(linear));
        }
    }

    pub(crate) fn visit_mut(&mut self, f: &mut dyn FnMut(ModuleMut<'_>)) {
        f(ModuleMut::Norm(&mut self.input_norm));
        for linear in [&mut self.q, &mut self.k, &mut self.v, &mut self.o] {
            f(ModuleMut::Linear(linear));
        }
        f(ModuleMut::Norm(&mut self.post_norm));
        for linear in [&mut self.gate, &mut self.up, &mut self.down] {
            f(ModuleMut::Linear(linear));
        }
    }
}
