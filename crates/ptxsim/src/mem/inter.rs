//! Races between CTAs that take turns (kernels with global atomics).
//!
//! Turns give every access a time. A CTA releases when it does an atomic after a fence, and acquires when it reads
//! what such an atomic left. An access is ordered after another CTA's earlier one if that CTA released between the
//! earlier access and the last acquire here. Coarser than happens-before, so it never accuses a correct kernel.

use std::collections::HashMap;

use super::shadow::{STRONG, Stamp};
use super::view::PAGE;

#[derive(Clone, Copy, Default)]
struct Cell {
    w: (u32, u64, Stamp, u8),
    r: (u32, u64, Stamp, u8),
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
    releases: HashMap<u32, Vec<u64>>,
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
        let i = rel.partition_point(|r| *r <= time);
        rel.get(i).is_some_and(|r| *r <= seen)
    }

    pub fn release(&mut self, me: u32, addr: u64) {
        self.now += 1;
        self.releases.entry(me).or_default().push(self.now);
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
            for (prev, w) in [(c.w, true), (c.r, false)] {
                if (write || w) && prev.3 & mask != 0 && prev.0 != me && prev.2 & stamp & STRONG == 0 {
                    check.push((prev, w));
                }
            }
            if write {
                // One's own plain read before an atomic is part of a compare-and-swap loop.
                let r = if c.r.0 == me && stamp & STRONG != 0 { (0, 0, 0, 0) } else { c.r };
                *c = Cell { w: (me, now, stamp, mask), r };
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
