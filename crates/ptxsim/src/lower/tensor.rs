//! Decoding of matrix loads and tensor-core opcodes.

use super::Lower;
use super::memory::space;
use crate::alu::Mods;
use crate::ast::{Arg, Raw};
use crate::error::Result;
use crate::ir::*;
use crate::types::{Space, Ty};

pub(super) fn literal(a: &Arg) -> Option<u32> {
    match a {
        Arg::Int(v) => u32::try_from(*v).ok(),
        _ => None,
    }
}

/// Reads `m16n8k16`.
fn shape(m: &mut Mods) -> Option<(u32, u32, u32)> {
    let i = m.rest.iter().position(|s| s.starts_with('m') && s.contains('n') && s.contains('k'))?;
    let s = m.rest.remove(i);
    let (mm, rest) = s[1..].split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some((mm.parse().ok()?, n.parse().ok()?, k.parse().ok()?))
}

/// The types of an opcode in their order, those of matrix elements too, which are no types of registers.
fn element_types(op: &str) -> Vec<&str> {
    let f8 = |w: &&str| matches!(*w, "e4m3" | "e5m2" | "s4" | "u4" | "b1");
    op.split('.').skip(1).filter(|w| Ty::parse(w).is_some() || f8(w)).collect()
}

fn mat(t: &str) -> Option<MatTy> {
    Some(match t {
        "f16" => MatTy::F16,
        "bf16" => MatTy::Bf16,
        "tf32" => MatTy::Tf32,
        "s8" => MatTy::S8,
        "u8" => MatTy::U8,
        "f64" => MatTy::F64,
        "e4m3" => MatTy::E4m3,
        "e5m2" => MatTy::E5m2,
        "s4" => MatTy::S4,
        "u4" => MatTy::U4,
        "b1" => MatTy::B1,
        _ => return None,
    })
}

fn acc(t: &str) -> Option<AccTy> {
    Some(match t {
        "f32" => AccTy::F32,
        "f16" => AccTy::F16,
        "s32" => AccTy::S32,
        "f64" => AccTy::F64,
        _ => return None,
    })
}

/// Integers of one size go together in any combination of signs, 8-bit floats in any combination of formats.
fn agree(a: MatTy, b: MatTy) -> bool {
    a == b || (a.is_int() || a.is_f8()) && a.is_int() == b.is_int() && a.bits() == b.bits()
}

/// Registers a lane holds for `elems` elements of a 32-lane fragment.
fn frag_regs(elems: u32, bits: u32) -> usize {
    (elems / 32 * bits).div_ceil(bits.max(32)).max(1) as usize
}

impl Lower<'_> {
    pub(super) fn tensor(&mut self, base: &str, raw: &Raw) -> Result<bool> {
        let mut m = Mods::new(&raw.op);
        match base {
            "cp" => self.copy(&mut m, raw),
            "ldmatrix" | "stmatrix" => self.matrix(base == "stmatrix", &mut m, raw),
            "movmatrix" => {
                self.want(raw, 2..=2)?;
                for x in ["sync", "aligned", "m8n8", "trans"] {
                    if !m.take(x) {
                        return Ok(false);
                    }
                }
                if m.ty() != Some(Ty::B16) || !m.rest.is_empty() {
                    return Ok(false);
                }
                let (d, a) = (self.dst(&raw.args[0])?, self.src(&raw.args[1], Ty::B32)?);
                self.emit(Op::MovMatrix { d, a });
                Ok(true)
            }
            "mma" => self.mma(&mut m, raw),
            "wmma" => self.wmma(&mut m, raw),
            "wgmma" => self.wgmma(&mut m, raw),
            _ => Ok(false),
        }
    }

    fn matrix(&mut self, store: bool, m: &mut Mods, raw: &Raw) -> Result<bool> {
        self.want(raw, 2..=2)?;
        if !m.take("sync") || !m.take("aligned") || !m.take("m8n8") || m.ty() != Some(Ty::B16) {
            return Ok(false);
        }
        let num = match m.take_any(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            Some(_) => 4,
            None => return Ok(false),
        };
        let trans = m.take("trans");
        let Some(space) = space(m).filter(|s| matches!(s, Space::Shared | Space::Generic) && m.rest.is_empty()) else {
            return Ok(false);
        };
        let (mem, val) = if store { (0, 1) } else { (1, 0) };
        let (addr, off, _) = self.address(&raw.args[mem])?;
        let regs = if store { self.vec_src(&raw.args[val], Ty::B32)? } else { self.vec_dst(&raw.args[val])? };
        if regs.len() != num as usize {
            return self.err(format!("{} with {} registers", raw.op, regs.len()));
        }
        self.emit(Op::Matrix(Box::new(Matrix { num, trans, store, addr, off, space, regs })));
        Ok(true)
    }

    fn mma(&mut self, m: &mut Mods, raw: &Raw) -> Result<bool> {
        if !m.take("sync") || !m.take("aligned") || !m.take("row") || !m.take("col") {
            return Ok(false);
        }
        let Some((mm, n, k)) = shape(m) else { return Ok(false) };
        let sat = m.take("satfinite");
        let tys = element_types(&raw.op);
        m.rest.retain(|w| !tys.contains(w));
        let [dt, at, bt, ct] = *tys.as_slice() else { return Ok(false) };
        let (Some(a_ty), Some(b_ty), Some(dt), Some(ct)) = (mat(at), mat(bt), acc(dt), acc(ct)) else {
            return Ok(false);
        };
        let and = m.take("and");
        if a_ty == MatTy::B1 && (!(and || m.take("xor")) || !m.take("popc")) {
            return Ok(false);
        }
        if a_ty == MatTy::F64 {
            m.take("rn");
        }
        let float = |t: AccTy| matches!(t, AccTy::F32 | AccTy::F16);
        let same = |t: AccTy| dt == t && ct == t;
        let fits = match (mm, n, k, a_ty) {
            (16, 8, 8 | 16, MatTy::F16) => float(dt) && float(ct),
            (16, 8, 8 | 16, MatTy::Bf16) | (16, 8, 4 | 8, MatTy::Tf32) => same(AccTy::F32),
            (16, 8, 16 | 32, MatTy::E4m3 | MatTy::E5m2) => float(dt) && dt == ct,
            (8, 8, 16, MatTy::S8 | MatTy::U8) | (16, 8, 16 | 32, MatTy::S8 | MatTy::U8) => same(AccTy::S32),
            (8, 8, 32, MatTy::S4 | MatTy::U4) | (16, 8, 32 | 64, MatTy::S4 | MatTy::U4) => same(AccTy::S32),
            (8, 8, 128, MatTy::B1) | (16, 8, 128 | 256, MatTy::B1) => same(AccTy::S32),
            (8, 8, 4, MatTy::F64) | (16, 8, 4 | 8 | 16, MatTy::F64) => same(AccTy::F64),
            _ => false,
        };
        if !fits || !agree(a_ty, b_ty) || !m.rest.is_empty() || (sat && !a_ty.is_int()) {
            return Ok(false);
        }
        self.want(raw, 4..=4)?;
        let x = self.mma_operands(raw, (mm, n, k), a_ty, b_ty, dt, ct, sat, and, false)?;
        self.emit(Op::Mma(Box::new(x)));
        Ok(true)
    }

    #[allow(clippy::too_many_arguments)]
    fn mma_operands(
        &mut self,
        raw: &Raw,
        (m, n, k): (u32, u32, u32),
        a_ty: MatTy,
        b_ty: MatTy,
        acc: AccTy,
        c_acc: AccTy,
        sat: bool,
        and: bool,
        wmma: bool,
    ) -> Result<Mma> {
        let ty = if a_ty == MatTy::F64 { Ty::B64 } else { Ty::B32 };
        let d = self.vec_dst(&raw.args[0])?;
        let a = self.vec_src(&raw.args[1], ty)?;
        let b = self.vec_src(&raw.args[2], ty)?;
        let c = self.vec_src(&raw.args[3], ty)?;
        let bits = |t: AccTy| match t {
            AccTy::F16 => 16,
            AccTy::F64 => 64,
            _ => 32,
        };
        let rep = |x: usize| if wmma && a_ty == MatTy::F16 { x * wmma_copies(x) } else { x };
        let want = [
            frag_regs(m * n, bits(acc)),
            rep(frag_regs(m * k, a_ty.bits())),
            rep(frag_regs(n * k, b_ty.bits())),
            frag_regs(m * n, bits(c_acc)),
        ];
        let have = [d.len(), a.len(), b.len(), c.len()];
        if want != have {
            return self.err(format!("{} takes {want:?} registers, not {have:?}", raw.op));
        }
        Ok(Mma { m, n, k, a_ty, b_ty, acc, c_acc, sat, and, d, a, b, c, wmma })
    }

    /// `wmma.load`, `wmma.store`, `wmma.mma`. PTX leaves the layout of fragments open; ours is element `i` of the
    /// row-major tile (column-major for b) in lane `i % 32`, so loads and stores are plain loops.
    fn wmma(&mut self, m: &mut Mods, raw: &Raw) -> Result<bool> {
        let Some(op) = m.take_any(&["load", "store", "mma"]) else { return Ok(false) };
        if !m.take("sync") || !m.take("aligned") {
            return Ok(false);
        }
        let Some(sh @ (mm, n, k)) = shape(m) else { return Ok(false) };
        let tys = element_types(&raw.op);
        m.rest.retain(|w| !tys.contains(w));
        if op == "mma" {
            self.want(raw, 4..=4)?;
            // Layouts were settled when the fragments were loaded.
            for _ in 0..2 {
                m.take_any(&["row", "col"]);
            }
            let sat = m.take("satfinite");
            let and = m.take("and");
            let operands = match *tys.as_slice() {
                [d, c] => Some((MatTy::F16, MatTy::F16, acc(d), acc(c))),
                [d, a, b, c] => mat(a).zip(mat(b)).map(|(a, b)| (a, b, acc(d), acc(c))),
                _ => None,
            };
            let Some((a, b, Some(d), Some(c))) = operands else { return Ok(false) };
            if a == MatTy::B1 && (!(and || m.take("xor")) || !m.take("popc")) {
                return Ok(false);
            }
            if a == MatTy::F64 {
                m.take("rn");
            }
            let fits = match a {
                MatTy::F16 => matches!((d, c), (AccTy::F16 | AccTy::F32, AccTy::F16 | AccTy::F32)),
                MatTy::Bf16 | MatTy::Tf32 => (d, c) == (AccTy::F32, AccTy::F32),
                MatTy::F64 => (d, c) == (AccTy::F64, AccTy::F64),
                t => t.is_int() && (d, c) == (AccTy::S32, AccTy::S32),
            };
            if !m.rest.is_empty() || !fits || !agree(a, b) || !wmma_shape(sh, a) {
                return Ok(false);
            }
            let x = self.mma_operands(raw, sh, a, b, d, c, sat, and, true)?;
            self.emit(Op::Mma(Box::new(x)));
            return Ok(true);
        }
        let store = op == "store";
        let frag = match m.take_any(&["a", "b", "c", "d"]) {
            Some("a") if !store => Frag::A,
            Some("b") if !store => Frag::B,
            Some("c") if !store => Frag::C,
            Some("d") if store => Frag::C,
            _ => return Ok(false),
        };
        let col = m.take("col");
        if !col && !m.take("row") {
            return Ok(false);
        }
        let Some(space) = space(m).filter(|_| m.rest.is_empty()) else { return Ok(false) };
        let [ty] = *tys.as_slice() else { return Ok(false) };
        let (Some(bits), true) = (
            match (frag, ty) {
                (Frag::C, "f16") => Some(16),
                (Frag::C, "f64") => Some(64),
                (Frag::C, "f32" | "s32") => Some(32),
                (Frag::C, _) => None,
                // The elements of tf32 fragments may be called b32.
                (_, "b32") if sh == (16, 16, 8) => Some(32),
                (_, t) => mat(t).filter(|t| wmma_shape(sh, *t)).map(MatTy::bits),
            },
            wmma_any(sh),
        ) else {
            return Ok(false);
        };
        if bits < 8 && (frag == Frag::A && col || frag == Frag::B && !col) {
            return Ok(false);
        }
        self.want(raw, 2..=3)?;
        let (mem, val) = if store { (0, 1) } else { (1, 0) };
        let (addr, off, _) = self.address(&raw.args[mem])?;
        let regs = if store { self.vec_src(&raw.args[val], Ty::B64)? } else { self.vec_dst(&raw.args[val])? };
        let stride = raw.args.get(2).map(|s| self.src(s, Ty::U32)).transpose()?;
        let elems = match frag {
            Frag::A => mm * k,
            Frag::B => n * k,
            Frag::C => mm * n,
        };
        let base = frag_regs(elems, bits);
        let want = if frag != Frag::C && ty == "f16" { base * wmma_copies(base) } else { base };
        if regs.len() != want {
            return self.err(format!("{} takes {want} registers, not {}", raw.op, regs.len()));
        }
        let x = Wmma { frag, store, col, m: mm, n, k, bits, space, addr, off, stride, regs };
        self.emit(Op::Wmma(Box::new(x)));
        Ok(true)
    }

    fn wgmma(&mut self, m: &mut Mods, raw: &Raw) -> Result<bool> {
        if !m.take("sync") && !m.rest.contains(&"mma_async") {
            return Ok(false);
        }
        m.take("sync");
        if !m.take("aligned") {
            return Ok(false);
        }
        if m.take("fence") {
            self.emit(Op::WgFence);
            return Ok(m.rest.is_empty());
        }
        if m.take("commit_group") {
            self.emit(Op::WgCommit);
            return Ok(m.rest.is_empty());
        }
        if m.take("wait_group") {
            self.want(raw, 1..=1)?;
            let Some(n) = literal(&raw.args[0]) else { return self.err("wait_group needs a literal") };
            self.emit(Op::WgWait(n));
            return Ok(m.rest.is_empty());
        }
        if !m.take("mma_async") {
            return Ok(false);
        }
        let Some((64, n, k)) = shape(m) else { return Ok(false) };
        m.take("satfinite");
        let tys = element_types(&raw.op);
        m.rest.retain(|w| !tys.contains(w));
        let [dt, at, bt] = *tys.as_slice() else { return Ok(false) };
        let (Some(acc), Some(ty), Some(b_ty)) = (acc(dt), mat(at), mat(bt)) else { return Ok(false) };
        let fits = match ty {
            MatTy::F16 => k == 16 && b_ty == ty && matches!(acc, AccTy::F32 | AccTy::F16),
            MatTy::Bf16 => k == 16 && b_ty == ty && acc == AccTy::F32,
            MatTy::Tf32 => k == 8 && b_ty == ty && acc == AccTy::F32,
            MatTy::S8 | MatTy::U8 => k == 32 && matches!(b_ty, MatTy::S8 | MatTy::U8) && acc == AccTy::S32,
            MatTy::E4m3 | MatTy::E5m2 => k == 32 && b_ty.is_f8() && matches!(acc, AccTy::F32 | AccTy::F16),
            MatTy::F64 | MatTy::S4 | MatTy::U4 | MatTy::B1 => false,
        };
        if !fits || n % 8 != 0 || n == 0 || n > 256 || !m.rest.is_empty() {
            return Ok(false);
        }
        self.want(raw, 3..=8)?;
        let d = self.vec_dst(&raw.args[0])?;
        let regs = if acc == AccTy::F16 { n / 4 } else { n / 2 };
        if d.len() != regs as usize {
            return self.err(format!("{} takes {regs} accumulators, not {}", raw.op, d.len()));
        }
        let a_desc = !matches!(raw.args[1], Arg::Vec(_));
        let a = self.vec_src(&raw.args[1], Ty::B64)?;
        if !a_desc && a.len() != 4 {
            return self.err("wgmma takes A in four registers or as a descriptor");
        }
        let b = self.src(&raw.args[2], Ty::B64)?;
        let scale_d = match raw.args.get(3) {
            Some(p) => self.pred(p)?,
            None => (P_TRUE, false),
        };
        let mut imm = [1i64, 1, 0, 0];
        for (i, a) in raw.args.iter().skip(4).enumerate() {
            let Arg::Int(v) = a else { return self.err("wgmma scales and transposes are literals") };
            imm[i] = *v as i64;
        }
        let (neg_a, neg_b) = (imm[0] == -1, imm[1] == -1);
        let (trans_a, trans_b) = if a_desc { (imm[2] == 1, imm[3] == 1) } else { (false, imm[2] == 1) };
        let w = Wgmma { n, k, ty, b_ty, acc, d, a, a_desc, b, scale_d, neg_a, neg_b, trans_a, trans_b };
        self.emit(Op::Wgmma(Box::new(w)));
        Ok(true)
    }
}

/// The shapes of `wmma` for elements of a type.
fn wmma_shape(sh: (u32, u32, u32), t: MatTy) -> bool {
    match t {
        MatTy::F16 | MatTy::Bf16 | MatTy::S8 | MatTy::U8 => matches!(sh, (16, 16, 16) | (32, 8, 16) | (8, 32, 16)),
        MatTy::Tf32 => sh == (16, 16, 8),
        MatTy::F64 => sh == (8, 8, 4),
        MatTy::S4 | MatTy::U4 => sh == (8, 8, 32),
        MatTy::B1 => sh == (8, 8, 128),
        MatTy::E4m3 | MatTy::E5m2 => false,
    }
}

fn wmma_any(sh: (u32, u32, u32)) -> bool {
    let types = [MatTy::F16, MatTy::Tf32, MatTy::F64, MatTy::S4, MatTy::B1];
    types.into_iter().any(|t| wmma_shape(sh, t))
}

/// PTX gives an f16 `wmma` fragment of a or b eight registers in every shape; some hold copies.
fn wmma_copies(regs: usize) -> usize {
    8 / regs.max(1)
}
