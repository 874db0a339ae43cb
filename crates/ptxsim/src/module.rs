//! A loaded module: kernels decoded and ready to run, variables to be placed in device memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ast::Var;
use crate::error::{Error, Result};
use crate::ir::Kernel;
use crate::mem::device::Memory;
use crate::types::{Space, function_address};
use crate::{lower, parse};

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A PTX module.
///
/// Everything is checked here: text that is not PTX, undeclared names, opcodes and modifiers that are not
/// implemented are errors with a line number, not surprises at run time.
pub struct Module {
    pub(crate) id: u64,
    pub(crate) vars: Vec<Var>,
    kernels: HashMap<String, Kernel>,
    names: Vec<String>,
    target: String,
    /// Functions whose addresses initialisers may hold.
    functions: HashMap<String, u64>,
}

/// What a launch needs to know about a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// Name of the entry.
    pub name: String,
    /// Offset and size in bytes of each parameter.
    pub params: Vec<(usize, usize)>,
    /// Bytes of statically declared shared memory.
    pub shared_bytes: usize,
    /// Bytes of local memory per thread.
    pub local_bytes: usize,
    /// `.maxntid`, as a number of threads.
    pub max_threads: Option<u32>,
    /// `.reqntid`.
    pub required_block: Option<[u32; 3]>,
    /// `.reqnctapercluster`.
    pub cluster: Option<[u32; 3]>,
    /// Virtual registers in use.
    pub registers: u32,
}

impl Module {
    /// Parses and decodes PTX text.
    ///
    /// # Errors
    /// With the line of the first thing that is malformed or not implemented.
    pub fn parse(src: &str) -> Result<Self> {
        let ast = parse::parse(src)?;
        let device = ast.vars.iter().filter(|v| matches!(v.space, Space::Global | Space::Const));
        if device.filter_map(|v| v.size).fold(0u64, u64::saturating_add) > parse::MAX_BYTES {
            return Err(Error::syntax(1, format!("variables of more than {} bytes", parse::MAX_BYTES)));
        }
        let (mut kernels, mut names) = (HashMap::new(), Vec::new());
        for f in ast.funcs.iter().filter(|f| f.entry && f.body.is_some()) {
            if kernels.insert(f.name.clone(), lower::kernel(&ast, f)?).is_some() {
                return Err(Error::syntax(f.line, format!("kernel {} is defined twice", f.name)));
            }
            names.push(f.name.clone());
        }
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let bodies = ast.funcs.iter().enumerate().filter(|(_, f)| f.body.is_some() && !f.entry);
        let functions = bodies.map(|(i, f)| (f.name.clone(), function_address(i))).collect();
        Ok(Module { id, vars: ast.vars, kernels, names, target: ast.target, functions })
    }

    /// The entries in the order of the text.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The `.target` of the module.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Facts about one kernel.
    pub fn kernel(&self, name: &str) -> Option<KernelInfo> {
        let k = self.kernels.get(name)?;
        Some(KernelInfo {
            name: k.name.clone(),
            params: k.params.iter().map(|p| (p.offset as usize, p.size as usize)).collect(),
            shared_bytes: k.shared_bytes as usize,
            local_bytes: k.local_bytes as usize,
            max_threads: k.limits.max_threads.map(|d| d.iter().fold(1u32, |a, b| a.saturating_mul(*b))),
            required_block: k.limits.required_threads,
            cluster: k.limits.cluster,
            registers: k.nregs,
        })
    }

    pub(crate) fn entry(&self, name: &str) -> Option<&Kernel> {
        self.kernels.get(name)
    }

    /// Places the module's variables in `mem`, once; later calls return the same addresses.
    pub(crate) fn place(&self, mem: &mut Memory) -> Result<Vec<u64>> {
        if let Some(a) = mem.modules.get(&self.id) {
            return Ok(a.clone());
        }
        let mut addrs = Vec::with_capacity(self.vars.len());
        for v in &self.vars {
            let device = matches!(v.space, Space::Global | Space::Const);
            addrs.push(match v.size.filter(|_| device) {
                Some(n) => mem.alloc_aligned(n as usize, v.align as u64),
                None => 0,
            });
        }
        for (v, addr) in self.vars.iter().zip(&addrs) {
            if *addr == 0 {
                continue;
            }
            let mut bytes = v.init.clone();
            bytes.resize(v.size.unwrap_or(0) as usize, 0);
            for (off, sym, add) in &v.relocs {
                let target = match self.vars.iter().position(|x| x.name == *sym) {
                    Some(i) => addrs[i].wrapping_add(*add as u64),
                    None => self.functions.get(sym).copied().unwrap_or(0),
                };
                if let Some(b) = bytes.get_mut(*off as usize..*off as usize + 8) {
                    b.copy_from_slice(&target.to_le_bytes());
                }
            }
            mem.write(*addr, &bytes)?;
        }
        mem.modules.insert(self.id, addrs.clone());
        Ok(addrs)
    }

    /// Address and size of a `.global` or `.const` variable.
    ///
    /// # Errors
    /// If there is no such variable.
    pub fn symbol(&self, mem: &mut Memory, name: &str) -> Result<(u64, usize)> {
        let addrs = self.place(mem)?;
        let i = self.vars.iter().position(|v| v.name == name && addrs.len() == self.vars.len());
        match i.map(|i| (addrs[i], self.vars[i].size.unwrap_or(0) as usize)) {
            Some((a, n)) if a != 0 => Ok((a, n)),
            _ => Err(Error::memory(format!("the module has no variable {name}"))),
        }
    }
}
