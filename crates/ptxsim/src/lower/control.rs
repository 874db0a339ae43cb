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
