//! Decoding of `atom` and `red`.

use super::Lower;
use super::memory::{order, space};
use crate::alu::Mods;
use crate::ast::Raw;
use crate::error::Result;
use crate::ir::*;
use crate::types::{Space, Ty};

impl Lower<'_> {
    pub(super) fn atomic(&mut self, base: &str, raw: &Raw) -> Result<bool> {
        let mut m = Mods::new(&raw.op);
        let ret = base == "atom";
        let order = Order { strong: true, ..order(&mut m) };
        if m.take("async") {
            return self.async_update(order, &mut m, raw);
        }
        let hint = m.take("L2::cache_hint") as usize;
        let vec = match m.take_any(&["v2", "v4", "v8"]) {
            Some(v) => v[1..].parse().unwrap_or(1),
            None => 1,
        };
        let Some(space) = space(&mut m) else { return Ok(false) };
        if matches!(space, Space::Param | Space::Local | Space::Const) {
            return Ok(false);
        }
        m.take("noftz");
        let Some(op) = m.take_any(&["add", "and", "or", "xor", "exch", "cas", "inc", "dec", "min", "max"]) else {
            return Ok(false);
        };
        let Some(ty) = m.ty().filter(|_| m.rest.is_empty() && m.tys.len() == 1) else { return Ok(false) };
        use AtomKind as K;
        let kind = match (op, ty) {
            ("add", Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64) => K::Add,
            ("add", Ty::F32) => K::AddF32,
            ("add", Ty::F64) => K::AddF64,
            ("add", Ty::F16) => K::AddF16,
            ("add", Ty::F16x2) => K::AddF16x2,
            ("add", Ty::BF16) => K::AddBf16,
            ("add", Ty::BF16x2) => K::AddBf16x2,
            ("and", Ty::B32 | Ty::B64) => K::And,
            ("or", Ty::B32 | Ty::B64) => K::Or,
            ("xor", Ty::B32 | Ty::B64) => K::Xor,
            ("exch", Ty::B32 | Ty::B64) if ret => K::Exch,
            ("cas", Ty::B16 | Ty::B32 | Ty::B64) if ret => K::Cas,
            ("inc", Ty::U32) => K::Inc,
            ("dec", Ty::U32) => K::Dec,
            ("min", Ty::S32 | Ty::S64) => K::MinS,
            ("max", Ty::S32 | Ty::S64) => K::MaxS,
            ("min", Ty::U32 | Ty::U64) => K::MinU,
            ("max", Ty::U32 | Ty::U64) => K::MaxU,
            _ => return Ok(false),
        };
        let n = 1 + ret as usize + 1 + (kind == K::Cas) as usize + hint;
        self.want(raw, n..=n)?;
        if vec > 1 {
            return self.vector_atomic(vec, kind, space, ty, order, raw);
        }
        let at = ret as usize;
        let (addr, off, _) = self.address(&raw.args[at])?;
        let b = self.src(&raw.args[at + 1], ty)?;
        let c = if kind == K::Cas { self.src(&raw.args[at + 2], ty)? } else { b };
        let d = if ret { Some(self.dst(&raw.args[0])?) } else { None };
        if space != Space::Shared {
            self.coherent = true;
        }
        self.emit(Op::Atom(Box::new(Atom { kind, space, size: ty.size(), d, addr, off, b, c, order })));
        Ok(true)
    }

    /// Vector forms are atomic element by element.
    fn vector_atomic(
        &mut self,
        vec: u32,
        kind: AtomKind,
        space: Space,
        ty: Ty,
        order: Order,
        raw: &Raw,
    ) -> Result<bool> {
        use AtomKind as K;
        let ret = raw.op.starts_with("atom");
        let at = ret as usize;
        let bytes = vec * ty.size();
        let adds = matches!(kind, K::AddF32 | K::AddF16 | K::AddF16x2 | K::AddBf16 | K::AddBf16x2);
        if !adds || space == Space::Shared || bytes > 16 {
            return Ok(false);
        }
        let (addr, off, _) = self.address(&raw.args[at])?;
        let b = self.vec_src(&raw.args[at + 1], ty)?;
        let d = if ret { Some(self.vec_dst(&raw.args[0])?) } else { None };
        if b.len() != vec as usize || d.as_ref().is_some_and(|d| d.len() != vec as usize) {
            return self.err(format!("{} with {} registers", raw.op, b.len()));
        }
        self.coherent = true;
        for (i, b) in b.iter().enumerate() {
            let d = d.as_ref().map(|d| d[i]);
            let off = off + (i as u32 * ty.size()) as i64;
            self.emit(Op::Atom(Box::new(Atom { kind, space, size: ty.size(), d, addr, off, b: *b, c: *b, order })));
        }
        Ok(true)
    }

    /// `st.async` and `red.async`: they land when the mbarrier beside their destination is waited for.
    pub(super) fn async_update(&mut self, _order: Order, m: &mut Mods, raw: &Raw) -> Result<bool> {
        m.take("weak");
        let place = m.take("shared::cluster") && m.take("mbarrier::complete_tx::bytes");
        let vec = match m.take_any(&["v2", "v4"]) {
            Some("v2") => 2,
            Some(_) => 4,
            None => 1,
        };
        let op = m.take_any(&["add", "and", "or", "xor", "inc", "dec", "min", "max"]);
        let Some(ty) = m.ty().filter(|_| place && m.rest.is_empty() && m.tys.len() == 1) else { return Ok(false) };
        use AtomKind as K;
        let red = match (m.base, op, ty) {
            ("st", None, t) if t.size() >= 4 && t != Ty::B128 => None,
            ("red", Some("add"), Ty::U32 | Ty::S32 | Ty::U64) => Some(K::Add),
            ("red", Some("inc"), Ty::U32) => Some(K::Inc),
            ("red", Some("dec"), Ty::U32) => Some(K::Dec),
            ("red", Some("min"), Ty::U32) => Some(K::MinU),
            ("red", Some("max"), Ty::U32) => Some(K::MaxU),
            ("red", Some("min"), Ty::S32) => Some(K::MinS),
            ("red", Some("max"), Ty::S32) => Some(K::MaxS),
            ("red", Some("and"), Ty::B32) => Some(K::And),
            ("red", Some("or"), Ty::B32) => Some(K::Or),
            ("red", Some("xor"), Ty::B32) => Some(K::Xor),
            _ => return Ok(false),
        };
        self.want(raw, 3..=3)?;
        let (dst, dst_off, _) = self.address(&raw.args[0])?;
        let vals = self.vec_src(&raw.args[1], ty)?;
        let (bar, bar_off, _) = self.address(&raw.args[2])?;
        if vals.len() != vec || red.is_some() && vec > 1 {
            return self.err(format!("{} with {} registers", raw.op, vals.len()));
        }
        let x = AsyncUpdate { dst: (dst, dst_off), vals, size: ty.size(), red, mbar: (bar, bar_off) };
        self.emit(Op::Async(Box::new(x)));
        Ok(true)
    }
}
