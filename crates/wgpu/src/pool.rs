//! Memory: device buffers in size classes, kept in a pool between uses.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lowrank_backend::{Buffer, Error, Result, Stats};
use wgpu::BufferUsages;

use crate::adapter::Context;

/// Offsets of bindings are multiples of at most this, and sizes of classes of exactly this.
const ALIGN: u64 = 256;
/// Pooled memory that is always allowed, beside half of the largest amount ever in use.
const SLACK: u64 = 256 << 20;

/// Numbers of blocks, never used twice: keys of cached bind groups.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A piece of device memory.
pub(crate) struct Block {
    pub raw: wgpu::Buffer,
    pub id: u64,
    pub capacity: u64,
    /// The batch of work that it was last used in; 0 is none.
    pub used: AtomicU64,
}

/// The buffer of this backend.
pub(crate) struct WgpuBuffer {
    block: Option<Arc<Block>>,
    bytes: usize,
    pool: Arc<Pool>,
}

impl WgpuBuffer {
    /// The memory, of at least 256 bytes.
    pub fn block(&self) -> &Block {
        self.block.as_ref().expect("only drop takes it")
    }

    /// Whether it belongs to this pool, hence to this backend.
    pub fn of(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }
}

impl Buffer for WgpuBuffer {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for WgpuBuffer {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.pool.give_back(block, self.bytes);
        }
    }
}

/// The smallest size class that holds `bytes`: four classes per doubling.
fn class(bytes: u64) -> Option<u64> {
    let step = (bytes.checked_next_power_of_two()? / 8).max(ALIGN);
    bytes.max(1).checked_next_multiple_of(step)
}

/// Blocks that wait for their next use.
pub(crate) struct Pool {
    context: Arc<Context>,
    state: Mutex<State>,
    /// Counts blocks given back to the driver: cached bind groups hold them until the cache is cleared.
    pub evictions: AtomicU64,
    /// Bytes of memory that the device has, where a test says so.
    #[cfg(test)]
    pub budget: AtomicU64,
}

#[derive(Default)]
struct State {
    /// By capacity; within one, the oldest first, with the time of its return.
    free: BTreeMap<u64, Vec<(u64, Arc<Block>)>>,
    clock: u64,
    pooled: u64,
    live: u64,
    peak: u64,
    held: u64,
    held_peak: u64,
}

impl Pool {
    pub fn new(context: Arc<Context>) -> Self {
        Pool {
            context,
            state: Mutex::default(),
            evictions: AtomicU64::new(0),
            #[cfg(test)]
            budget: AtomicU64::new(u64::MAX),
        }
    }

    /// A buffer of `bytes` bytes with any content. `release` is called before the second try: it must let go of
    /// whatever else holds blocks.
    pub fn alloc(self: &Arc<Self>, bytes: usize, release: impl FnOnce()) -> Result<WgpuBuffer> {
        let capacity = class(bytes as u64).ok_or_else(|| self.out_of_memory(bytes))?;
        let block = match self.take(capacity) {
            Some(block) => block,
            None => {
                let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
                let raw = self.create(capacity, usage, release).ok_or_else(|| self.out_of_memory(bytes))?;
                Arc::new(Block { raw, id: NEXT.fetch_add(1, Relaxed), capacity, used: AtomicU64::new(0) })
            }
        };
        let mut state = self.state();
        state.live += bytes as u64;
        state.peak = state.peak.max(state.live);
        state.held += capacity;
        state.held_peak = state.held_peak.max(state.held);
        Ok(WgpuBuffer { block: Some(block), bytes, pool: self.clone() })
    }

    /// Memory for a copy to the host, outside of the pool.
    pub fn staging(&self, bytes: u64, release: impl FnOnce()) -> Result<wgpu::Buffer> {
        let usage = BufferUsages::MAP_READ | BufferUsages::COPY_DST;
        self.create(bytes, usage, release).ok_or_else(|| self.out_of_memory(bytes as usize))
    }

    fn out_of_memory(&self, requested: usize) -> Error {
        Error::OutOfMemory { device: self.context.name(), requested, live: self.state().live }
    }

    /// Memory from the driver. If there is none, the pool gives back what it holds, and it is tried once more.
    fn create(&self, bytes: u64, usage: BufferUsages, release: impl FnOnce()) -> Option<wgpu::Buffer> {
        self.try_create(bytes, usage).or_else(|| {
            self.clear();
            release();
            self.try_create(bytes, usage)
        })
    }

    fn try_create(&self, bytes: u64, usage: BufferUsages) -> Option<wgpu::Buffer> {
        if bytes > self.context.limits.max_buffer_size {
            return None;
        }
        #[cfg(test)]
        {
            let state = self.state();
            if state.held + state.pooled + bytes > self.budget.load(Relaxed) {
                return None;
            }
        }
        let device = &self.context.device;
        let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let invalid = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let raw = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes,
            usage,
            mapped_at_creation: false,
        });
        let failed = [pollster::block_on(invalid.pop()), pollster::block_on(memory.pop())];
        failed.iter().all(Option::is_none).then_some(raw)
    }

    /// Fills in what the pool knows.
    pub fn fill_stats(&self, stats: &mut Stats) {
        let state = self.state();
        (stats.bytes_live, stats.bytes_peak, stats.bytes_pooled) = (state.live, state.peak, state.pooled);
    }

    /// Sets the peak to what is alive.
    pub fn reset_peak(&self) {
        let mut state = self.state();
        state.peak = state.live;
    }

    /// Counts what is alive now as nobody's.
    pub fn forget_live(&self) {
        let mut state = self.state();
        (state.live, state.peak) = (0, 0);
    }

    fn take(&self, capacity: u64) -> Option<Arc<Block>> {
        let mut state = self.state();
        let (_, block) = state.free.get_mut(&capacity)?.pop()?;
        state.pooled -= capacity;
        Some(block)
    }

    fn clear(&self) {
        let mut state = self.state();
        state.free.clear();
        state.pooled = 0;
        self.evictions.fetch_add(1, Relaxed);
    }

    fn give_back(&self, block: Arc<Block>, bytes: usize) {
        let mut state = self.state();
        let capacity = block.capacity;
        state.live = state.live.saturating_sub(bytes as u64);
        state.held -= capacity;
        state.pooled += capacity;
        state.clock += 1;
        let now = state.clock;
        state.free.entry(capacity).or_default().push((now, block));
        // A steady loop needs what it needed at most before; more is left over from other sizes.
        while state.held + state.pooled > state.held_peak + state.held_peak / 2 + SLACK && state.evict() {
            self.evictions.fetch_add(1, Relaxed);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Gives the block that has waited longest back to the driver.
    fn evict(&mut self) -> bool {
        let oldest = self.free.iter().filter_map(|(&c, blocks)| Some((blocks.first()?.0, c))).min();
        let Some((_, capacity)) = oldest else { return false };
        if let Some(blocks) = self.free.get_mut(&capacity) {
            blocks.remove(0);
            self.pooled -= capacity;
        }
        true
    }
}
