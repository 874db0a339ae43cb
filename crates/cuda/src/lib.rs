//! The CUDA backend of lowrank: kernels of its own, loaded as PTX text by the driver. Users need a driver, no toolkit.
//!
//! It knows flat device buffers and operations on them, never tensors, the tape or adapters. Arithmetic is f32; bf16 and
//! f16 are storage. Nothing runs on the host in the device's place, and no library computes products.
//!
//! * `calls`: the driver's functions. * `driver`: is there a driver, which GPUs, what went wrong. * `context`: one open GPU with its compiled kernels.
//! * `memory`: buffers from the driver's stream-ordered pool. * `staging`: bytes on their way to and from the device.
//! * `step`, `arena`, `graph`: steps that come again, their memory, and their kernels started as one.
//! * `launch`: from views to a kernel on the stream. * `hopper`: which products have kernels of their own there.
//! * One file per family of operations; the kernels are in `kernels/`.
//!
//! Results are the same bits on every run on one device: a sum has one owner and an order that depends on sizes only, and
//! there are no float atomics.

mod arena;
mod attention;
mod backend;
mod calls;
mod context;
mod driver;
mod elementwise;
mod gemm;
mod graph;
mod hopper;
mod launch;
mod linear;
mod lora_embedding;
mod memory;
mod moving;
mod optim;
mod reduce;
mod rows;
mod sequence;
mod staging;
mod step;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use lowrank_backend::Result;

pub use driver::{DeviceInfo, devices};

use context::Context;
use memory::Stream;
use staging::Staging;
use step::Recorded;

/// A GPU. Its stream and counters are its own; compiled kernels are shared with every other handle on the same GPU.
pub struct Cuda {
    context: Arc<Context>,
    stream: Arc<Stream>,
    staging: Mutex<Staging>,
    recorded: Mutex<Recorded>,
    counters: Counters,
    /// Whether Hopper's own kernels are used.
    hopper: bool,
}

#[derive(Default)]
struct Counters {
    launches: AtomicU64,
    graph_launches: AtomicU64,
    graphs_recorded: AtomicU64,
    graph_updates: AtomicU64,
    waits: AtomicU64,
    uploaded: AtomicU64,
    downloaded: AtomicU64,
}

impl Cuda {
    /// Opens a GPU by its number in [`devices`].
    pub fn new(index: usize) -> Result<Self> {
        Cuda::of_tier(index, std::env::var(hopper::TIER).ok().as_deref())
    }

    fn of_tier(index: usize, tier: Option<&str>) -> Result<Self> {
        let context = Context::open(index)?;
        let hopper = hopper::wanted(&context.info, tier)?;
        let stream = Arc::new(Stream::new(context.clone())?);
        let staging = Mutex::new(Staging::new(stream.clone()));
        Ok(Cuda { context, stream, staging, recorded: Mutex::default(), counters: Counters::default(), hopper })
    }

    /// The driver's stream (a `CUstream`) that all work of this handle goes through, as long as the handle lives: for marks
    /// of time, and for work of one's own in its order.
    pub fn stream(&self) -> *mut std::ffi::c_void {
        self.stream.raw.cast()
    }

    /// The GPU that this is.
    pub fn device(&self) -> &DeviceInfo {
        &self.context.info
    }
}
