//! Warp-level operations: shuffles, votes, matches, reductions, `bar.warp.sync`, `elect.sync`.
//!
//! Each waits until every living lane of its member mask is there. Lanes may come from different instructions of one
//! kind (a compiler may duplicate code), so operands are gathered first and results scattered afterwards.

use super::run::Flow;
use super::{Run, State, Unit, Warp, lanes};
use crate::ir::*;
use crate::report::FindingKind;

/// Operands of all participating lanes.
struct Gathered {
    a: Lanes,
    b: Lanes,
    c: Lanes,
    bits: u32,
    unknown: u32,
}

impl Unit<'_> {
    pub(super) fn warp_op(&mut self, w: &mut Warp, x: &WarpSync, pc: u32, ex: u32) -> Run<Flow> {
        let members = *w.val(self.l, x.members);
        let bad = w.unknown(x.members) & ex;
        if bad != 0 {
            self.uninit(w, bad, pc, "a member mask");
        }
        let (mut rest, mut waiting) = (ex, 0);
        while rest != 0 {
            let first = rest.trailing_zeros() as usize;
            let m = members[first] as u32;
            let with = lanes(rest).filter(|l| members[*l] as u32 == m).fold(0, |s, l| s | 1u32 << l);
            rest &= !with;
            if with & !m != 0 {
                let msg = format!("lane executes with member mask {m:#010x}, which leaves it out");
                return Err(self.stop(FindingKind::Misuse, w, (with & !m).trailing_zeros() as usize, pc, msg));
            }
            if m & w.alive & !with != 0 {
                waiting |= with;
            } else {
                self.perform(w, &[(x, with)], m);
            }
        }
        Ok(if waiting == 0 { Flow::Next } else { Flow::Wait { mask: waiting } })
    }

    /// Lanes of one mask that wait at different instructions of one kind go on together.
    pub(super) fn rendezvous(&mut self, w: &mut Warp) -> Run<bool> {
        let k = self.k;
        let at: Vec<(usize, &WarpSync)> = (w.groups.iter().enumerate())
            .filter(|(_, g)| g.state == State::Lanes)
            .filter_map(|(i, g)| match &k.insts.get(g.pc as usize)?.op {
                Op::Sync(x) => Some((i, &**x)),
                _ => None,
            })
            .collect();
        for &(i, x) in &at {
            let m = w.first(self.l, x.members, w.groups[i].mask) as u32;
            let parts: Vec<(usize, &WarpSync)> = (at.iter().copied())
                .filter(|(j, y)| y.kind == x.kind && w.first(self.l, y.members, w.groups[*j].mask) as u32 == m)
                .collect();
            let union = parts.iter().fold(0, |u, (j, _)| u | w.groups[*j].mask);
            if parts.len() < 2 || m & w.alive & !union != 0 {
                continue;
            }
            let list: Vec<(&WarpSync, u32)> = parts.iter().map(|(j, y)| (*y, w.groups[*j].mask)).collect();
            self.perform(w, &list, m);
            for (j, _) in parts {
                w.groups[j].pc += 1;
                w.groups[j].state = State::Ready;
            }
            return Ok(true);
        }
        Ok(false)
    }

    fn perform(&mut self, w: &mut Warp, parts: &[(&WarpSync, u32)], members: u32) {
        let l = self.l;
        let Some((x, _)) = parts.first() else { return };
        let kind = x.kind;
        let all = parts.iter().fold(0, |m, p| m | p.1);
        if kind == SyncKind::BarWarp {
            if l.races {
                self.hb.warp_sync(w.id, w.base, all);
            }
            return;
        }
        let mut g = Gathered { a: [0; 32], b: [0; 32], c: [0; 32], bits: 0, unknown: 0 };
        for (x, mask) in parts {
            for i in lanes(*mask) {
                (g.a[i], g.b[i], g.c[i]) = (w.get(l, x.a, i), w.get(l, x.b, i), w.get(l, x.c, i));
            }
            g.bits |= w.pred(x.src_pred.0, x.src_pred.1) & mask;
            g.unknown |= (w.unknown(x.a) | w.pun[x.src_pred.0 as usize]) & mask;
        }
        let (out, preds, unknown) = compute(kind, x.wide, &g, members, all);
        for (x, mask) in parts {
            w.put(x.d, *mask, &out, unknown);
            if let Some(p) = x.p {
                let un =
                    if matches!(kind, SyncKind::ShflUp | SyncKind::ShflDown | SyncKind::ShflBfly | SyncKind::ShflIdx) {
                        0
                    } else {
                        unknown
                    };
                w.put_pred(p, *mask, preds, un);
            }
        }
    }
}

/// Result register, result predicate and uninitialised lanes.
fn compute(kind: SyncKind, wide: bool, g: &Gathered, members: u32, all: u32) -> (Lanes, u32, u32) {
    use SyncKind as K;
    let mut out = [0u64; 32];
    let any_unknown = if g.unknown & all != 0 { !0 } else { 0 };
    let fold = |init: u32, f: fn(u32, u32) -> u32| lanes(all).fold(init, |s, l| f(s, g.a[l] as u32));
    match kind {
        K::ShflUp | K::ShflDown | K::ShflBfly | K::ShflIdx => {
            let (mut preds, mut unknown) = (0u32, 0u32);
            for i in lanes(all) {
                let b = g.b[i] as usize & 31;
                let (seg, clamp) = (g.c[i] as usize >> 8 & 31, g.c[i] as usize & 31);
                let max = i & seg | clamp & !seg;
                let (j, ok) = match kind {
                    K::ShflUp => (i.wrapping_sub(b), i >= b && i - b >= max),
                    K::ShflDown => (i + b, i + b <= max),
                    K::ShflBfly => (i ^ b, i ^ b <= max),
                    _ => {
                        let j = i & seg | b & !seg;
                        (j, j <= max)
                    }
                };
                let j = if ok { j & 31 } else { i };
                preds |= (ok as u32) << i;
                out[i] = g.a[j] as u32 as u64;
                // The value of a lane that takes no part is undefined.
                if g.unknown >> j & 1 == 1 || all >> j & 1 == 0 {
                    unknown |= 1 << i;
                }
            }
            (out, preds, unknown)
        }
        K::VoteAny => (out, if g.bits & all != 0 { !0 } else { 0 }, any_unknown),
        K::VoteAll => (out, if g.bits & all == all { !0 } else { 0 }, any_unknown),
        K::VoteUni => (out, if g.bits & all == all || g.bits & all == 0 { !0 } else { 0 }, any_unknown),
        K::Ballot => ([(g.bits & all) as u64; 32], 0, any_unknown),
        K::MatchAny | K::MatchAll => {
            let key = |l: usize| if wide { g.a[l] } else { g.a[l] as u32 as u64 };
            for i in lanes(all) {
                out[i] = lanes(all).filter(|j| key(*j) == key(i)).fold(0, |m, j| m | 1u64 << j);
            }
            if kind == K::MatchAny {
                return (out, 0, any_unknown);
            }
            let same = lanes(all).all(|i| out[i] as u32 == all);
            ([if same { members as u64 & all as u64 } else { 0 }; 32], if same { !0 } else { 0 }, any_unknown)
        }
        K::ReduxAdd => ([fold(0, u32::wrapping_add) as u64; 32], 0, any_unknown),
        K::ReduxAnd => ([fold(!0, |a, b| a & b) as u64; 32], 0, any_unknown),
        K::ReduxOr => ([fold(0, |a, b| a | b) as u64; 32], 0, any_unknown),
        K::ReduxXor => ([fold(0, |a, b| a ^ b) as u64; 32], 0, any_unknown),
        K::ReduxMinU => ([fold(!0, u32::min) as u64; 32], 0, any_unknown),
        K::ReduxMaxU => ([fold(0, u32::max) as u64; 32], 0, any_unknown),
        K::ReduxMinS => ([fold(i32::MAX as u32, |a, b| (a as i32).min(b as i32) as u32) as u64; 32], 0, any_unknown),
        K::ReduxMaxS => ([fold(i32::MIN as u32, |a, b| (a as i32).max(b as i32) as u32) as u64; 32], 0, any_unknown),
        K::Elect => {
            let leader = all.trailing_zeros() as u64;
            ([leader; 32], 1 << leader, 0)
        }
        K::BarWarp => (out, 0, 0),
    }
}
