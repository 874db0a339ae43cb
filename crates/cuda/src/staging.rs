//! Bytes on their way: small uploads through a ring of pinned memory, readbacks into pinned memory.
//!
//! Neither waits when it is called: a copy from pinned memory is queued, one from other memory would hold up the host.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{MutexGuard, PoisonError};

use cudarc::driver::sys;
use lowrank_backend::{In, Readback, Result};

use crate::Cuda;
use crate::calls::{self, DriverError};
use crate::memory::Stream;

/// Uploads up to this size go through the ring; larger ones are weights, where the driver's own staging serves.
const SMALL: usize = 256 << 10;
/// Bytes of each half of the ring.
const HALF: usize = 2 << 20;
/// Readbacks up to this size are queued when they are asked for.
const SMALL_READ: usize = 64 << 10;

/// Pinned host memory.
struct Pinned {
    at: *mut u8,
    stream: Arc<Stream>,
}

// SAFETY: memory that one owner uses.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(stream: &Arc<Stream>, bytes: usize) -> Result<Self> {
        stream.context.bind()?;
        // SAFETY: freed in drop.
        let at = unsafe { calls::handle(|to| calls::cuMemHostAlloc(to, bytes, 0)) }
            .map_err(|e| stream.context.failed("cuMemHostAlloc", e))?;
        Ok(Pinned { at: at.cast(), stream: stream.clone() })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.stream.context.bind().is_ok() {
            // SAFETY: allocated by malloc_host; the driver waits for copies that use it.
            let _ = unsafe { calls::cuMemFreeHost(self.at.cast()) };
        }
    }
}

/// A mark on the stream.
struct Event(sys::CUevent);

// SAFETY: a handle of the driver, which locks for itself.
unsafe impl Send for Event {}

impl Event {
    fn record(stream: &Stream) -> Result<Self, DriverError> {
        let untimed = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: writes a handle.
        let event = Event(unsafe { calls::handle(|to| calls::cuEventCreate(to, untimed))? });
        // SAFETY: both are alive.
        unsafe { calls::cuEventRecord(event.0, stream.raw)? };
        Ok(event)
    }

    fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: alive until drop.
        unsafe { calls::cuEventSynchronize(self.0) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { calls::cuEventDestroy_v2(self.0) };
    }
}

/// A readback under way.
struct Pending {
    block: Option<Pinned>,
    done: Event,
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Nobody waited for it: the memory must not go while the copy may still write to it.
        if self.block.is_some() {
            let _ = self.done.wait();
        }
    }
}

/// The ring of uploads, and pinned blocks for readbacks.
pub(crate) struct Staging {
    stream: Arc<Stream>,
    halves: [Option<Pinned>; 2],
    /// When each half's copies will be done.
    done: [Option<Event>; 2],
    half: usize,
    at: usize,
    /// Blocks of SMALL_READ bytes that no readback uses.
    idle: Vec<Pinned>,
}

impl Staging {
    pub fn new(stream: Arc<Stream>) -> Self {
        Staging { stream, halves: [None, None], done: [None, None], half: 0, at: 0, idle: Vec::new() }
    }

    /// Queues a copy of host bytes.
    pub fn upload(&mut self, bytes: &[u8], to: u64) -> Result<()> {
        let stream = self.stream.clone();
        let failed = |e| stream.context.failed("upload", e);
        stream.context.bind()?;
        if bytes.len() > SMALL {
            // SAFETY: the driver has read pageable memory when the call returns.
            return unsafe { calls::cuMemcpyHtoDAsync_v2(to, bytes.as_ptr().cast(), bytes.len(), stream.raw) }
                .map_err(failed);
        }
        if self.at + bytes.len() > HALF {
            self.done[self.half] = Some(Event::record(&stream).map_err(failed)?);
            self.half = 1 - self.half;
            self.at = 0;
            // The host is a whole half of the ring ahead of the device.
            if let Some(done) = self.done[self.half].take() {
                done.wait().map_err(failed)?;
            }
        }
        if self.halves[self.half].is_none() {
            self.halves[self.half] = Some(Pinned::new(&stream, HALF)?);
        }
        let Some(half) = &self.halves[self.half] else { unreachable!("made above") };
        // SAFETY: at + len ≤ HALF, and no copy under way reads this part of the ring.
        let place = unsafe { std::slice::from_raw_parts_mut(half.at.add(self.at), bytes.len()) };
        place.copy_from_slice(bytes);
        self.at = (self.at + bytes.len()).next_multiple_of(16);
        // SAFETY: the place is not written again before the half's event.
        unsafe { calls::cuMemcpyHtoDAsync_v2(to, place.as_ptr().cast(), place.len(), stream.raw) }.map_err(failed)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Copies under way read the ring.
        let _ = self.stream.wait();
    }
}

impl Cuda {
    pub(crate) fn staging(&self) -> MutexGuard<'_, Staging> {
        self.staging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Host bytes to a device address that has room for them.
    pub(crate) fn stage(&self, bytes: &[u8], to: u64) -> Result<()> {
        self.counters.uploaded.fetch_add(bytes.len() as u64, Relaxed);
        if self.hold_upload(bytes, to)? {
            return Ok(());
        }
        self.staging().upload(bytes, to)
    }

    /// See `Backend::download`. Small readbacks are queued now; the wait is whoever polls the future's.
    pub(crate) fn read_back<'a>(&'a self, src: In<'a>) -> Readback<'a> {
        const OP: &str = "download";
        let bytes = src.len * src.dtype.size();
        let queued = self.settle().and_then(|()| self.address(OP, "source", src)).and_then(|from| {
            let copy = if (1..=SMALL_READ).contains(&bytes) { Some(self.queue_read(from, bytes)?) } else { None };
            Ok((from, copy))
        });
        Box::pin(async move {
            let (from, copy) = queued?;
            if bytes == 0 {
                return Ok(Vec::new());
            }
            self.counters.waits.fetch_add(1, Relaxed);
            self.context.bind()?;
            let failed = |e| self.context.failed(OP, e);
            let out = match copy {
                Some(mut pending) => {
                    pending.done.wait().map_err(failed)?;
                    let Some(block) = pending.block.take() else { unreachable!("only here it is taken") };
                    // SAFETY: the copy of this many bytes is done.
                    let out = unsafe { std::slice::from_raw_parts(block.at, bytes) }.to_vec();
                    self.staging().idle.push(block);
                    out
                }
                None => {
                    let mut out = vec![0u8; bytes];
                    // SAFETY: the buffer is borrowed, and `out` is not moved before the wait below.
                    unsafe { calls::cuMemcpyDtoHAsync_v2(out.as_mut_ptr().cast(), from, bytes, self.stream.raw) }
                        .map_err(failed)?;
                    self.stream.wait()?;
                    out
                }
            };
            self.counters.downloaded.fetch_add(bytes as u64, Relaxed);
            Ok(out)
        })
    }

    fn queue_read(&self, from: u64, bytes: usize) -> Result<Pending> {
        let mut staging = self.staging();
        let block = match staging.idle.pop() {
            Some(block) => block,
            None => Pinned::new(&self.stream, SMALL_READ)?,
        };
        drop(staging);
        self.context.bind()?;
        let copy = || {
            // SAFETY: the block has room, and nobody reads it before the event.
            let place = unsafe { std::slice::from_raw_parts_mut(block.at, bytes) };
            // SAFETY: as above; the source is alive when the copy is queued, and frees are queued behind it.
            unsafe { calls::cuMemcpyDtoHAsync_v2(place.as_mut_ptr().cast(), from, bytes, self.stream.raw)? };
            Event::record(&self.stream)
        };
        let done = copy().map_err(|e| self.context.failed("download", e))?;
        Ok(Pending { block: Some(block), done })
    }
}
