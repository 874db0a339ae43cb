//! The model's passes over tensors without elements. The statements are those of `lowrank-models`, so that temporaries
//! live as long here as there.

use std::collections::BTreeMap;
use std::rc::Rc;

use lowrank_lora::{Adapter, Host, LowRank, Module};
use lowrank_models::{Llama, LlamaConfig};

use super::bottleneck::Bottleneck;
use super::meter::{Meter, Part};
use super::rules::Layer;
use super::shadow::{Meta, Shadow, Tape};
use super::{Flops, Memory};

/// The model's layers with what of them is trained.
pub(super) struct Network<'a> {
    config: &'a LlamaConfig,
    layers: BTreeMap<String, Layer>,
}

impl<'a> Network<'a> {
    pub(super) fn new(model: &'a Llama, adapter: &Adapter, tape: &Tape) -> Self {
        let mut layers = BTreeMap::new();
        model.visit(&mut |module| {
            let name = module.name();
            let (n, k) = match module {
                Module::Linear(l) => (l.out_features(), l.in_features()),
                Module::Embedding(e) => (e.dim(), e.vocab()),
                Module::Norm(l) => (l.weight().len(), 1),
            };
            let leaf = |len: usize, trained: bool| if trained { tape.leaf(len) } else { tape.fresh(0).meta };
            let pair = adapter.layers.get(name);
            let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
            let rank = pair.map(|p| p.rank);
            let magnitude = pair.and_then(|p| p.magnitude.as_ref());
            let offset = pair.is_some_and(|p| p.offset.is_some());
            let bottleneck = adapter.bottlenecks.get(name).map(|b| Bottleneck {
                r: b.width(),
                parts: b.tensors().map(|(_, t)| leaf(t.len(), t.requires_grad())),
            });
            let layer = Layer {
                bottleneck,
                magnitude: magnitude.map(|t| leaf(n, t.requires_grad())),
                dropout: pair.is_some_and(|p| p.dropout > 0.0) && tape.recording,
                has_bias: module.base_tensors().count() > 1,
                n,
                k,
                rank,
                offset: offset.then(|| leaf(0, false)),
                w: leaf(n * k, adapter.saved.contains_key(&weight)),
                a: leaf(rank.unwrap_or(0) * k, pair.is_some_and(|p| p.a.requires_grad())),
                b: leaf(rank.unwrap_or(0) * n, pair.is_some_and(|p| p.b.requires_grad())),
                bias: leaf(n, adapter.saved.contains_key(&bias) || adapter.biases.contains_key(&bias)),
            };
            layers.insert(name.to_string(), layer);
        });
        Network { config: model.config(), layers }
    }

    /// One micro-batch: forward, and backward if the tape records.
    pub(super) fn micro_batch(&self, tape: &Tape, batch: usize, length: usize) {
        if batch * length == 0 {
            return;
        }
        // Ids and targets, u32.
        let _batch = tape.meter.alloc(Part::Activations, 8 * batch * length);
        let loss = tape.cross_entropy(self.forward(tape, batch, length), batch * length);
        if tape.recording {
            tape.backward(&loss);
        }
    }

    fn forward(&self, tape: &Tape, batch: usize, length: usize) -> Shadow {
        tape.linear(&self.hidden(tape, batch, length), batch * length, self.layer("lm_head"))
    }

    fn hidden(&self, tape: &Tape, batch: usize, length: usize) -> Shadow {
        let m = batch * length;
        let mut x = tape.embedding(m, self.layer("model.embed_tokens"));
        for block in 0..self.config.num_hidden_layers {
            x = self.block(tape, block, &x, [batch, length]);
        }
        tape.norm(&x, m, self.norm("model.norm"))
    }

    fn block(&self, tape: &Tape, i: usize, x: &Shadow, [batch, length]: [usize; 2]) -> Shadow {
        let m = batch * length;
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let layer = |part: &str| self.layer(&name(part));
        let input_norm = self.norm(&name("input_layernorm"));
        let x = tape.add(x, &self.attention(tape, i, &tape.norm(x, m, input_norm), [batch, length]));
        let h = tape.norm(&x, m, self.norm(&name("post_attention_layernorm")));
        let h = tape.swiglu(&tape.linear(&h, m, layer("mlp.gate_proj")), &tape.linear(&h, m, layer("mlp.up_proj")));
        tape.add(&x, &tape.linear(&h, m, layer("mlp.down_proj")))
    }

    fn attention(&self, tape: &Tape, i: usize, x: &Shadow, [batch, length]: [usize; 2]) -> Shadow {
        let m = batch * length;
        let layer = |part: &str| self.layer(&format!("model.layers.{i}.self_attn.{part}"));
        let q = tape.rope(&tape.reshape(&tape.linear(x, m, layer("q_proj"))));
        let k = tape.rope(&tape.reshape(&tape.linear(x, m, layer("k_proj"))));
        let v = tape.reshape(&tape.linear(x, m, layer("v_proj")));
        let heads = self.config.num_attention_heads;
        let pairs = batch * heads * (length * (length + 1) / 2);
        let y = tape.reshape(&tape.attention([&q, &k, &v], heads * m, pairs, self.config.head_dim));
        tape.linear(&y, m, layer("o_proj"))
    }

    fn layer(&self, name: &str) -> &Layer {
        &self.layers[name]
    }

    fn norm(&self, name: &str) -> &Rc<Meta> {
        &self.layers[name].w
    }
}

/// Bytes of the base's tensors, those that are shared once.
pub(super) fn base_bytes(model: &Llama) -> usize {
    let mut seen = std::collections::BTreeSet::new();
    let mut bytes = 0;
    model.visit(&mut |module| {
        for tensor in module.base_tensors() {
            if seen.insert(tensor.id()) {
                bytes += tensor.bytes();
            }
        }
    });
    bytes
}

/// The memory in use when most is, over evaluation and a step of training.
pub(super) struct Sizes {
    /// Examples of a micro-batch, and micro-batches of a step.
    pub(super) batch: usize,
    pub(super) grad_accum: usize,
    /// Examples of a batch in evaluation.
    pub(super) eval_batch: usize,
    /// Tokens of the longest example, to train on and held out.
    pub(super) train_length: usize,
    pub(super) eval_length: usize,
}

/// Plays one evaluation and one step: the memory in use when most is, and the FLOPs of the step alone.
pub(super) fn play(model: &Llama, adapter: &Adapter, sizes: &Sizes) -> (Memory, Flops) {
    let trained: usize = adapter.parameters().iter().map(|(_, t)| t.bytes()).sum();
    let held: usize = adapter_bytes(adapter);
    let fixed = |meter: &Meter| {
        let longest = sizes.train_length.max(sizes.eval_length);
        [
            meter.alloc(Part::Weights, base_bytes(model) + model.rope_bytes(longest) + SCALARS),
            meter.alloc(Part::Adapter, held),
        ]
    };
    let size = [model.device().activations(model.dtype()).size(), model.dtype().size()];

    let meter = Meter::default();
    let _fixed = fixed(&meter);
    let _optimiser = meter.alloc(Part::Optimiser, 2 * trained);
    let tape = Tape::new(&meter, size, true);
    let network = Network::new(model, adapter, &tape);
    network.micro_batch(&tape, sizes.batch, sizes.train_length);
    let flops = meter.flops().times(sizes.grad_accum);
    // The second one finds gradients there, and so do all that follow.
    if sizes.grad_accum > 1 {
        network.micro_batch(&tape, sizes.batch, sizes.train_length);
    }
    drop(network);

    // Evaluation after training: the optimiser is still there, nothing is recorded.
    let eval = Meter::default();
    let (_fixed, _optimiser) = (fixed(&eval), eval.alloc(Part::Optimiser, 2 * trained));
    let tape = Tape::new(&eval, size, false);
    Network::new(model, adapter, &tape).micro_batch(&tape, sizes.eval_batch, sizes.eval_length);
    let (training, evaluation) = (meter.peak(), eval.peak());
    (if evaluation.total() > training.total() { evaluation } else { training }, flops)
}

/// The device's scalar buffer.
const SCALARS: usize = 256;

fn adapter_bytes(adapter: &Adapter) -> usize {
    let offset = |p: &LowRank| p.offset.as_ref().map_or(0, |o| o.a.bytes() + o.b.bytes());
    // Beside the magnitudes, a layer keeps the squares of its rows' norms: as many.
    let magnitudes = |p: &LowRank| 2 * p.magnitude.as_ref().map_or(0, |m| m.bytes());
    let pairs = adapter.layers.values().map(|p| p.a.bytes() + p.b.bytes() + offset(p) + magnitudes(p));
    let whole = adapter.saved.values().chain(adapter.biases.values()).map(|t| t.bytes());
    let bottlenecks = adapter.bottlenecks.values().flat_map(|b| b.tensors().map(|(_, t)| t.bytes()));
    pairs.chain(whole).chain(bottlenecks).sum()
}
