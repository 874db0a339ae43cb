//! Arithmetic opcodes: from an opcode and its modifiers to a function over 32 lanes.
//!
//! Each table takes the modifiers it understands out of [`Mods`]; what is left over is a modifier that is not
//! implemented, and the instruction is refused by name.

mod cmp;
mod cvt;
mod cvt8;
mod float;
mod half;
mod int;
mod unary;

pub(crate) use cmp::compare;
pub(crate) use cvt::convert;
pub(crate) use int::bfi;

use crate::ir::Alu;
use crate::num::Rnd;
use crate::types::Ty;

/// The modifiers of one opcode, consumed as they are understood.
pub(crate) struct Mods<'a> {
    /// The opcode as written.
    pub op: &'a str,
    pub base: &'a str,
    pub rest: Vec<&'a str>,
    pub tys: Vec<Ty>,
}

impl<'a> Mods<'a> {
    pub fn new(op: &'a str) -> Self {
        let mut it = op.split('.');
        let base = it.next().unwrap_or("");
        let (mut rest, mut tys) = (Vec::new(), Vec::new());
        for m in it {
            match Ty::parse(m) {
                Some(t) => tys.push(t),
                None => rest.push(m),
            }
        }
        Mods { op, base, rest, tys }
    }
    /// Removes a modifier; true if it was there.
    pub fn take(&mut self, m: &str) -> bool {
        match self.rest.iter().position(|x| *x == m) {
            Some(i) => {
                self.rest.remove(i);
                true
            }
            None => false,
        }
    }
    /// Removes whichever of the modifiers is there.
    pub fn take_any(&mut self, ms: &[&'a str]) -> Option<&'a str> {
        ms.iter().copied().find(|m| self.take(m))
    }
    /// The rounding mode of a floating-point result.
    pub fn rounding(&mut self) -> Option<Rnd> {
        Some(match self.take_any(&["rn", "rz", "rm", "rp", "rna"])? {
            "rn" => Rnd::Ne,
            "rz" => Rnd::Z,
            "rm" => Rnd::M,
            "rp" => Rnd::P,
            _ => Rnd::Na,
        })
    }
    pub fn ty(&self) -> Option<Ty> {
        self.tys.last().copied()
    }
}

/// The lane function of a plain arithmetic opcode.
pub(crate) fn lookup(m: &mut Mods) -> Option<Alu> {
    let Some(ty) = m.ty() else { return int::packed16(m) };
    match ty {
        Ty::F32 | Ty::F64 => float::lookup(m, ty).or_else(|| unary::lookup(m, ty)),
        Ty::F16 | Ty::F16x2 | Ty::BF16 | Ty::BF16x2 => half::lookup(m, ty),
        _ => int::lookup(m, ty),
    }
}

/// A one-operand lane function.
macro_rules! f1 {
    (|$a:ident| $e:expr) => {{
        fn lane_loop(a: &crate::ir::Lanes, d: &mut crate::ir::Lanes) {
            for i in 0..32 {
                let $a = a[i];
                d[i] = $e;
            }
        }
        crate::ir::Alu::One(lane_loop)
    }};
}
/// A two-operand lane function.
macro_rules! f2 {
    (|$a:ident, $b:ident| $e:expr) => {{
        fn lane_loop(a: &crate::ir::Lanes, b: &crate::ir::Lanes, d: &mut crate::ir::Lanes) {
            for i in 0..32 {
                let ($a, $b) = (a[i], b[i]);
                d[i] = $e;
            }
        }
        crate::ir::Alu::Two(lane_loop)
    }};
}
/// A three-operand lane function.
macro_rules! f3 {
    (|$a:ident, $b:ident, $c:ident| $e:expr) => {{
        fn lane_loop(a: &crate::ir::Lanes, b: &crate::ir::Lanes, c: &crate::ir::Lanes, d: &mut crate::ir::Lanes) {
            for i in 0..32 {
                let ($a, $b, $c) = (a[i], b[i], c[i]);
                d[i] = $e;
            }
        }
        crate::ir::Alu::Three(lane_loop)
    }};
}
pub(crate) use {f1, f2, f3};
