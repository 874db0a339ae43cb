//! From parsed functions to the decoded form: names become indices, calls are inlined, opcodes are chosen.
//!
//! Device functions are expanded where they are called, with registers, labels and local memory of their own; their
//! parameters live in the caller's local memory. Recursion and calls through pointers are refused by name.

mod alu;
mod atomics;
mod call;
mod control;
mod copy;
mod memory;
mod operand;
mod sync;
mod tensor;
mod watch;

use std::collections::HashMap;

use crate::ast::*;
use crate::error::{Error, Result};
use crate::ir::*;
use crate::types::{Space, Ty};

/// Instructions one kernel may have after inlining.
const MAX_INSTS: usize = 1 << 19;
/// Registers one kernel may really use.
const MAX_REGS: u32 = 1 << 17;

/// What a name in a function stands for.
#[derive(Clone, Debug)]
enum Sym {
    Reg(Reg),
    Pred(Pred),
    Shared(u64),
    Local(u64),
    KernelParam(u32),
    Targets(Vec<String>),
}

struct Scope {
    parent: Option<usize>,
    decls: HashMap<String, (Ty, Option<u32>)>,
    syms: HashMap<String, (Sym, Ty)>,
    labels: HashMap<String, u32>,
}

/// A branch whose label is not known yet.
struct Fixup {
    inst: usize,
    slot: usize,
    scope: usize,
    label: String,
    line: u32,
}

pub(crate) struct Lower<'a> {
    ast: &'a Ast,
    scopes: Vec<Scope>,
    scope: usize,
    insts: Vec<Inst>,
    fixups: Vec<Fixup>,
    consts: Vec<Const>,
    const_ids: HashMap<Const, u32>,
    names: Vec<String>,
    name_ids: HashMap<String, u32>,
    nregs: u32,
    npreds: u32,
    shared: u64,
    shared_align: u32,
    local: u64,
    stack: Vec<String>,
    /// Where `ret` goes: `None` ends the thread, otherwise the label scope of the inlined call.
    ret_scope: Option<usize>,
    coherent: bool,
    line: u32,
    guard: (Pred, bool),
    name: u32,
}

/// Constants are numbered from here while decoding and moved behind the registers at the end.
const CONST_BASE: Reg = 1 << 30;
const RET_LABEL: &str = "\u{0}ret";

/// Decodes one kernel.
pub(crate) fn kernel(ast: &Ast, func: &Func) -> Result<Kernel> {
    let mut lo = Lower {
        ast,
        scopes: vec![],
        scope: 0,
        insts: vec![],
        fixups: vec![],
        consts: vec![],
        const_ids: HashMap::new(),
        names: vec![],
        name_ids: HashMap::new(),
        nregs: 0,
        npreds: 2,
        shared: 0,
        shared_align: 16,
        local: 0,
        stack: vec![func.name.clone()],
        ret_scope: None,
        coherent: false,
        line: func.line,
        guard: (P_TRUE, false),
        name: 0,
    };
    lo.module_shared()?;
    lo.push_scope(None);
    let (mut off, mut params) = (0u32, Vec::new());
    for p in &func.params {
        off = off.next_multiple_of(p.align);
        lo.bind(&p.name, Sym::KernelParam(off), Ty::B64);
        params.push(KernelParam { offset: off, size: p.size });
        off += p.size;
        if off > 1 << 15 {
            return Err(Error::syntax(func.line, "more than 32764 bytes of parameters"));
        }
    }
    lo.body(func.body.as_deref().unwrap_or(&[]))?;
    lo.emit_end();
    lo.resolve()?;
    lo.place_constants();
    let reserved = |i: &Inst| matches!(i.op, Op::Special { s: Special::ReservedSmem { .. }, .. });
    let reserved = lo.insts.iter().any(reserved);
    watch::mark_seeds(&mut lo.insts);
    watch::mark_fields(&mut lo.insts, &lo.names);
    let regs_of = lo.registers_named();
    let wg_writes = watch::wgmma_writes(&mut lo.insts);
    Ok(Kernel {
        name: func.name.clone(),
        insts: lo.insts,
        regs_of,
        wg_writes,
        nregs: lo.nregs,
        npreds: lo.npreds,
        consts: lo.consts,
        names: lo.names,
        params,
        param_bytes: off,
        shared_bytes: lo.shared as u32,
        shared_align: lo.shared_align,
        reserved,
        local_bytes: lo.local.next_multiple_of(16) as u32,
        limits: func.limits.clone(),
        coherent: lo.coherent,
    })
}

impl<'a> Lower<'a> {
    fn push_scope(&mut self, parent: Option<usize>) {
        self.scopes.push(Scope { parent, decls: HashMap::new(), syms: HashMap::new(), labels: HashMap::new() });
        self.scope = self.scopes.len() - 1;
    }

    fn bind(&mut self, name: &str, sym: Sym, ty: Ty) {
        self.scopes[self.scope].syms.insert(name.into(), (sym, ty));
    }

    fn err<T>(&self, msg: impl Into<String>) -> Result<T> {
        Err(Error::syntax(self.line, msg))
    }

    /// Module-level `.shared` variables take the first bytes of shared memory.
    fn module_shared(&mut self) -> Result<()> {
        self.push_scope(None);
        for v in &self.ast.vars {
            if v.space == Space::Shared && v.size.is_none() {
                // Dynamic shared memory starts at a multiple of what its declarations ask for.
                self.shared_align = self.shared_align.max(v.align);
            } else if v.space == Space::Shared {
                let off = self.place_shared(v)?;
                self.bind(&v.name, Sym::Shared(off), Ty::B64);
            }
        }
        // Function scopes are roots of their own, but see this one through `lookup`.
        Ok(())
    }

    fn place_shared(&mut self, v: &Var) -> Result<u64> {
        self.shared_align = self.shared_align.max(v.align);
        let off = self.shared.next_multiple_of(v.align.max(1) as u64);
        self.shared = off + v.size.unwrap_or(0);
        if self.shared > 1 << 20 {
            return self.err(format!("{} does not fit into shared memory", v.name));
        }
        Ok(off)
    }

    fn place_local(&mut self, align: u32, size: u64) -> Result<u64> {
        let off = self.local.next_multiple_of(align.max(1) as u64);
        self.local = off + size;
        if self.local > 1 << 19 {
            return self.err("more than 512 KiB of local memory");
        }
        Ok(off)
    }

    fn lookup(&mut self, name: &str) -> Option<(Sym, Ty)> {
        let mut at = Some(self.scope);
        while let Some(s) = at {
            if let Some(x) = self.scopes[s].syms.get(name) {
                return Some(x.clone());
            }
            if let Some(ty) = declared(&self.scopes[s].decls, name) {
                let sym = if ty == Ty::Pred {
                    self.npreds += 1;
                    Sym::Pred(self.npreds - 1)
                } else {
                    self.nregs += 1;
                    Sym::Reg(self.nregs - 1)
                };
                self.scopes[s].syms.insert(name.into(), (sym.clone(), ty));
                return Some((sym, ty));
            }
            at = self.scopes[s].parent;
        }
        self.scopes[0].syms.get(name).cloned()
    }

    fn temp(&mut self) -> Reg {
        self.nregs += 1;
        self.nregs - 1
    }

    fn constant(&mut self, c: Const) -> Reg {
        if let Some(&i) = self.const_ids.get(&c) {
            return CONST_BASE + i;
        }
        let i = self.consts.len() as u32;
        self.consts.push(c.clone());
        self.const_ids.insert(c, i);
        CONST_BASE + i
    }

    fn emit(&mut self, op: Op) {
        let (guard, guard_neg) = self.guard;
        self.insts.push(Inst { line: self.line, name: self.name, guard, guard_neg, op });
    }

    fn emit_always(&mut self, op: Op) {
        self.insts.push(Inst { line: self.line, name: self.name, guard: P_TRUE, guard_neg: false, op });
    }

    fn emit_end(&mut self) {
        self.guard = (P_TRUE, false);
        self.set_name("exit");
        self.emit(Op::Exit);
    }

    fn set_name(&mut self, op: &str) {
        self.name = match self.name_ids.get(op) {
            Some(&i) => i,
            None => {
                let i = self.names.len() as u32;
                self.names.push(op.into());
                self.name_ids.insert(op.into(), i);
                i
            }
        };
    }

    fn body(&mut self, stmts: &[Stmt]) -> Result<()> {
        let outer = self.scope;
        for s in stmts {
            if self.insts.len() > MAX_INSTS || self.nregs > MAX_REGS || self.npreds > MAX_REGS {
                return self.err("kernel is too large after inlining");
            }
            match s {
                Stmt::Open => self.push_scope(Some(self.scope)),
                Stmt::Close => {
                    self.scope = self.scopes[self.scope].parent.unwrap_or(outer);
                }
                Stmt::Reg { line, ty, base, count } => {
                    self.line = *line;
                    self.scopes[self.scope].decls.insert(base.clone(), (*ty, *count));
                }
                Stmt::Label { line, name } => {
                    let at = self.insts.len() as u32;
                    if self.scopes[self.scope].labels.insert(name.clone(), at).is_some() {
                        return Err(Error::syntax(*line, format!("label {name} appears twice")));
                    }
                }
                Stmt::Targets { name, labels } => self.bind(name, Sym::Targets(labels.clone()), Ty::B64),
                Stmt::Var { line, var } => {
                    self.line = *line;
                    self.local_var(var)?;
                }
                Stmt::Inst(raw) => self.instruction(raw)?,
            }
        }
        Ok(())
    }

    fn local_var(&mut self, v: &Var) -> Result<()> {
        let Some(size) = v.size else { return self.err(format!("variable {} has no size", v.name)) };
        let sym = match v.space {
            Space::Shared => Sym::Shared(self.place_shared(v)?),
            Space::Local | Space::Param => Sym::Local(self.place_local(v.align, size)?),
            _ => return Err(Error::unsupported(self.line, "a global or constant variable inside a function")),
        };
        self.bind(&v.name, sym, Ty::B64);
        Ok(())
    }

    fn instruction(&mut self, raw: &Raw) -> Result<()> {
        self.line = raw.line;
        self.guard = match &raw.guard {
            None => (P_TRUE, false),
            Some((name, neg)) => match self.lookup(name) {
                Some((Sym::Pred(p), _)) => (p, *neg),
                _ => return self.err(format!("guard {name} is no predicate register")),
            },
        };
        self.set_name(&raw.op);
        let done = self.decode(raw)?;
        if !done {
            return Err(Error::unsupported(raw.line, &raw.op));
        }
        Ok(())
    }

    /// Tries every group of opcodes; false if none knows it.
    fn decode(&mut self, raw: &Raw) -> Result<bool> {
        let base = raw.op.split('.').next().unwrap_or("");
        Ok(match base {
            "bra" | "brx" | "ret" | "exit" | "trap" | "call" | "brkpt" => self.control(base, raw)?,
            "ld" | "st" | "ldu" | "prefetch" | "prefetchu" | "cvta" | "isspacep" | "applypriority" | "discard"
            | "createpolicy" | "mapa" | "getctarank" => self.memory(base, raw)?,
            "atom" | "red" => self.atomic(base, raw)?,
            "bar" | "barrier" | "membar" | "fence" | "shfl" | "vote" | "match" | "activemask" | "redux" | "elect"
            | "nanosleep" | "setmaxnreg" | "griddepcontrol" | "pmevent" | "mbarrier" => self.sync(base, raw)?,
            "cp" | "ldmatrix" | "stmatrix" | "movmatrix" | "mma" | "wmma" | "wgmma" | "multimem" => {
                self.tensor(base, raw)?
            }
            _ => self.arithmetic(base, raw)?,
        })
    }

    /// The registers of every instruction, for kernels that must watch their accumulators.
    fn registers_named(&mut self) -> Vec<Box<[Reg]>> {
        if !self.insts.iter().any(|i| matches!(i.op, Op::Wgmma(_))) {
            return vec![];
        }
        let mut out = Vec::with_capacity(self.insts.len());
        for i in &mut self.insts {
            let mut regs = Vec::new();
            operand::each_reg(&mut i.op, &mut |r| regs.push(*r));
            out.push(regs.into());
        }
        out
    }

    /// Moves constants behind the registers.
    fn place_constants(&mut self) {
        let n = self.nregs;
        for i in &mut self.insts {
            crate::lower::operand::each_reg(&mut i.op, &mut |r| {
                if *r >= CONST_BASE {
                    *r = *r - CONST_BASE + n;
                }
            });
        }
    }
}

/// The type of `name` if a declaration covers it: `%r7` is covered by `.reg .b32 %r<10>`.
fn declared(decls: &HashMap<String, (Ty, Option<u32>)>, name: &str) -> Option<Ty> {
    if let Some((ty, None)) = decls.get(name) {
        return Some(*ty);
    }
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    for d in 1..=digits.min(7) {
        let (base, idx) = name.split_at(name.len() - d);
        if let Some((ty, Some(n))) = decls.get(base)
            && (d == 1 || !idx.starts_with('0'))
            && idx.parse::<u32>().is_ok_and(|i| i < *n)
        {
            return Some(*ty);
        }
    }
    None
}
