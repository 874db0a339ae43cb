//! Launches recorded once and started again as one: a CUDA graph.
//!
//! A graph holds addresses, so whatever its kernels touch must stay where it is. Memory that is asked for while recording
//! comes from an arena that belongs to the graph; memory of before that is dropped while the graph is alive goes into the
//! arena instead of back to the pool. So a graph that is launched late never writes into somebody else's memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cudarc::driver::{DriverError, result, sys};
use lowrank_backend::{Error, Result};

use crate::Cuda;
use crate::context::Context;
use crate::memory::Stream;

/// The memory of a recording.
pub(crate) struct Arena {
    context: Arc<Context>,
    stream: sys::CUstream,
    /// Buffers with a lower number were there before.
    serial: u64,
    open: AtomicBool,
    kernels: AtomicU64,
    blocks: Mutex<Blocks>,
}

#[derive(Default)]
struct Blocks {
    /// Every block of the arena: address and size.
    all: Vec<(u64, usize)>,
    /// Those that the recorded work is done with.
    free: Vec<(u64, usize)>,
    /// Dropped buffers of the stream's own pool.
    kept: Vec<u64>,
}

// SAFETY: the stream is a handle of the driver, which locks for itself.
unsafe impl Send for Arena {}
// SAFETY: as above; what changes is atomic or behind a mutex.
unsafe impl Sync for Arena {}

impl Arena {
    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory that the recording has not used yet, or is done with.
    pub fn take(&self, bytes: usize) -> Result<u64, DriverError> {
        let size = bytes.next_multiple_of(256);
        let mut blocks = self.blocks();
        if let Some(i) = blocks.free.iter().position(|&(_, s)| s == size) {
            return Ok(blocks.free.swap_remove(i).0);
        }
        // Not stream-ordered: an allocation on the stream would be recorded. SAFETY: freed in drop.
        let at = unsafe { result::malloc_sync(size)? };
        blocks.all.push((at, size));
        Ok(at)
    }

    /// A buffer of the arena is dropped. After the recording its memory waits for the graph's end.
    pub fn give_back(&self, at: u64) {
        if self.open.load(Relaxed) {
            let mut blocks = self.blocks();
            if let Some(&block) = blocks.all.iter().find(|b| b.0 == at) {
                blocks.free.push(block);
            }
        }
    }

    /// A buffer of the pool is dropped. True if this graph may still use it.
    pub fn keep(&self, at: u64, serial: u64) -> bool {
        let keeps = serial < self.serial;
        if keeps {
            self.blocks().kept.push(at);
        }
        keeps
    }

    /// A kernel was recorded.
    pub fn count(&self) {
        self.kernels.fetch_add(1, Relaxed);
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.context.bind().is_err() {
            return;
        }
        let blocks = std::mem::take(&mut *self.blocks());
        // SAFETY: the stream outlives its arenas; nothing uses the memory once it has been waited for.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            for (at, _) in blocks.all {
                let _ = result::free_sync(at);
            }
            for at in blocks.kept {
                let _ = result::free_async(at, self.stream);
            }
        }
    }
}

/// Which recordings a stream has to take care of.
#[derive(Default)]
pub(crate) struct Recordings {
    /// The one being made.
    pub open: Option<Arc<Arena>>,
    /// Those that may be launched.
    pub alive: Vec<Weak<Arena>>,
}

/// Recorded launches; see [`Cuda::record`].
pub struct Graph {
    exec: sys::CUgraphExec,
    // Before the stream, which it waits for when it ends.
    arena: Arc<Arena>,
    stream: Arc<Stream>,
}

// SAFETY: a handle of the driver, which locks for itself.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

impl Graph {
    /// Does everything again, with what the buffers hold now.
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn launch(&self) -> Result<()> {
        let context = &self.stream.context;
        context.bind()?;
        // SAFETY: both are alive, and so is all memory that the kernels use.
        unsafe { result::graph::launch(self.exec, self.stream.raw) }.map_err(|e| context.failed("cuGraphLaunch", e))
    }

    /// Kernels of one launch.
    pub fn kernels(&self) -> u64 {
        self.arena.kernels.load(Relaxed)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.stream.context.bind().is_ok() {
            // SAFETY: made once, destroyed once; the driver finishes launches under way.
            let _ = unsafe { result::graph::exec_destroy(self.exec) };
        }
    }
}

impl Cuda {
    /// Records the operations of `work` instead of doing them; [`Graph::launch`] does them, any number of times.
    ///
    /// Shapes, constants and addresses are fixed then; contents are not: change them by uploads between launches. `work`
    /// must not upload, download or wait, and other threads must not use this handle meanwhile. Results live in the
    /// buffers that `work` wrote; those it allocated keep their memory until the graph is dropped. Do `work` once before,
    /// so that its kernels are compiled.
    ///
    /// # Errors
    /// What `work` returns, and if it did what cannot be recorded.
    pub fn record(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let (stream, context) = (&self.stream, &self.context);
        let failed = |e| context.failed("recording", e);
        context.bind()?;
        let arena = Arc::new(Arena {
            context: context.clone(),
            stream: stream.raw,
            serial: stream.next_serial(),
            open: AtomicBool::new(true),
            kernels: AtomicU64::new(0),
            blocks: Mutex::default(),
        });
        {
            let mut recordings = stream.recordings();
            if recordings.open.is_some() {
                return Err(Error::invalid("record", "a recording is under way on this device"));
            }
            // Relaxed: the arena's own allocations must be possible.
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
            // SAFETY: the stream is alive and not being captured.
            unsafe { result::stream::begin_capture(stream.raw, mode) }.map_err(failed)?;
            recordings.open = Some(arena.clone());
            recordings.alive.retain(|a| a.strong_count() > 0);
            recordings.alive.push(Arc::downgrade(&arena));
        }
        let done = work();
        stream.recordings().open = None;
        arena.open.store(false, Relaxed);
        // SAFETY: begun above.
        let graph = unsafe { result::stream::end_capture(stream.raw) };
        done?;
        let graph = graph.map_err(failed)?;
        if graph.is_null() {
            return Err(context.error("recording: something in it cannot be recorded"));
        }
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph just made; the executable one does not need it any more.
        let exec = unsafe {
            let exec = result::graph::instantiate(graph, flags);
            let _ = result::graph::destroy(graph);
            exec
        };
        Ok(Graph { exec: exec.map_err(failed)?, arena, stream: stream.clone() })
    }

    /// Fails while a recording is under way.
    pub(crate) fn not_recording(&self, op: &'static str) -> Result<()> {
        if self.stream.recordings().open.is_none() {
            return Ok(());
        }
        Err(Error::invalid(op, "not possible while operations are recorded"))
    }
}
