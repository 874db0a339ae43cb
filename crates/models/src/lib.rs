//! Models that carry adapters: Llama, Mistral and Qwen2 from Hugging Face files, and the textbook MLP.
//!
//! This crate knows how layers are wired, how models are stored and how text becomes tokens. It must never know how an
//! adapter works (its layers come from `lowrank-lora`), how a model is trained, or what a processor does.
//!
//! * [`Llama`]: load, forward, loss, and one token at a time with a [`KvCache`]. * [`LlamaConfig`]: its `config.json`.
//! * [`Mlp`]: two linear layers. * [`Tokenizer`]: text to tokens and back. * [`generate`]: text from a model.

mod generate;
mod llama;
mod mlp;
mod tokenizer;

pub use generate::{Generated, Sampling, Stop, generate};
pub use llama::{KvCache, Llama, LlamaConfig};
pub use lowrank_lora::{Error, Result};
pub use mlp::Mlp;
pub use tokenizer::Tokenizer;

/// An error about one file, in one line.
fn in_file(file: &str, detail: impl AsRef<str>) -> Error {
    Error::file(file, detail)
}

/// An error about an argument of an operation.
fn invalid(op: &'static str, detail: impl Into<String>) -> Error {
    Error::Tensor(lowrank_core::Error::invalid(op, detail))
}
