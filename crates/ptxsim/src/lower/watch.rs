//! Facts about a whole kernel that the checks need: plain loads that belong to an atomic update, stores into bit
//! fields, and writes to the registers of `wgmma`.

use std::collections::{HashMap, HashSet};

use super::operand::each_reg;
use crate::ir::*;
use crate::types::Space;

/// Destinations and sources of an instruction that only computes.
fn computes(op: &mut Op) -> Option<(Vec<Reg>, Vec<Reg>)> {
    let n = match op {
        Op::A1(..)
        | Op::A2(..)
        | Op::Clear(..)
        | Op::A3(..)
        | Op::Mov(..)
        | Op::Selp { .. }
        | Op::Lop3 { .. }
        | Op::Pack { .. } => 1,
        Op::Unpack { d, a, .. } => return Some((d.to_vec(), vec![*a])),
        _ => return None,
    };
    let mut regs = Vec::new();
    each_reg(op, &mut |r| regs.push(*r));
    let src = regs.split_off(n);
    Some((regs, src))
}

/// Marks the plain loads that feed the comparison of a compare-and-swap, or that look at the address of an atomic
/// which follows with no barrier between (`if (*p < v) atomicMax(p, v)`): racing with atomics does them no harm.
pub(super) fn mark_seeds(insts: &mut [Inst]) {
    let mut defs: HashMap<Reg, Vec<usize>> = HashMap::new();
    let mut flow: Vec<Vec<Reg>> = Vec::with_capacity(insts.len());
    let (mut work, mut seeds) = (Vec::new(), HashSet::new());
    let mut open: HashMap<(u8, Reg, i64), Vec<usize>> = HashMap::new();
    if !insts.iter().any(|i| matches!(i.op, Op::Atom(_))) {
        return;
    }
    for (i, inst) in insts.iter_mut().enumerate() {
        let mut sources = vec![];
        if let Some((d, s)) = computes(&mut inst.op) {
            d.into_iter().for_each(|r| defs.entry(r).or_default().push(i));
            sources = s;
        }
        match &inst.op {
            Op::Ld(x) if !matches!(x.space, Space::Param | Space::Const | Space::Local) => {
                x.regs.iter().for_each(|r| defs.entry(*r).or_default().push(i));
                open.entry((x.space as u8, x.addr, x.off)).or_default().push(i);
            }
            Op::Atom(x) => {
                if x.kind == AtomKind::Cas {
                    work.push(x.b);
                }
                seeds.extend(open.remove(&(x.space as u8, x.addr, x.off)).into_iter().flatten());
            }
            Op::Bar(_) => open.clear(),
            _ => {}
        }
        flow.push(sources);
    }
    let mut seen = HashSet::new();
    while let Some(r) = work.pop() {
        if !seen.insert(r) {
            continue;
        }
        for &i in defs.get(&r).into_iter().flatten() {
            if matches!(insts[i].op, Op::Ld(_)) {
                seeds.insert(i);
            }
            work.extend(&flow[i]);
        }
    }
    for i in seeds {
        if let Op::Ld(x) = &mut insts[i].op {
            x.seed = true;
        }
    }
}

/// For kernels with `wgmma`: the registers of its accumulators and of A that each instruction writes, other than by
/// a plain move, which compilers put around inline assembly at will.
pub(super) fn wgmma_writes(insts: &mut [Inst]) -> Vec<Box<[Reg]>> {
    let mut operands: HashSet<Reg> = HashSet::new();
    for i in insts.iter() {
        if let Op::Wgmma(x) = &i.op {
            operands.extend(x.d.iter());
            if !x.a_desc {
                operands.extend(x.a.iter());
            }
        }
    }
    if operands.is_empty() {
        return vec![];
    }
    let written = |i: &mut Inst| -> Box<[Reg]> {
        let d = match &i.op {
            Op::Mov(..) => vec![],
            Op::Ld(x) => x.regs.to_vec(),
            _ => computes(&mut i.op).map_or(vec![], |c| c.0),
        };
        d.into_iter().filter(|r| operands.contains(r)).collect()
    };
    insts.iter_mut().map(written).collect()
}

/// `x = load p; x = x & mask; x = x | field (or nothing); store p, x` fills a bit field of a word that may be fresh: the `and` makes
/// no use of what was there.
pub(super) fn mark_fields(insts: &mut [Inst], names: &[String]) {
    let mut last: HashMap<Reg, usize> = HashMap::new();
    let mut flow: Vec<Vec<Reg>> = Vec::with_capacity(insts.len());
    let mut clears = Vec::new();
    for i in 0..insts.len() {
        let is = |j: usize, op: &str| names[insts[j].name as usize].starts_with(op);
        if let Op::St(st) = &insts[i].op
            && let Some(&def) = last.get(&st.regs[0])
        {
            let parts: Vec<usize> = if is(def, "or.b") {
                flow[def].iter().filter_map(|r| last.get(r).copied()).collect()
            } else {
                vec![def]
            };
            for and in parts.iter().filter(|a| is(**a, "and.b")) {
                let from = flow[*and].first().and_then(|r| last.get(r)).map(|l| &insts[*l].op);
                if matches!(from, Some(Op::Ld(ld)) if (ld.addr, ld.off) == (st.addr, st.off)) {
                    clears.push(*and);
                }
            }
        }
        let mut sources = vec![];
        if let Op::Ld(x) = &insts[i].op {
            last.extend(x.regs.iter().map(|r| (*r, i)));
        } else if let Some((d, s)) = computes(&mut insts[i].op) {
            last.extend(d.into_iter().map(|r| (r, i)));
            sources = s;
        }
        flow.push(sources);
    }
    for i in clears {
        if let Op::A2(f, d, a, b) = insts[i].op {
            insts[i].op = Op::Clear(f, d, a, b);
        }
    }
}
