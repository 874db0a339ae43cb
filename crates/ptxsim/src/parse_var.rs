//! Variables and their initialisers.

use crate::ast::*;
use crate::error::{Error, Result};
use crate::lex::Tok;
use crate::parse::{MAX_BYTES, Parser, parse_int, parse_number, var_space};
use crate::types::{Space, Ty};

impl Parser<'_> {
    /// `.space .align n .type name[size] = {…}, name2;`
    pub fn vars(&mut self) -> Result<Vec<Var>> {
        let line = self.line();
        let (mut space, mut align, mut ty, mut lanes) = (Space::Global, 0, None, 1u64);
        while let Some(Tok::Word(w)) = self.peek().cloned() {
            if !w.starts_with('.') {
                break;
            }
            self.pos += 1;
            for part in w[1..].split('.') {
                let dotted = format!(".{part}");
                if let Some(s) = var_space(&dotted) {
                    space = s;
                } else if part == "align" {
                    align = self.count()? as u32;
                } else if let Some(t) = Ty::parse(part) {
                    ty = Some(t);
                } else if part == "v2" || part == "v4" {
                    lanes = if part == "v2" { 2 } else { 4 };
                } else if part == "attribute" {
                    return Err(Error::unsupported(line, ".attribute"));
                } else {
                    return Err(Error::unsupported(line, format!("variable of type .{part}")));
                }
            }
        }
        let ty = ty.ok_or_else(|| Error::syntax(line, "variable without a type"))?;
        let elem = ty.size() as u64 * lanes;
        let align = if align == 0 { elem as u32 } else { align };
        if !align.is_power_of_two() || align > 1 << 16 {
            return Err(Error::syntax(line, format!("alignment {align} is no power of two")));
        }
        let mut out = Vec::new();
        loop {
            let name = self.word()?.to_string();
            let (mut total, mut open, mut array) = (1u64, false, false);
            while self.eat('[') {
                array = true;
                if self.eat(']') {
                    open = true;
                } else {
                    let n = self.count()?;
                    self.expect(']')?;
                    total = total.saturating_mul(n);
                }
            }
            let mut var =
                Var { name, space, align, size: Some(total.saturating_mul(elem)), init: vec![], relocs: vec![] };
            if self.eat('=') {
                self.initialiser(ty, &mut var)?;
                if open {
                    var.size = Some(var.init.len() as u64);
                    open = false;
                }
            }
            if open {
                var.size = None;
            }
            let _ = array;
            if var.size.is_some_and(|s| s > MAX_BYTES || (var.init.len() as u64) > s) {
                return Err(Error::syntax(line, format!("bad size of variable {}", var.name)));
            }
            out.push(var);
            if !self.eat(',') {
                break;
            }
        }
        self.expect(';')?;
        Ok(out)
    }

    fn initialiser(&mut self, ty: Ty, var: &mut Var) -> Result<()> {
        let line = self.line();
        if self.eat('{') {
            while !self.eat('}') {
                if self.peek() == Some(&Tok::Punct('{')) {
                    self.nest(ty, var, 0)?;
                } else {
                    self.init_value(ty, var)?;
                }
                if !self.eat(',') && self.peek() != Some(&Tok::Punct('}')) {
                    return Err(Error::syntax(line, "initialiser is never closed"));
                }
            }
            return Ok(());
        }
        self.init_value(ty, var)
    }

    fn nest(&mut self, ty: Ty, var: &mut Var, depth: u32) -> Result<()> {
        if depth > 8 {
            return Err(Error::syntax(self.line(), "initialiser nested too deeply"));
        }
        self.expect('{')?;
        while !self.eat('}') {
            if self.peek() == Some(&Tok::Punct('{')) {
                self.nest(ty, var, depth + 1)?;
            } else {
                self.init_value(ty, var)?;
            }
            self.eat(',');
        }
        Ok(())
    }

    fn init_value(&mut self, ty: Ty, var: &mut Var) -> Result<()> {
        let line = self.line();
        let neg = self.eat('-');
        let w = self.word()?;
        let size = ty.size() as usize;
        let bits = if w == "generic" {
            self.expect('(')?;
            let sym = self.word()?.to_string();
            let add = self.addend()?;
            self.expect(')')?;
            let add = add + self.addend()?;
            var.relocs.push((var.init.len() as u64, sym, add));
            0
        } else if let Some(v) = parse_number(w) {
            let v = match (v, ty) {
                (Arg::F32(b), Ty::F64) => (f32::from_bits(b) as f64).to_bits(),
                (Arg::F32(b), _) => b as u64,
                (Arg::F64(b), Ty::F32) => (f64::from_bits(b) as f32).to_bits() as u64,
                (Arg::F64(b), _) => b,
                (Arg::Int(v), _) => v,
                _ => 0,
            };
            match (neg, ty) {
                (true, Ty::F32) => v ^ 1 << 31,
                (true, Ty::F64) => v ^ 1 << 63,
                (true, _) => v.wrapping_neg(),
                _ => v,
            }
        } else if size == 8 {
            let add = self.addend()?;
            var.relocs.push((var.init.len() as u64, w.to_string(), add));
            0
        } else {
            return Err(Error::syntax(line, format!("bad initialiser {w:?}")));
        };
        if var.init.len() as u64 > MAX_BYTES {
            return Err(Error::syntax(line, "initialiser too long"));
        }
        let bytes = (bits as u128).to_le_bytes();
        var.init.extend_from_slice(&bytes[..size.min(16)]);
        Ok(())
    }

    /// An optional `+n` or `-n`.
    pub fn addend(&mut self) -> Result<i64> {
        let mut neg = false;
        match self.peek() {
            Some(Tok::Punct('+')) => self.pos += 1,
            Some(Tok::Punct('-')) => {}
            _ => return Ok(0),
        }
        if self.eat('-') {
            neg = true;
        }
        let line = self.line();
        let w = self.word()?;
        let v = parse_int(w).ok_or_else(|| Error::syntax(line, format!("bad offset {w:?}")))? as i64;
        Ok(if neg { v.wrapping_neg() } else { v })
    }
}
