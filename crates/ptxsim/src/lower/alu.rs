//! Decoding of everything without memory: moves, arithmetic, comparisons, selections, predicates.

use super::Lower;
use crate::alu::{Mods, compare, convert, f2, lookup};
use crate::ast::{Arg, Raw};
use crate::error::Result;
use crate::ir::*;
use crate::types::Ty;

const COMPARISONS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

impl Lower<'_> {
    pub(super) fn arithmetic(&mut self, base: &str, raw: &Raw) -> Result<bool> {
        let mut m = Mods::new(&raw.op);
        match base {
            "mov" => return self.mov(&mut m, raw),
            "setp" => return self.setp(&mut m, raw),
            "set" => return self.set(&mut m, raw),
            "selp" => return self.selp(&m, raw),
            "slct" => return self.slct(&mut m, raw),
            "lop3" => return self.lop3(&mut m, raw),
            "testp" => return self.testp(&mut m, raw),
            "bfi" => return self.bfi(&m, raw),
            "addc" | "subc" | "madc" => return self.carry(&mut m, raw),
            "add" | "sub" | "mad" if m.rest.contains(&"cc") => return self.carry(&mut m, raw),
            "and" | "or" | "xor" | "not" if m.ty() == Some(Ty::Pred) => return self.predicates(base, &m, raw),
            _ => {}
        }
        let alu = if base == "cvt" { convert(&mut m) } else { lookup(&mut m) };
        let Some(alu) = alu.filter(|_| m.rest.is_empty()) else { return Ok(false) };
        // The operand types: a wide or mixed opcode names the types of its sources first or last, as the table shows.
        let ty = m.ty().unwrap_or(Ty::B32);
        self.apply(alu, raw, ty)?;
        Ok(true)
    }

    fn apply(&mut self, alu: Alu, raw: &Raw, ty: Ty) -> Result<()> {
        let n = match alu {
            Alu::One(_) => 2,
            Alu::Two(_) => 3,
            Alu::Three(_) => 4,
        };
        self.want(raw, n..=n)?;
        // Shift amounts, positions and wide addends have types of their own; a literal is masked only to 64 bits then.
        let loose = if matches!(raw.op.split('.').next(), Some("shl" | "shr" | "bfe" | "mad" | "shf" | "prmt")) {
            Ty::B64
        } else {
            ty
        };
        let d = self.dst(&raw.args[0])?;
        let a = self.src(&raw.args[1], ty)?;
        let op = match alu {
            Alu::One(f) => Op::A1(f, d, a),
            Alu::Two(f) => Op::A2(f, d, a, self.src(&raw.args[2], loose)?),
            Alu::Three(f) => {
                let b = self.src(&raw.args[2], loose)?;
                Op::A3(f, d, a, b, self.src(&raw.args[3], loose)?)
            }
        };
        self.emit(op);
        Ok(())
    }

    fn mov(&mut self, m: &mut Mods, raw: &Raw) -> Result<bool> {
        self.want(raw, 2..=2)?;
        let Some(ty) = m.ty().filter(|_| m.rest.is_empty() && m.tys.len() == 1) else { return Ok(false) };
        let op = match (&raw.args[0], &raw.args[1]) {
            _ if ty == Ty::Pred => {
                let (d, a) = (self.pred_dst(&raw.args[0])?, self.pred(&raw.args[1])?);
                Op::Pred2 { op: BoolOp::And, d, a, b: (P_TRUE, false) }
            }
            (Arg::Vec(v), s) => {
                let bits = ty.bits() / v.len().max(1) as u32;
                if ty == Ty::B128 || !matches!(v.len(), 2 | 4) || bits < 8 {
                    return Ok(false);
                }
                let a = self.src(s, ty)?;
                Op::Unpack { d: self.vec_dst(&raw.args[0])?, a, bits }
            }
            (d, Arg::Vec(v)) => {
                let bits = ty.bits() / v.len().max(1) as u32;
                if ty == Ty::B128 || !matches!(v.len(), 2 | 4) || bits < 8 {
                    return Ok(false);
                }
                let s = self.vec_src(&raw.args[1], Ty::B64)?;
                Op::Pack { d: self.dst(d)?, s, bits }
            }
            (d, Arg::Name(n, 0)) if super::operand::special(n).is_some() && self.lookup(n).is_none() => {
                let Some(s) = super::operand::special(n) else { return Ok(false) };
                Op::Special { d: self.dst(d)?, s }
            }
            (d, s) => {
                if ty == Ty::B128 {
                    return Ok(false);
                }
                let a = self.src(s, ty)?;
                Op::Mov(self.dst(d)?, a)
            }
        };
        self.emit(op);
        Ok(true)
    }

    /// Comparison and combining operator of `setp` and `set`.
    fn comparison<'m>(&mut self, m: &mut Mods<'m>) -> Option<(&'m str, BoolOp)> {
        let op = m.take_any(&COMPARISONS)?;
        let comb = match m.take_any(&["and", "or", "xor"]) {
            Some("or") => BoolOp::Or,
            Some("xor") => BoolOp::Xor,
            _ => BoolOp::And,
        };
        Some((op, comb))
    }

    fn setp(&mut self, m: &mut Mods, raw: &Raw) -> Result<bool> {
        self.want(raw, 3..=4)?;
        let (Some((op, comb)), Some(ty)) = (self.comparison(m), m.ty()) else { return Ok(false) };
        let ftz = m.take("ftz");
        let Some(f) = compare(op, ty, ftz).filter(|_| m.rest.is_empty() && m.tys.len() == 1) else {
            return Ok(false);
        };
        let (d, e) = match &raw.args[0] {
            Arg::Pair(d, e) => (self.pred_dst(d)?, Some(self.pred_dst(e)?)),
            d => (self.pred_dst(d)?, None),
        };
        let (a, b) = (self.src(&raw.args[1], ty)?, self.src(&raw.args[2], ty)?);
        let c = raw.args.get(3).map(|c| self.pred(c)).transpose()?;
        if matches!(ty, Ty::F16x2 | Ty::BF16x2) {
            let Some(hi) = e else { return self.err("setp on pairs needs two predicates") };
            self.emit(Op::Setp2 { f, lo: d, hi, a, b, c, comb });
        } else {
            self.emit(Op::Setp { f, d, e, a, b, c, comb });
        }
        Ok(true)
    }

    fn set(&mut self, m: &mut Mods, raw: &Raw) -> Result<bool> {
        self.want(raw, 3..=4)?;
        let (Some((op, comb)), [dt, st]) = (self.comparison(m), m.tys.as_slice()) else { return Ok(false) };
        let (dt, st) = (*dt, *st);
        let ftz = m.take("ftz");
        let Some(f) = compare(op, st, ftz).filter(|_| m.rest.is_empty()) else { return Ok(false) };
        let one = match dt {
            Ty::F32 => 0x3f80_0000,
            Ty::F16 | Ty::F16x2 => 0x3c00,
            Ty::BF16 | Ty::BF16x2 => 0x3f80,
            Ty::U16 | Ty::S16 => 0xffff,
            Ty::U32 | Ty::S32 => 0xffff_ffff,
            _ => return Ok(false),
        };
        let (a, b) = (self.src(&raw.args[1], st)?, self.src(&raw.args[2], st)?);
        let c = raw.args.get(3).map(|c| self.pred(c)).transpose()?;
        let d = self.dst(&raw.args[0])?;
        if matches!(st, Ty::F16x2 | Ty::BF16x2) {
            let one = if matches!(dt, Ty::U32 | Ty::S32) { 0xffff } else { one };
            if c.is_some() {
                return Ok(false);
            }
            self.emit(Op::Set2 { f, d, a, b, one });
        } else {
            self.emit(Op::SetVal { f, d, a, b, c, comb, one });
        }
        Ok(true)
    }

    fn selp(&mut self, m: &Mods, raw: &Raw) -> Result<bool> {
        self.want(raw, 4..=4)?;
        let Some(ty) = m.ty().filter(|_| m.rest.is_empty() && m.tys.len() == 1) else { return Ok(false) };
        let (a, b) = (self.src(&raw.args[1], ty)?, self.src(&raw.args[2], ty)?);
        let (p, neg) = self.pred(&raw.args[3])?;
        let d = self.dst(&raw.args[0])?;
        self.emit(Op::Selp { d, a, b, p, neg });
        Ok(true)
    }

    /// `slct.t.s32 d, a, b, c`: a if c ≥ 0, else b.
    fn slct(&mut self, m: &mut Mods, raw: &Raw) -> Result<bool> {
        self.want(raw, 4..=4)?;
        let ftz = m.take("ftz");
        let [ty, ct] = *m.tys.as_slice() else { return Ok(false) };
        if !m.rest.is_empty() || !matches!(ct, Ty::S32 | Ty::F32) {
            return Ok(false);
        }
        let Some(f) = compare("ge", ct, ftz) else { return Ok(false) };
        let (a, b, c) = (self.src(&raw.args[1], ty)?, self.src(&raw.args[2], ty)?, self.src(&raw.args[3], ct)?);
        let zero = self.constant(Const::Int(0));
        let d = self.dst(&raw.args[0])?;
        let p = self.pred_dst(&Arg::Sink)?;
        self.emit(Op::Setp { f, d: p, e: None, a: c, b: zero, c: None, comb: BoolOp::And });
        self.emit(Op::Selp { d, a, b, p, neg: false });
        Ok(true)
    }

    fn lop3(&mut self, m: &mut Mods, raw: &Raw) -> Result<bool> {
        let bool_op = m.take_any(&["and", "or"]);
        if m.ty() != Some(Ty::B32) || !m.rest.is_empty() {
            return Ok(false);
        }
        self.want(raw, if bool_op.is_some() { 6..=6 } else { 5..=5 })?;
        let Arg::Int(lut) = raw.args[4] else { return self.err("lop3 needs a literal table") };
        let s = [self.src(&raw.args[1], Ty::B32)?, self.src(&raw.args[2], Ty::B32)?, self.src(&raw.args[3], Ty::B32)?];
        let (d, p) = match (&raw.args[0], bool_op) {
            (Arg::Pair(d, p), Some(b)) => {
                let q = self.pred(&raw.args[5])?;
                let op = if b == "or" { BoolOp::Or } else { BoolOp::And };
                (self.dst(d)?, Some((self.pred_dst(p)?, op, q.0, q.1)))
            }
            (d, None) => (self.dst(d)?, None),
            _ => return self.err("lop3 with a boolean operator needs d|p"),
        };
        self.emit(Op::Lop3 { d, p, s, lut: lut as u8 });
        Ok(true)
    }

    fn testp(&mut self, m: &mut Mods, raw: &Raw) -> Result<bool> {
        self.want(raw, 2..=2)?;
        let Some(ty @ (Ty::F32 | Ty::F64)) = m.ty() else { return Ok(false) };
        macro_rules! test {
            (|$x:ident| $e:expr) => {{
                fn single(a: &Lanes, _: &Lanes) -> u32 {
                    (0..32).fold(0, |m, i| {
                        let $x = f32::from_bits(a[i] as u32);
                        m | (($e) as u32) << i
                    })
                }
                fn double(a: &Lanes, _: &Lanes) -> u32 {
                    (0..32).fold(0, |m, i| {
                        let $x = f64::from_bits(a[i]);
                        m | (($e) as u32) << i
                    })
                }
                if ty == Ty::F32 { single as FCmp } else { double as FCmp }
            }};
        }
        let f = match m.take_any(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"]) {
            Some("finite") => test!(|x| x.is_finite()),
            Some("infinite") => test!(|x| x.is_infinite()),
            Some("number") => test!(|x| !x.is_nan()),
            Some("notanumber") => test!(|x| x.is_nan()),
            Some("normal") => test!(|x| x.is_normal()),
            Some("subnormal") => test!(|x| x.is_subnormal()),
            _ => return Ok(false),
        };
        if !m.rest.is_empty() {
            return Ok(false);
        }
        let a = self.src(&raw.args[1], ty)?;
        let d = self.pred_dst(&raw.args[0])?;
        self.emit(Op::Setp { f, d, e: None, a, b: a, c: None, comb: BoolOp::And });
        Ok(true)
    }

    /// `bfi.b32 f, a, b, pos, len` in two steps: position and length share one operand.
    fn bfi(&mut self, m: &Mods, raw: &Raw) -> Result<bool> {
        self.want(raw, 5..=5)?;
        if !m.rest.is_empty() {
            return Ok(false);
        }
        let f: F3 = match m.ty() {
            Some(Ty::B32) => |a, b, c, d| {
                for i in 0..32 {
                    d[i] = crate::alu::bfi(a[i], b[i] as u32 as u64, c[i], c[i] >> 8, 32);
                }
            },
            Some(Ty::B64) => |a, b, c, d| {
                for i in 0..32 {
                    d[i] = crate::alu::bfi(a[i], b[i], c[i], c[i] >> 8, 64);
                }
            },
            _ => return Ok(false),
        };
        let ty = Ty::B64;
        let (a, b) = (self.src(&raw.args[1], ty)?, self.src(&raw.args[2], ty)?);
        let (pos, len) = (self.src(&raw.args[3], Ty::U32)?, self.src(&raw.args[4], Ty::U32)?);
        let d = self.dst(&raw.args[0])?;
        let both = self.temp();
        let Alu::Two(join) = f2!(|p, l| p & 255 | (l & 255) << 8) else { return Ok(false) };
        self.emit(Op::A2(join, both, pos, len));
        self.emit(Op::A3(f, d, a, b, both));
        Ok(true)
    }

    fn carry(&mut self, m: &mut Mods, raw: &Raw) -> Result<bool> {
        let Some(ty) = m.ty() else { return Ok(false) };
        let cout = m.take("cc");
        let (kind, cin) = match m.base {
            "add" => (CarryKind::Add, false),
            "addc" => (CarryKind::Add, true),
            "sub" => (CarryKind::Sub, false),
            "subc" => (CarryKind::Sub, true),
            b => match m.take_any(&["lo", "hi"]) {
                Some("lo") => (CarryKind::MadLo, b == "madc"),
                Some(_) => (CarryKind::MadHi, b == "madc"),
                None => return Ok(false),
            },
        };
        if !m.rest.is_empty() || !matches!(ty, Ty::U32 | Ty::S32 | Ty::B32 | Ty::U64 | Ty::S64 | Ty::B64) {
            return Ok(false);
        }
        let n = if matches!(kind, CarryKind::Add | CarryKind::Sub) { 3 } else { 4 };
        self.want(raw, n..=n)?;
        let a = self.src(&raw.args[1], ty)?;
        let b = self.src(&raw.args[2], ty)?;
        let c = if n == 4 { self.src(&raw.args[3], ty)? } else { a };
        let d = self.dst(&raw.args[0])?;
        self.emit(Op::Carry { kind, wide: ty.size() == 8, signed: ty.signed(), d, s: [a, b, c], cin, cout });
        Ok(true)
    }

    fn predicates(&mut self, base: &str, m: &Mods, raw: &Raw) -> Result<bool> {
        if !m.rest.is_empty() {
            return Ok(false);
        }
        self.want(raw, if base == "not" { 2..=2 } else { 3..=3 })?;
        let d = self.pred_dst(&raw.args[0])?;
        let a = self.pred(&raw.args[1])?;
        let op = match base {
            "not" => Op::Pred2 { op: BoolOp::And, d, a: (a.0, !a.1), b: (P_TRUE, false) },
            _ => {
                let b = self.pred(&raw.args[2])?;
                let op = match base {
                    "and" => BoolOp::And,
                    "or" => BoolOp::Or,
                    _ => BoolOp::Xor,
                };
                Op::Pred2 { op, d, a, b }
            }
        };
        self.emit(op);
        Ok(true)
    }
}
