//! A handle's stream, and its buffers: the driver's stream-ordered pool, with a count of what is alive.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys;
use lowrank_backend::{Buffer, Error, Result, Stats};

use crate::arena::{Home, Taken};
use crate::calls::{self, DriverError};
use crate::context::Context;
use crate::step::Steps;

const FULL: DriverError = DriverError::OUT_OF_MEMORY;

/// The one stream that everything of a handle goes through, so that order needs no events.
pub(crate) struct Stream {
    pub context: Arc<Context>,
    pub raw: sys::CUstream,
    live: AtomicU64,
    peak: AtomicU64,
    steps: Mutex<Steps>,
}

// SAFETY: a handle of the driver, which locks for itself.
unsafe impl Send for Stream {}
// SAFETY: as above; the counters are atomic.
unsafe impl Sync for Stream {}

impl Stream {
    pub fn new(context: Arc<Context>) -> Result<Self> {
        context.bind()?;
        let apart = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: writes a handle.
        let raw = unsafe { calls::handle(|to| calls::cuStreamCreate(to, apart)) }
            .map_err(|e| context.failed("cuStreamCreate", e))?;
        Ok(Stream { context, raw, live: AtomicU64::new(0), peak: AtomicU64::new(0), steps: Mutex::default() })
    }

    /// What there is of repeated steps.
    pub fn steps(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for everything on the stream.
    pub fn wait(&self) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the stream lives as long as self.
        unsafe { calls::cuStreamSynchronize(self.raw) }.map_err(|e| self.context.failed("cuStreamSynchronize", e))
    }

    /// Memory, uninitialised; none for 0 bytes still has an address. A step under way has it from its arena.
    pub fn alloc(self: &Arc<Self>, bytes: usize) -> Result<CudaBuffer> {
        self.context.bind()?;
        let (at, home) = self.take(bytes.max(16)).map_err(|e| {
            if e == FULL {
                let live = self.live.load(Relaxed);
                return Error::OutOfMemory { device: self.context.name(), requested: bytes, live };
            }
            self.context.failed("cuMemAllocAsync", e)
        })?;
        let live = self.live.fetch_add(bytes as u64, Relaxed) + bytes as u64;
        self.peak.fetch_max(live, Relaxed);
        Ok(CudaBuffer { at, bytes, home, stream: self.clone() })
    }

    fn take(&self, size: usize) -> Result<(u64, Home), DriverError> {
        let mut steps = self.steps();
        while steps.open {
            match steps.arena.take(size) {
                Taken::At(at, home) => return Ok((at, home)),
                Taken::Pool => break,
                Taken::Slab(size) => {
                    let at = self.scarce(&mut steps, size)?;
                    steps.arena.add_slab(at);
                }
                Taken::Chunk(like, need) => {
                    let (at, size) = match self.pooled(like) {
                        Err(FULL) => (self.scarce(&mut steps, need)?, need),
                        other => (other?, like),
                    };
                    steps.arena.add_chunk(at, size);
                }
            }
        }
        Ok((self.scarce(&mut steps, size)?, Home::Pool))
    }

    /// Memory of the driver's pool, or else what the arena does not use of it. While work is held back the arena keeps it:
    /// kernels that were not started yet may use what nobody else does any more.
    fn scarce(&self, steps: &mut Steps, size: usize) -> Result<u64, DriverError> {
        let got = self.pooled(size);
        if got != Err(FULL) || steps.held.is_some() {
            return got;
        }
        self.free(&steps.arena.trim());
        self.pooled(size)
    }

    /// Memory of the driver's pool.
    pub fn pooled(&self, size: usize) -> Result<u64, DriverError> {
        // SAFETY: all use of the memory is on this stream.
        let got = unsafe { calls::malloc_async(self.raw, size) };
        if got != Err(FULL) {
            return got;
        }
        // What was freed but not yet reached on the stream, and what fits no hole of the pool, may be what is missing.
        // SAFETY: the stream is alive; only memory that nothing holds goes back from the device's own pool.
        unsafe {
            calls::cuStreamSynchronize(self.raw)?;
            let _ = calls::cuMemPoolTrimTo(self.context.pool, 0);
            calls::malloc_async(self.raw, size)
        }
    }

    /// Gives memory back to the driver's pool, behind everything on the stream.
    pub fn free(&self, addresses: &[u64]) {
        if self.context.bind().is_err() {
            return;
        }
        for &at in addresses.iter().filter(|&&at| at != 0) {
            // SAFETY: allocated on this stream and freed once, after all work that was given to it.
            let _ = unsafe { calls::cuMemFreeAsync(at, self.raw) };
        }
    }

    /// Sets the peak to what is alive.
    pub fn reset_peak(&self) {
        self.peak.store(self.live.load(Relaxed), Relaxed);
    }

    /// The figures of memory.
    pub fn fill_stats(&self, stats: &mut Stats) {
        stats.bytes_live = self.live.load(Relaxed);
        stats.bytes_peak = self.peak.load(Relaxed);
        let attribute = |which| {
            let mut bytes = 0u64;
            // SAFETY: both attributes are u64.
            let done = unsafe { calls::cuMemPoolGetAttribute(self.context.pool, which, (&raw mut bytes).cast()) };
            done.map(|()| bytes).unwrap_or(0)
        };
        use sys::CUmemPool_attribute::{CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_CURRENT};
        let (reserved, used) =
            (attribute(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), attribute(CU_MEMPOOL_ATTR_USED_MEM_CURRENT));
        stats.bytes_pooled = reserved.saturating_sub(used) + self.steps().arena.unused() as u64;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let addresses = self.steps().arena.all();
        self.free(&addresses);
        if self.context.bind().is_ok() {
            // SAFETY: no buffer is left, each holds the stream; the driver finishes what is on it.
            let _ = unsafe { calls::cuStreamDestroy_v2(self.raw) };
        }
    }
}

/// A piece of device memory.
pub(crate) struct CudaBuffer {
    at: sys::CUdeviceptr,
    bytes: usize,
    home: Home,
    stream: Arc<Stream>,
}

impl CudaBuffer {
    /// Its address on the device, a multiple of 256.
    pub fn address(&self) -> u64 {
        self.at
    }

    /// Whether it belongs to this stream, hence to this handle.
    pub fn of(&self, stream: &Arc<Stream>) -> bool {
        Arc::ptr_eq(&self.stream, stream)
    }
}

impl Buffer for CudaBuffer {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        self.stream.live.fetch_sub(self.bytes as u64, Relaxed);
        let mut steps = self.stream.steps();
        match (self.home, &mut steps.held) {
            // Work that is held back may use it.
            (Home::Pool, Some(held)) => held.dropped.push(self.at),
            (Home::Pool, None) => self.stream.free(&[self.at]),
            (home, _) => steps.arena.give_back(self.at, home),
        }
    }
}
