//! Scheduling: lanes of a warp run in groups, warps take turns, and a unit ends in success, a fault or a deadlock.
//!
//! Within a warp the group with the lowest pc runs, which makes diverged lanes meet again where compilers lay out
//! joins; a group that has used up its slice gives way once, so that spinning lanes cannot starve their neighbours.
//! All of it depends on nothing but the program: the same launch takes the same path every time.

use std::sync::atomic::Ordering;

use super::{Group, Run, State, Stop, Unit, Warp};
use crate::ir::Op;
use crate::report::FindingKind;

/// Instructions a warp runs before the next warp has its turn.
const SLICE: u32 = 4096;
/// What a volatile, acquiring or atomic read costs of it: warps that poll give way soon.
const POLL: u32 = 64;
/// Rounds of a unit before the next unit has its turn.
const TURN: u32 = 64;
/// Rounds in which nobody moved before it counts as a deadlock.
const PATIENCE: u32 = 300;

/// What an instruction did to its group.
pub(crate) enum Flow {
    Next,
    Jump(u32),
    /// Lanes scattered over several targets.
    Scatter(Vec<(u32, u32)>),
    Exit(u32),
    /// Lanes of `mask` stop in front of the instruction; the others go on behind it.
    Wait {
        mask: u32,
    },
    /// The lanes stop behind the instruction.
    Block {
        mask: u32,
        state: State,
    },
    /// A wait failed: go on, but let others run first.
    Yield,
}

impl Unit<'_> {
    /// Runs until the unit ends (true) or cannot go on without other units (false).
    pub fn run(&mut self) -> Run<bool> {
        let (mut idle, mut rounds) = (0, 0);
        let alone = !self.view.through();
        loop {
            if self.l.stopped.load(Ordering::Relaxed) < self.number {
                return Err(Stop);
            }
            let before = self.progress;
            let (mut alive, mut ran_on) = (false, false);
            for i in 0..self.warps.len() {
                let Some(mut w) = self.warps[i].take() else { continue };
                if w.alive != 0 {
                    alive = true;
                    let r = self.slice(&mut w);
                    ran_on |= !w.spinning && w.groups.iter().any(|g| g.state == State::Ready);
                    self.warps[i] = Some(w);
                    r?;
                } else {
                    self.warps[i] = Some(w);
                }
            }
            if !alive {
                self.finish()?;
                self.done = true;
                return Ok(true);
            }
            if self.progress != before || ran_on {
                idle = 0;
                // Units that take turns must let the others go on even if this one only computes.
                rounds += 1;
                if !alone && (self.progress == before || rounds >= TURN) {
                    return Ok(false);
                }
                continue;
            }
            idle += 1;
            if !alone && idle > 4 {
                return Ok(false);
            }
            if idle > PATIENCE {
                return Err(self.deadlock());
            }
        }
    }

    fn slice(&mut self, w: &mut Warp) -> Run<()> {
        w.spinning = false;
        let (mut budget, mut first) = (SLICE, true);
        while budget > 0 {
            self.wake(w)?;
            let Some(g) = pick(w, first) else {
                if self.unblock(w)? {
                    continue;
                }
                return Ok(());
            };
            first = false;
            self.group(w, g, &mut budget)?;
            if w.alive == 0 {
                return Ok(());
            }
            if w.spinning {
                break;
            }
        }
        w.rotate = if w.groups.len() > 1 { w.rotate.wrapping_add(1) } else { 0 };
        Ok(())
    }

    /// Runs one group until it splits, blocks, meets another one or uses up the budget.
    fn group(&mut self, w: &mut Warp, g: usize, budget: &mut u32) -> Run<()> {
        let Group { mut pc, mask, .. } = w.groups[g];
        let meet = w.groups.iter().filter(|o| o.pc > pc).map(|o| o.pc).min().unwrap_or(u32::MAX);
        let k = self.k;
        loop {
            let Some(inst) = k.insts.get(pc as usize) else {
                return Err(self.stop(FindingKind::Misuse, w, 0, pc, "ran past the end of the kernel".into()));
            };
            self.steps += 1;
            if self.steps > self.l.step_limit {
                let m = format!("more than {} instructions in one block", self.l.step_limit);
                return Err(self.stop(FindingKind::StepLimit, w, lane(mask), pc, m));
            }
            *budget = budget.saturating_sub(if polls(&inst.op) { POLL } else { 1 });
            let mut ex = mask;
            if inst.guard != crate::ir::P_TRUE {
                ex &= w.pred(inst.guard, inst.guard_neg);
                let bad = w.pun[inst.guard as usize] & mask;
                if bad != 0 {
                    self.uninit(w, bad, pc, "the guard of this instruction");
                }
            }
            self.pc_warp[pc as usize] += 1;
            self.pc_lane[pc as usize] += ex.count_ones() as u64;
            let flow = if ex == 0 { Flow::Next } else { self.exec(w, &inst.op, pc, ex)? };
            match flow {
                Flow::Next => pc += 1,
                Flow::Jump(t) if ex == mask => pc = t,
                Flow::Jump(t) => {
                    w.groups[g] = Group { pc: pc + 1, mask: mask & !ex, state: State::Ready };
                    w.groups.push(Group { pc: t, mask: ex, state: State::Ready });
                    return Ok(());
                }
                Flow::Scatter(to) => {
                    let gone = to.iter().fold(0, |m, t| m | t.0);
                    w.groups[g] = Group { pc: pc + 1, mask: mask & !gone, state: State::Ready };
                    w.groups.extend(to.into_iter().map(|(mask, pc)| Group { pc, mask, state: State::Ready }));
                    w.groups.retain(|g| g.mask != 0);
                    return Ok(());
                }
                Flow::Exit(m) => {
                    w.groups[g] = Group { pc: pc + 1, mask: mask & !m, state: State::Ready };
                    w.groups.retain(|g| g.mask != 0);
                    self.exit(w, m);
                    return Ok(());
                }
                Flow::Wait { mask: m } => {
                    w.groups[g] = Group { pc, mask: m, state: State::Lanes };
                    if mask & !m != 0 {
                        w.groups.push(Group { pc: pc + 1, mask: mask & !m, state: State::Ready });
                    }
                    return Ok(());
                }
                Flow::Block { mask: m, state } => {
                    w.groups[g] = Group { pc: pc + 1, mask: m, state };
                    if mask & !m != 0 {
                        w.groups.push(Group { pc: pc + 1, mask: mask & !m, state: State::Ready });
                    }
                    return Ok(());
                }
                Flow::Yield => {
                    pc += 1;
                    w.spinning = true;
                }
            }
            if *budget == 0 || w.spinning || pc >= meet {
                w.groups[g].pc = pc;
                return Ok(());
            }
        }
    }

    fn exit(&mut self, w: &mut Warp, m: u32) {
        w.alive &= !m;
        self.progress += 1;
        self.ctas[w.cta].live -= m.count_ones();
        // Lanes that waited for these may go on now.
        for g in &mut w.groups {
            if g.state == State::Lanes {
                g.state = State::Ready;
            }
        }
        if self.ctas[w.cta].live == 0 {
            self.check_remote(w);
        }
        self.recheck_barriers(w.cta);
        self.recheck_cluster();
    }

    /// A CTA has exited: what others did in its shared memory must have been ordered before that.
    fn check_remote(&mut self, w: &Warp) {
        let per = self.warps.len() / self.ctas.len();
        let late = self.remote.range((w.cta, 0)..(w.cta + 1, 0)).find(|((_, thread), (clock, ..))| {
            (w.cta * per..(w.cta + 1) * per).all(|i| self.hb.known[i][*thread] <= *clock)
        });
        if let Some((_, &(_, pc, cta))) = late {
            let (line, end) = (self.k.insts[pc as usize].line, self.k.insts.len() as u32 - 1);
            let m = format!(
                "CTA {} of the cluster may exit before CTA {cta} has used its shared memory at line {line}",
                w.cta
            );
            self.note(FindingKind::Race, w, 0, end, m);
        }
    }

    fn finish(&mut self) -> Run<()> {
        for i in 0..self.warps.len() {
            let Some(mut w) = self.warps[i].take() else { continue };
            let r = self.finish_stores(&mut w);
            self.warps[i] = Some(w);
            r?;
        }
        Ok(())
    }

    /// Reports where every warp stands.
    pub fn deadlock(&mut self) -> Stop {
        let mut at = Vec::new();
        let mut who = None;
        for w in self.warps.iter().flatten().filter(|w| w.alive != 0) {
            for g in &w.groups {
                let p = if matches!(g.state, State::Barrier { .. } | State::Cluster { .. }) { g.pc - 1 } else { g.pc };
                let line = self.k.insts.get(p as usize).map_or(0, |i| i.line);
                let what = match g.state {
                    State::Ready => "spins",
                    State::Lanes => "waits for lanes of its warp",
                    State::Barrier { .. } => "waits at a barrier",
                    State::Cluster { .. } => "waits at the cluster barrier",
                };
                let text = format!("warp {} of CTA {:?} {what} at line {line}", w.index, self.ctas[w.cta].id);
                if !at.contains(&text) && at.len() < 8 {
                    at.push(text);
                }
                who = who.or(Some((w.id, lane(g.mask), p)));
            }
        }
        let mbars = self.describe_mbarriers();
        let (id, lane, pc) = who.unwrap_or((0, 0, 0));
        let msg = format!("nothing can go on: {}{mbars}", at.join("; "));
        if let Some(w) = self.warps[id].take() {
            self.note(FindingKind::Deadlock, &w, lane, pc, msg);
            self.warps[id] = Some(w);
        }
        Stop
    }

    /// When no group is ready: lanes that wait for each other at different places.
    fn unblock(&mut self, w: &mut Warp) -> Run<bool> {
        if !w.groups.iter().any(|g| g.state == State::Lanes) {
            return Ok(false);
        }
        if self.rendezvous(w)? {
            return Ok(true);
        }
        // An aligned barrier that part of the warp will never reach.
        let Some(g) = w.groups.iter().position(|g| {
            g.state == State::Lanes && matches!(self.k.insts.get(g.pc as usize).map(|i| &i.op), Some(Op::Bar(_)))
        }) else {
            let blocked = w.groups.iter().all(|g| g.state == State::Lanes);
            if blocked {
                let g = w.groups[0];
                let name = self.k.names[self.k.insts[g.pc as usize].name as usize].clone();
                let m = format!("{name} needs lanes of the warp that never come here (lanes {:#010x} did)", g.mask);
                return Err(self.stop(FindingKind::Misuse, w, lane(g.mask), g.pc, m));
            }
            return Ok(false);
        };
        let Group { pc, mask, .. } = w.groups[g];
        let m = format!("barrier reached by lanes {mask:#010x} only, while other lanes of the warp are elsewhere");
        self.note(FindingKind::DivergentBarrier, w, lane(mask), pc, m);
        let Some(Op::Bar(b)) = self.k.insts.get(pc as usize).map(|i| &i.op) else { return Ok(false) };
        match self.arrive_barrier(w, b, pc, mask)? {
            Flow::Block { mask, state } => w.groups[g] = Group { pc: pc + 1, mask, state },
            _ => w.groups[g] = Group { pc: pc + 1, mask, state: State::Ready },
        }
        Ok(true)
    }
}

fn polls(op: &Op) -> bool {
    match op {
        Op::Ld(x) => x.order.strong,
        Op::Atom(_) => true,
        _ => false,
    }
}

fn lane(mask: u32) -> usize {
    (mask.trailing_zeros() as usize).min(31)
}

/// Merges groups that stand at one place and chooses the next to run.
fn pick(w: &mut Warp, first: bool) -> Option<usize> {
    if w.groups.len() > 1 {
        w.groups.sort_by_key(|g| g.pc);
        let mut i = 0;
        while i + 1 < w.groups.len() {
            let (a, b) = (w.groups[i], w.groups[i + 1]);
            let free = |s| matches!(s, State::Ready | State::Lanes);
            if a.pc == b.pc && free(a.state) && free(b.state) {
                // New lanes may complete what the others wait for.
                w.groups[i] = Group { pc: a.pc, mask: a.mask | b.mask, state: State::Ready };
                w.groups.remove(i + 1);
            } else {
                i += 1;
            }
        }
    }
    let ready = w.groups.iter().filter(|g| g.state == State::Ready).count();
    if ready == 0 {
        return None;
    }
    let nth = if first { w.rotate as usize % ready } else { 0 };
    w.groups.iter().enumerate().filter(|(_, g)| g.state == State::Ready).nth(nth).map(|(i, _)| i)
}
