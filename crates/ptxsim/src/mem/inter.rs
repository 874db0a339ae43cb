//! Races between CTAs that take turns (kernels with global atomics).
//!
//! Turns give every access a time. A CTA releases when it does an atomic after a fence, and acquires when it reads
//! what such an atomic left. An access is ordered after another CTA's earlier one if a fence of that CTA came after
//! the earlier access, and the atomic behind the fence before the last acquire here. Coarser than happens-before, so
//! it never accuses a correct kernel.

use std::collections::HashMap;

use super::shadow::{STRONG, Stamp};
use super::view::PAGE;

#[derive(Clone, Copy, Default)]
struct Cell {
    w: (u32, u64, Stamp, u8),
    r: (u32, u64, Stamp, u8),
    /// The last plain write below atomics.
    below: (u32, u64, Stamp, u8),
}

/// A conflict with another unit: its number, its stamp, whether it wrote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InterConflict {
    pub unit: u32,
    pub stamp: Stamp,
    pub prev_write: bool,
}

#[derive(Default)]
pub(crate) struct Inter {
    now: u64,
    pages: HashMap<(u32, u32), Vec<Cell>>,
    /// Of each unit: times of its atomics behind fences, with the latest fence up to there.
    releases: HashMap<u32, Vec<(u64, u64)>>,
    locations: HashMap<u64, u64>,
    seen: HashMap<u32, u64>,
}

impl Inter {
    fn ordered(&self, me: u32, other: u32, time: u64) -> bool {
        if me == other || time == 0 {
            return true;
        }
        let seen = self.seen.get(&me).copied().unwrap_or(0);
        let Some(rel) = self.releases.get(&other) else { return false };
        let n = rel.partition_point(|r| r.0 <= seen);
        n > 0 && rel[n - 1].1 > time
    }

    /// The time of a fence.
    pub fn fence(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// An atomic whose thread did its last fence at time `fence`.
    pub fn release(&mut self, me: u32, addr: u64, fence: u64) {
        self.now += 1;
        let list = self.releases.entry(me).or_default();
        let latest = list.last().map_or(0, |r| r.1).max(fence);
        list.push((self.now, latest));
        self.locations.insert(addr, self.now);
    }

    pub fn acquire(&mut self, me: u32, addr: u64) {
        if let Some(t) = self.locations.get(&addr) {
            let s = self.seen.entry(me).or_default();
            *s = (*s).max(*t);
        }
    }

    /// Records an access within one page.
    pub fn access(
        &mut self,
        me: u32,
        alloc: u32,
        off: usize,
        n: usize,
        write: bool,
        stamp: Stamp,
    ) -> Option<InterConflict> {
        self.now += 1;
        let now = self.now;
        let (page, o) = ((off / PAGE) as u32, off % PAGE);
        let cells = self.pages.entry((alloc, page)).or_insert_with(|| vec![Cell::default(); PAGE / 4]);
        let (mut bad, mut check) = (None, Vec::new());
        for i in o / 4..(o + n).div_ceil(4) {
            let lo = o.max(i * 4) - i * 4;
            let hi = (o + n).min(i * 4 + 4) - i * 4;
            let mask = (((1u32 << (hi - lo)) - 1) << lo) as u8;
            let c = &mut cells[i];
            for (prev, w) in [(c.w, true), (c.r, false), (c.below, true)] {
                if (write || w) && prev.3 & mask != 0 && prev.0 != me && prev.2 & stamp & STRONG == 0 {
                    check.push((prev, w));
                }
            }
            if write {
                // One's own plain read before an atomic is part of a compare-and-swap loop.
                let r = if c.r.0 == me && stamp & STRONG != 0 { (0, 0, 0, 0) } else { c.r };
                let below = match (stamp & STRONG, c.w.2 & STRONG) {
                    (0, _) => Cell::default().below,
                    (_, 0) => c.w,
                    _ => c.below,
                };
                *c = Cell { w: (me, now, stamp, mask), r, below };
            } else if c.r.0 != me || c.r.1 == 0 {
                c.r = (me, now, stamp, mask);
            } else {
                c.r = (me, now, stamp, c.r.3 | mask);
            }
        }
        for (prev, w) in check {
            if bad.is_none() && !self.ordered(me, prev.0, prev.1) {
                bad = Some(InterConflict { unit: prev.0, stamp: prev.2, prev_write: w });
            }
        }
        bad
    }
}
