//! Operands: names and literals to register and constant indices.

use super::{Lower, Sym};
use crate::ast::{Arg, Raw};
use crate::error::{Error, Result};
use crate::ir::*;
use crate::types::{Space, Ty, function_address};

impl Lower<'_> {
    /// A source operand read as type `ty`.
    pub(super) fn src(&mut self, a: &Arg, ty: Ty) -> Result<Reg> {
        match a {
            Arg::Name(n, add) => match self.lookup(n) {
                Some((Sym::Reg(r), _)) if *add == 0 => Ok(r),
                Some((Sym::Shared(o) | Sym::Local(o), _)) => Ok(self.constant(Const::Int(o.wrapping_add(*add as u64)))),
                Some((Sym::KernelParam(o), _)) => Ok(self.constant(Const::Int((o as u64).wrapping_add(*add as u64)))),
                Some(_) => self.err(format!("operand {n} is of the wrong kind")),
                None => {
                    if let Some(s) = special(n) {
                        let d = self.temp();
                        self.emit_always(Op::Special { d, s });
                        return Ok(d);
                    }
                    if n == "WARP_SZ" {
                        return Ok(self.constant(Const::Int(32)));
                    }
                    match self.ast.vars.iter().position(|v| v.name == *n) {
                        Some(i) if self.ast.vars[i].space == Space::Shared => Ok(self.constant(Const::Dynamic(*add))),
                        Some(i) => Ok(self.constant(Const::Global(i, *add))),
                        None if self.ast.funcs.iter().any(|f| f.name == *n && !f.entry) => {
                            let i = self.ast.funcs.iter().position(|f| f.name == *n && f.body.is_some());
                            let Some(i) = i else {
                                return Err(Error::unsupported(self.line, format!("the address of {n}")));
                            };
                            Ok(self.constant(Const::Int(function_address(i))))
                        }
                        None if n.starts_with('%') => self.err(format!("register {n} is not declared")),
                        None => self.err(format!("{n} is not declared")),
                    }
                }
            },
            Arg::Int(v) => {
                let v = match ty.size() {
                    1 | 2 => *v & 0xffff,
                    4 => *v & 0xffff_ffff,
                    _ => *v,
                };
                Ok(self.constant(Const::Int(v)))
            }
            Arg::F32(b) => {
                let v = if ty == Ty::F64 { (f32::from_bits(*b) as f64).to_bits() } else { *b as u64 };
                Ok(self.constant(Const::Int(v)))
            }
            Arg::F64(b) => {
                let x = f64::from_bits(*b);
                let v = if ty == Ty::F32 { (x as f32).to_bits() as u64 } else { *b };
                Ok(self.constant(Const::Int(v)))
            }
            _ => self.err("operand of the wrong form"),
        }
    }

    /// A destination register; `_` writes to a register that nobody reads.
    pub(super) fn dst(&mut self, a: &Arg) -> Result<Reg> {
        match a {
            Arg::Sink => Ok(self.temp()),
            Arg::Name(n, 0) => match self.lookup(n) {
                Some((Sym::Reg(r), _)) => Ok(r),
                _ => self.err(format!("{n} is no register")),
            },
            _ => self.err("destination of the wrong form"),
        }
    }

    /// The declared width in bits of a register operand.
    pub(super) fn width(&mut self, a: &Arg) -> u32 {
        match a {
            Arg::Name(n, 0) => self.lookup(n).map_or(32, |(_, t)| t.bits()),
            _ => 32,
        }
    }

    /// A predicate source, possibly negated or constant.
    pub(super) fn pred(&mut self, a: &Arg) -> Result<(Pred, bool)> {
        match a {
            Arg::Not(inner) => self.pred(inner).map(|(p, n)| (p, !n)),
            Arg::Int(v) => Ok((if *v != 0 { P_TRUE } else { P_FALSE }, false)),
            Arg::Name(n, 0) => match self.lookup(n) {
                Some((Sym::Pred(p), _)) => Ok((p, false)),
                None if n == "%is_explicit_cluster" => {
                    let p = self.pred_dst(&Arg::Sink)?;
                    self.emit_always(Op::ExplicitCluster(p));
                    Ok((p, false))
                }
                _ => self.err(format!("{n} is no predicate")),
            },
            _ => self.err("predicate of the wrong form"),
        }
    }

    pub(super) fn pred_dst(&mut self, a: &Arg) -> Result<Pred> {
        match a {
            Arg::Sink => {
                self.npreds += 1;
                Ok(self.npreds - 1)
            }
            Arg::Name(n, 0) => match self.lookup(n) {
                Some((Sym::Pred(p), _)) => Ok(p),
                _ => self.err(format!("{n} is no predicate")),
            },
            _ => self.err("predicate of the wrong form"),
        }
    }

    /// The registers of `{a, b, …}`, or of a single operand.
    pub(super) fn vec_src(&mut self, a: &Arg, ty: Ty) -> Result<Box<[Reg]>> {
        match a {
            Arg::Vec(v) => v.iter().map(|x| self.src(x, ty)).collect(),
            one => Ok(Box::new([self.src(one, ty)?])),
        }
    }

    pub(super) fn vec_dst(&mut self, a: &Arg) -> Result<Box<[Reg]>> {
        match a {
            Arg::Vec(v) => v.iter().map(|x| self.dst(x)).collect(),
            one => Ok(Box::new([self.dst(one)?])),
        }
    }

    /// `[base+offset]`: base operand and byte offset, and the space that a symbol implies for `.param`.
    pub(super) fn address(&mut self, a: &Arg) -> Result<(Reg, i64, Option<Space>)> {
        let Arg::Mem(parts) = a else { return self.err("expected an address in brackets") };
        let [base] = parts.as_slice() else { return self.err("address of the wrong form") };
        match base {
            Arg::Name(n, add) => {
                let (space, is_reg) = match self.lookup(n) {
                    Some((Sym::Local(_), _)) => (Some(Space::Local), false),
                    Some((Sym::KernelParam(_), _)) => (Some(Space::Param), false),
                    Some((Sym::Shared(_), _)) => (Some(Space::Shared), false),
                    Some((Sym::Reg(_), _)) => (None, true),
                    _ => (None, false),
                };
                if is_reg {
                    Ok((self.src(&Arg::Name(n.clone(), 0), Ty::B64)?, *add, space))
                } else {
                    Ok((self.src(base, Ty::B64)?, 0, space))
                }
            }
            Arg::Int(_) => Ok((self.src(base, Ty::B64)?, 0, None)),
            _ => self.err("address of the wrong form"),
        }
    }

    pub(super) fn want(&self, raw: &Raw, n: std::ops::RangeInclusive<usize>) -> Result<()> {
        if n.contains(&raw.args.len()) {
            return Ok(());
        }
        self.err(format!("{} has {} operands", raw.op, raw.args.len()))
    }
}

/// True for `prefix` and a number below `n`.
fn numbered(name: &str, prefix: &str, n: u32) -> bool {
    name.strip_prefix(prefix).and_then(|d| d.parse().ok()).is_some_and(|i: u32| i < n)
}

/// The special register of a name.
pub(super) fn special(n: &str) -> Option<Special> {
    let dim = |s: &str| match s {
        ".x" => Some(0),
        ".y" => Some(1),
        ".z" => Some(2),
        _ => None,
    };
    if let Some((base, d)) = n.rfind('.').and_then(|i| dim(&n[i..]).map(|d| (&n[..i], d))) {
        return Some(match base {
            "%tid" => Special::Tid(d),
            "%ntid" => Special::Ntid(d),
            "%ctaid" => Special::Ctaid(d),
            "%nctaid" => Special::Nctaid(d),
            "%clusterid" => Special::ClusterId(d),
            "%nclusterid" => Special::NclusterId(d),
            "%cluster_ctaid" => Special::ClusterCtaid(d),
            "%cluster_nctaid" => Special::ClusterNctaid(d),
            _ => return None,
        });
    }
    Some(match n {
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NwarpId,
        "%lanemask_eq" => Special::LaneMask(0),
        "%lanemask_le" => Special::LaneMask(1),
        "%lanemask_lt" => Special::LaneMask(2),
        "%lanemask_ge" => Special::LaneMask(3),
        "%lanemask_gt" => Special::LaneMask(4),
        "%clock" | "%clock64" => Special::Clock,
        "%clock_hi" => Special::Zero,
        "%globaltimer" | "%globaltimer_lo" => Special::GlobalTimer,
        "%globaltimer_hi" => Special::Zero,
        "%smid" => Special::SmId,
        "%nsmid" => Special::NsmId,
        "%gridid" => Special::GridId,
        "%dynamic_smem_size" => Special::DynSmem,
        "%total_smem_size" => Special::TotalSmem,
        "%cluster_ctarank" => Special::ClusterCtarank,
        "%cluster_nctarank" => Special::ClusterNctarank,
        // Cooperative groups find the barrier of the grid here.
        "%envreg1" => Special::Workspace { high: true },
        "%envreg2" => Special::Workspace { high: false },
        // Cooperative groups keep the state of tiles larger than a warp in memory that the driver reserves.
        "%reserved_smem_offset_begin" | "%reserved_smem_offset_0" | "%reserved_smem_offset_1" => {
            Special::ReservedSmem { end: false }
        }
        "%reserved_smem_offset_end" | "%reserved_smem_offset_cap" => Special::ReservedSmem { end: true },
        "%aggr_smem_size" => Special::TotalSmem,
        "%current_graph_exec" => Special::Zero,
        n if numbered(n, "%envreg", 32) || numbered(n, "%pm", 8) => Special::Zero,
        _ => return None,
    })
}

/// Visits every register operand of an instruction.
pub(super) fn each_reg(op: &mut Op, f: &mut dyn FnMut(&mut Reg)) {
    match op {
        Op::A1(_, d, a) | Op::Mov(d, a) | Op::MovMatrix { d, a } => [d, a].into_iter().for_each(f),
        Op::A2(_, d, a, b) | Op::Clear(_, d, a, b) => [d, a, b].into_iter().for_each(f),
        Op::A3(_, d, a, b, c) => [d, a, b, c].into_iter().for_each(f),
        Op::Lop3 { d, s, .. } | Op::Carry { d, s, .. } => {
            f(d);
            s.iter_mut().for_each(f);
        }
        Op::Selp { d, a, b, .. } | Op::SetVal { d, a, b, .. } | Op::Set2 { d, a, b, .. } => {
            [d, a, b].into_iter().for_each(f)
        }
        Op::Setp { a, b, .. } | Op::Setp2 { a, b, .. } => [a, b].into_iter().for_each(f),
        Op::Special { d, .. } | Op::ActiveMask(d) => f(d),
        Op::Pack { d, s, .. } => {
            f(d);
            s.iter_mut().for_each(f);
        }
        Op::Unpack { d, a, .. } => {
            f(a);
            d.iter_mut().for_each(f);
        }
        Op::IsSpace { a, .. } => f(a),
        Op::Ld(x) | Op::St(x) => {
            f(&mut x.addr);
            x.regs.iter_mut().for_each(f);
        }
        Op::Atom(x) => {
            [&mut x.addr, &mut x.b, &mut x.c].into_iter().for_each(&mut *f);
            x.d.iter_mut().for_each(f);
        }
        Op::Brx { idx, .. } => f(idx),
        Op::Sync(x) => [&mut x.d, &mut x.a, &mut x.b, &mut x.c, &mut x.members].into_iter().for_each(f),
        Op::Bar(x) => {
            f(&mut x.id);
            x.count.iter_mut().chain(x.d.iter_mut()).for_each(f);
        }
        Op::CpAsync(x) => {
            [&mut x.dst, &mut x.src].into_iter().for_each(&mut *f);
            x.src_size.iter_mut().for_each(f);
        }
        Op::Matrix(x) => {
            f(&mut x.addr);
            x.regs.iter_mut().for_each(f);
        }
        Op::Mma(x) => x.d.iter_mut().chain(&mut x.a).chain(&mut x.b).chain(&mut x.c).for_each(f),
        Op::Wmma(x) => {
            f(&mut x.addr);
            x.stride.iter_mut().chain(&mut x.regs).for_each(f);
        }
        Op::Mbar(x) => {
            f(&mut x.addr);
            x.d.iter_mut().chain(x.count.iter_mut()).for_each(f);
        }
        Op::Bulk(x) => {
            [&mut x.dst.0, &mut x.src.0].into_iter().for_each(&mut *f);
            x.map.iter_mut().chain(x.mbar.iter_mut()).for_each(|(r, _)| f(r));
            x.coords.iter_mut().chain(x.size.iter_mut()).chain(x.multicast.iter_mut()).for_each(f);
        }
        Op::Async(x) => {
            [&mut x.dst.0, &mut x.mbar.0].into_iter().chain(&mut x.vals).for_each(f);
        }
        Op::Wgmma(x) => {
            f(&mut x.b);
            x.d.iter_mut().chain(&mut x.a).for_each(f);
        }
        Op::Mapa { d, a, rank, .. } => [d, a, rank].into_iter().for_each(f),
        Op::GetCtaRank { d, a, .. } => [d, a].into_iter().for_each(f),
        Op::Nop
        | Op::ExplicitCluster(_)
        | Op::Pred2 { .. }
        | Op::Bra(_)
        | Op::Exit
        | Op::Trap(_)
        | Op::ClusterArrive
        | Op::ClusterWait
        | Op::Fence(_)
        | Op::CpCommit
        | Op::CpWait(_)
        | Op::CpWaitAll
        | Op::BulkCommit
        | Op::BulkWait(_)
        | Op::WgFence
        | Op::WgCommit
        | Op::WgWait(_) => {}
    }
}
