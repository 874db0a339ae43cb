//! A handle's stream, and its buffers: the driver's stream-ordered pool, with a count of what is alive.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{DriverError, result, sys};
use lowrank_backend::{Buffer, Error, Result, Stats};

use crate::context::Context;
use crate::graph::{Arena, Recordings};

/// The one stream that everything of a handle goes through, so that order needs no events.
pub(crate) struct Stream {
    pub context: Arc<Context>,
    pub raw: sys::CUstream,
    live: AtomicU64,
    peak: AtomicU64,
    /// Counts buffers and recordings, to tell what was first.
    serial: AtomicU64,
    recordings: Mutex<Recordings>,
}

// SAFETY: a handle of the driver, which locks for itself.
unsafe impl Send for Stream {}
// SAFETY: as above; the counters are atomic.
unsafe impl Sync for Stream {}

impl Stream {
    pub fn new(context: Arc<Context>) -> Result<Self> {
        context.bind()?;
        let raw = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|e| context.failed("cuStreamCreate", e))?;
        let (live, peak, serial) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Ok(Stream { context, raw, live, peak, serial, recordings: Mutex::default() })
    }

    pub fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Relaxed)
    }

    pub fn recordings(&self) -> MutexGuard<'_, Recordings> {
        self.recordings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for everything on the stream.
    pub fn wait(&self) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the stream lives as long as self.
        unsafe { result::stream::synchronize(self.raw) }.map_err(|e| self.context.failed("cuStreamSynchronize", e))
    }

    /// Memory, uninitialised; none for 0 bytes still has an address.
    pub fn alloc(self: &Arc<Self>, bytes: usize) -> Result<CudaBuffer> {
        self.context.bind()?;
        let size = bytes.max(16);
        let full = DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let arena = self.recordings().open.clone();
        let mut got = match &arena {
            Some(arena) => arena.take(size),
            // SAFETY: all use of the memory is on this stream.
            None => unsafe { result::malloc_async(self.raw, size) },
        };
        if got == Err(full) && arena.is_none() {
            // What was freed but not yet reached on the stream, and what fits no hole of the pool, may be what is missing.
            self.wait()?;
            // SAFETY: the device's own pool; only memory that nothing holds goes back.
            let _ = unsafe { result::mem_pool::trim_to(self.context.pool, 0) };
            // SAFETY: as above.
            got = unsafe { result::malloc_async(self.raw, size) };
        }
        let at = got.map_err(|e| {
            if e == full {
                let live = self.live.load(Relaxed);
                return Error::OutOfMemory { device: self.context.name(), requested: bytes, live };
            }
            self.context.failed("cuMemAllocAsync", e)
        })?;
        let live = self.live.fetch_add(bytes as u64, Relaxed) + bytes as u64;
        self.peak.fetch_max(live, Relaxed);
        Ok(CudaBuffer { at, bytes, serial: self.next_serial(), arena, stream: self.clone() })
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
            let done = unsafe { sys::cuMemPoolGetAttribute(self.context.pool, which, (&raw mut bytes).cast()) };
            done.result().map(|()| bytes).unwrap_or(0)
        };
        use sys::CUmemPool_attribute::{CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_CURRENT};
        let (reserved, used) =
            (attribute(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), attribute(CU_MEMPOOL_ATTR_USED_MEM_CURRENT));
        stats.bytes_pooled = reserved.saturating_sub(used);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: no buffer is left, each holds the stream; the driver finishes what is on it.
            let _ = unsafe { result::stream::destroy(self.raw) };
        }
    }
}

/// A piece of device memory.
pub(crate) struct CudaBuffer {
    at: sys::CUdeviceptr,
    bytes: usize,
    serial: u64,
    /// Of the recording that asked for it.
    arena: Option<Arc<Arena>>,
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
        if let Some(arena) = &self.arena {
            return arena.give_back(self.at);
        }
        // A graph that may still use it keeps it. Upgraded outside the lock: the last handle on an arena waits.
        let graphs: Vec<_> = self.stream.recordings().alive.iter().filter_map(|a| a.upgrade()).collect();
        if graphs.iter().any(|graph| graph.keep(self.at, self.serial)) {
            return;
        }
        if self.stream.context.bind().is_ok() {
            // SAFETY: allocated on this stream and freed once, after all work that was given to it.
            let _ = unsafe { result::free_async(self.at, self.stream.raw) };
        }
    }
}
