//! Decoding of barriers, fences, warp-level operations and mbarriers.

use super::Lower;
use super::memory::space;
use crate::alu::Mods;
use crate::ast::{Arg, Raw};
use crate::error::Result;
use crate::ir::*;
use crate::types::{Space, Ty};

impl Lower<'_> {
    pub(super) fn sync(&mut self, base: &str, raw: &Raw) -> Result<bool> {
        let mut m = Mods::new(&raw.op);
        match base {
            "bar" if m.take("warp") => {
                self.want(raw, 1..=1)?;
                if !m.take("sync") || !m.rest.is_empty() {
                    return Ok(false);
                }
                let members = self.src(&raw.args[0], Ty::B32)?;
                self.warp_sync(SyncKind::BarWarp, members, |_, _| {})
            }
            "barrier" if m.take("cluster") => {
                let arrive = m.take("arrive");
                let wait = m.take("wait");
                m.take("aligned");
                m.take_any(&["release", "relaxed", "acquire"]);
                if !m.rest.is_empty() || arrive == wait {
                    return Ok(false);
                }
                self.emit(if arrive { Op::ClusterArrive } else { Op::ClusterWait });
                Ok(true)
            }
            "bar" | "barrier" => self.barrier(&mut m, raw),
            "membar" => {
                if m.take("proxy") {
                    self.emit(Op::Fence(FenceKind::Other));
                    return Ok(true);
                }
                let ok = m.take_any(&["cta", "gl", "sys"]).is_some() && m.rest.is_empty();
                self.emit(Op::Fence(FenceKind::Memory));
                Ok(ok)
            }
            "fence" => {
                let kind = if m.take("proxy") {
                    let asynchronous = m.rest.iter().any(|r| r.starts_with("async"));
                    if asynchronous { FenceKind::ProxyAsync } else { FenceKind::Other }
                } else if m.take("mbarrier_init") {
                    FenceKind::Other
                } else {
                    m.take_any(&["sc", "acq_rel", "acquire", "release"]);
                    m.rest.retain(|r| !r.starts_with("sync_restrict"));
                    m.take_any(&["cta", "cluster", "gpu", "sys", "gl"]);
                    if !m.rest.is_empty() {
                        return Ok(false);
                    }
                    FenceKind::Memory
                };
                self.emit(Op::Fence(kind));
                Ok(true)
            }
            "shfl" => self.shfl(&mut m, raw),
            "vote" => self.vote(&mut m, raw),
            "match" => {
                self.want(raw, 3..=3)?;
                let kind = match m.take_any(&["any", "all"]) {
                    Some("any") => SyncKind::MatchAny,
                    Some(_) => SyncKind::MatchAll,
                    None => return Ok(false),
                };
                let Some(ty @ (Ty::B32 | Ty::B64)) = m.ty().filter(|_| m.take("sync") && m.rest.is_empty()) else {
                    return Ok(false);
                };
                let (d, p) = match &raw.args[0] {
                    Arg::Pair(d, p) => (self.dst(d)?, Some(self.pred_dst(p)?)),
                    d => (self.dst(d)?, None),
                };
                let a = self.src(&raw.args[1], ty)?;
                let members = self.src(&raw.args[2], Ty::B32)?;
                self.warp_sync(kind, members, |s, _| {
                    (s.d, s.p, s.a, s.wide) = (d, p, a, ty == Ty::B64);
                })
            }
            "redux" => {
                self.want(raw, 3..=3)?;
                use SyncKind as K;
                if !m.take("sync") {
                    return Ok(false);
                }
                let op = m.take_any(&["add", "min", "max", "and", "or", "xor"]);
                let kind = match (op, m.ty()) {
                    (Some("add"), Some(Ty::S32 | Ty::U32)) => K::ReduxAdd,
                    (Some("min"), Some(Ty::S32)) => K::ReduxMinS,
                    (Some("max"), Some(Ty::S32)) => K::ReduxMaxS,
                    (Some("min"), Some(Ty::U32)) => K::ReduxMinU,
                    (Some("max"), Some(Ty::U32)) => K::ReduxMaxU,
                    (Some("and"), Some(Ty::B32)) => K::ReduxAnd,
                    (Some("or"), Some(Ty::B32)) => K::ReduxOr,
                    (Some("xor"), Some(Ty::B32)) => K::ReduxXor,
                    _ => return Ok(false),
                };
                if !m.rest.is_empty() {
                    return Ok(false);
                }
                let (d, a) = (self.dst(&raw.args[0])?, self.src(&raw.args[1], Ty::B32)?);
                let members = self.src(&raw.args[2], Ty::B32)?;
                self.warp_sync(kind, members, |s, _| (s.d, s.a) = (d, a))
            }
            "elect" => {
                self.want(raw, 2..=2)?;
                if !m.take("sync") || !m.rest.is_empty() {
                    return Ok(false);
                }
                let (d, p) = match &raw.args[0] {
                    Arg::Pair(d, p) => (self.dst(d)?, self.pred_dst(p)?),
                    _ => return self.err("elect.sync needs d|p"),
                };
                let members = self.src(&raw.args[1], Ty::B32)?;
                self.warp_sync(SyncKind::Elect, members, |s, _| (s.d, s.p) = (d, Some(p)))
            }
            "activemask" => {
                self.want(raw, 1..=1)?;
                let d = self.dst(&raw.args[0])?;
                self.emit(Op::ActiveMask(d));
                Ok(m.rest.is_empty())
            }
            "nanosleep" | "setmaxnreg" | "griddepcontrol" | "pmevent" => {
                self.emit(Op::Nop);
                Ok(true)
            }
            "mbarrier" => self.mbarrier(&mut m, raw),
            _ => Ok(false),
        }
    }

    fn warp_sync(&mut self, kind: SyncKind, members: Reg, set: impl Fn(&mut WarpSync, &mut Self)) -> Result<bool> {
        let zero = self.constant(Const::Int(0));
        let d = zero;
        let mut s =
            WarpSync { kind, d, p: None, a: zero, b: zero, c: zero, src_pred: (P_TRUE, false), members, wide: false };
        set(&mut s, self);
        if s.d == zero {
            s.d = self.temp();
        }
        self.emit(Op::Sync(Box::new(s)));
        Ok(true)
    }

    fn shfl(&mut self, m: &mut Mods, raw: &Raw) -> Result<bool> {
        // The forms without .sync are gone since sm_70.
        if !m.take("sync") {
            return Ok(false);
        }
        self.want(raw, 5..=5)?;
        let kind = match m.take_any(&["up", "down", "bfly", "idx"]) {
            Some("up") => SyncKind::ShflUp,
            Some("down") => SyncKind::ShflDown,
            Some("bfly") => SyncKind::ShflBfly,
            Some(_) => SyncKind::ShflIdx,
            None => return Ok(false),
        };
        if !m.rest.is_empty() || m.ty() != Some(Ty::B32) {
            return Ok(false);
        }
        let (d, p) = match &raw.args[0] {
            Arg::Pair(d, p) => (self.dst(d)?, Some(self.pred_dst(p)?)),
            d => (self.dst(d)?, None),
        };
        let (a, b, c) =
            (self.src(&raw.args[1], Ty::B32)?, self.src(&raw.args[2], Ty::B32)?, self.src(&raw.args[3], Ty::B32)?);
        let members = self.src(&raw.args[4], Ty::B32)?;
        self.warp_sync(kind, members, |s, _| (s.d, s.p, s.a, s.b, s.c) = (d, p, a, b, c))
    }

    fn vote(&mut self, m: &mut Mods, raw: &Raw) -> Result<bool> {
        if !m.take("sync") {
            return Ok(false);
        }
        self.want(raw, 3..=3)?;
        let kind = match m.take_any(&["any", "all", "uni", "ballot"]) {
            Some("any") => SyncKind::VoteAny,
            Some("all") => SyncKind::VoteAll,
            Some("uni") => SyncKind::VoteUni,
            Some(_) => SyncKind::Ballot,
            None => return Ok(false),
        };
        if !m.rest.is_empty() {
            return Ok(false);
        }
        let src = self.pred(&raw.args[1])?;
        let members = self.src(&raw.args[2], Ty::B32)?;
        let (mut d, mut p) = (None, None);
        if kind == SyncKind::Ballot {
            d = Some(self.dst(&raw.args[0])?);
        } else {
            p = Some(self.pred_dst(&raw.args[0])?);
        }
        self.warp_sync(kind, members, |s, lo| {
            s.d = d.unwrap_or_else(|| lo.temp());
            (s.p, s.src_pred) = (p, src);
        })
    }

    fn barrier(&mut self, m: &mut Mods, raw: &Raw) -> Result<bool> {
        let aligned = m.base == "bar" || m.rest.contains(&"aligned");
        m.take("aligned");
        m.take("cta");
        let kind = m.take_any(&["sync", "arrive", "red"]);
        let red = m.take_any(&["popc", "and", "or"]).map(|r| match r {
            "popc" => BarRed::Popc,
            "and" => BarRed::And,
            _ => BarRed::Or,
        });
        if !m.rest.is_empty() || (kind == Some("red")) != red.is_some() {
            return Ok(false);
        }
        let mut bar = Bar {
            id: 0,
            count: None,
            wait: kind != Some("arrive"),
            aligned,
            red,
            src: (P_TRUE, false),
            d: None,
            dp: None,
        };
        let args = raw.args.as_slice();
        match kind {
            Some("sync" | "arrive") => {
                self.want(raw, 1..=2)?;
                bar.id = self.src(&args[0], Ty::U32)?;
                bar.count = args.get(1).map(|c| self.src(c, Ty::U32)).transpose()?;
                if kind == Some("arrive") && bar.count.is_none() {
                    return self.err("bar.arrive needs a thread count");
                }
            }
            Some(_) => {
                self.want(raw, 3..=4)?;
                if red == Some(BarRed::Popc) {
                    bar.d = Some(self.dst(&args[0])?);
                } else {
                    bar.dp = Some(self.pred_dst(&args[0])?);
                }
                bar.id = self.src(&args[1], Ty::U32)?;
                bar.count = if args.len() == 4 { Some(self.src(&args[2], Ty::U32)?) } else { None };
                bar.src = self.pred(&args[args.len() - 1])?;
            }
            None => return Ok(false),
        }
        self.emit(Op::Bar(Box::new(bar)));
        Ok(true)
    }

    fn mbarrier(&mut self, m: &mut Mods, raw: &Raw) -> Result<bool> {
        let Some(op) = m.take_any(&[
            "init",
            "inval",
            "arrive_drop",
            "arrive",
            "expect_tx",
            "complete_tx",
            "test_wait",
            "try_wait",
            "pending_count",
        ]) else {
            return Ok(false);
        };
        let acquire = m.take("acquire");
        let release = m.take("release");
        let relaxed = m.take("relaxed");
        m.take_any(&["cta", "cluster"]);
        let Some(space) = space(m).filter(|s| matches!(s, Space::Generic | Space::Shared)) else { return Ok(false) };
        let expect = op.starts_with("arrive") && m.take("expect_tx");
        let complete = m.take("noComplete");
        let parity = m.take("parity");
        if !m.rest.is_empty() || m.ty() != Some(Ty::B64) {
            return Ok(false);
        }
        let kind = match op {
            "init" => MbarKind::Init,
            "inval" => MbarKind::Inval,
            "arrive" | "arrive_drop" => MbarKind::Arrive { expect, drop: op == "arrive_drop", complete: !complete },
            "expect_tx" => MbarKind::ExpectTx,
            "complete_tx" => MbarKind::CompleteTx,
            "test_wait" | "try_wait" => MbarKind::TestWait { parity, suspend: op == "try_wait" },
            _ => MbarKind::PendingCount,
        };
        let mut x = Mbar {
            kind,
            space,
            d: None,
            dp: None,
            addr: 0,
            off: 0,
            count: None,
            orders: acquire || release || !relaxed,
        };
        let args = raw.args.as_slice();
        let mut at = 0;
        match kind {
            MbarKind::Init | MbarKind::ExpectTx | MbarKind::CompleteTx => self.want(raw, 2..=2)?,
            MbarKind::Inval => self.want(raw, 1..=1)?,
            MbarKind::Arrive { .. } => {
                // The state is missing when the barrier may belong to another CTA of the cluster.
                self.want(raw, 1..=3)?;
                if !matches!(args[0], Arg::Mem(_)) {
                    x.d = Some(self.dst(&args[0])?);
                    at = 1;
                }
            }
            MbarKind::TestWait { .. } => {
                self.want(raw, 3..=4)?;
                x.dp = Some(self.pred_dst(&args[0])?);
                at = 1;
            }
            MbarKind::PendingCount => {
                self.want(raw, 2..=2)?;
                x.d = Some(self.dst(&args[0])?);
                x.addr = self.src(&args[1], Ty::B64)?;
                self.emit(Op::Mbar(Box::new(x)));
                return Ok(true);
            }
            MbarKind::CpAsyncArrive { .. } => {}
        }
        let Some(mem) = args.get(at) else { return self.err("mbarrier without an address") };
        (x.addr, x.off, _) = self.address(mem)?;
        x.count = args.get(at + 1).map(|c| self.src(c, Ty::B64)).transpose()?;
        if matches!(kind, MbarKind::TestWait { .. }) && x.count.is_none() {
            return self.err("test_wait without a state or parity");
        }
        self.emit(Op::Mbar(Box::new(x)));
        Ok(true)
    }
}
