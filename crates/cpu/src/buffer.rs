//! Memory: 64-byte aligned blocks in size classes, kept in a pool between uses.
//!
//! A block comes zeroed from the operating system (lazily, so unused pages cost nothing) and is initialised from then
//! on: reading a buffer that nobody has written gives old values, never undefined behaviour.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lowrank_backend::{Buffer, Error, Result, Stats};

use crate::{NAME, huge};

/// Cache lines and the widest vectors.
const ALIGN: usize = 64;
/// Pooled memory that is always allowed, beside half of the largest amount ever in use.
const SLACK: u64 = 256 << 20;

/// The buffer of this backend.
pub(crate) struct CpuBuffer {
    block: ManuallyDrop<Block>,
    bytes: usize,
    pool: Arc<Pool>,
}

impl CpuBuffer {
    /// The bytes asked for.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        // SAFETY: the block has at least `bytes` initialised bytes and is owned by self alone.
        unsafe { std::slice::from_raw_parts(self.block.start.as_ptr(), self.bytes) }
    }

    /// The bytes asked for, to write.
    pub(crate) fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.block.start.as_ptr(), self.bytes) }
    }

    /// As f32: scratch memory of an operation.
    pub(crate) fn as_f32_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.as_bytes_mut())
    }
}

impl Buffer for CpuBuffer {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for CpuBuffer {
    fn drop(&mut self) {
        // SAFETY: taken once, here; the field is not used afterwards.
        let block = unsafe { ManuallyDrop::take(&mut self.block) };
        self.pool.give_back(block, self.bytes);
    }
}

/// A piece of memory from the operating system.
struct Block {
    base: NonNull<u8>,
    start: NonNull<u8>,
    capacity: usize,
}

// SAFETY: a block owns plain bytes; whoever holds it decides who reads and writes.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// Aligned by hand inside a larger allocation: the system's zeroed memory is lazy only at its own alignment.
    fn layout(capacity: usize) -> Option<Layout> {
        Layout::from_size_align(capacity.checked_add(Block::align(capacity))?, 16).ok()
    }

    fn align(capacity: usize) -> usize {
        if capacity >= huge::FROM { huge::PAGE } else { ALIGN }
    }

    fn new(capacity: usize) -> Option<Self> {
        let layout = Block::layout(capacity)?;
        // SAFETY: the layout is not empty.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let align = Block::align(capacity);
        let shift = base.as_ptr().align_offset(align);
        // SAFETY: shift < align, which the layout has beyond the capacity.
        let start = unsafe { base.add(shift) };
        if align == huge::PAGE {
            huge::ask(start, capacity);
        }
        Some(Block { base, start, capacity })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(layout) = Block::layout(self.capacity) {
            // SAFETY: allocated in `new` with this layout.
            unsafe { dealloc(self.base.as_ptr(), layout) };
        }
    }
}

/// The smallest size class that holds `bytes`: four classes per doubling.
fn class(bytes: usize) -> Option<usize> {
    let step = (bytes.checked_next_power_of_two()? / 8).max(ALIGN);
    bytes.max(1).checked_next_multiple_of(step)
}

/// Blocks that wait for their next use.
#[derive(Default)]
pub(crate) struct Pool {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By capacity; within one, the oldest first, with the time of its return.
    free: BTreeMap<usize, Vec<(u64, Block)>>,
    clock: u64,
    pooled: u64,
    /// Bytes asked for, in buffers alive.
    live: u64,
    peak: u64,
    /// Capacity of the buffers alive, and its largest value.
    held: u64,
    held_peak: u64,
}

impl Pool {
    /// A buffer of `bytes` bytes with any content.
    pub(crate) fn alloc(self: &Arc<Self>, bytes: usize) -> Result<CpuBuffer> {
        let live = self.state().live;
        let out_of_memory = || Error::OutOfMemory { device: NAME.to_string(), requested: bytes, live };
        let capacity = class(bytes).ok_or_else(out_of_memory)?;
        let block = match self.take(capacity) {
            Some(block) => block,
            // What the pool holds may be what is missing.
            None => Block::new(capacity)
                .or_else(|| {
                    self.clear();
                    Block::new(capacity)
                })
                .ok_or_else(out_of_memory)?,
        };
        let mut state = self.state();
        state.live += bytes as u64;
        state.peak = state.peak.max(state.live);
        state.held += capacity as u64;
        state.held_peak = state.held_peak.max(state.held);
        Ok(CpuBuffer { block: ManuallyDrop::new(block), bytes, pool: self.clone() })
    }

    /// Scratch memory for `len` values.
    pub(crate) fn scratch(self: &Arc<Self>, len: usize) -> Result<CpuBuffer> {
        self.alloc(len.saturating_mul(4))
    }

    /// Fills in what the pool knows.
    pub(crate) fn fill_stats(&self, stats: &mut Stats) {
        let state = self.state();
        (stats.bytes_live, stats.bytes_peak, stats.bytes_pooled) = (state.live, state.peak, state.pooled);
    }

    /// Sets the peak to what is alive.
    pub(crate) fn reset_peak(&self) {
        let mut state = self.state();
        state.peak = state.live;
    }

    fn take(&self, capacity: usize) -> Option<Block> {
        let mut state = self.state();
        let (_, block) = state.free.get_mut(&capacity)?.pop()?;
        state.pooled -= capacity as u64;
        Some(block)
    }

    fn clear(&self) {
        let mut state = self.state();
        state.free.clear();
        state.pooled = 0;
    }

    fn give_back(&self, block: Block, bytes: usize) {
        let mut state = self.state();
        let capacity = block.capacity;
        state.live -= bytes as u64;
        state.held -= capacity as u64;
        state.pooled += capacity as u64;
        state.clock += 1;
        let now = state.clock;
        state.free.entry(capacity).or_default().push((now, block));
        // A steady loop needs what it needed at most before; more is left over from other sizes.
        while state.held + state.pooled > state.held_peak + state.held_peak / 2 + SLACK && state.evict() {}
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Gives the block that has waited longest back to the operating system.
    fn evict(&mut self) -> bool {
        let oldest = self.free.iter().filter_map(|(&c, blocks)| Some((blocks.first()?.0, c))).min();
        let Some((_, capacity)) = oldest else { return false };
        if let Some(blocks) = self.free.get_mut(&capacity) {
            blocks.remove(0);
            self.pooled -= capacity as u64;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(pool: &Pool) -> Stats {
        let mut stats = Stats::default();
        pool.fill_stats(&mut stats);
        stats
    }

    #[test]
    fn classes_hold_what_is_asked_with_little_waste() {
        for bytes in (0..5000).chain([1 << 20, (1 << 20) + 1, 3 << 30]) {
            let c = class(bytes).unwrap();
            assert!(c >= bytes && c.is_multiple_of(ALIGN) && c <= bytes + bytes / 4 + ALIGN, "{bytes} {c}");
        }
        assert_eq!(class(usize::MAX), None);
    }

    #[test]
    fn a_block_is_used_again() {
        let pool = Arc::new(Pool::default());
        let mut a = pool.alloc(1000).unwrap();
        a.as_bytes_mut().fill(7);
        let address = a.as_bytes().as_ptr();
        assert_eq!(address.align_offset(ALIGN), 0);
        drop(a);
        assert_eq!(stats(&pool), Stats { bytes_peak: 1000, bytes_pooled: 1024, ..Stats::default() });
        let b = pool.alloc(1020).unwrap();
        assert_eq!(b.as_bytes().as_ptr(), address);
        assert_eq!(stats(&pool), Stats { bytes_live: 1020, bytes_peak: 1020, ..Stats::default() });
        let c = pool.alloc(1000).unwrap();
        assert!(c.as_bytes().iter().all(|&x| x == 0), "fresh memory is zeroed");
        pool.reset_peak();
        assert_eq!(stats(&pool).bytes_peak, 2020);
    }

    /// Large pages can only lie at multiples of their size.
    #[test]
    fn large_blocks_start_at_large_pages() {
        let pool = Arc::new(Pool::default());
        for bytes in [huge::FROM, 3 * huge::FROM + 5] {
            let mut block = pool.alloc(bytes).unwrap();
            assert!(block.as_bytes().as_ptr().addr().is_multiple_of(huge::PAGE));
            assert_eq!((block.as_bytes()[0], block.as_bytes()[bytes - 1]), (0, 0));
            block.as_bytes_mut().fill(1);
        }
    }

    #[test]
    fn too_much_is_an_error_and_nothing_is_fine() {
        let pool = Arc::new(Pool::default());
        assert!(matches!(pool.alloc(usize::MAX - 7), Err(Error::OutOfMemory { requested, .. }) if requested > 1 << 40));
        assert!(matches!(pool.alloc(isize::MAX as usize - 200), Err(Error::OutOfMemory { .. })));
        assert_eq!(pool.alloc(0).unwrap().as_bytes(), &[0u8; 0]);
        assert_eq!(stats(&pool).bytes_live, 0);
    }

    #[test]
    fn the_pool_gives_back_what_nobody_needs() {
        let pool = Arc::new(Pool::default());
        for i in 0..64 {
            drop(pool.alloc((i + 40) << 20).unwrap());
        }
        let pooled = stats(&pool).bytes_pooled;
        assert!(pooled <= SLACK + (200 << 20), "{pooled}");
    }
}
