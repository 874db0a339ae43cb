//! Function bodies: scopes, register declarations, labels and instructions with their operands.

use crate::ast::*;
use crate::error::{Error, Result};
use crate::lex::Tok;
use crate::parse::{Parser, parse_number};
use crate::types::Ty;

/// Registers one declaration may make; more is surely an attack on memory.
const MAX_REGS: u64 = 1 << 20;
/// Operands nest at most this deep (`[map, {x, y}]` is two).
const MAX_NEST: u32 = 4;

impl<'a> Parser<'a> {
    /// `{ … }` of a function.
    pub fn body(&mut self) -> Result<Vec<Stmt>> {
        let open = self.line();
        self.expect('{')?;
        let (mut out, mut depth) = (vec![Stmt::Open], 1u32);
        while depth > 0 {
            let line = self.line();
            let Some(tok) = self.peek().cloned() else {
                return Err(Error::syntax(open, "function body is never closed"));
            };
            match tok {
                Tok::Punct('{') => {
                    self.next()?;
                    depth += 1;
                    if depth > 64 {
                        return Err(Error::syntax(line, "scopes nested too deeply"));
                    }
                    out.push(Stmt::Open);
                }
                Tok::Punct('}') => {
                    self.next()?;
                    depth -= 1;
                    out.push(Stmt::Close);
                }
                Tok::Punct(';') => {
                    self.next()?;
                }
                Tok::Word(".loc" | ".file") => self.skip_line(),
                Tok::Word(".section") => self.skip_section()?,
                Tok::Word(".pragma") => {
                    while !self.eat(';') {
                        self.next()?;
                    }
                }
                Tok::Word(w) if w == ".reg" || w.starts_with(".reg.") => self.regs(&mut out)?,
                Tok::Word(w) if w.starts_with('.') => {
                    for var in self.vars()? {
                        out.push(Stmt::Var { line, var });
                    }
                }
                Tok::Word(w) if self.peek_at(1) == Some(&Tok::Punct(':')) => {
                    self.next()?;
                    self.next()?;
                    self.after_label(w, line, &mut out)?;
                }
                _ => {
                    let raw = self.instruction()?;
                    out.push(Stmt::Inst(raw));
                }
            }
        }
        Ok(out)
    }

    /// A label, or the name of a `.branchtargets` or `.callprototype` directive.
    fn after_label(&mut self, name: &str, line: u32, out: &mut Vec<Stmt>) -> Result<()> {
        match self.peek() {
            Some(Tok::Word(".branchtargets")) => {
                self.next()?;
                let mut labels = vec![self.word()?.to_string()];
                while self.eat(',') {
                    labels.push(self.word()?.to_string());
                }
                self.expect(';')?;
                out.push(Stmt::Targets { name: name.into(), labels });
            }
            Some(Tok::Word(".callprototype" | ".calltargets")) => {
                while !self.eat(';') {
                    self.next()?;
                }
            }
            _ => out.push(Stmt::Label { line, name: name.into() }),
        }
        Ok(())
    }

    fn regs(&mut self, out: &mut Vec<Stmt>) -> Result<()> {
        let line = self.line();
        let mut parts: Vec<&str> = self.word()?[1..].split('.').skip(1).collect();
        while let Some(&Tok::Word(w)) = self.peek() {
            if !w.starts_with('.') {
                break;
            }
            self.next()?;
            parts.extend(w[1..].split('.'));
        }
        if parts.len() != 1 {
            return Err(Error::unsupported(line, format!("register declaration .{}", parts.join("."))));
        }
        let ty = Ty::parse(parts[0]).ok_or_else(|| Error::unsupported(line, format!("register type .{}", parts[0])))?;
        loop {
            let base = self.word()?.to_string();
            let count = if self.eat('<') {
                let n = self.count()?;
                self.expect('>')?;
                if n > MAX_REGS {
                    return Err(Error::syntax(line, format!("{n} registers are too many")));
                }
                Some(n as u32)
            } else {
                None
            };
            out.push(Stmt::Reg { line, ty, base, count });
            if !self.eat(',') {
                break;
            }
        }
        self.expect(';')
    }

    fn instruction(&mut self) -> Result<Raw> {
        let line = self.line();
        let guard = if self.eat('@') {
            let neg = self.eat('!');
            Some((self.word()?.to_string(), neg))
        } else {
            None
        };
        let op = self.word()?.to_string();
        let mut args = Vec::new();
        if !self.eat(';') {
            loop {
                let arg = self.operand(0)?;
                args.push(arg);
                if self.eat(';') {
                    break;
                }
                let at = self.line();
                match self.next()? {
                    Tok::Punct(',') => {}
                    other => return Err(Error::syntax(at, format!("expected ',' or ';' in {op}, found {other:?}"))),
                }
            }
        }
        Ok(Raw { line, guard, op, args })
    }

    fn operand(&mut self, depth: u32) -> Result<Arg> {
        let line = self.line();
        if depth > MAX_NEST {
            return Err(Error::syntax(line, "operand nested too deeply"));
        }
        let first = match self.next()? {
            Tok::Punct('{') => Arg::Vec(self.list('}', depth)?),
            Tok::Punct('[') => Arg::Mem(self.list(']', depth)?),
            Tok::Punct('(') => Arg::List(self.list(')', depth)?),
            Tok::Punct('!') => Arg::Not(Box::new(self.operand(depth + 1)?)),
            Tok::Punct('-') => match self.operand(depth + 1)? {
                Arg::Int(v) => Arg::Int(v.wrapping_neg()),
                Arg::F32(v) => Arg::F32(v ^ 1 << 31),
                Arg::F64(v) => Arg::F64(v ^ 1 << 63),
                _ => return Err(Error::syntax(line, "'-' before something that is no number")),
            },
            Tok::Punct('~') => match self.operand(depth + 1)? {
                Arg::Int(v) => Arg::Int(!v),
                _ => return Err(Error::syntax(line, "'~' before something that is no integer")),
            },
            Tok::Word("_") => Arg::Sink,
            Tok::Word(w) => match parse_number(w) {
                Some(n) => {
                    let add = self.addend()?;
                    match (n, add) {
                        (Arg::Int(v), a) => Arg::Int(v.wrapping_add(a as u64)),
                        (n, 0) => n,
                        _ => return Err(Error::syntax(line, "arithmetic on a floating-point constant")),
                    }
                }
                None if w.starts_with(|c: char| c.is_ascii_digit()) => {
                    return Err(Error::syntax(line, format!("bad number {w:?}")));
                }
                None => Arg::Name(w.to_string(), self.addend()?),
            },
            other => return Err(Error::syntax(line, format!("expected an operand, found {other:?}"))),
        };
        if self.eat('|') {
            let second = self.operand(depth + 1)?;
            return Ok(Arg::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn list(&mut self, close: char, depth: u32) -> Result<Vec<Arg>> {
        let mut out = Vec::new();
        if self.eat(close) {
            return Ok(out);
        }
        loop {
            out.push(self.operand(depth + 1)?);
            if self.eat(close) {
                return Ok(out);
            }
            self.expect(',')?;
        }
    }
}
