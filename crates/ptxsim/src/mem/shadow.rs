//! Who touched each word last: the data behind race reports.
//!
//! Time is a clock per thread that advances when the thread releases (barrier, fence before an atomic, mbarrier
//! arrival). A stamp is (thread, clock, instruction). Every warp knows for every thread up to which clock its
//! accesses are ordered before its own; an earlier access by another thread whose clock is not below that is a race.
//! Cells hold the last writer and two readers per 4-byte word; words that are accessed in parts split into bytes. Under
//! atomics the place of the second reader keeps the last plain write, which other atomics must be ordered after.

/// A stamp: bits 0–13 thread, 14–39 clock, 40–59 instruction, 60–63 flags. Zero is "never".
pub(crate) type Stamp = u64;

/// Written by an asynchronous copy that has not arrived.
pub(crate) const IN_FLIGHT: Stamp = 1 << 60;
/// Atomic, volatile or relaxed: does not race with its like.
pub(crate) const STRONG: Stamp = 1 << 61;
/// Written by cp.async or the async proxy, so that no proxy fence is owed.
pub(crate) const ASYNC: Stamp = 1 << 62;
/// In the place of a reader: the last plain write below atomics.
const BELOW: Stamp = 1 << 63;
const SPLIT: Stamp = u64::MAX;
pub(crate) const MAX_CLOCK: u32 = (1 << 26) - 2;

pub(crate) fn stamp(tid: u32, clock: u32, pc: u32, flags: u64) -> Stamp {
    tid as u64 | (clock.min(MAX_CLOCK) as u64) << 14 | (pc as u64 & 0xf_ffff) << 40 | flags
}
#[inline]
pub(crate) fn tid(s: Stamp) -> usize {
    (s & 0x3fff) as usize
}
#[inline]
pub(crate) fn clock(s: Stamp) -> u32 {
    (s >> 14 & 0x3ff_ffff) as u32
}
pub(crate) fn pc(s: Stamp) -> u32 {
    (s >> 40 & 0xf_ffff) as u32
}

/// The accessing thread and what it knows of the others.
#[derive(Clone, Copy)]
pub(crate) struct Who<'a> {
    pub stamp: Stamp,
    pub known: &'a [u32],
}

impl Who<'_> {
    #[inline]
    fn after(&self, prev: Stamp) -> bool {
        prev == 0 || (prev ^ self.stamp) & 0x3fff == 0 || clock(prev) < self.known[tid(prev)]
    }
    #[inline]
    fn clash(&self, prev: Stamp) -> bool {
        !self.after(prev) && (prev & self.stamp & STRONG == 0)
    }
}

/// An access that is not ordered after `prev`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conflict {
    pub prev: Stamp,
    pub prev_write: bool,
    pub in_flight: bool,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    w: Stamp,
    r: Stamp,
    r2: Stamp,
}

impl Cell {
    #[inline]
    fn read(&mut self, who: &Who) -> Option<Conflict> {
        let mut bad = None;
        if self.w & IN_FLIGHT != 0 {
            bad = Some(Conflict { prev: self.w, prev_write: true, in_flight: true });
        } else if who.clash(self.w) {
            bad = Some(Conflict { prev: self.w, prev_write: true, in_flight: false });
        } else if self.r2 & BELOW != 0 && who.clash(self.r2) {
            bad = Some(Conflict { prev: self.r2, prev_write: true, in_flight: false });
        }
        if who.after(self.r) {
            self.r = who.stamp;
        } else if self.r2 & BELOW == 0 {
            self.r2 = who.stamp;
        }
        bad
    }
    #[inline]
    fn write(&mut self, who: &Who) -> Option<Conflict> {
        let mut bad = None;
        if self.w & IN_FLIGHT != 0 {
            bad = Some(Conflict { prev: self.w, prev_write: true, in_flight: true });
        } else if who.clash(self.w) {
            bad = Some(Conflict { prev: self.w, prev_write: true, in_flight: false });
        } else if who.clash(self.r) {
            bad = Some(Conflict { prev: self.r, prev_write: false, in_flight: false });
        } else if who.clash(self.r2) {
            bad = Some(Conflict { prev: self.r2, prev_write: self.r2 & BELOW != 0, in_flight: false });
        }
        let below = match (who.stamp & STRONG, self.w & STRONG) {
            (0, _) => 0,
            (_, 0) if self.w != 0 => self.w & !(IN_FLIGHT | ASYNC) | BELOW,
            _ if self.r2 & BELOW != 0 => self.r2,
            _ => 0,
        };
        *self = Cell { w: who.stamp, r: 0, r2: below };
        bad
    }
}

/// The cells of a stretch of memory.
#[derive(Default)]
pub(crate) struct Cells {
    cells: Vec<Cell>,
    side: Vec<[Cell; 4]>,
}

impl Cells {
    pub fn new(bytes: usize) -> Self {
        Cells { cells: vec![Cell::default(); bytes.div_ceil(4)], side: vec![] }
    }

    /// Records an access to `n` bytes at `off`; returns the first conflict and its byte offset.
    #[inline]
    pub fn access(&mut self, off: usize, n: usize, write: bool, who: &Who) -> Option<(usize, Conflict)> {
        if (off | n) & 3 == 0 {
            let mut bad = None;
            for i in off / 4..(off + n) / 4 {
                let c = &mut self.cells[i];
                let hit = if c.w == SPLIT {
                    self.parts(i, 15, write, who)
                } else if write {
                    c.write(who)
                } else {
                    c.read(who)
                };
                if bad.is_none() && hit.is_some() {
                    bad = hit.map(|h| (i * 4, h));
                }
            }
            return bad;
        }
        let (mut at, mut bad) = (off, None);
        while at < off + n {
            let end = (at / 4 * 4 + 4).min(off + n);
            let mask = ((1u32 << (end - at)) - 1) << (at & 3);
            let hit = self.parts(at / 4, mask, write, who);
            if bad.is_none() && hit.is_some() {
                bad = hit.map(|h| (at, h));
            }
            at = end;
        }
        bad
    }

    /// Access to some bytes of a word, which is split if it was whole.
    fn parts(&mut self, i: usize, mask: u32, write: bool, who: &Who) -> Option<Conflict> {
        let c = &mut self.cells[i];
        if c.w != SPLIT {
            self.side.push([*c; 4]);
            *c = Cell { w: SPLIT, r: self.side.len() as u64 - 1, r2: 0 };
        }
        let bytes = &mut self.side[c.r as usize];
        let mut bad = None;
        for (b, cell) in bytes.iter_mut().enumerate() {
            if mask >> b & 1 == 1 {
                let hit = if write { cell.write(who) } else { cell.read(who) };
                bad = bad.or(hit);
            }
        }
        bad
    }

    /// Stamps whole words as written, without a check: the arrival of an asynchronous copy.
    pub fn arrive(&mut self, off: usize, n: usize, stamp: Stamp) {
        for i in off / 4..(off + n).div_ceil(4).min(self.cells.len()) {
            self.cells[i] = Cell { w: stamp, r: 0, r2: 0 };
        }
    }

    /// Enters a reader of an untouched word.
    pub fn note_reader(&mut self, i: usize, r: Stamp) {
        self.cells[i].r = r;
    }

    /// The last writer of a byte.
    pub fn writer(&self, off: usize) -> Stamp {
        let c = &self.cells[off / 4];
        if c.w == SPLIT { self.side[c.r as usize][off & 3].w } else { c.w }
    }
}
