//! The oracle: the forward pass of a Llama written once more, for one sequence, on plain vectors of f64, element by
//! element from the definition (the `modeling_llama.py` of Hugging Face's transformers, in words of our own).

use std::collections::BTreeMap;

use lowrank_core::Tensor;

use super::LlamaConfig;

type Rows = Vec<Vec<f64>>;

pub(super) struct Plain<'a> {
    config: &'a LlamaConfig,
    weights: BTreeMap<&'a str, Vec<f64>>,
}

impl<'a> Plain<'a> {
    pub(super) fn new(config: &'a LlamaConfig, tensors: &'a [(String, Tensor)]) -> Self {
        let weights = tensors.iter().map(|(name, t)| (&name[..], t.to_f64().unwrap())).collect();
        Plain { config, weights }
    }

    fn linear(&self, name: &str, x: &Rows) -> Rows {
        let w = &self.weights[&format!("{name}.weight")[..]];
        let bias = self.weights.get(&format!("{name}.bias")[..]);
        let k = x[0].len();
        let row = |x: &Vec<f64>| {
            let dot = |j: usize| (0..k).map(|i| x[i] * w[j * k + i]).sum::<f64>() + bias.map_or(0.0, |b| b[j]);
            (0..w.len() / k).map(dot).collect()
        };
        x.iter().map(row).collect()
    }

    fn norm(&self, name: &str, x: &Rows) -> Rows {
        let w = &self.weights[&format!("{name}.weight")[..]];
        let row = |x: &Vec<f64>| {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            let rstd = 1.0 / (mean + self.config.rms_norm_eps).sqrt();
            x.iter().zip(w).map(|(x, w)| x * rstd * w).collect()
        };
        x.iter().map(row).collect()
    }

    /// Angle per position of pair i of a head.
    fn frequency(&self, i: usize) -> f64 {
        let f = self.config.rope_theta.powf(-2.0 * i as f64 / self.config.head_dim as f64);
        let Some(s) = &self.config.rope_scaling else { return f };
        let turns = s.original_max_position_embeddings as f64 * f / std::f64::consts::TAU;
        let smooth = ((turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)).clamp(0.0, 1.0);
        (1.0 - smooth) * f / s.factor + smooth * f
    }

    fn rotate(&self, x: &mut Rows) {
        let (dim, half) = (self.config.head_dim, self.config.head_dim / 2);
        for (t, row) in x.iter_mut().enumerate() {
            for head in row.chunks_mut(dim) {
                for i in 0..half {
                    let (sin, cos) = (t as f64 * self.frequency(i)).sin_cos();
                    let (a, b) = (head[i], head[i + half]);
                    (head[i], head[i + half]) = (a * cos - b * sin, b * cos + a * sin);
                }
            }
        }
    }

    fn attention(&self, name: &str, x: &Rows) -> Rows {
        let (heads, dim) = (self.config.num_attention_heads, self.config.head_dim);
        let group = heads / self.config.num_key_value_heads;
        let mut q = self.linear(&format!("{name}.q_proj"), x);
        let mut k = self.linear(&format!("{name}.k_proj"), x);
        let v = self.linear(&format!("{name}.v_proj"), x);
        self.rotate(&mut q);
        self.rotate(&mut k);
        let mut y = vec![vec![0.0; heads * dim]; x.len()];
        for (t, y) in y.iter_mut().enumerate() {
            for h in 0..heads {
                let (mine, theirs) = (h * dim, h / group * dim);
                let score = |s: usize| {
                    let dot: f64 = (0..dim).map(|i| q[t][mine + i] * k[s][theirs + i]).sum();
                    (dot / (dim as f64).sqrt()).exp()
                };
                let scores: Vec<f64> = (0..=t).map(score).collect();
                let total: f64 = scores.iter().sum();
                for i in 0..dim {
                    y[mine + i] = (0..=t).map(|s| scores[s] / total * v[s][theirs + i]).sum();
                }
            }
        }
        self.linear(&format!("{name}.o_proj"), &y)
    }

    fn mlp(&self, name: &str, x: &Rows) -> Rows {
        let (gate, up) = (self.linear(&format!("{name}.gate_proj"), x), self.linear(&format!("{name}.up_proj"), x));
        let gated = |(g, u): (&Vec<f64>, &Vec<f64>)| g.iter().zip(u).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
        self.linear(&format!("{name}.down_proj"), &gate.iter().zip(&up).map(gated).collect())
    }

    /// Logits, row after row.
    pub(super) fn logits(&self, ids: &[u32]) -> Vec<f64> {
        let hidden = self.config.hidden_size;
        let table = &self.weights["model.embed_tokens.weight"];
        let mut x: Rows = ids.iter().map(|&id| table[id as usize * hidden..][..hidden].to_vec()).collect();
        for i in 0..self.config.num_hidden_layers {
            let layer = format!("model.layers.{i}");
            let y = self.attention(&format!("{layer}.self_attn"), &self.norm(&format!("{layer}.input_layernorm"), &x));
            add(&mut x, &y);
            let y = self.mlp(&format!("{layer}.mlp"), &self.norm(&format!("{layer}.post_attention_layernorm"), &x));
            add(&mut x, &y);
        }
        let head = if self.config.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
        self.linear(head, &self.norm("model.norm", &x)).concat()
    }
}

fn add(x: &mut Rows, y: &Rows) {
    for (x, y) in x.iter_mut().flatten().zip(y.iter().flatten()) {
        *x += y;
    }
}
