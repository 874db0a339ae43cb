//! Bytes of shared, global, local and param memory on behalf of one lane, with every check.

use super::{Run, Unit, Warp};
use crate::ir::Op;
use crate::mem::shadow::{ASYNC, Conflict, STRONG, Stamp, Who, pc as stamp_pc, tid};
use crate::report::FindingKind as K;
use crate::types::{CLUSTER_SHIFT, Space, resolve};

/// One access by one lane.
#[derive(Clone, Copy)]
pub(super) struct By {
    pub lane: usize,
    pub pc: u32,
    /// `STRONG` for atomics and volatile accesses.
    pub flags: Stamp,
}

impl Unit<'_> {
    /// The CTA and offset of a shared address.
    pub(super) fn shared_at(&mut self, w: &Warp, by: By, addr: u64, n: usize) -> Run<(usize, usize)> {
        let (rank, off) = (addr >> CLUSTER_SHIFT, (addr & ((1 << CLUSTER_SHIFT) - 1)) as usize);
        let cta = if rank == 0 { w.cta } else { rank as usize - 1 };
        let len = self.l.shared_len;
        if cta < self.ctas.len() && off + n <= len && addr >> 32 == 0 {
            if self.ctas[cta].live == 0 {
                let m = format!("access to the shared memory of CTA {cta} of the cluster, which has exited");
                return Err(self.stop(K::OutOfBounds, w, by.lane, by.pc, m));
            }
            return Ok((cta, off));
        }
        let m = format!("shared access of {n} bytes at address {addr:#x}, of {len} bytes");
        Err(self.stop(K::OutOfBounds, w, by.lane, by.pc, m))
    }

    pub(super) fn aligned(&mut self, w: &Warp, by: By, addr: u64, n: usize) -> Run<()> {
        if addr & (n as u64 - 1) == 0 {
            return Ok(());
        }
        let m = format!("access of {n} bytes at address {addr:#x}");
        Err(self.stop(K::Misaligned, w, by.lane, by.pc, m))
    }

    pub(super) fn global_at(&mut self, w: &Warp, by: By, addr: u64, n: usize) -> Run<(usize, usize)> {
        match self.view.find(addr, n) {
            Ok(x) => Ok(x),
            Err(m) => Err(self.stop(K::OutOfBounds, w, by.lane, by.pc, format!("global access: {m}"))),
        }
    }

    /// Reads into `buf`; false if some byte was never written.
    #[inline]
    pub(super) fn read(&mut self, w: &Warp, by: By, space: Space, addr: u64, buf: &mut [u8]) -> Run<bool> {
        let n = buf.len();
        self.aligned(w, by, addr, n)?;
        let (space, addr) = if space == Space::Generic { resolve(addr) } else { (space, addr) };
        let known = match space {
            Space::Shared => {
                let (c, off) = self.shared_at(w, by, addr, n)?;
                if self.l.races {
                    self.track_shared(w, by, c, off, n, None);
                }
                let cta = &self.ctas[c];
                buf.copy_from_slice(&cta.shared[off..off + n]);
                all_set(&cta.init[off..off + n])
            }
            Space::Local => {
                let at = self.local_at(w, by, addr, n)?;
                buf.copy_from_slice(&w.local[at..at + n]);
                let init = &w.local_init[at..at + n];
                // Fresh memory is zero, which the system hands out for nothing; a program must not come to like it.
                buf.iter_mut().zip(init).filter(|(_, i)| **i == 0).for_each(|(b, _)| *b = 0xff);
                all_set(init)
            }
            Space::Param => {
                let off = addr as usize;
                match self.l.params.get(off..off.saturating_add(n)) {
                    Some(p) => buf.copy_from_slice(p),
                    None => {
                        let m = format!("param access of {n} bytes at {addr:#x}, of {}", self.l.params.len());
                        return Err(self.stop(K::OutOfBounds, w, by.lane, by.pc, m));
                    }
                }
                true
            }
            _ => {
                let (a, off) = self.global_at(w, by, addr, n)?;
                if self.l.races && space != Space::Const {
                    self.track_global(w, by, a, off, n, false, None);
                }
                self.view.read(a, off, buf)
            }
        };
        if !known && self.uninit_hint.is_none() {
            let line = self.k.insts[by.pc as usize].line;
            self.uninit_hint = Some((line, format!("{space:?} memory at {addr:#x}").to_lowercase()));
        }
        Ok(known)
    }

    /// Writes `bytes`; `known` is false if the value is uninitialised.
    #[inline]
    pub(super) fn write(
        &mut self,
        w: &mut Warp,
        by: By,
        space: Space,
        addr: u64,
        bytes: &[u8],
        known: bool,
    ) -> Run<()> {
        let n = bytes.len();
        self.aligned(w, by, addr, n)?;
        let (space, addr) = if space == Space::Generic { resolve(addr) } else { (space, addr) };
        match space {
            Space::Shared => {
                let (c, off) = self.shared_at(w, by, addr, n)?;
                if self.l.races {
                    self.track_shared(w, by, c, off, n, Some(bytes));
                }
                let cta = &mut self.ctas[c];
                cta.shared[off..off + n].copy_from_slice(bytes);
                cta.init[off..off + n].fill(known as u8);
            }
            Space::Local => {
                let at = self.local_at(w, by, addr, n)?;
                w.local[at..at + n].copy_from_slice(bytes);
                w.local_init[at..at + n].fill(known as u8);
            }
            Space::Param | Space::Const => {
                let m = "store to read-only memory".to_string();
                return Err(self.stop(K::OutOfBounds, w, by.lane, by.pc, m));
            }
            _ => {
                let (a, off) = self.global_at(w, by, addr, n)?;
                if !known {
                    self.uninit(w, 1 << by.lane, by.pc, "a value stored to global memory");
                }
                if self.l.races {
                    self.track_global(w, by, a, off, n, true, Some(bytes));
                }
                self.view.write(a, off, bytes);
            }
        }
        Ok(())
    }

    fn local_at(&mut self, w: &Warp, by: By, addr: u64, n: usize) -> Run<usize> {
        let len = self.k.local_bytes as u64;
        if addr.checked_add(n as u64).is_some_and(|end| end <= len) {
            return Ok(by.lane * len as usize + addr as usize);
        }
        let m = format!("local access of {n} bytes at offset {addr:#x}, of {len} bytes");
        Err(self.stop(K::OutOfBounds, w, by.lane, by.pc, m))
    }

    /// Notes an uninitialised value where it matters.
    pub(super) fn uninit(&mut self, w: &Warp, mask: u32, pc: u32, what: &str) {
        let hint = match &self.uninit_hint {
            Some((line, m)) => format!(" (line {line} read {m}, which nobody wrote)"),
            None => " (some register was never written)".into(),
        };
        self.note(K::Uninitialised, w, mask.trailing_zeros() as usize, pc, format!("{what} is uninitialised{hint}"));
    }

    /// Enters a shared access (`value` for a write) and reports what it clashes with.
    #[inline]
    pub(super) fn track_shared(&mut self, w: &Warp, by: By, c: usize, off: usize, n: usize, value: Option<&[u8]>) {
        if c != w.cta {
            let thread = w.base + by.lane;
            self.remote.insert((c, thread), (self.hb.clock[thread], by.pc, w.cta));
        }
        let who: Who = self.hb.who(w.id, w.base + by.lane, by.pc, by.flags);
        let Some((at, bad)) = self.ctas[c].cells.access(off, n, value.is_some(), &who) else { return };
        let same = value.is_some_and(|v| self.ctas[c].shared[off..off + n] == *v);
        let key = (c as u64 + 1) << 24 | at as u64;
        self.report_race(w, by, (key, format!("shared byte {at:#x}")), value.is_some(), bad, same);
    }

    #[allow(clippy::too_many_arguments)]
    #[inline]
    pub(super) fn track_global(
        &mut self,
        w: &Warp,
        by: By,
        a: usize,
        off: usize,
        n: usize,
        write: bool,
        value: Option<&[u8]>,
    ) {
        let who = Who { stamp: self.hb.stamp(w.base + by.lane, by.pc, by.flags), known: &self.hb.known[w.id] };
        let bad = self.view.track(a, off, n, write, &who);
        let stamp = who.stamp;
        let me = self.number;
        if let Some(bad) = bad {
            let mut old = [0u8; 32];
            let same = value.is_some_and(|v| {
                let old = &mut old[..v.len().min(32)];
                self.view.read(a, off, old);
                *old == *v
            });
            let addr = self.view.mem().allocs[a].base + off as u64;
            self.report_race(w, by, (addr, format!("global address {addr:#x}")), write, bad, same);
        }
        if let Some(inter) = self.view.inter()
            && let Some(bad) = inter.access(me, a as u32, off, n, write, stamp)
        {
            let verb = if write { "writes" } else { "reads" };
            let did = if bad.prev_write { "written" } else { "read" };
            let line = self.k.insts.get(stamp_pc(bad.stamp) as usize).map_or(0, |i| i.line);
            let base = self.view.mem().allocs[a].base;
            let m = format!(
                "{verb} offset {off} of the allocation at {base:#x}, {did} by block {} (line {line}) with nothing that orders them",
                bad.unit
            );
            let (plain_read, before) = if write { (stamp_pc(bad.stamp), stamp) } else { (by.pc, bad.stamp) };
            if write != bad.prev_write && before & STRONG != 0 && self.is_seed(plain_read) {
                return;
            }
            if bad.stamp & STRONG != 0 && !write {
                let at = (K::RaceBetweenCtas, w, by.lane, by.pc, m);
                self.suspect(w.base + by.lane, base + off as u64, at);
            } else {
                self.note(K::RaceBetweenCtas, w, by.lane, by.pc, m);
            }
        }
    }

    /// True for the plain load of an atomic update.
    fn is_seed(&self, pc: u32) -> bool {
        matches!(self.k.insts.get(pc as usize).map(|i| &i.op), Some(Op::Ld(x)) if x.seed)
    }

    pub(super) fn report_race(
        &mut self,
        w: &Warp,
        by: By,
        place: (u64, String),
        write: bool,
        bad: Conflict,
        same: bool,
    ) {
        let (key, place) = place;
        let verb = if write { "writes" } else { "reads" };
        let other = self.describe(bad.prev);
        if bad.in_flight {
            let m = format!("{verb} {place} while a copy to it, issued by {other}, is in flight");
            self.note(K::InFlight, w, by.lane, by.pc, m);
            return;
        }
        // Many threads storing one value is a common, harmless idiom.
        if write && bad.prev_write && same && bad.prev & (ASYNC | STRONG) == 0 && tid(bad.prev) < self.hb.threads {
            return;
        }
        // A plain look at a cell before it is updated atomically does no harm.
        let (plain_read, flags) = if write { (stamp_pc(bad.prev), by.flags) } else { (by.pc, bad.prev) };
        if write != bad.prev_write && flags & STRONG != 0 && self.is_seed(plain_read) {
            return;
        }
        let did = if bad.prev_write { "written" } else { "read" };
        let m = format!("{verb} {place}, {did} by {other} with nothing between that orders them");
        let strong = bad.prev & STRONG != 0;
        if strong && !write {
            self.suspect(w.base + by.lane, key, (K::Race, w, by.lane, by.pc, m));
        } else if !bad.prev_write && by.flags & STRONG != 0 {
            self.suspect(tid(bad.prev), key, (K::Race, w, by.lane, by.pc, m));
        } else {
            self.note(K::Race, w, by.lane, by.pc, m);
        }
    }
}

/// True if every byte is 1. Sizes are mostly powers of two, which compare as one number.
#[inline]
fn all_set(b: &[u8]) -> bool {
    match b.len() {
        4 => b == [1; 4],
        8 => b == [1; 8],
        16 => b == [1; 16],
        _ => b.iter().all(|i| *i == 1),
    }
}
