//! Keys and values of the positions a model has already seen.

use lowrank_core::{DType, Device, Tensor};

use super::LlamaConfig;
use crate::{Result, invalid};

/// Keys and values of one sequence, for [`Llama::forward_cached`](super::Llama::forward_cached).
pub struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
    len: usize,
    capacity: usize,
}

/// One block's part, both `[capacity, kv_heads, head_dim]`; rows up to the cache's length are filled.
pub(crate) struct LayerCache {
    k: Tensor,
    v: Tensor,
}

impl KvCache {
    pub(crate) fn new(config: &LlamaConfig, capacity: usize, dtype: DType, device: &Device) -> Result<Self> {
        let max = config.max_position_embeddings;
        if !(1..=max).contains(&capacity) {
            let detail = format!("capacity {capacity} is not in 1 ..= {max}, the model's max_position_embeddings");
            return Err(invalid("new_cache", detail));
        }
        let shape = [capacity, config.num_key_value_heads, config.head_dim];
        let layer = || -> Result<_> {
            Ok(LayerCache { k: Tensor::empty(&shape, dtype, device)?, v: Tensor::empty(&shape, dtype, device)? })
        };
        let layers = (0..config.num_hidden_layers).map(|_| layer()).collect::<Result<_>>()?;
        Ok(KvCache { layers, len: 0, capacity })
    }

    /// Positions filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been fed yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all positions, or those from `len` on; a longer length than the present one changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Counts `n` positions as filled, once every block has written them.
    pub(crate) fn advance(&mut self, n: usize) {
        self.len += n;
    }
}

impl LayerCache {
    /// Writes k and v, both `[1, T, kv_heads, head_dim]`, to the rows from `start` on, and returns the keys and values
    /// of all positions so far, `[1, start + T, kv_heads, head_dim]`.
    pub(crate) fn append(&self, start: usize, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok((extend(&self.k, start, k)?, extend(&self.v, start, v)?))
    }
}

fn extend(all: &Tensor, start: usize, new: &Tensor) -> Result<Tensor> {
    let [_, t, heads, dim] = *new.shape() else {
        return Err(invalid("forward_cached", format!("{} is not [1, T, heads, dim]", new.label("k or v"))));
    };
    all.write_rows(start, &new.reshape(&[t, heads, dim])?)?;
    Ok(all.rows_view(0, start + t)?.reshape(&[1, start + t, heads, dim])?)
}
