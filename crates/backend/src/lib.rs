//! The bottom of lowrank: what a processor must be able to do, and the definition of every operation.
//!
//! This crate knows bytes, dtypes and operations on flat buffers. It must never know of tensors, tapes, adapters or
//! models: those live above it, and every device crate depends on this one alone.
//!
//! * [`Backend`]: the trait. Few methods are required; the fused ones have their definition as default body.
//! * [`Reference`]: plain loops in f64, the oracle of every test.
//! * [`Unfused`]: a device with its fused operations taken away, to compare against.

mod backend;
mod buffer;
mod default;
mod dtype;
mod erf;
mod error;
mod op;
pub mod philox;
mod reference;
mod scalars;
mod stats;
#[cfg(test)]
mod testing;
mod unfused;

pub use backend::{Backend, Readback};
pub use buffer::{Buffer, In, Mode, Out, Slot};
pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use op::*;
pub use reference::Reference;
pub use scalars::Scalars;
pub use stats::Stats;
pub use unfused::Unfused;

/// Batches of many adapters, group by group through a backend's own low-rank linear: for a backend that does better in
/// some cases only.
pub mod by_group {
    pub use crate::default::{lora_multi_backward, lora_multi_forward};
}

/// Scalar functions that std lacks, in f64: the definitions that devices are compared with.
pub mod math {
    pub use crate::erf::*;
}
