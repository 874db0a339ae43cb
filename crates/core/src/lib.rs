//! Tensors, autograd and optimisers for low-rank adaptation.
//!
//! This crate knows backends (through one trait) and gradients. It must never know of adapters' configurations, models
//! or files.
//!
//! * [`Device`]: a handle on a backend. * [`Tensor`]: shape, dtype and storage on a device, with its place in the graph.
//! * [`ops`]: one file per operation, each with its backward rule. * [`Tensor::backward`]: the tape.
//! * [`optim`]: AdamW, SGD, clipping and schedules.

mod device;
mod grad;
pub mod ops;
pub mod optim;
mod tape;
mod tensor;

pub use device::Device;
pub use grad::{is_grad_enabled, no_grad};
pub use lowrank_backend as backend;
pub use lowrank_backend::{DType, Element, Error, IGNORE, Precision, Result, Stats, philox};
#[cfg(feature = "cuda")]
pub use lowrank_cuda::{Cuda, DeviceInfo as CudaInfo, devices as cuda_devices};
#[cfg(feature = "wgpu")]
pub use lowrank_wgpu::{AdapterInfo, adapters as wgpu_adapters};
pub use tape::{GradSlot, Grads, Rule, SlotLock};
pub use tensor::{Read, Tensor, Write};

/// The README's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
