//! Decoding of `cp.async`, `cp.async.bulk` and `cp.async.bulk.tensor`.

use super::memory::space;
use super::tensor::literal;
use super::{Lower, Sym};
use crate::alu::Mods;
use crate::ast::{Arg, Raw};
use crate::error::Result;
use crate::ir::*;
use crate::types::{Space, Ty};

impl Lower<'_> {
    pub(super) fn copy(&mut self, m: &mut Mods, raw: &Raw) -> Result<bool> {
        let reduce = m.take("reduce");
        if !m.take("async") {
            return Ok(false);
        }
        if m.take("bulk") {
            return self.bulk(reduce, m, raw);
        }
        if m.take("commit_group") {
            self.emit(Op::CpCommit);
            return Ok(m.rest.is_empty() && raw.args.is_empty());
        }
        if m.take("wait_all") {
            self.emit(Op::CpWaitAll);
            return Ok(m.rest.is_empty() && raw.args.is_empty());
        }
        if m.take("wait_group") {
            self.want(raw, 1..=1)?;
            let Some(n) = literal(&raw.args[0]) else { return self.err("wait_group needs a literal") };
            self.emit(Op::CpWait(n));
            return Ok(m.rest.is_empty());
        }
        if m.take("mbarrier") {
            self.want(raw, 1..=1)?;
            let noinc = m.take("noinc");
            let arrive = m.take("arrive");
            let Some(space) = space(m).filter(|_| arrive && m.rest.is_empty()) else { return Ok(false) };
            let (addr, off, _) = self.address(&raw.args[0])?;
            let kind = MbarKind::CpAsyncArrive { noinc };
            let none = None;
            let x = Mbar { kind, space, d: None, dp: None, addr, off, count: none, orders: true };
            self.emit(Op::Mbar(Box::new(x)));
            return Ok(true);
        }
        let cg = m.take("cg");
        if !cg && !m.take("ca") {
            return Ok(false);
        }
        let hint = m.take("L2::cache_hint");
        m.rest.retain(|r| !r.starts_with("L2::"));
        if !(m.take("shared") || m.take("shared::cta")) || !m.take("global") || !m.rest.is_empty() {
            return Ok(false);
        }
        self.want(raw, 3..=5)?;
        let args = &raw.args[..raw.args.len() - hint as usize];
        self.want(raw, 3..=5)?;
        let Some(size) = args.get(2).and_then(literal).filter(|s| matches!(s, 4 | 8 | 16) && (!cg || *s == 16)) else {
            return self.err("cp.async copies 4, 8 or 16 bytes (.cg: 16)");
        };
        let (dst, dst_off, _) = self.address(&args[0])?;
        let (src, src_off, _) = self.address(&args[1])?;
        let (mut src_size, mut ignore) = (None, None);
        for a in &args[3..] {
            match a {
                Arg::Not(_) => ignore = Some(self.pred(a)?),
                Arg::Name(n, 0) if matches!(self.lookup(n), Some((Sym::Pred(_), _))) => ignore = Some(self.pred(a)?),
                _ => src_size = Some(self.src(a, Ty::U32)?),
            }
        }
        let c = CpAsync {
            dst,
            dst_off,
            dst_space: Space::Shared,
            src,
            src_off,
            src_space: Space::Global,
            size,
            src_size,
            ignore,
        };
        self.emit(Op::CpAsync(Box::new(c)));
        Ok(true)
    }

    fn bulk(&mut self, reduce: bool, m: &mut Mods, raw: &Raw) -> Result<bool> {
        if m.take("commit_group") {
            self.emit(Op::BulkCommit);
            return Ok(m.rest.is_empty());
        }
        if m.take("wait_group") {
            self.want(raw, 1..=1)?;
            let Some(n) = literal(&raw.args[0]) else { return self.err("wait_group needs a literal") };
            // Both forms complete here: a copy whose source was read is written at once.
            m.take("read");
            self.emit(Op::BulkWait(n));
            return Ok(m.rest.is_empty());
        }
        if m.take("prefetch") {
            self.emit(Op::Nop);
            return Ok(true);
        }
        let tensor = m.take("tensor");
        let dims = m.take_any(&["1d", "2d", "3d", "4d", "5d"]).and_then(|d| d[..1].parse::<usize>().ok());
        if tensor != dims.is_some() {
            return Ok(false);
        }
        m.take("tile");
        let hint = m.take("L2::cache_hint");
        let multicast = m.take("multicast::cluster");
        let to_bar = m.take("mbarrier::complete_tx::bytes");
        let group = m.take("bulk_group");
        let cluster = m.take("shared::cluster");
        let global = m.take("global");
        let cta = m.take("shared::cta");
        let red = if reduce {
            let Some(op) = m.take_any(&["add", "min", "max", "inc", "dec", "and", "or", "xor"]) else {
                return Ok(false);
            };
            m.take("noftz");
            Some(match op {
                "add" => RedOp::Add,
                "min" => RedOp::Min,
                "max" => RedOp::Max,
                "inc" => RedOp::Inc,
                "dec" => RedOp::Dec,
                "and" => RedOp::And,
                "or" => RedOp::Or,
                _ => RedOp::Xor,
            })
        } else {
            None
        };
        if !m.rest.is_empty() || to_bar == group {
            return Ok(false);
        }
        // `shared::cta` as a destination of global data is the newer spelling of one's own shared memory.
        let kind = match (to_bar, cluster, global, cta) {
            (true, true, true, false) | (true, false, true, true) => BulkKind::GlobalToShared,
            (true, true, false, true) => BulkKind::SharedToCluster,
            (false, false, true, true) => BulkKind::SharedToGlobal,
            _ => return Ok(false),
        };
        if (red.is_some() && kind != BulkKind::SharedToGlobal) || (tensor && kind == BulkKind::SharedToCluster) {
            return Ok(false);
        }
        let n = (if tensor { 2 } else { 3 }) + to_bar as usize + multicast as usize + hint as usize;
        self.want(raw, n..=n)?;
        let mut b = Bulk {
            kind,
            dst: (0, 0),
            src: (0, 0),
            map: None,
            coords: Box::new([]),
            size: None,
            mbar: None,
            multicast: None,
            red,
            red_ty: m.ty(),
        };
        let mut at = 2;
        if tensor {
            let (map, other) = if kind == BulkKind::GlobalToShared { (1, 0) } else { (0, 1) };
            let Arg::Mem(parts) = &raw.args[map] else { return self.err("expected [map, {coordinates}]") };
            let [p, Arg::Vec(c)] = parts.as_slice() else { return self.err("expected [map, {coordinates}]") };
            if Some(c.len()) != dims {
                return self.err("number of coordinates differs from the dimensions");
            }
            let (r, o, _) = self.address(&Arg::Mem(vec![p.clone()]))?;
            b.map = Some((r, o));
            b.coords = c.iter().map(|x| self.src(x, Ty::S32)).collect::<Result<_>>()?;
            let (r, o, _) = self.address(&raw.args[other])?;
            if other == 0 {
                b.dst = (r, o);
                b.src = (r, 0);
            } else {
                b.src = (r, o);
                b.dst = (r, 0);
            }
        } else {
            let (r, o, _) = self.address(&raw.args[0])?;
            b.dst = (r, o);
            let (r, o, _) = self.address(&raw.args[1])?;
            b.src = (r, o);
            b.size = Some(self.src(&raw.args[2], Ty::U32)?);
            at = 3;
        }
        if to_bar {
            let (r, o, _) = self.address(&raw.args[at])?;
            b.mbar = Some((r, o));
            at += 1;
        }
        if multicast {
            b.multicast = Some(self.src(&raw.args[at], Ty::U16)?);
        }
        if b.red.is_some() {
            self.coherent = true;
        }
        self.emit(Op::Bulk(Box::new(b)));
        Ok(true)
    }
}
