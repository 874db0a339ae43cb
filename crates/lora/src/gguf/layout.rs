//! llama.cpp's names of layers and its order of rows.

use crate::{Error, Host, Result};

use super::Heads;

/// What the GGUF of a model calls and orders differently.
pub(super) struct Layout {
    pub architecture: &'static str,
    /// Rows of q and k are interleaved for its rotary embedding.
    interleaved: bool,
    heads: Heads,
}

impl Layout {
    /// By the host's kind of model.
    pub fn of(host: &dyn Host, heads: Heads) -> Result<Self> {
        let (architecture, interleaved) = match host.model_type() {
            "llama" | "mistral" => ("llama", true),
            "qwen2" => ("qwen2", false),
            other => return Err(Error::adapter(format!("gguf: models of type `{other}` are not supported"))),
        };
        Ok(Layout { architecture, interleaved, heads })
    }

    /// `model.layers.3.self_attn.q_proj` → `blk.3.attn_q.weight`.
    pub fn gguf_name(&self, layer: &str) -> Result<String> {
        let parts: Vec<&str> = layer.split('.').collect();
        let name = match parts[..] {
            ["lm_head"] => "output.weight".to_string(),
            ["model", "embed_tokens"] => "token_embd.weight".to_string(),
            ["model", "layers", i, _, part] => {
                let part = match part {
                    "q_proj" => "attn_q",
                    "k_proj" => "attn_k",
                    "v_proj" => "attn_v",
                    "o_proj" => "attn_output",
                    "gate_proj" => "ffn_gate",
                    "up_proj" => "ffn_up",
                    "down_proj" => "ffn_down",
                    _ => return Err(unknown(layer)),
                };
                format!("blk.{i}.{part}.weight")
            }
            _ => return Err(unknown(layer)),
        };
        Ok(name)
    }

    /// B `[rows, cols]` in GGUF's order: in every head of q and k, rows (half, i) become (i, half).
    pub fn reordered(&self, layer: &str, b: &[f64], cols: usize) -> Result<Vec<f64>> {
        let order = self.order(layer, b.len() / cols)?;
        Ok(order.iter().flat_map(|&row| b[row * cols..(row + 1) * cols].iter().copied()).collect())
    }

    /// The inverse.
    pub fn restored(&self, layer: &str, b: &[f64], cols: usize) -> Result<Vec<f64>> {
        let order = self.order(layer, b.len() / cols)?;
        let mut out = vec![0.0; b.len()];
        for (place, row) in order.into_iter().enumerate() {
            out[row * cols..(row + 1) * cols].copy_from_slice(&b[place * cols..(place + 1) * cols]);
        }
        Ok(out)
    }

    /// Which row of the model's own order stands at each place of GGUF's.
    fn order(&self, layer: &str, rows: usize) -> Result<Vec<usize>> {
        let heads = match layer.rsplit('.').next() {
            Some("q_proj") if self.interleaved => self.heads.query,
            Some("k_proj") if self.interleaved => self.heads.key_value,
            _ => return Ok((0..rows).collect()),
        };
        if heads == 0 || !rows.is_multiple_of(2 * heads) {
            return Err(Error::adapter(format!("gguf: `{layer}`: {rows} rows are not {heads} heads of even size")));
        }
        let half = rows / heads / 2;
        let row = |place: usize| {
            let (head, within) = (place / (2 * half), place % (2 * half));
            head * 2 * half + within % 2 * half + within / 2
        };
        Ok((0..rows).map(row).collect())
    }
}

fn unknown(layer: &str) -> Error {
    Error::adapter(format!("gguf: `{layer}` has no name in GGUF models"))
}

/// `[rows, cols]` → `[cols, rows]`.
pub(super) fn transposed(x: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..cols).flat_map(|j| (0..rows).map(move |i| x[i * cols + j])).collect()
}
