//! Decoding of loads, stores, address conversion and hints.

use super::Lower;
use crate::alu::{Mods, f1};
use crate::ast::{Arg, Raw};
use crate::error::Result;
use crate::ir::*;
use crate::types::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, Space, Ty};

/// Takes the state space out of the modifiers.
pub(super) fn space(m: &mut Mods) -> Option<Space> {
    let names = [
        "global",
        "shared",
        "shared::cta",
        "shared::cluster",
        "local",
        "param",
        "param::entry",
        "param::func",
        "const",
    ];
    Some(match m.take_any(&names) {
        None => Space::Generic,
        Some("global") => Space::Global,
        Some("local") => Space::Local,
        Some("const") => Space::Const,
        Some(s) if s.starts_with("shared") => Space::Shared,
        Some(_) => Space::Param,
    })
}

/// Takes ordering and scope out of the modifiers.
pub(super) fn order(m: &mut Mods) -> Order {
    let acquire = m.take("acquire");
    let release = m.take("release");
    let both = m.take("acq_rel");
    let relaxed = m.take("relaxed") | m.take("volatile") | m.take("mmio");
    m.take_any(&["cta", "cluster", "gpu", "sys"]);
    Order { strong: acquire | release | both | relaxed, acquire: acquire | both, release: release | both }
}

/// Drops cache hints, which change nothing that can be observed here.
fn drop_hints(m: &mut Mods) {
    m.rest.retain(|h| {
        !matches!(*h, "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "nc" | "weak")
            && !h.starts_with("L1::")
            && !h.starts_with("L2::")
            && !h.starts_with("level::")
    });
}

impl Lower<'_> {
    pub(super) fn memory(&mut self, base: &str, raw: &Raw) -> Result<bool> {
        let mut m = Mods::new(&raw.op);
        match base {
            "ld" | "ldu" | "st" => self.load_store(base != "st", &mut m, raw),
            "cvta" => self.cvta(&mut m, raw),
            "isspacep" => {
                self.want(raw, 2..=2)?;
                let Some(sp) = space(&mut m).filter(|s| *s != Space::Generic && m.rest.is_empty()) else {
                    return Ok(false);
                };
                let a = self.src(&raw.args[1], Ty::B64)?;
                let d = self.pred_dst(&raw.args[0])?;
                self.emit(Op::IsSpace { d, a, space: sp });
                Ok(true)
            }
            "mapa" => {
                self.want(raw, 3..=3)?;
                let shared = m.take("shared::cluster");
                if !m.rest.is_empty() {
                    return Ok(false);
                }
                let a = self.src(&raw.args[1], Ty::B64)?;
                let rank = self.src(&raw.args[2], Ty::U32)?;
                let d = self.dst(&raw.args[0])?;
                self.emit(Op::Mapa { d, a, rank, generic: !shared });
                Ok(true)
            }
            "getctarank" => {
                self.want(raw, 2..=2)?;
                let shared = m.take("shared::cluster");
                if !m.rest.is_empty() {
                    return Ok(false);
                }
                let a = self.src(&raw.args[1], Ty::B64)?;
                let d = self.dst(&raw.args[0])?;
                self.emit(Op::GetCtaRank { d, a, generic: !shared });
                Ok(true)
            }
            "createpolicy" => {
                // The policy is only handed to cache hints.
                let Some(first) = raw.args.first() else { return self.err("createpolicy without operands") };
                let d = self.dst(first)?;
                let zero = self.constant(Const::Int(0));
                self.emit(Op::Mov(d, zero));
                Ok(true)
            }
            "prefetch" | "prefetchu" | "applypriority" => {
                // No effect; the address may point anywhere.
                self.emit(Op::Nop);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn load_store(&mut self, load: bool, m: &mut Mods, raw: &Raw) -> Result<bool> {
        let cached = m.rest.iter().any(|h| h.contains("cache_hint"));
        let n = 2 + cached as usize + m.rest.contains(&"async") as usize;
        self.want(raw, n..=n)?;
        let order = order(m);
        if !load && m.take("async") {
            return self.async_update(order, m, raw);
        }
        let Some(mut space) = space(m) else { return Ok(false) };
        let vec = match m.take_any(&["v2", "v4", "v8"]) {
            Some("v2") => 2,
            Some("v4") => 4,
            Some(_) => return Ok(false),
            None => 1,
        };
        drop_hints(m);
        let Some(ty) = m.ty().filter(|t| m.rest.is_empty() && m.tys.len() == 1 && *t != Ty::Pred) else {
            return Ok(false);
        };
        if ty == Ty::B128 {
            return Ok(false);
        }
        let (mem, val) = if load { (&raw.args[1], &raw.args[0]) } else { (&raw.args[0], &raw.args[1]) };
        let (addr, off, implied) = self.address(mem)?;
        if space == Space::Param && implied == Some(Space::Local) {
            space = Space::Local;
        }
        if order.strong && matches!(space, Space::Global | Space::Generic) {
            self.coherent = true;
        }
        let first = match val {
            Arg::Vec(v) => v.first().cloned().unwrap_or(Arg::Sink),
            v => v.clone(),
        };
        let regs = if load { self.vec_dst(val)? } else { self.vec_src(val, ty)? };
        if regs.len() as u32 != vec {
            return self.err(format!("{} with {} registers", raw.op, regs.len()));
        }
        let sext = (load && ty.signed() && ty.size() < 8).then(|| self.width(&first));
        let access = Box::new(Access { space, addr, off, size: ty.size(), sext, regs, order, vec, seed: false });
        self.emit(if load { Op::Ld(access) } else { Op::St(access) });
        Ok(true)
    }

    fn cvta(&mut self, m: &mut Mods, raw: &Raw) -> Result<bool> {
        self.want(raw, 2..=2)?;
        let to = m.take("to");
        let Some(sp) = space(m).filter(|_| m.rest.is_empty()) else { return Ok(false) };
        let small = m.ty() == Some(Ty::U32);
        if small {
            return Ok(false);
        }
        let a = self.src(&raw.args[1], Ty::B64)?;
        let d = self.dst(&raw.args[0])?;
        let Alu::One(f) = (match (to, sp) {
            (_, Space::Global | Space::Const) => f1!(|a| a),
            (false, Space::Shared) => f1!(|a| a.wrapping_add(SHARED_WINDOW)),
            (true, Space::Shared) => f1!(|a| a.wrapping_sub(SHARED_WINDOW)),
            (false, Space::Local) => f1!(|a| a.wrapping_add(LOCAL_WINDOW)),
            (true, Space::Local) => f1!(|a| a.wrapping_sub(LOCAL_WINDOW)),
            (false, Space::Param) => f1!(|a| a.wrapping_add(PARAM_WINDOW)),
            (true, Space::Param) => f1!(|a| a.wrapping_sub(PARAM_WINDOW)),
            _ => return Ok(false),
        }) else {
            return Ok(false);
        };
        self.emit(Op::A1(f, d, a));
        Ok(true)
    }
}
