//! A step that comes again: its operations are held back while it is put together, and started as one at its end.
//!
//! Kernels wait in a list, and small uploads wait beside it: they travel in one copy to an inbox on the device, from where
//! kernels of the step bring them to their places in the order that was asked for. Whoever reads back, waits, or uploads
//! much inside a step has what was held so far started at once, and the rest of the step as it comes.

use std::sync::{MutexGuard, PoisonError};

use lowrank_backend::{Error, Result};
use lowrank_kernels::COPY;

use crate::Cuda;
use crate::arena::Arena;
use crate::graph::{Call, Graphs};
use crate::memory::CudaBuffer;

/// Uploads of one step that travel in one copy, bytes.
const INBOX: usize = 1 << 20;
/// Kernels held at most; then they are started.
const HELD: usize = 1 << 17;

/// What a stream has to know of steps.
#[derive(Default)]
pub(crate) struct Steps {
    /// A step is being put together.
    pub open: bool,
    /// What is held back of it; `None` once that was started.
    pub held: Option<Held>,
    pub arena: Arena,
}

/// Operations that were asked for and not started yet.
#[derive(Default)]
pub(crate) struct Held {
    work: Vec<Work>,
    /// Bytes of the uploads.
    inbox: Vec<u8>,
    /// Memory of the pool that was dropped, to be freed behind the work.
    pub dropped: Vec<u64>,
}

enum Work {
    Kernel(Call),
    /// So many bytes from this place of the inbox to an address.
    Upload {
        to: u64,
        from: usize,
        len: usize,
    },
}

/// The inbox on the device.
#[derive(Default)]
pub(crate) struct Inbox {
    at: u64,
    size: usize,
}

impl Inbox {
    pub fn at(&self) -> u64 {
        self.at
    }
}

/// Recorded steps, and the memory that their uploads go through.
#[derive(Default)]
pub(crate) struct Recorded {
    pub graphs: Graphs,
    pub inbox: Inbox,
}

/// Ends a step even if it panics.
struct Open<'a>(&'a Cuda);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.end_step();
        }
    }
}

impl Cuda {
    /// See `Backend::repeated`.
    pub(crate) fn repeat(&self, work: &mut dyn FnMut()) -> Result<()> {
        {
            let mut steps = self.stream.steps();
            if steps.open {
                drop(steps);
                // Part of the step around it.
                work();
                return Ok(());
            }
            steps.open = true;
            steps.held = Some(Held::default());
            steps.arena.open();
        }
        let open = Open(self);
        work();
        drop(open);
        self.end_step()
    }

    fn end_step(&self) -> Result<()> {
        let held = self.stream.steps().held.take();
        let started = held.map_or(Ok(()), |held| self.start_as_one(held));
        let chunks = {
            let mut steps = self.stream.steps();
            steps.open = false;
            steps.arena.close()
        };
        if !chunks.is_empty() {
            // Graphs of these addresses would never be started again.
            self.recorded().graphs.clear();
            self.stream.free(&chunks);
        }
        started
    }

    /// Holds a kernel back if a step is being put together, else returns it.
    pub(crate) fn hold(&self, call: Call) -> Result<Option<Call>> {
        {
            let mut steps = self.stream.steps();
            let Some(held) = &mut steps.held else { return Ok(Some(call)) };
            if held.work.len() < HELD {
                held.work.push(Work::Kernel(call));
                return Ok(None);
            }
        }
        self.settle()?;
        Ok(Some(call))
    }

    /// Holds an upload back; false if it has to be done now.
    pub(crate) fn hold_upload(&self, bytes: &[u8], to: u64) -> Result<bool> {
        {
            let mut steps = self.stream.steps();
            let Some(held) = &mut steps.held else { return Ok(false) };
            let words = bytes.len().is_multiple_of(4) && to.is_multiple_of(4);
            if words && held.inbox.len() + bytes.len() <= INBOX && held.work.len() < HELD {
                let from = held.inbox.len();
                held.inbox.extend_from_slice(bytes);
                held.inbox.resize(held.inbox.len().next_multiple_of(16), 0);
                held.work.push(Work::Upload { to, from, len: bytes.len() });
                return Ok(true);
            }
        }
        self.settle()?;
        Ok(false)
    }

    /// Memory. If it is short within a step, what is held back is started, so that what the step left unused is free.
    pub(crate) fn memory(&self, bytes: usize) -> Result<CudaBuffer> {
        match self.stream.alloc(bytes) {
            Err(Error::OutOfMemory { .. }) if self.stream.steps().open => {
                self.settle()?;
                self.stream.alloc(bytes)
            }
            other => other,
        }
    }

    /// Starts what is held back, one by one; the rest of the step is not held any more.
    pub(crate) fn settle(&self) -> Result<()> {
        let Some(held) = self.stream.steps().held.take() else { return Ok(()) };
        let done = held.work.iter().try_for_each(|work| match work {
            // SAFETY: whoever asked for the kernel vouched for it; memory that was dropped since is freed below.
            Work::Kernel(call) => unsafe { call.start(&self.context, self.stream.raw) },
            &Work::Upload { to, from, len } => self.staging().upload(&held.inbox[from..from + len], to),
        });
        self.stream.free(&held.dropped);
        done
    }

    fn start_as_one(&self, held: Held) -> Result<()> {
        self.context.bind()?;
        let done = self.calls(held.work, &held.inbox).and_then(|calls| {
            let (context, stream) = (&self.context, self.stream.raw);
            // SAFETY: whoever asked for a kernel vouched for it; memory that was dropped since is freed below.
            unsafe { self.recorded().graphs.start(calls, context, stream, &self.counters) }
        });
        self.stream.free(&held.dropped);
        done
    }

    /// The kernels of a step, those that take uploads out of the inbox among them. Fills the inbox.
    fn calls(&self, work: Vec<Work>, bytes: &[u8]) -> Result<Vec<Call>> {
        let inbox = if bytes.is_empty() { 0 } else { self.fill_inbox(bytes)? };
        let call = |work| match work {
            Work::Kernel(call) => Ok(call),
            Work::Upload { to, from, len } => {
                let words = len / 4;
                let mut copy = self.launch("upload", &COPY, "copy_f32");
                copy.u64s(&[to, inbox + from as u64]).sizes(&[words; 4]).u32s(&[0]);
                copy.call([words.div_ceil(256) as u32, 1, 1], 256)
            }
        };
        work.into_iter().map(call).collect()
    }

    /// Puts bytes into the inbox, which stays where it is as long as it is large enough.
    fn fill_inbox(&self, bytes: &[u8]) -> Result<u64> {
        let mut recorded = self.recorded();
        let inbox = &mut recorded.inbox;
        if inbox.size < bytes.len() {
            let old = std::mem::replace(&mut inbox.at, 0);
            inbox.size = 0;
            self.stream.free(&[old]);
            let size = bytes.len().next_power_of_two().max(16 << 10);
            // Freed here or with the handle, behind all work that reads it.
            inbox.at = self.stream.pooled(size).map_err(|e| self.context.failed("cuMemAllocAsync", e))?;
            inbox.size = size;
        }
        self.staging().upload(bytes, inbox.at)?;
        Ok(inbox.at)
    }

    pub(crate) fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        let at = self.recorded().inbox.at();
        self.stream.free(&[at]);
    }
}
