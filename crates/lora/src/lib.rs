//! Low-rank adapters (Hu et al. 2021, "LoRA"): which layers get one, how it starts, and the files it lives in.
//!
//! This crate knows layers with a slot for an adapter, and PEFT's file format. It must never know of particular models:
//! a model shows its layers through [`Host`], and everything here works on any host.
//!
//! * [`LoraConfig`]: what to adapt and how. * [`Adapter`]: the trainable tensors, made by [`Adapter::create`] or read by
//!   [`peft::load`].
//! * [`attach`], [`detach`], [`Adapters`]: make an adapter act on a host, take it away, swap between several.
//! * [`merge`], [`unmerge`]: fold the active adapter into the weights, and give the original bits back.
//! * [`algebra`]: sums of adapters, other ranks. * [`gguf`]: adapters for llama.cpp.
//! * [`Linear`], [`Embedding`], [`Norm`]: the layers that models are built of.
//! * [`TensorFile`], [`write_tensors`], [`files`]: safetensors and safe file writing.

mod adapter;
pub mod algebra;
mod attach;
mod config;
mod error;
pub mod files;
pub mod gguf;
pub mod hash;
mod host;
pub mod init;
mod layer;
pub mod linalg;
mod merge;
pub mod peft;
mod report;
mod scalar;
mod split;
mod targets;
mod tensors;
#[cfg(test)]
mod testing;

pub use adapter::{Adapter, NO_TARGETS};
pub use attach::{Adapters, attach, attach_rows, detach};
pub use config::{Bias, LoraConfig, Method, Targets};
pub use error::{Error, Result};
pub use host::{Host, Kind, Module, ModuleMut};
pub use init::{Direction, Estimator, GaScale, Init, InitReport, LoraGa, lora_ga};
pub use layer::{Bottleneck, Embedding, Linear, LowRank, Norm, Offset, Probe};
pub use merge::{LayerLoss, MergeReport, Rounding, merge, merge_with, unmerge};
pub use report::Report;
pub use split::Lost;
pub use tensors::{TensorFile, write_tensors};
