//! Fixed partitions of work over rayon's threads, and the memory that tasks share or keep.
//!
//! No sum is cut by the number of threads, so results do not depend on it.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

use lowrank_backend::Result;
use rayon::prelude::*;

use crate::view::{BLOCK, FloatsMut};

/// Elementary steps below which handing work to other threads costs more than it brings.
const SERIAL: usize = 1 << 15;

/// Runs `f(0) … f(tasks − 1)`, in parallel if `work` elementary steps in all are worth it.
pub(crate) fn tasks(tasks: usize, work: usize, f: impl Fn(usize) + Sync + Send) {
    if tasks < 2 || work < SERIAL {
        (0..tasks).for_each(f);
    } else {
        // One task at a time may be taken over by another thread, if there are not very many.
        (0..tasks).into_par_iter().with_max_len((tasks / 64).max(1)).for_each(f);
    }
}

/// Runs `f` on one of the pool's threads if `work` elementary steps will make it use the others: a thread from outside would
/// go to sleep and be woken once for every parallel part of it.
pub(crate) fn inside<R: Send>(work: usize, f: impl FnOnce() -> R + Send) -> R {
    if work < SERIAL { f() } else { rayon::scope(|_| f()) }
}

/// Runs `f(start, piece)` for pieces of `size` elements.
pub(crate) fn pieces<T: Send>(y: &mut [T], size: usize, work: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    if y.len() <= size || work < SERIAL {
        y.chunks_mut(size).enumerate().for_each(|(i, piece)| f(i * size, piece));
    } else {
        y.par_chunks_mut(size).enumerate().for_each(|(i, piece)| f(i * size, piece));
    }
}

/// Runs `f(start, piece)` for pieces of at most [`BLOCK`] elements.
pub(crate) fn float_pieces(y: FloatsMut<'_>, f: impl Fn(usize, FloatsMut<'_>) + Sync + Send) {
    let work = y.len();
    match y {
        FloatsMut::F32(y) => pieces(y, BLOCK, work, |i, y| f(i, FloatsMut::F32(y))),
        FloatsMut::BF16(y) => pieces(y, BLOCK, work, |i, y| f(i, FloatsMut::BF16(y))),
        FloatsMut::F16(y) => pieces(y, BLOCK, work, |i, y| f(i, FloatsMut::F16(y))),
    }
}

/// Rows of `cols` elements that one task takes: about 16 Ki elements.
pub(crate) fn rows_per_task(cols: usize) -> usize {
    (16_384 / cols.max(1)).clamp(1, 1024)
}

/// A slice that tasks write disjoint parts of.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: handing out parts is unsafe and asks for disjointness.
unsafe impl<T: Send> Sync for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Shared<'_, T> {}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Shared { start: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// Elements `start .. start + len`.
    ///
    /// # Safety
    /// No two parts that are alive at the same time may overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "part {start}+{len} of {}", self.len);
        // SAFETY: inside the slice, which is borrowed exclusively for 'a; disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }

    /// Elements `start .. start + len`, to read.
    ///
    /// # Safety
    /// No part that overlaps may be alive or be made meanwhile.
    pub(crate) unsafe fn read(&self, start: usize, len: usize) -> &[T] {
        assert!(start <= self.len && len <= self.len - start, "part {start}+{len} of {}", self.len);
        // SAFETY: inside the slice, which is borrowed for 'a; nobody writes it by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.start.add(start), len) }
    }

    /// All of it.
    ///
    /// # Safety
    /// No other part may be alive.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn all(&self) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { self.part(0, self.len) }
    }
}

impl<'a> Shared<'a, f32> {
    /// The matrix of `rows` rows of `cols` elements that lie `stride` apart, the first at `start`.
    ///
    /// # Safety
    /// No two parts or tiles that are alive at the same time may overlap.
    pub(crate) unsafe fn tile(&self, start: usize, rows: usize, cols: usize, stride: usize) -> Tile<'_> {
        Tile::check(self.len, start, rows, cols, stride);
        // SAFETY: `start` is inside or, for an empty tile, at most at the end of the slice.
        Tile { start: unsafe { self.start.add(start) }, rows, cols, stride, life: PhantomData }
    }
}

/// A matrix to write inside a larger one.
pub(crate) struct Tile<'a> {
    start: *mut f32,
    rows: usize,
    cols: usize,
    stride: usize,
    life: PhantomData<&'a mut [f32]>,
}

impl<'a> Tile<'a> {
    /// The whole of a slice as contiguous rows.
    pub(crate) fn new(slice: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Tile::check(slice.len(), 0, rows, cols, cols);
        Tile { start: slice.as_mut_ptr(), rows, cols, stride: cols, life: PhantomData }
    }

    fn check(len: usize, start: usize, rows: usize, cols: usize, stride: usize) {
        let end = if rows == 0 { start } else { start + (rows - 1) * stride + cols };
        assert!(end <= len && (cols <= stride || rows <= 1), "tile {start}: {rows}x{cols} by {stride} of {len}");
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.start
    }

    /// The rows from `i` and columns from `j` on, borrowed.
    pub(crate) fn part(&mut self, i: usize, j: usize, rows: usize, cols: usize) -> Tile<'_> {
        assert!(i + rows <= self.rows && j + cols <= self.cols, "part {i},{j}: {rows}x{cols}");
        let start = self.start.wrapping_add(i * self.stride + j);
        Tile { start, rows, cols, stride: self.stride, life: PhantomData }
    }

    /// Row i.
    pub(crate) fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows);
        // SAFETY: checked to lie inside the slice when the tile was made; borrowed exclusively through self.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(i * self.stride), self.cols) }
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with `len` values of this thread's own memory (any content), aligned to a cache line. May be nested.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut memory = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    let result = with_memory(&mut memory, len, f);
    SCRATCH.with_borrow_mut(|stack| stack.push(memory));
    result
}

/// Memory that an operation's tasks share, between its uses.
static SHARED: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Runs `f` with `len` values (any content), aligned to a cache line, of the whole program's memory: an operation may run on
/// any thread, and large memory should not be kept once for each.
pub(crate) fn with_shared<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let shared = || SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut memory = {
        let mut free = shared();
        // The smallest that is large enough, or the largest.
        free.sort_unstable_by_key(Vec::len);
        match free.iter().position(|memory| memory.len() >= len + LINE) {
            Some(i) => free.remove(i),
            None => free.pop().unwrap_or_default(),
        }
    };
    let result = with_memory(&mut memory, len, f);
    shared().push(memory);
    result
}

/// The same with f64 values.
pub(crate) fn with_shared_f64<R>(len: usize, f: impl FnOnce(&mut [f64]) -> R) -> R {
    with_shared(2 * len, |memory| f(bytemuck::cast_slice_mut(memory)))
}

/// Runs `f` on every item, halves of them in parallel; the first error in their order.
pub(crate) fn each<T: Send>(items: &mut [T], f: &(impl Fn(&mut T) -> Result<()> + Sync)) -> Result<()> {
    match items {
        [] => Ok(()),
        [one] => f(one),
        _ => {
            let (left, right) = items.split_at_mut(items.len() / 2);
            let (left, right) = rayon::join(|| each(left, f), || each(right, f));
            left.and(right)
        }
    }
}

/// Values of a cache line.
const LINE: usize = 16;

/// Runs `f` with aligned memory, of which there is made more if need be.
fn with_memory<R>(memory: &mut Vec<f32>, len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    if memory.len() < len + LINE {
        memory.clear();
        memory.resize(len + LINE, 0.0);
    }
    let shift = memory.as_ptr().align_offset(4 * LINE).min(LINE);
    f(&mut memory[shift..shift + len])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_and_piece_once() {
        for (n, work) in [(0, 0), (1, 1 << 20), (7, 1), (1000, 1 << 20)] {
            let mut seen = vec![0; n];
            let shared = Shared::new(&mut seen);
            // SAFETY: one element per task.
            tasks(n, work, |i| unsafe { shared.part(i, 1)[0] += 1 });
            assert!(seen.iter().all(|&n| n == 1));
            pieces(&mut seen, 3, work, |start, piece| piece.iter_mut().enumerate().for_each(|(i, x)| *x = start + i));
            assert!(seen.iter().enumerate().all(|(i, &x)| x == i));
        }
    }

    #[test]
    fn scratch_nests() {
        with_scratch(10, |a| {
            a.fill(1.0);
            with_scratch(20, |b| b.fill(2.0));
            assert!(a.iter().all(|&x| x == 1.0));
        });
    }

    #[test]
    #[should_panic(expected = "tile")]
    fn a_tile_outside_is_caught() {
        Tile::new(&mut [0.0; 5], 2, 3);
    }
}
