//! Happens-before inside a unit: a clock per thread, and what every warp knows of all of them.
//!
//! Threads release one by one (a lone arriving thread publishes its own accesses, not its neighbours'), warps acquire
//! as a whole. Pseudo-threads behind the real ones stand for the async proxy, one per mbarrier.

use crate::mem::shadow::{Stamp, Who, stamp};

/// Pseudo-threads for asynchronous copies; further mbarriers share the last one.
pub(crate) const PSEUDO: usize = 64;

pub(crate) struct Hb {
    pub threads: usize,
    /// Clock of each thread.
    pub clock: Vec<u32>,
    /// Per warp: clocks below this are ordered before the warp's next instruction.
    pub known: Vec<Vec<u32>>,
    /// Accesses of a thread with a clock below this came before its last memory fence; 0 if there was none.
    pub fenced: Vec<u32>,
    pub any_fence: bool,
    /// When that fence was, in the time of units that take turns.
    pub fence_time: Vec<u64>,
    /// Writes of a thread with a clock below this were passed to the async proxy by a fence.
    pub proxy: Vec<u32>,
}

impl Hb {
    pub fn new(threads: usize, warps: usize) -> Self {
        let n = threads + PSEUDO;
        Hb {
            threads,
            clock: vec![1; n],
            known: vec![vec![0; n]; warps],
            fenced: vec![0; n],
            fence_time: vec![0; n],
            any_fence: false,
            proxy: vec![0; n],
        }
    }

    #[inline]
    pub fn who(&self, warp: usize, thread: usize, pc: u32, flags: u64) -> Who<'_> {
        Who { stamp: self.stamp(thread, pc, flags), known: &self.known[warp] }
    }

    #[inline]
    pub fn stamp(&self, thread: usize, pc: u32, flags: u64) -> Stamp {
        stamp(thread as u32, self.clock[thread], pc, flags)
    }

    /// Publishes the accesses of some lanes into `into`.
    pub fn release(&mut self, warp: usize, base: usize, mask: u32, into: &mut Vec<u32>) {
        into.resize(self.clock.len(), 0);
        for (a, b) in into.iter_mut().zip(&self.known[warp]) {
            *a = (*a).max(*b);
        }
        for l in lanes(mask) {
            self.clock[base + l] += 1;
            into[base + l] = self.clock[base + l];
        }
    }

    /// A memory fence by some lanes: what they did so far can be published by their later atomics.
    pub fn memory_fence(&mut self, base: usize, mask: u32, time: u64) {
        self.any_fence = true;
        for l in lanes(mask) {
            self.fence_time[base + l] = time;
            self.clock[base + l] += 1;
            self.fenced[base + l] = self.clock[base + l];
        }
    }

    /// Publishes what a lane did before its last fence, or what others did before fences that it knows of. Returns
    /// the time of the latest such fence, 0 if there is none.
    pub fn release_fenced(&mut self, warp: usize, thread: usize, into: &mut Vec<u32>) -> u64 {
        into.resize(self.clock.len(), 0);
        let own = self.fenced[thread] > 0;
        let mut time = self.fence_time[thread];
        for (u, a) in into.iter_mut().enumerate() {
            let known = self.known[warp][u];
            if own {
                *a = (*a).max(known);
            }
            if known >= self.fenced[u] && self.fenced[u] > 0 {
                *a = (*a).max(self.fenced[u]);
                time = time.max(self.fence_time[u]);
            }
        }
        into[thread] = into[thread].max(self.fenced[thread]);
        time
    }

    pub fn acquire(&mut self, warp: usize, from: &[u32]) {
        for (a, b) in self.known[warp].iter_mut().zip(from) {
            *a = (*a).max(*b);
        }
    }

    /// `bar.warp.sync`: the lanes order their accesses among themselves.
    pub fn warp_sync(&mut self, warp: usize, base: usize, mask: u32) {
        for l in lanes(mask) {
            self.clock[base + l] += 1;
            self.known[warp][base + l] = self.clock[base + l];
        }
    }

    /// `fence.proxy.async` by some lanes: everything they know of, and their own writes, become visible.
    pub fn proxy_fence(&mut self, warp: usize, base: usize, mask: u32) {
        for (p, k) in self.proxy.iter_mut().zip(&self.known[warp]) {
            *p = (*p).max(*k);
        }
        for l in lanes(mask) {
            self.clock[base + l] += 1;
            self.proxy[base + l] = self.clock[base + l];
        }
    }
}

/// The set bits of a mask.
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let l = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        Some(l)
    })
}
