//! Calls, expanded in place; a call through a pointer tries every function whose address is taken.

use super::{Fixup, Lower, RET_LABEL, Sym};
use crate::alu::compare;
use crate::ast::{Arg, Func, Raw, Stmt};
use crate::error::{Error, Result};
use crate::ir::*;
use crate::types::{Ty, function_address};

/// Behind one candidate of a call through a pointer.
const NEXT_LABEL: &str = "\u{0}next";

/// Calls inside calls, a bound for the recursion of their expansion.
const MAX_CALLS: usize = 100;

/// Results and arguments as the caller wrote them.
struct Operands {
    rets: Vec<Arg>,
    args: Vec<Arg>,
}

impl<'a> Lower<'a> {
    /// Expands `call (ret), func, (args);` in place.
    pub(super) fn call(&mut self, raw: &Raw) -> Result<()> {
        let (mut o, mut name) = (Operands { rets: vec![], args: vec![] }, None);
        for a in &raw.args {
            match a {
                Arg::List(l) if name.is_none() => o.rets = l.clone(),
                Arg::List(l) => o.args = l.clone(),
                Arg::Name(n, 0) if name.is_none() => name = Some(n.clone()),
                Arg::Name(..) => {}
                _ => return self.err("malformed call"),
            }
        }
        let Some(name) = name else { return self.err("call without a function") };
        if name == "__assertfail" {
            self.emit(Op::Trap("device-side assertion failed".into()));
            return Ok(());
        }
        let ast = self.ast;
        let func = ast.funcs.iter().find(|f| f.name == name && f.body.is_some());
        let pointer = match (func, self.lookup(&name)) {
            (None, Some((Sym::Reg(r), _))) => Some(r),
            (None, _) => return Err(Error::unsupported(raw.line, format!("call {name}"))),
            _ => None,
        };
        let root = self.jump_around();
        match (func, pointer) {
            (Some(f), _) => self.expand(raw, f, &o)?,
            (None, p) => self.through_pointer(raw, p.unwrap_or(0), &o)?,
        }
        self.scopes[root].labels.insert(RET_LABEL.into(), self.insts.len() as u32);
        self.line = raw.line;
        Ok(())
    }

    /// Opens a label scope; threads whose guard is false jump to its end.
    fn jump_around(&mut self) -> usize {
        let (caller, guard) = (self.scope, self.guard);
        self.push_scope(None);
        let root = self.scope;
        self.scope = caller;
        if guard.0 == P_TRUE {
            self.emit(Op::Nop);
        } else {
            self.guard = (guard.0, !guard.1);
            self.jump(root, RET_LABEL);
            self.guard = (P_TRUE, false);
        }
        root
    }

    fn jump(&mut self, scope: usize, label: &str) {
        let (inst, line) = (self.insts.len(), self.line);
        self.fixups.push(Fixup { inst, slot: 0, scope, label: label.into(), line });
        self.emit(Op::Bra(0));
    }

    /// The body of `func` in place of the call.
    fn expand(&mut self, raw: &Raw, func: &'a Func, o: &Operands) -> Result<()> {
        if self.stack.contains(&func.name) {
            return Err(Error::unsupported(raw.line, format!("recursive call of {}", func.name)));
        }
        if self.stack.len() > MAX_CALLS {
            return Err(Error::unsupported(raw.line, format!("calls nested more than {MAX_CALLS} deep")));
        }
        if o.args.len() != func.params.len() || o.rets.len() != func.rets.len() {
            return self.err(format!("call of {} with the wrong number of arguments", func.name));
        }
        let mut bound = Vec::new();
        for (a, p) in o.rets.iter().zip(&func.rets).chain(o.args.iter().zip(&func.params)) {
            let local = match a {
                Arg::Name(n, 0) => match self.lookup(n) {
                    Some((Sym::Local(off), _)) => Some(off),
                    _ => None,
                },
                _ => None,
            };
            let Some(off) = local else {
                return Err(Error::unsupported(raw.line, "call with arguments that are no .param variables"));
            };
            bound.push((p.name.clone(), off));
        }
        let caller = self.scope;
        self.push_scope(None);
        let root = self.scope;
        for (n, off) in bound {
            self.bind(&n, Sym::Local(off), Ty::B64);
        }
        let outer_ret = self.ret_scope.replace(root);
        self.stack.push(func.name.clone());
        self.body(func.body.as_deref().unwrap_or(&[]))?;
        self.stack.pop();
        self.scope = caller;
        self.ret_scope = outer_ret;
        self.guard = (P_TRUE, false);
        self.scopes[root].labels.insert(RET_LABEL.into(), self.insts.len() as u32);
        Ok(())
    }

    /// Compares the pointer with one function after the other.
    fn through_pointer(&mut self, raw: &Raw, pointer: Reg, o: &Operands) -> Result<()> {
        let ast = self.ast;
        let taken = self.addresses_taken();
        let Some(differs) = compare("ne", Ty::B64, false) else { return self.err("no comparison of addresses") };
        let caller = self.scope;
        self.push_scope(None);
        let all = self.scope;
        self.scope = caller;
        for (i, f) in ast.funcs.iter().enumerate() {
            let fits = f.params.len() == o.args.len() && f.rets.len() == o.rets.len() && f.body.is_some();
            if f.entry || !fits || !taken.contains(&f.name.as_str()) {
                continue;
            }
            self.push_scope(None);
            let one = self.scope;
            self.scope = caller;
            let b = self.constant(Const::Int(function_address(i)));
            let d = self.pred_dst(&Arg::Sink)?;
            self.line = raw.line;
            self.emit(Op::Setp { f: differs, d, e: None, a: pointer, b, c: None, comb: BoolOp::And });
            self.guard = (d, false);
            self.jump(one, NEXT_LABEL);
            self.guard = (P_TRUE, false);
            if self.stack.contains(&f.name) {
                self.emit(Op::Trap(format!("recursive call of {} through a pointer: not implemented", f.name).into()));
            } else {
                self.expand(raw, f, o)?;
                self.jump(all, RET_LABEL);
            }
            self.scopes[one].labels.insert(NEXT_LABEL.into(), self.insts.len() as u32);
        }
        self.line = raw.line;
        self.emit(Op::Trap("call through a pointer to no function of the module that takes these arguments".into()));
        self.scopes[all].labels.insert(RET_LABEL.into(), self.insts.len() as u32);
        Ok(())
    }

    /// Names used as values in code or in the initialisers of variables.
    fn addresses_taken(&self) -> Vec<&'a str> {
        let ast = self.ast;
        let relocs = ast.vars.iter().flat_map(|v| &v.relocs).map(|r| r.1.as_str());
        let moved = ast.funcs.iter().flat_map(|f| f.body.iter().flatten()).filter_map(|s| match s {
            Stmt::Inst(raw) if !raw.op.starts_with("call") => Some(&raw.args),
            _ => None,
        });
        let names = moved.flatten().filter_map(|a| match a {
            Arg::Name(n, 0) if !n.starts_with('%') => Some(n.as_str()),
            _ => None,
        });
        relocs.chain(names).collect()
    }
}
