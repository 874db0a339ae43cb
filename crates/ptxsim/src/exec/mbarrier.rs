//! mbarriers: arrivals, transaction counts, phases, and the asynchronous work that is tied to them.
//!
//! A copy that signals an mbarrier lands as late as it can: when somebody tests the phase and nothing but such copies
//! is missing. Arrivals publish clocks into the phase; a successful test takes over those of the completed phase.

use std::collections::VecDeque;

use super::access::By;
use super::run::Flow;
use super::{CpOp, Run, Unit, Warp, lanes};
use crate::ir::*;
use crate::mem::shadow::STRONG;
use crate::report::FindingKind;
use crate::types::{SHARED_WINDOW, Space};

/// Bits of the state token: the phase, so that a later test knows what it waits for.
const PHASE_BIT: u64 = 1 << 63;

pub(crate) struct Mbarrier {
    pub expected: u32,
    pub pending: u32,
    pub tx: i64,
    pub phase: u64,
    /// Copies that will signal this barrier.
    pub queue: VecDeque<super::bulk::Delivery>,
    /// `cp.async` arrivals that wait for copies of their lanes: warp, lane, copies.
    pub deferred: Vec<(usize, Vec<CpOp>, u32)>,
    pub known: Vec<u32>,
    pub done: Vec<u32>,
    /// Pseudo-thread that stands for the copies.
    pub pseudo: usize,
}

impl Mbarrier {
    fn flip(&mut self) -> bool {
        if self.pending > 0 || self.tx != 0 {
            return false;
        }
        self.phase += 1;
        self.pending = self.expected;
        // Keep what earlier phases ordered: a later phase follows them.
        self.done = self.known.clone();
        true
    }
}

impl Unit<'_> {
    /// CTA and offset of the mbarrier at an address.
    pub(super) fn mbar_at(&mut self, w: &Warp, by: By, space: Space, addr: u64) -> Run<(usize, u32)> {
        let addr = if space == Space::Generic { addr.wrapping_sub(SHARED_WINDOW) } else { addr };
        self.aligned(w, by, addr, 8)?;
        let (c, off) = self.shared_at(w, by, addr, 8)?;
        Ok((c, off as u32))
    }

    pub(super) fn mbar_missing(&mut self, w: &Warp, by: By, off: u32) -> super::Stop {
        let m = format!("no mbarrier was initialised at shared address {off:#x}");
        self.stop(FindingKind::Misuse, w, by.lane, by.pc, m)
    }

    pub(super) fn mbar(&mut self, w: &mut Warp, x: &Mbar, pc: u32, ex: u32) -> Run<Flow> {
        let l = self.l;
        if x.kind == MbarKind::PendingCount {
            if let Some(d) = x.d {
                let out = std::array::from_fn(|i| w.get(l, x.addr, i) & 0xf_ffff);
                w.put(d, ex, &out, w.unknown(x.addr));
            }
            return Ok(Flow::Next);
        }
        let addrs = self.addresses(w, x.space, x.addr, x.off, pc, ex);
        let mut failed = false;
        for lane in lanes(ex) {
            let by = By { lane, pc, flags: 0 };
            let (c, off) = self.mbar_at(w, by, x.space, addrs[lane])?;
            let count = x.count.map(|r| w.get(l, r, lane));
            if l.races && !matches!(x.kind, MbarKind::Init | MbarKind::Inval) {
                // The initialisation must be ordered before every use.
                self.track_shared(w, By { flags: STRONG, ..by }, c, off as usize, 8, None);
            }
            match x.kind {
                MbarKind::Init => self.mbar_init(w, by, c, off, count.unwrap_or(0) as u32)?,
                MbarKind::Inval => {
                    if self.ctas[c].mbars.remove(&off).is_none() {
                        return Err(self.mbar_missing(w, by, off));
                    }
                }
                MbarKind::TestWait { parity, .. } => {
                    let ok = self.mbar_test(w, by, c, off, parity, count.unwrap_or(0), x.orders)?;
                    failed |= !ok;
                    if let Some(p) = x.dp {
                        w.put_pred(p, 1 << lane, if ok { !0 } else { 0 }, 0);
                    }
                }
                MbarKind::CpAsyncArrive { noinc } => self.mbar_cp_arrive(w, by, c, off, noinc)?,
                kind => {
                    let state = self.mbar_arrive(w, by, c, off, kind, count, x.orders)?;
                    if let Some(d) = x.d {
                        w.put_lane(d, lane, state);
                    }
                }
            }
        }
        Ok(if failed { Flow::Yield } else { Flow::Next })
    }

    fn mbar_init(&mut self, w: &mut Warp, by: By, c: usize, off: u32, count: u32) -> Run<()> {
        if count == 0 || count >= 1 << 20 {
            return Err(self.stop(FindingKind::Misuse, w, by.lane, by.pc, format!("mbarrier of count {count}")));
        }
        if self.l.races {
            self.track_shared(w, by, c, off as usize, 8, Some(&[]));
        }
        let pseudo = self.hb.threads + self.pseudo.min(super::hb::PSEUDO - 1);
        self.pseudo += 1;
        let m = Mbarrier {
            expected: count,
            pending: count,
            tx: 0,
            phase: 0,
            queue: VecDeque::new(),
            deferred: vec![],
            known: vec![],
            done: vec![],
            pseudo,
        };
        self.ctas[c].mbars.insert(off, m);
        self.ctas[c].init[off as usize..off as usize + 8].fill(1);
        self.progress += 1;
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn mbar_arrive(
        &mut self,
        w: &mut Warp,
        by: By,
        c: usize,
        off: u32,
        kind: MbarKind,
        count: Option<u64>,
        orders: bool,
    ) -> Run<u64> {
        let Some(mut m) = self.ctas[c].mbars.remove(&off) else { return Err(self.mbar_missing(w, by, off)) };
        let state = ((m.phase & 1) * PHASE_BIT) | m.pending as u64;
        let mut over = false;
        match kind {
            MbarKind::ExpectTx => m.tx += count.unwrap_or(0) as u32 as i64,
            MbarKind::CompleteTx => m.tx -= count.unwrap_or(0) as u32 as i64,
            MbarKind::Arrive { expect, drop, .. } => {
                let n = if expect { 1 } else { count.unwrap_or(1) as u32 };
                if expect {
                    m.tx += count.unwrap_or(0) as u32 as i64;
                }
                over = n > m.pending || n == 0;
                m.pending = m.pending.saturating_sub(n);
                if drop {
                    m.expected = m.expected.saturating_sub(n);
                }
                if orders && self.l.races {
                    self.hb.release(w.id, w.base, 1 << by.lane, &mut m.known);
                }
            }
            _ => {}
        }
        m.flip();
        self.ctas[c].mbars.insert(off, m);
        self.progress += 1;
        if over {
            let msg = format!("more arrivals at the mbarrier at {off:#x} than it expects in a phase");
            return Err(self.stop(FindingKind::Misuse, w, by.lane, by.pc, msg));
        }
        Ok(state)
    }

    /// True if the phase that is waited for is complete.
    #[allow(clippy::too_many_arguments)]
    fn mbar_test(
        &mut self,
        w: &mut Warp,
        by: By,
        c: usize,
        off: u32,
        parity: bool,
        state: u64,
        orders: bool,
    ) -> Run<bool> {
        let waits = if parity { state & 1 } else { state / PHASE_BIT };
        let Some(m) = self.ctas[c].mbars.get(&off) else { return Err(self.mbar_missing(w, by, off)) };
        if m.phase & 1 == waits {
            self.deliver(w, c, off)?;
        }
        let Some(m) = self.ctas[c].mbars.get(&off) else { return Err(self.mbar_missing(w, by, off)) };
        let ok = m.phase & 1 != waits;
        if ok && orders && self.l.races {
            self.hb.acquire(w.id, &m.done);
        }
        Ok(ok)
    }

    /// Lands what is tied to a barrier, if that completes its phase.
    fn deliver(&mut self, w: &mut Warp, c: usize, off: u32) -> Run<()> {
        let Some(m) = self.ctas[c].mbars.get_mut(&off) else { return Ok(()) };
        let arrivals: u32 = m.deferred.iter().map(|d| d.2).sum();
        let bytes: i64 = m.queue.iter().map(|d| d.bytes as i64).sum();
        if (m.queue.is_empty() && m.deferred.is_empty()) || m.pending > arrivals || m.tx > bytes {
            return Ok(());
        }
        let (queue, deferred, pseudo) = (std::mem::take(&mut m.queue), std::mem::take(&mut m.deferred), m.pseudo);
        let mut landed = 0;
        let mut left = VecDeque::new();
        let want = m.tx;
        for d in queue {
            // Bytes of the next phase stay in flight.
            if landed >= want {
                left.push_back(d);
                continue;
            }
            landed += d.bytes as i64;
            self.land(c, &d, pseudo);
        }
        for (warp, ops, _) in &deferred {
            for op in ops {
                self.land_cp(w, *warp, op)?;
            }
        }
        let mut known = self.ctas[c].mbars.get_mut(&off).map(|m| std::mem::take(&mut m.known)).unwrap_or_default();
        if self.l.races {
            known.resize(self.hb.clock.len(), 0);
            self.hb.clock[pseudo] += 1;
            known[pseudo] = self.hb.clock[pseudo];
            for (warp, ops, _) in &deferred {
                for op in ops {
                    let t = *warp + op.lane as usize;
                    self.hb.clock[t] += 1;
                    known[t] = known[t].max(self.hb.clock[t]);
                }
            }
        }
        if let Some(m) = self.ctas[c].mbars.get_mut(&off) {
            m.known = known;
            m.queue = left;
            m.tx -= landed;
            m.pending = m.pending.saturating_sub(arrivals);
            m.flip();
        }
        self.progress += 1;
        Ok(())
    }

    /// Lands a `cp.async` of the thread block `base` on behalf of whoever tests the barrier.
    fn land_cp(&mut self, w: &mut Warp, base: usize, op: &CpOp) -> Run<()> {
        let (real, id) = (w.base, w.id);
        w.base = base;
        let r = self.cp_arrive(w, op);
        (w.base, w.id) = (real, id);
        r
    }

    /// `cp.async.mbarrier.arrive`: the arrival happens when all earlier copies of the thread have landed.
    fn mbar_cp_arrive(&mut self, w: &mut Warp, by: By, c: usize, off: u32, noinc: bool) -> Run<()> {
        let mine = |o: &CpOp| o.lane as usize == by.lane;
        let (mut ops, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut w.cp_open).into_iter().partition(mine);
        w.cp_open = rest;
        for (_, group) in &mut w.cp_groups {
            let (a, b): (Vec<_>, Vec<_>) = std::mem::take(group).into_iter().partition(mine);
            ops.extend(a);
            *group = b;
        }
        if self.l.races {
            let Some(mut m) = self.ctas[c].mbars.remove(&off) else { return Err(self.mbar_missing(w, by, off)) };
            self.hb.release(w.id, w.base, 1 << by.lane, &mut m.known);
            self.ctas[c].mbars.insert(off, m);
        }
        let Some(m) = self.ctas[c].mbars.get_mut(&off) else { return Err(self.mbar_missing(w, by, off)) };
        if !noinc {
            m.pending += 1;
        }
        m.deferred.push((w.base, ops, 1));
        self.progress += 1;
        Ok(())
    }

    /// For the deadlock report: barriers that wait for something.
    pub(super) fn describe_mbarriers(&self) -> String {
        let mut out = String::new();
        for (i, c) in self.ctas.iter().enumerate() {
            let mut offs: Vec<_> = c.mbars.keys().copied().collect();
            offs.sort_unstable();
            for off in offs.into_iter().take(4) {
                let m = &c.mbars[&off];
                let flying: u64 = m.queue.iter().map(|d| d.bytes as u64).sum();
                out += &format!(
                    "; mbarrier {off:#x} of CTA {i}: phase {}, {} arrivals missing, {} bytes expected, {flying} in flight",
                    m.phase, m.pending, m.tx
                );
            }
        }
        out
    }
}
