//! The parsed module, before names are resolved: directives, variables, functions and raw instructions.

use crate::types::{Space, Ty};

/// A module-level or function-level variable.
#[derive(Clone, Debug)]
pub(crate) struct Var {
    pub name: String,
    pub space: Space,
    pub align: u32,
    /// Bytes; `None` for `extern .shared x[]`.
    pub size: Option<u64>,
    pub init: Vec<u8>,
    /// Pointers inside `init`: byte offset, symbol, addend.
    pub relocs: Vec<(u64, String, i64)>,
}

/// A kernel or function parameter.
#[derive(Clone, Debug)]
pub(crate) struct Param {
    pub name: String,
    pub align: u32,
    pub size: u32,
}

/// Performance directives that a launch must respect.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
    pub cluster: Option<[u32; 3]>,
}

#[derive(Clone, Debug)]
pub(crate) struct Func {
    pub name: String,
    pub entry: bool,
    pub rets: Vec<Param>,
    pub params: Vec<Param>,
    pub limits: Limits,
    /// `None` for a declaration.
    pub body: Option<Vec<Stmt>>,
    pub line: u32,
}

#[derive(Clone, Debug)]
pub(crate) enum Stmt {
    Open,
    Close,
    Reg { line: u32, ty: Ty, base: String, count: Option<u32> },
    Var { line: u32, var: Var },
    Label { line: u32, name: String },
    Targets { name: String, labels: Vec<String> },
    Inst(Raw),
}

/// An instruction as written.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub line: u32,
    pub guard: Option<(String, bool)>,
    pub op: String,
    pub args: Vec<Arg>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arg {
    /// Register, special register, symbol or label, with an addend for `symbol+4`.
    Name(String, i64),
    Int(u64),
    F32(u32),
    F64(u64),
    Not(Box<Arg>),
    Sink,
    Vec(Vec<Arg>),
    /// `[base+offset]`, `[map, {x, y}]`.
    Mem(Vec<Arg>),
    /// `d|p`
    Pair(Box<Arg>, Box<Arg>),
    /// `(a, b)` of a call.
    List(Vec<Arg>),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Ast {
    pub target: String,
    pub vars: Vec<Var>,
    pub funcs: Vec<Func>,
}
