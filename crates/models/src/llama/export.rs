//! A model as the files of a plain one, and how large it is.

use lowrank_core::Tensor;
use lowrank_lora::{Host, Module};
use serde_json::Value;

use super::Llama;
use crate::{Result, in_file};

impl Llama {
    /// Hugging Face's names with the weights as they are now: merged, after `merge`. An adapter that is attached but not
    /// merged is not in them. `lm_head.weight` is there only where it is not the embedding (see [`Llama::is_tied`]).
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = Vec::new();
        let tied = self.is_tied();
        self.visit(&mut |module| {
            let (name, weight, bias) = match module {
                Module::Linear(l) if tied && l.name() == self.head.name() => return,
                Module::Linear(l) => (l.name(), l.weight(), l.bias()),
                Module::Embedding(e) => (e.name(), e.weight(), None),
                Module::Norm(n) => (n.name(), n.weight(), n.bias()),
            };
            state.push((format!("{name}.weight"), weight.clone()));
            if let Some(bias) = bias {
                state.push((format!("{name}.bias"), bias.clone()));
            }
        });
        state
    }

    /// The `config.json` that goes with [`Llama::state`]: the one that was read, with `tie_word_embeddings` false if
    /// merging has given head and embedding weights of their own.
    pub fn config_json_for_state(&self) -> Result<String> {
        let mut json = self.json.clone();
        json.insert("tie_word_embeddings".into(), Value::Bool(self.is_tied()));
        serde_json::to_string_pretty(&json).map_err(|e| in_file("config.json", e.to_string()))
    }

    /// Whether the output head and the embedding are one tensor.
    pub fn is_tied(&self) -> bool {
        self.head.weight().id() == self.embed.weight().id()
    }

    /// Bytes of the rotary tables once sequences of this many tokens have been seen.
    pub fn rope_bytes(&self, positions: usize) -> usize {
        self.rope.bytes(positions)
    }

    /// Elements of all weights, without adapters; what head and embedding share counts once.
    pub fn parameter_count(&self) -> usize {
        self.state().iter().map(|(_, t)| t.len()).sum()
    }
}
