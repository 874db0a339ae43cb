//! `cp.async`: the destination is poisoned at issue, the data arrive when the thread waits for its group.

use super::access::By;
use super::{CpOp, Run, Unit, Warp, lanes};
use crate::ir::*;
use crate::mem::shadow::{ASYNC, IN_FLIGHT};
use crate::report::FindingKind;
use crate::types::Space;

impl Unit<'_> {
    pub(super) fn cp_async(&mut self, w: &mut Warp, x: &CpAsync, pc: u32, ex: u32) -> Run<()> {
        let l = self.l;
        let dst = self.addresses(w, x.dst_space, x.dst, x.dst_off, pc, ex);
        let src = self.addresses(w, x.src_space, x.src, x.src_off, pc, ex);
        if l.count {
            self.count_access(Space::Global, &src, x.size as usize, ex);
        }
        let n = x.size as usize;
        let ignored = x.ignore.map_or(0, |(p, neg)| w.pred(p, neg));
        for lane in lanes(ex) {
            let by = By { lane, pc, flags: ASYNC | IN_FLIGHT };
            let mut bytes = match x.src_size {
                Some(r) => w.get(l, r, lane) as u32,
                None => x.size,
            };
            if ignored >> lane & 1 == 1 {
                bytes = 0;
            }
            if bytes > x.size {
                let m = format!("cp.async with a source of {bytes} bytes for {n}");
                return Err(self.stop(FindingKind::Misuse, w, lane, pc, m));
            }
            self.aligned(w, by, dst[lane], n)?;
            let (c, off) = self.shared_at(w, by, dst[lane], n)?;
            if bytes > 0 {
                self.aligned(w, by, src[lane], n)?;
                let (a, o) = self.global_at(w, by, src[lane], bytes as usize)?;
                if l.races {
                    self.track_global(w, By { flags: 0, ..by }, a, o, bytes as usize, false, None);
                }
            }
            if l.races {
                self.track_shared(w, by, c, off, n, Some(&[]));
            }
            self.ctas[c].shared[off..off + n].fill(0xff);
            let op =
                CpOp { lane: lane as u8, dst: dst[lane] as u32, src: src[lane], bytes: bytes as u8, size: n as u8, pc };
            w.cp_open.push(op);
        }
        Ok(())
    }

    pub(super) fn cp_commit(&mut self, w: &mut Warp, ex: u32) {
        let (mine, rest) = std::mem::take(&mut w.cp_open).into_iter().partition(|o| ex >> o.lane & 1 == 1);
        w.cp_open = rest;
        w.cp_groups.push_back((ex, mine));
    }

    /// Completes all but the last `n` groups of each lane.
    pub(super) fn cp_wait(&mut self, w: &mut Warp, n: usize, ex: u32, _pc: u32) -> Run<()> {
        let mut newer = [0usize; 32];
        let mut ready = Vec::new();
        for (mask, ops) in w.cp_groups.iter_mut().rev() {
            let mut done = 0u32;
            for l in lanes(*mask & ex) {
                if newer[l] >= n {
                    done |= 1 << l;
                } else {
                    newer[l] += 1;
                }
            }
            *mask &= !done;
            if *mask == 0 {
                ready.push(std::mem::take(ops));
            } else if done != 0 {
                let (now, later) = std::mem::take(ops).into_iter().partition(|o| done >> o.lane & 1 == 1);
                *ops = later;
                ready.push(now);
            }
        }
        w.cp_groups.retain(|(m, _)| *m != 0);
        for op in ready.into_iter().rev().flatten() {
            self.cp_arrive(w, &op)?;
        }
        Ok(())
    }

    /// Lands one copy.
    pub(super) fn cp_arrive(&mut self, w: &mut Warp, op: &CpOp) -> Run<()> {
        let by = By { lane: op.lane as usize, pc: op.pc, flags: 0 };
        let n = op.size as usize;
        let mut buf = [0u8; 16];
        let mut known = true;
        if op.bytes > 0 {
            let (a, o) = self.global_at(w, by, op.src, op.bytes as usize)?;
            known = self.view.read(a, o, &mut buf[..op.bytes as usize]);
        }
        let (c, off) = self.shared_at(w, by, op.dst as u64, n)?;
        let cta = &mut self.ctas[c];
        cta.shared[off..off + n].copy_from_slice(&buf[..n]);
        cta.init[off..off + n].fill(known as u8);
        if !known && self.uninit_hint.is_none() {
            let line = self.k.insts[op.pc as usize].line;
            self.uninit_hint = Some((line, format!("global memory at {:#x}", op.src)));
        }
        if self.l.races {
            let stamp = self.hb.stamp(w.base + by.lane, op.pc, ASYNC);
            self.ctas[c].cells.arrive(off, n, stamp);
        }
        Ok(())
    }
}
