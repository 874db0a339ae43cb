//! Time as the GPU sees it: between two events on the stream that everything goes through, behind work that keeps the GPU
//! busy until the host has put all that is timed on the stream. So small shapes do not time the host.

use cudarc::driver::{result, sys};
use lowrank_core::Cuda;

use crate::Outcome;

/// Groups of calls, the best of which counts.
const GROUPS: usize = 5;
/// The GPU is kept busy this many times as long as the host takes to put a group on the stream.
const AHEAD: f64 = 2.0;

/// Two events on a stream, and memory to keep the GPU busy with.
pub struct Clock {
    pub stream: sys::CUstream,
    events: [sys::CUevent; 2],
    busy: [Memory; 2],
    /// Seconds of one copy from one to the other.
    copy: f64,
}

impl Clock {
    /// Of the stream of a device, which is this thread's from now on.
    pub fn new(cuda: &Cuda, tiny: bool) -> Outcome<Self> {
        let bytes = if tiny { 1 << 10 } else { 1 << 28 };
        let busy = [Memory::new(bytes)?, Memory::new(bytes)?];
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let mut clock = Clock { stream: cuda.stream().cast(), events: [event()?, event()?], busy, copy: 0.0 };
        for copies in [1, 8] {
            clock.copy = clock.between(|| (0..copies).try_for_each(|_| clock.keep_busy()))? / f64::from(copies);
        }
        Ok(clock)
    }

    fn keep_busy(&self) -> Outcome {
        let [to, from] = &self.busy;
        // SAFETY: both are as long.
        unsafe { result::memcpy_dtod_async(to.0, from.0, from.1, self.stream) }.map_err(Into::into)
    }

    /// Seconds of the GPU for what `f` puts on the stream.
    fn between(&self, f: impl FnOnce() -> Outcome) -> Outcome<f64> {
        let [start, end] = self.events;
        // SAFETY: events and a stream that live as long as this.
        unsafe {
            result::event::record(start, self.stream)?;
            f()?;
            result::event::record(end, self.stream)?;
            result::event::synchronize(end)?;
            Ok(f64::from(result::event::elapsed(start, end)?) / 1e3)
        }
    }

    /// The GPU's seconds for one call of `f`, of `turns` in a row, in the best of several groups. The first calls, which
    /// compile and warm up, do not count.
    pub fn time(&self, turns: usize, mut f: impl FnMut() -> Outcome) -> Outcome<f64> {
        f()?;
        let host = std::time::Instant::now();
        let mut group = || (0..turns).try_for_each(|_| f());
        group()?;
        let host = host.elapsed().as_secs_f64();
        // SAFETY: the stream of a live device.
        unsafe { result::stream::synchronize(self.stream)? };
        // A group that outlasts this many copies does not wait for the host anyway.
        let copies = (AHEAD * host / self.copy.max(1e-6)).ceil().clamp(1.0, 64.0) as usize;
        let mut best = f64::INFINITY;
        for _ in 0..if turns == 1 { 1 } else { GROUPS } {
            (0..copies).try_for_each(|_| self.keep_busy())?;
            best = best.min(self.between(&mut group)? / turns as f64);
        }
        Ok(best)
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        self.events.into_iter().for_each(|e| _ = unsafe { result::event::destroy(e) });
    }
}

/// Device memory of the bench's own: address and bytes. The device's context is this thread's since the device was opened.
pub struct Memory(pub u64, usize);

impl Memory {
    /// Uninitialised.
    pub fn new(bytes: usize) -> Outcome<Self> {
        // SAFETY: freed in drop.
        Ok(Memory(unsafe { result::malloc_sync(bytes)? }, bytes))
    }

    pub fn of(bytes: &[u8]) -> Outcome<Self> {
        let memory = Memory::new(bytes.len())?;
        // SAFETY: the memory has room for the bytes, which are read when the call returns.
        unsafe { result::memcpy_htod_sync(memory.0, bytes)? };
        Ok(memory)
    }

    /// What it holds, as f32, when the device is done with it.
    pub fn read(&self) -> Outcome<Vec<f32>> {
        let mut values = vec![0f32; self.1 / 4];
        result::ctx::synchronize()?;
        // SAFETY: as many bytes as there are.
        unsafe { result::memcpy_dtoh_sync(&mut values, self.0)? };
        Ok(values)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated once; the driver waits for work that uses it.
        let _ = unsafe { result::free_sync(self.0) };
    }
}
