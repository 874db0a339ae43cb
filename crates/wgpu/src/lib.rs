//! The wgpu backend of lowrank: WGSL kernels on Vulkan, Metal and DX12.
//!
//! It knows flat device buffers and operations on them, never tensors, the tape or adapters. Arithmetic is f32; bf16 and
//! f16 are storage, two elements in a word. Nothing runs on the host in the device's place.
//!
//! * `adapter`: which GPUs there are, and one wgpu device per GPU. * `pool`: buffers. * `pipeline`: compiled kernels.
//! * `queue`: one open compute pass, one submission per batch. * `readback`: bytes on their way back.
//! * `launch`: from views to a kernel in the batch. * One file per family of operations; the kernels are in `shaders/`.
//!
//! Results are the same bits on every run on one device: a sum has one owner and an order that depends on sizes only, and
//! there are no float atomics.

mod adapter;
mod attention;
mod backend;
mod elementwise;
mod gemm;
mod launch;
mod linear;
mod lora_embedding;
mod moving;
mod optim;
mod pipeline;
mod pool;
mod queue;
mod readback;
mod reduce;
mod rows;
mod sequence;
#[cfg(test)]
mod tests;
mod tile;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lowrank_backend::Result;

pub use adapter::{AdapterInfo, adapters};

use adapter::Context;
use pool::{Pool, WgpuBuffer};
use queue::{Binding, Queue};
use tile::Tile;

/// A GPU (or a processor that pretends to be one). Its memory pool and counters are its own; compiled kernels are shared
/// with every other handle on the same adapter.
pub struct Wgpu {
    context: Arc<Context>,
    pool: Arc<Pool>,
    queue: Mutex<Queue>,
    counters: Counters,
    /// Stand-ins for absent operands: one to read, some to write.
    absent: Vec<WgpuBuffer>,
    /// Bytes of a buffer that a kernel sees at most.
    max_binding: u64,
    /// Storage buffers that a kernel binds at most.
    storage_buffers: u32,
    /// The variant of products by tiles that takes the place of the choice by sizes.
    forced: Option<Tile>,
    /// Takes the place of the kernel file of that name: tests break kernels to see that it shows.
    #[cfg(test)]
    mutant: Option<(&'static str, &'static lowrank_shaders::Shader)>,
}

#[derive(Default)]
struct Counters {
    launches: AtomicU64,
    waits: AtomicU64,
    uploaded: AtomicU64,
    downloaded: AtomicU64,
}

impl Wgpu {
    /// Opens an adapter by its number in [`adapters`].
    pub fn new(index: usize) -> Result<Self> {
        Wgpu::on(Context::open(index)?)
    }

    fn on(context: Arc<Context>) -> Result<Self> {
        let forced = Tile::forced(&context)?;
        let pool = Arc::new(Pool::new(context.clone()));
        let absent = (0..20).map(|_| pool.alloc(256, || ())).collect::<Result<_>>()?;
        // The stand-ins are no one's memory.
        pool.forget_live();
        let max_binding = context.limits.max_storage_buffer_binding_size.min(context.limits.max_buffer_size);
        let storage_buffers = context.limits.max_storage_buffers_per_shader_stage;
        let queue = Mutex::new(Queue::new(context.clone()));
        let wgpu = Wgpu {
            context,
            pool,
            queue,
            counters: Counters::default(),
            absent,
            max_binding,
            storage_buffers,
            forced,
            #[cfg(test)]
            mutant: None,
        };
        if forced == Some(Tile::Cooperative) {
            tile::check_cooperative(&wgpu)?;
        }
        Ok(wgpu)
    }

    /// The adapter that this is.
    pub fn adapter(&self) -> &AdapterInfo {
        &self.context.info
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.forget(self.pool.evictions.load(Relaxed));
        queue
    }

    fn count_launch(&self) {
        self.counters.launches.fetch_add(1, Relaxed);
    }

    /// Memory for an intermediate of `len` f32 elements.
    fn scratch(&self, len: usize) -> Result<WgpuBuffer> {
        self.allocate(len.saturating_mul(4))
    }

    fn allocate(&self, bytes: usize) -> Result<WgpuBuffer> {
        self.context.check()?;
        self.pool.alloc(bytes, || self.release())
    }

    /// Lets go of what bind groups and the device's unfinished work hold: it may be the memory that is missing. The only
    /// wait outside of `download` and `sync`.
    fn release(&self) {
        self.counters.waits.fetch_add(1, Relaxed);
        let mut queue = self.queue();
        let submission = queue.submit(|_| ());
        drop(queue);
        let _ = Queue::wait(&self.context, submission);
    }

    /// How to compute `batch` products c `[m,n]`.
    fn tile(&self, [m, n, batch]: [usize; 3]) -> Tile {
        self.forced.unwrap_or_else(|| Tile::choose(&self.context, [m, n, batch]))
    }

    fn nothing(&self, which: usize) -> Binding<'_> {
        let block = self.absent[which].block();
        Binding { block, offset: 0, size: block.capacity }
    }
}
