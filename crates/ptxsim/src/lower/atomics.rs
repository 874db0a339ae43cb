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
        let n = 1 + ret as usize + 1 + (kind == K::Cas) as usize;
        self.want(raw, n..=n)?;
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
}
