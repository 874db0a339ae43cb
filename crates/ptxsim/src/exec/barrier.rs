//! CTA barriers (named, counted, reducing) and the cluster barrier, with what they order.

use super::run::Flow;
use super::{Run, State, Unit, Warp};
use crate::ir::*;
use crate::report::FindingKind;

impl Unit<'_> {
    /// `bar` met by the lanes `ex`: the aligned forms wait for the whole warp first.
    pub(super) fn barrier(&mut self, w: &mut Warp, b: &Bar, pc: u32, ex: u32) -> Run<Flow> {
        if b.aligned && ex != w.alive {
            return Ok(Flow::Wait { mask: ex });
        }
        if b.aligned && w.alive != w.initial {
            let m = format!("barrier after lanes {:#010x} of the warp have exited", w.initial & !w.alive);
            self.note(FindingKind::DivergentBarrier, w, ex.trailing_zeros() as usize, pc, m);
        }
        self.arrive_barrier(w, b, pc, ex)
    }

    pub(super) fn arrive_barrier(&mut self, w: &mut Warp, b: &Bar, pc: u32, ex: u32) -> Run<Flow> {
        let l = self.l;
        let lane = ex.trailing_zeros() as usize & 31;
        let id = w.first(l, b.id, ex) as u32 as usize;
        let count = b.count.map(|c| w.first(l, c, ex) as u32);
        if id >= 16 || count.is_some_and(|c| c == 0 || c % 32 != 0) {
            let m = format!("barrier {id} with thread count {count:?} (0–15, a multiple of 32)");
            return Err(self.stop(FindingKind::Misuse, w, lane, pc, m));
        }
        let votes = w.pred(b.src.0, b.src.1) & ex;
        let unknown = w.pun[b.src.0 as usize] & ex;
        if unknown != 0 {
            self.uninit(w, unknown, pc, "the predicate of this barrier");
        }
        if l.races {
            let mut known = std::mem::take(&mut self.ctas[w.cta].bars[id].known);
            self.hb.release(w.id, w.base, ex, &mut known);
            self.ctas[w.cta].bars[id].known = known;
        }
        let live = self.ctas[w.cta].live;
        let line = self.k.insts[pc as usize].line;
        let bar = &mut self.ctas[w.cta].bars[id];
        let was = bar.expected;
        let mismatch = bar.lanes > 0 && was != count.unwrap_or(0);
        bar.arrived += if b.aligned { 32 } else { ex.count_ones() };
        bar.lanes += ex.count_ones();
        bar.expected = count.unwrap_or(0);
        bar.votes += votes.count_ones();
        bar.voters += ex.count_ones();
        bar.line = line;
        let over = count.is_some_and(|c| bar.arrived > c);
        let generation = bar.generation;
        if mismatch || over {
            let m = format!(
                "barrier {id}: {} threads arrived where {:?} were announced (and {was} before; 0 is all)",
                bar.arrived, count
            );
            return Err(self.stop(FindingKind::Misuse, w, lane, pc, m));
        }
        self.progress += 1;
        self.complete_barrier(w.cta, id, live);
        Ok(if b.wait { Flow::Block { mask: ex, state: State::Barrier { id, generation } } } else { Flow::Next })
    }

    fn complete_barrier(&mut self, cta: usize, id: usize, live: u32) {
        let bar = &mut self.ctas[cta].bars[id];
        let full = if bar.expected == 0 { bar.lanes >= live } else { bar.arrived >= bar.expected };
        if bar.lanes == 0 || !full {
            return;
        }
        bar.generation += 1;
        bar.done_known = std::mem::take(&mut bar.known);
        (bar.done_votes, bar.done_voters) = (bar.votes, bar.voters);
        (bar.arrived, bar.lanes, bar.votes, bar.voters) = (0, 0, 0, 0);
        self.progress += 1;
    }

    /// Threads that exit count as arrived at barriers for all threads.
    pub(super) fn recheck_barriers(&mut self, cta: usize) {
        let live = self.ctas[cta].live;
        for id in 0..16 {
            if self.ctas[cta].bars[id].lanes > 0 && self.ctas[cta].bars[id].expected == 0 {
                self.complete_barrier(cta, id, live);
            }
        }
    }

    /// Lets groups go on whose barrier is complete.
    pub(super) fn wake(&mut self, w: &mut Warp) -> Run<()> {
        for i in 0..w.groups.len() {
            let g = w.groups[i];
            match g.state {
                State::Barrier { id, generation } if self.ctas[w.cta].bars[id].generation > generation => {
                    w.groups[i].state = State::Ready;
                    let bar = &self.ctas[w.cta].bars[id];
                    let (votes, voters) = (bar.done_votes, bar.done_voters);
                    if self.l.races {
                        self.hb.acquire(w.id, &self.ctas[w.cta].bars[id].done_known);
                    }
                    let Some(Op::Bar(b)) = self.k.insts.get(g.pc as usize - 1).map(|i| &i.op) else { continue };
                    if let Some(d) = b.d {
                        w.put(d, g.mask, &[votes as u64; 32], 0);
                    }
                    if let Some(p) = b.dp {
                        let v = if b.red == Some(BarRed::And) { votes == voters } else { votes > 0 };
                        w.put_pred(p, g.mask, if v { !0 } else { 0 }, 0);
                    }
                }
                State::Cluster { generation } if self.cluster_gen > generation => {
                    w.groups[i].state = State::Ready;
                    if self.l.races {
                        self.hb.acquire(w.id, &self.cluster_done);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn cluster_arrive(&mut self, w: &mut Warp, ex: u32) {
        if self.l.races {
            let mut known = std::mem::take(&mut self.cluster_known);
            self.hb.release(w.id, w.base, ex, &mut known);
            self.cluster_known = known;
        }
        self.cluster_arrived += ex.count_ones();
        self.progress += 1;
        self.recheck_cluster();
    }

    pub(super) fn recheck_cluster(&mut self) {
        let live: u32 = self.ctas.iter().map(|c| c.live).sum();
        if self.cluster_arrived > 0 && self.cluster_arrived >= live {
            self.cluster_arrived = 0;
            self.cluster_gen += 1;
            self.cluster_done = std::mem::take(&mut self.cluster_known);
            self.progress += 1;
        }
    }

    /// Waits for the phase that the last arrival belongs to. If that phase is over already, one wakes at once.
    pub(super) fn cluster_wait(&mut self, ex: u32) -> Flow {
        let generation = if self.cluster_arrived == 0 { self.cluster_gen.wrapping_sub(1) } else { self.cluster_gen };
        if generation == u64::MAX {
            // Nobody ever arrived; wait for the first completion.
            return Flow::Block { mask: ex, state: State::Cluster { generation: 0 } };
        }
        Flow::Block { mask: ex, state: State::Cluster { generation } }
    }
}
