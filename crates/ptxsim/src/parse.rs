//! Module level of PTX: directives, variables with initialisers, and function headers. Bodies are in `parse_body`.

use crate::ast::*;
use crate::error::{Error, Result};
use crate::lex::{Tok, Token, lex};
use crate::types::{Space, Ty};

/// Largest variable, parameter block or register count that is taken seriously.
pub(crate) const MAX_BYTES: u64 = 1 << 30;

pub(crate) struct Parser<'a> {
    toks: Vec<Token<'a>>,
    pub(crate) pos: usize,
}

/// Reads a whole module.
pub(crate) fn parse(src: &str) -> Result<Ast> {
    let mut p = Parser { toks: lex(src)?, pos: 0 };
    let mut ast = Ast::default();
    while let Some(t) = p.toks.get(p.pos) {
        let line = t.line;
        match t.tok.clone() {
            Tok::Word(".version") => {
                p.pos += 1;
                p.word()?;
            }
            Tok::Word(".target") => {
                p.pos += 1;
                ast.target = p.word()?.to_string();
                while p.eat(',') {
                    p.word()?;
                }
            }
            Tok::Word(".address_size") => {
                p.pos += 1;
                if p.word()? != "64" {
                    return Err(Error::unsupported(line, ".address_size other than 64"));
                }
            }
            Tok::Word(".file" | ".loc") => p.skip_line(),
            Tok::Word(".section") => p.skip_section()?,
            Tok::Word(".pragma") => {
                while !p.eat(';') {
                    p.next()?;
                }
            }
            Tok::Word(".alias") => return Err(Error::unsupported(line, ".alias")),
            Tok::Punct(';') => p.pos += 1,
            Tok::Word(w) if w.starts_with('.') => p.item(&mut ast)?,
            other => return Err(Error::syntax(line, format!("expected a directive, found {other:?}"))),
        }
    }
    Ok(ast)
}

impl<'a> Parser<'a> {
    pub fn line(&self) -> u32 {
        self.toks.get(self.pos).or(self.toks.last()).map_or(1, |t| t.line)
    }
    pub fn peek(&self) -> Option<&Tok<'a>> {
        self.toks.get(self.pos).map(|t| &t.tok)
    }
    pub fn peek_at(&self, n: usize) -> Option<&Tok<'a>> {
        self.toks.get(self.pos + n).map(|t| &t.tok)
    }
    pub fn next(&mut self) -> Result<Tok<'a>> {
        let t = self.toks.get(self.pos).ok_or_else(|| Error::syntax(self.line(), "text ends too early"))?;
        self.pos += 1;
        Ok(t.tok.clone())
    }
    pub fn eat(&mut self, c: char) -> bool {
        let hit = self.peek() == Some(&Tok::Punct(c));
        self.pos += hit as usize;
        hit
    }
    pub fn expect(&mut self, c: char) -> Result<()> {
        let line = self.line();
        match self.next()? {
            Tok::Punct(x) if x == c => Ok(()),
            other => Err(Error::syntax(line, format!("expected {c:?}, found {other:?}"))),
        }
    }
    pub fn word(&mut self) -> Result<&'a str> {
        let line = self.line();
        match self.next()? {
            Tok::Word(w) => Ok(w),
            other => Err(Error::syntax(line, format!("expected a name, found {other:?}"))),
        }
    }
    /// An unsigned integer below `MAX_BYTES`.
    pub fn count(&mut self) -> Result<u64> {
        let line = self.line();
        let w = self.word()?;
        parse_int(w).filter(|&v| v <= MAX_BYTES).ok_or_else(|| Error::syntax(line, format!("bad count {w:?}")))
    }
    /// `.loc` and `.file` end with their line, not with a semicolon.
    pub fn skip_line(&mut self) {
        let line = self.line();
        while self.toks.get(self.pos).is_some_and(|t| t.line == line) {
            self.pos += 1;
        }
    }
    pub fn skip_section(&mut self) -> Result<()> {
        while !self.eat('{') {
            self.next()?;
        }
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Tok::Punct('{') => depth += 1,
                Tok::Punct('}') => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// A variable or function with its linkage in front.
    fn item(&mut self, ast: &mut Ast) -> Result<()> {
        let line = self.line();
        while let Some(Tok::Word(".visible" | ".extern" | ".weak" | ".common")) = self.peek() {
            self.pos += 1;
        }
        match self.peek() {
            Some(Tok::Word(".entry")) => {
                self.pos += 1;
                let f = self.func(true, line)?;
                ast.funcs.push(f);
            }
            Some(Tok::Word(".func")) => {
                self.pos += 1;
                let f = self.func(false, line)?;
                ast.funcs.push(f);
            }
            Some(Tok::Word(w)) if var_space(w).is_some() => {
                let vars = self.vars()?;
                ast.vars.extend(vars);
            }
            Some(Tok::Word(w)) => return Err(Error::unsupported(line, format!("directive {w}"))),
            _ => return Err(Error::syntax(line, "expected a directive")),
        }
        Ok(())
    }

    fn func(&mut self, entry: bool, line: u32) -> Result<Func> {
        let rets = if self.peek() == Some(&Tok::Punct('(')) { self.params()? } else { vec![] };
        let name = self.word()?.to_string();
        let params = if self.peek() == Some(&Tok::Punct('(')) { self.params()? } else { vec![] };
        let mut limits = Limits::default();
        loop {
            let at = self.line();
            match self.peek() {
                Some(Tok::Punct(';')) => {
                    self.pos += 1;
                    return Ok(Func { name, entry, rets, params, limits, body: None, line });
                }
                Some(Tok::Punct('{')) => {
                    let body = self.body()?;
                    return Ok(Func { name, entry, rets, params, limits, body: Some(body), line });
                }
                Some(&Tok::Word(w)) => {
                    self.pos += 1;
                    match w {
                        ".maxntid" => limits.max_threads = Some(self.dims()?),
                        ".reqntid" => limits.required_threads = Some(self.dims()?),
                        ".reqnctapercluster" => limits.cluster = Some(self.dims()?),
                        ".minnctapersm" | ".maxnctapersm" | ".maxnreg" | ".maxclusterrank" => {
                            self.count()?;
                        }
                        ".noreturn" | ".explicitcluster" => {}
                        ".pragma" => {
                            while !self.eat(';') {
                                self.next()?;
                            }
                        }
                        _ => return Err(Error::unsupported(at, format!("directive {w}"))),
                    }
                }
                _ => return Err(Error::syntax(at, format!("function {name} has no body"))),
            }
        }
    }

    fn dims(&mut self) -> Result<[u32; 3]> {
        let mut d = [1u32; 3];
        d[0] = self.count()? as u32;
        let mut i = 1;
        while i < 3 && self.eat(',') {
            d[i] = self.count()? as u32;
            i += 1;
        }
        Ok(d)
    }

    fn params(&mut self) -> Result<Vec<Param>> {
        self.expect('(')?;
        let mut out = Vec::new();
        while !self.eat(')') {
            let line = self.line();
            let (mut align, mut ty, mut name) = (0u32, None, None);
            while let Some(&Tok::Word(w)) = self.peek() {
                self.pos += 1;
                if !w.starts_with('.') {
                    name = Some(w.to_string());
                    break;
                }
                for part in w[1..].split('.') {
                    match part {
                        "param" | "reg" | "ptr" | "global" | "shared" | "const" | "local" => {}
                        "align" => align = self.count()? as u32,
                        _ => {
                            ty = Some(
                                Ty::parse(part)
                                    .ok_or_else(|| Error::unsupported(line, format!("parameter type .{part}")))?,
                            )
                        }
                    }
                }
            }
            let ty = ty.ok_or_else(|| Error::syntax(line, "parameter without a type"))?;
            let mut size = ty.size() as u64;
            while self.eat('[') {
                if self.eat(']') {
                    return Err(Error::unsupported(line, "parameter array of unknown size"));
                }
                size = size.saturating_mul(self.count()?);
                self.expect(']')?;
            }
            let name = name.ok_or_else(|| Error::syntax(line, "parameter without a name"))?;
            // `.ptr .align` describes what the pointer points to; the parameter itself is aligned to its size.
            let own = if size == ty.size() as u64 { ty.size() } else { align.max(ty.size()) };
            let align = own.max(1);
            if size > 1 << 16 || !align.is_power_of_two() {
                return Err(Error::syntax(line, format!("bad size or alignment of parameter {name}")));
            }
            out.push(Param { name, align, size: size as u32 });
            if !self.eat(',') && self.peek() != Some(&Tok::Punct(')')) {
                return Err(Error::syntax(self.line(), "parameter list is never closed"));
            }
        }
        Ok(out)
    }
}

pub(crate) fn var_space(w: &str) -> Option<Space> {
    let first = w.get(1..)?.split('.').next()?;
    Some(match first {
        "global" => Space::Global,
        "const" => Space::Const,
        "shared" => Space::Shared,
        "local" => Space::Local,
        "param" => Space::Param,
        _ => return None,
    })
}

/// Decimal, hexadecimal, octal or binary, with an optional `U`.
pub(crate) fn parse_int(w: &str) -> Option<u64> {
    let w = w.strip_suffix('U').unwrap_or(w);
    if let Some(h) = w.strip_prefix("0x").or(w.strip_prefix("0X")) {
        u64::from_str_radix(h, 16).ok()
    } else if let Some(b) = w.strip_prefix("0b").or(w.strip_prefix("0B")) {
        u64::from_str_radix(b, 2).ok()
    } else if w.len() > 1 && w.starts_with('0') && w.bytes().all(|b| b.is_ascii_digit()) {
        u64::from_str_radix(&w[1..], 8).ok()
    } else if w.starts_with(|c: char| c.is_ascii_digit()) {
        w.parse().ok()
    } else {
        None
    }
}

/// An integer or a floating-point constant (`0f…`, `0d…` or decimal).
pub(crate) fn parse_number(w: &str) -> Option<Arg> {
    if let Some(h) = w.strip_prefix("0f").or(w.strip_prefix("0F")) {
        return u32::from_str_radix(h, 16).ok().filter(|_| h.len() == 8).map(Arg::F32);
    }
    if let Some(h) = w.strip_prefix("0d").or(w.strip_prefix("0D")) {
        return u64::from_str_radix(h, 16).ok().filter(|_| h.len() == 16).map(Arg::F64);
    }
    if let Some(v) = parse_int(w) {
        return Some(Arg::Int(v));
    }
    if w.starts_with(|c: char| c.is_ascii_digit()) && (w.contains('.') || w.contains('e')) {
        return w.parse::<f64>().ok().map(|v| Arg::F64(v.to_bits()));
    }
    None
}
