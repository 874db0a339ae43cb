//! Branches, returns and calls; calls are expanded in place.

use super::{Fixup, Lower, RET_LABEL, Sym};
use crate::ast::{Arg, Raw};
use crate::error::{Error, Result};
use crate::ir::*;
use crate::types::Ty;

impl Lower<'_> {
    pub(super) fn control(&mut self, base: &str, raw: &Raw) -> Result<bool> {
        let mods: Vec<&str> = raw.op.split('.').skip(1).collect();
        match (base, mods.as_slice()) {
            ("bra", [] | ["uni"]) => {
                let [Arg::Name(label, 0)] = raw.args.as_slice() else { return self.err("bra needs a label") };
                self.branch(label.clone());
            }
            ("brx", ["idx"] | ["idx", "uni"]) => {
                let [idx, Arg::Name(list, 0)] = raw.args.as_slice() else {
                    return self.err("brx.idx needs an index and a list of targets");
                };
                let idx = self.src(idx, Ty::U32)?;
                let Some((Sym::Targets(labels), _)) = self.lookup(list) else {
                    return self.err(format!("{list} is no list of targets"));
                };
                for (slot, label) in labels.iter().enumerate() {
                    self.fix(slot, label.clone());
                }
                self.emit(Op::Brx { idx, targets: vec![0; labels.len()].into() });
            }
            ("ret", [] | ["uni"]) => match self.ret_scope {
                None => self.emit(Op::Exit),
                Some(scope) => {
                    let (line, inst) = (self.line, self.insts.len());
                    self.fixups.push(Fixup { inst, slot: 0, scope, label: RET_LABEL.into(), line });
                    self.emit(Op::Bra(0));
                }
            },
            ("exit", []) => self.emit(Op::Exit),
            ("trap", []) => self.emit(Op::Trap("trap instruction".into())),
            ("brkpt", []) => self.emit(Op::Trap("brkpt instruction".into())),
            ("call", [] | ["uni"]) => self.call(raw)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn fix(&mut self, slot: usize, label: String) {
        self.fixups.push(Fixup { inst: self.insts.len(), slot, scope: self.scope, label, line: self.line });
    }

    fn branch(&mut self, label: String) {
        self.fix(0, label);
        self.emit(Op::Bra(0));
    }

    /// Expands `call (ret), func, (args);` in place.
    fn call(&mut self, raw: &Raw) -> Result<()> {
        let (mut rets, mut args, mut name) = (vec![], vec![], None);
        for a in &raw.args {
            match a {
                Arg::List(l) if name.is_none() => rets = l.clone(),
                Arg::List(l) => args = l.clone(),
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
        let Some(func) = ast.funcs.iter().find(|f| f.name == name && f.body.is_some()) else {
            let what =
                if self.lookup(&name).is_some() { "call through a pointer".into() } else { format!("call {name}") };
            return Err(Error::unsupported(raw.line, what));
        };
        if self.stack.contains(&name) {
            return Err(Error::unsupported(raw.line, format!("recursive call of {name}")));
        }
        if args.len() != func.params.len() || rets.len() != func.rets.len() {
            return self.err(format!("call of {name} with the wrong number of arguments"));
        }
        let mut bound = Vec::new();
        for (a, p) in rets.iter().zip(&func.rets).chain(args.iter().zip(&func.params)) {
            match a {
                Arg::Name(n, 0) => match self.lookup(n) {
                    Some((Sym::Local(off), _)) => bound.push((p.name.clone(), off)),
                    _ => return Err(Error::unsupported(raw.line, "call with arguments that are no .param variables")),
                },
                _ => return Err(Error::unsupported(raw.line, "call with arguments that are no .param variables")),
            }
        }
        let (caller, guard) = (self.scope, self.guard);
        self.push_scope(None);
        let root = self.scope;
        if guard.0 != P_TRUE {
            // Threads whose guard is false jump over the body.
            self.guard = (guard.0, !guard.1);
            self.fixups.push(Fixup {
                inst: self.insts.len(),
                slot: 0,
                scope: root,
                label: RET_LABEL.into(),
                line: self.line,
            });
            self.emit(Op::Bra(0));
            self.guard = (P_TRUE, false);
        } else {
            self.emit(Op::Nop);
        }
        for (n, off) in bound {
            self.bind(&n, Sym::Local(off), Ty::B64);
        }
        let outer_ret = self.ret_scope.replace(root);
        self.stack.push(name);
        self.body(func.body.as_deref().unwrap_or(&[]))?;
        self.stack.pop();
        self.scope = caller;
        self.ret_scope = outer_ret;
        let end = self.insts.len() as u32;
        self.scopes[root].labels.insert(RET_LABEL.into(), end);
        self.line = raw.line;
        Ok(())
    }

    /// Fills in the targets of branches.
    pub(super) fn resolve(&mut self) -> Result<()> {
        for f in std::mem::take(&mut self.fixups) {
            let mut at = Some(f.scope);
            let mut target = None;
            while let (Some(s), None) = (at, target) {
                target = self.scopes[s].labels.get(&f.label).copied();
                at = self.scopes[s].parent;
            }
            let Some(target) = target else {
                return Err(Error::syntax(f.line, format!("label {} is not defined", f.label)));
            };
            match &mut self.insts[f.inst].op {
                Op::Bra(t) => *t = target,
                Op::Brx { targets, .. } => targets[f.slot] = target,
                _ => {}
            }
        }
        Ok(())
    }
}
