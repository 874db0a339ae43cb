//! One instruction of one group of lanes.

use std::collections::HashSet;

use super::run::Flow;
use super::{Run, Unit, Warp, lanes};
use crate::ir::*;
use crate::launch::RESERVED_SHARED;
use crate::report::FindingKind;
use crate::types::{CLUSTER_SHIFT, SHARED_WINDOW, resolve};

impl Unit<'_> {
    #[inline]
    pub(super) fn exec(&mut self, w: &mut Warp, op: &Op, pc: u32, ex: u32) -> Run<Flow> {
        if !self.k.wg_writes.is_empty() {
            self.check_accumulators(w, op, pc, ex)?;
        }
        let l = self.l;
        match op {
            Op::Nop => {}
            Op::A1(f, d, a) => {
                let mut out = [0; 32];
                f(w.val(l, *a), &mut out);
                w.put(*d, ex, &out, w.unknown(*a));
            }
            Op::A2(f, d, a, b) => {
                let mut out = [0; 32];
                f(w.val(l, *a), w.val(l, *b), &mut out);
                w.put(*d, ex, &out, w.unknown(*a) | w.unknown(*b));
            }
            Op::Clear(f, d, a, b) => {
                let mut out = [0; 32];
                f(w.val(l, *a), w.val(l, *b), &mut out);
                w.put(*d, ex, &out, 0);
            }
            Op::A3(f, d, a, b, c) => {
                let mut out = [0; 32];
                f(w.val(l, *a), w.val(l, *b), w.val(l, *c), &mut out);
                w.put(*d, ex, &out, w.unknown(*a) | w.unknown(*b) | w.unknown(*c));
            }
            Op::Mov(d, a) => {
                let v = *w.val(l, *a);
                w.put(*d, ex, &v, w.unknown(*a));
            }
            Op::Setp { f, d, e, a, b, c, comb } => {
                let raw = f(w.val(l, *a), w.val(l, *b));
                let mut un = w.unknown(*a) | w.unknown(*b);
                let (mut v, mut nv) = (raw, !raw);
                if let Some((p, neg)) = c {
                    let q = w.pred(*p, *neg);
                    un |= w.pun[*p as usize];
                    (v, nv) = (combine(*comb, v, q), combine(*comb, nv, q));
                }
                w.put_pred(*d, ex, v, un);
                if let Some(e) = e {
                    w.put_pred(*e, ex, nv, un);
                }
            }
            Op::Selp { d, a, b, p, neg } => {
                let m = w.pred(*p, *neg);
                let (va, vb) = (w.val(l, *a), w.val(l, *b));
                let mut out = [0; 32];
                for i in 0..32 {
                    out[i] = if m >> i & 1 == 1 { va[i] } else { vb[i] };
                }
                let un = m & w.unknown(*a) | !m & w.unknown(*b) | w.pun[*p as usize];
                w.put(*d, ex, &out, un);
            }
            Op::Bra(t) => return Ok(Flow::Jump(*t)),
            Op::Pred2 { op, d, a, b } => {
                let v = combine(*op, w.pred(a.0, a.1), w.pred(b.0, b.1));
                let (ua, ub) = (w.pun[a.0 as usize], w.pun[b.0 as usize]);
                // A known operand that decides the result hides an unknown one.
                let un = match op {
                    BoolOp::And => (ua | ub) & !(!ua & !w.pred(a.0, a.1)) & !(!ub & !w.pred(b.0, b.1)),
                    BoolOp::Or => (ua | ub) & !(!ua & w.pred(a.0, a.1)) & !(!ub & w.pred(b.0, b.1)),
                    BoolOp::Xor => ua | ub,
                };
                w.put_pred(*d, ex, v, un);
            }
            Op::Ld(x) => self.load(w, x, pc, ex)?,
            Op::St(x) => self.store(w, x, pc, ex)?,
            Op::Lop3 { d, p, s, lut } => {
                let (a, b, c) = (w.val(l, s[0]), w.val(l, s[1]), w.val(l, s[2]));
                let mut out = [0; 32];
                for i in 0..32 {
                    out[i] = lop3(a[i] as u32, b[i] as u32, c[i] as u32, *lut) as u64;
                }
                let un = s.iter().fold(0, |m, r| m | w.unknown(*r));
                w.put(*d, ex, &out, un);
                if let Some((p, op, q, neg)) = p {
                    let nz = (0..32).fold(0u32, |m, i| m | ((out[i] != 0) as u32) << i);
                    let v = combine(*op, nz, w.pred(*q, *neg));
                    w.put_pred(*p, ex, v, un | w.pun[*q as usize]);
                }
            }
            Op::SetVal { f, d, a, b, c, comb, one } => {
                let mut v = f(w.val(l, *a), w.val(l, *b));
                let mut un = w.unknown(*a) | w.unknown(*b);
                if let Some((p, neg)) = c {
                    v = combine(*comb, v, w.pred(*p, *neg));
                    un |= w.pun[*p as usize];
                }
                let out = std::array::from_fn(|i| if v >> i & 1 == 1 { *one } else { 0 });
                w.put(*d, ex, &out, un);
            }
            Op::Set2 { f, d, a, b, one } => {
                let (lo, hi) = halves(*f, w.val(l, *a), w.val(l, *b));
                let bit = |m: u32, i: usize| if m >> i & 1 == 1 { *one } else { 0 };
                let out = std::array::from_fn(|i| bit(lo, i) | bit(hi, i) << 16);
                w.put(*d, ex, &out, w.unknown(*a) | w.unknown(*b));
            }
            Op::Setp2 { f, lo, hi, a, b, c, comb } => {
                let (mut vl, mut vh) = halves(*f, w.val(l, *a), w.val(l, *b));
                let un = w.unknown(*a) | w.unknown(*b);
                if let Some((p, neg)) = c {
                    let q = w.pred(*p, *neg);
                    (vl, vh) = (combine(*comb, vl, q), combine(*comb, vh, q));
                }
                w.put_pred(*lo, ex, vl, un);
                w.put_pred(*hi, ex, vh, un);
            }
            Op::Carry { kind, wide, signed, d, s, cin, cout } => {
                let bits = if *wide { 64 } else { 32 };
                let (mut out, mut carry) = ([0; 32], 0u32);
                let un = s.iter().fold(0, |m, r| m | w.unknown(*r));
                for (i, o) in out.iter_mut().enumerate() {
                    // Without a carry in, a sum starts from 0 and a difference from 1.
                    let c = if *cin { (w.carry >> i & 1) as u128 } else { (*kind == CarryKind::Sub) as u128 };
                    let v = s.map(|r| w.get(l, r, i));
                    let (r, co) = with_carry(*kind, bits, *signed, v, c);
                    *o = r;
                    carry |= (co as u32) << i;
                }
                w.put(*d, ex, &out, un);
                if *cout {
                    w.carry = w.carry & !ex | carry & ex;
                }
            }
            Op::Special { d, s } => {
                let v = self.special(w, *s);
                w.put(*d, ex, &v, 0);
            }
            Op::Pack { d, s, bits } => {
                let mask = if *bits == 64 { !0 } else { (1u64 << bits) - 1 };
                let (mut out, mut un) = ([0; 32], 0);
                for (i, r) in s.iter().enumerate() {
                    un |= w.unknown(*r);
                    let v = w.val(l, *r);
                    for j in 0..32 {
                        out[j] |= (v[j] & mask) << (i as u32 * bits);
                    }
                }
                w.put(*d, ex, &out, un);
            }
            Op::Unpack { d, a, bits } => {
                let mask = (1u64 << bits) - 1;
                let (v, un) = (*w.val(l, *a), w.unknown(*a));
                for (i, r) in d.iter().enumerate() {
                    let out = std::array::from_fn(|j| v[j] >> (i as u32 * bits) & mask);
                    w.put(*r, ex, &out, un);
                }
            }
            Op::IsSpace { d, a, space } => {
                let v = w.val(l, *a);
                let m = (0..32).fold(0u32, |m, i| {
                    let s = resolve(v[i]).0;
                    m | ((s == *space) as u32) << i
                });
                w.put_pred(*d, ex, m, w.unknown(*a));
            }
            Op::ExplicitCluster(p) => w.put_pred(*p, ex, if l.explicit_cluster { !0 } else { 0 }, 0),
            Op::ActiveMask(d) => w.put(*d, ex, &[ex as u64; 32], 0),
            Op::Atom(x) => self.atom(w, x, pc, ex)?,
            Op::Brx { idx, targets } => {
                if w.unknown(*idx) & ex != 0 {
                    self.uninit(w, w.unknown(*idx) & ex, pc, "the index of this branch");
                }
                let mut to: Vec<(u32, u32)> = Vec::new();
                for i in lanes(ex) {
                    let n = w.get(l, *idx, i) as u32 as usize;
                    let Some(&t) = targets.get(n) else {
                        let m = format!("brx.idx {n} of {} targets", targets.len());
                        return Err(self.stop(FindingKind::Misuse, w, i, pc, m));
                    };
                    match to.iter_mut().find(|(_, p)| *p == t) {
                        Some(e) => e.0 |= 1 << i,
                        None => to.push((1 << i, t)),
                    }
                }
                return Ok(Flow::Scatter(to));
            }
            Op::Exit => return Ok(Flow::Exit(ex)),
            Op::Trap(m) => {
                let lane = ex.trailing_zeros() as usize;
                return Err(self.stop(FindingKind::Trap, w, lane, pc, m.to_string()));
            }
            Op::Sync(x) => return self.warp_op(w, x, pc, ex),
            Op::Bar(x) => return self.barrier(w, x, pc, ex),
            Op::ClusterArrive => self.cluster_arrive(w, ex),
            Op::ClusterWait => return Ok(self.cluster_wait(ex)),
            Op::Fence(kind) => {
                if l.races {
                    match kind {
                        FenceKind::ProxyAsync => self.hb.proxy_fence(w.id, w.base, ex),
                        FenceKind::Memory => {
                            let time = self.view.inter().map_or(0, |i| i.fence());
                            self.hb.memory_fence(w.base, ex, time);
                        }
                        FenceKind::Other => {}
                    }
                }
            }
            Op::CpAsync(x) => self.cp_async(w, x, pc, ex)?,
            Op::CpCommit => self.cp_commit(w, ex),
            Op::CpWait(n) => self.cp_wait(w, *n as usize, ex, pc)?,
            Op::CpWaitAll => {
                self.cp_commit(w, ex);
                self.cp_wait(w, 0, ex, pc)?;
            }
            Op::Matrix(x) => {
                if ex != w.alive || ex != !0 {
                    return self.need_warp(w, pc, ex);
                }
                self.matrix(w, x, pc)?;
            }
            Op::MovMatrix { d, a } => {
                if ex != !0 {
                    return self.need_warp(w, pc, ex);
                }
                self.mov_matrix(w, *d, *a);
            }
            Op::Mma(x) => {
                if ex != !0 {
                    return self.need_warp(w, pc, ex);
                }
                self.mma(w, x);
            }
            Op::Wmma(x) => {
                if ex != !0 {
                    return self.need_warp(w, pc, ex);
                }
                self.wmma(w, x, pc)?;
            }
            Op::Mbar(x) => return self.mbar(w, x, pc, ex),
            Op::Bulk(x) => self.bulk(w, x, pc, ex)?,
            Op::Async(x) => self.async_update(w, x, pc, ex)?,
            Op::BulkCommit => self.bulk_commit(w, ex),
            Op::BulkWait(n) => self.bulk_wait(w, *n as usize, ex, pc)?,
            Op::WgFence => w.wg_fence = Some(HashSet::new()),
            Op::WgCommit => {
                if ex != !0 {
                    return self.need_warp(w, pc, ex);
                }
                self.wg_commit(w);
            }
            Op::WgWait(n) => {
                if ex != !0 {
                    return self.need_warp(w, pc, ex);
                }
                self.wg_wait(w, *n as usize)?;
            }
            Op::Wgmma(x) => {
                if ex != !0 {
                    return self.need_warp(w, pc, ex);
                }
                self.wgmma_issue(w, x, pc)?;
            }
            Op::Mapa { d, a, rank, generic } => {
                let win = if *generic { SHARED_WINDOW } else { 0 };
                let out = std::array::from_fn(|i| {
                    let off = w.get(l, *a, i).wrapping_sub(win) & ((1 << CLUSTER_SHIFT) - 1);
                    ((w.get(l, *rank, i) as u32 as u64 + 1) << CLUSTER_SHIFT | off).wrapping_add(win)
                });
                w.put(*d, ex, &out, w.unknown(*a) | w.unknown(*rank));
            }
            Op::GetCtaRank { d, a, generic } => {
                let win = if *generic { SHARED_WINDOW } else { 0 };
                let own = w.cta as u64;
                let out = std::array::from_fn(|i| match w.get(l, *a, i).wrapping_sub(win) >> CLUSTER_SHIFT {
                    0 => own,
                    r => r - 1,
                });
                w.put(*d, ex, &out, w.unknown(*a));
            }
        }
        Ok(Flow::Next)
    }

    /// An instruction for whole warps met a part of one: wait for the rest.
    fn need_warp(&mut self, w: &Warp, pc: u32, ex: u32) -> Run<Flow> {
        if w.alive != !0 {
            let name = &self.k.names[self.k.insts[pc as usize].name as usize];
            let m = format!("{name} needs all 32 lanes, but lanes {:#010x} have exited or never were", !w.alive);
            return Err(self.stop(FindingKind::Misuse, w, ex.trailing_zeros() as usize, pc, m));
        }
        Ok(Flow::Wait { mask: ex })
    }

    fn special(&mut self, w: &Warp, s: Special) -> Lanes {
        let l = self.l;
        let id = self.ctas[w.cta].id;
        let rank = w.cta as u32;
        let all = |v: u32| [v as u64; 32];
        match s {
            Special::Tid(d) => std::array::from_fn(|i| w.tid[d as usize][i] as u64),
            Special::Ntid(d) => all(l.block[d as usize]),
            Special::Ctaid(d) => all(id[d as usize]),
            Special::Nctaid(d) => all(l.grid[d as usize]),
            Special::LaneId => std::array::from_fn(|i| i as u64),
            Special::WarpId => all(w.index),
            Special::NwarpId => all((l.block[0] * l.block[1] * l.block[2]).div_ceil(32)),
            Special::LaneMask(k) => std::array::from_fn(|i| {
                let (eq, lt) = (1u32 << i, (1u32 << i) - 1);
                let m = match k {
                    0 => eq,
                    1 => eq | lt,
                    2 => lt,
                    3 => !lt,
                    _ => !lt & !eq,
                };
                m as u64
            }),
            Special::Clock => [self.steps; 32],
            Special::GlobalTimer => {
                self.timer += 1000;
                [self.timer; 32]
            }
            Special::SmId => all(0),
            Special::NsmId => all(132),
            Special::Workspace { high } => all((l.workspace >> if high { 32 } else { 0 }) as u32),
            Special::GridId | Special::Zero => all(0),
            Special::DynSmem => all(l.dynamic),
            Special::TotalSmem => all(l.total_shared as u32),
            Special::ReservedSmem { end } => all((l.reserved_at + if end { RESERVED_SHARED } else { 0 }) as u32),
            Special::ClusterId(d) => all(id[d as usize] / l.cluster[d as usize]),
            Special::NclusterId(d) => all(l.grid[d as usize] / l.cluster[d as usize]),
            Special::ClusterCtaid(d) => all(id[d as usize] % l.cluster[d as usize]),
            Special::ClusterNctaid(d) => all(l.cluster[d as usize]),
            Special::ClusterCtarank => all(rank),
            Special::ClusterNctarank => all(self.ctas.len() as u32),
        }
    }
}

#[inline]
fn combine(op: BoolOp, a: u32, b: u32) -> u32 {
    match op {
        BoolOp::And => a & b,
        BoolOp::Or => a | b,
        BoolOp::Xor => a ^ b,
    }
}

fn lop3(a: u32, b: u32, c: u32, lut: u8) -> u32 {
    let mut r = 0;
    for i in 0..8 {
        if lut >> i & 1 == 1 {
            let x = if i & 4 != 0 { a } else { !a };
            let y = if i & 2 != 0 { b } else { !b };
            let z = if i & 1 != 0 { c } else { !c };
            r |= x & y & z;
        }
    }
    r
}

/// Compares the low and the high halves apart.
fn halves(f: FCmp, a: &Lanes, b: &Lanes) -> (u32, u32) {
    (f(a, b), f(&a.map(|x| x >> 16), &b.map(|x| x >> 16)))
}

/// Extended-precision arithmetic: result and carry (or borrow) out.
fn with_carry(kind: CarryKind, bits: u32, signed: bool, [a, b, c]: [u64; 3], cin: u128) -> (u64, bool) {
    let mask = (1u128 << bits) - 1;
    let (a, b, c) = (a as u128 & mask, b as u128 & mask, c as u128 & mask);
    let s = match kind {
        CarryKind::Add => a + b + cin,
        // The flag of a subtraction is the carry of a + !b + 1, that is "no borrow": compilers mix it with addc.
        CarryKind::Sub => a + (!b & mask) + cin,
        CarryKind::MadLo => ((a * b) & mask) + c + cin,
        CarryKind::MadHi => {
            let hi = if signed && bits == 32 {
                (((a as u32 as i32 as i64 * b as u32 as i32 as i64) >> 32) as u32) as u128
            } else if signed {
                ((a as u64 as i64 as i128 * b as u64 as i64 as i128) >> 64) as u64 as u128
            } else {
                (a * b) >> bits
            };
            hi + c + cin
        }
    };
    ((s & mask) as u64, s > mask)
}
