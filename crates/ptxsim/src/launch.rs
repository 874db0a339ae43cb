//! A launch: what the host asks for, and the checks a driver would make before it starts.

use std::sync::atomic::AtomicU32;

use crate::error::{Error, Result};
use crate::exec;
use crate::ir::{Const, Inst, Kernel, Lanes, Op, Special};
use crate::mem::device::Memory;
use crate::module::Module;
use crate::report::Report;
use crate::schedule::{in_turn, in_waves};

/// Shared memory of one CTA on the largest supported GPU.
const MAX_SHARED: usize = 227 * 1024;
/// What a driver keeps of it for itself, beyond that limit.
pub(crate) const RESERVED_SHARED: usize = 1024;

/// Local memory of all threads of one CTA; a device runs out of memory somewhere there, too.
const MAX_LOCAL: u64 = 128 << 20;

/// One kernel argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// Device address.
    Ptr(u64),
    /// 32-bit integers.
    U32(u32),
    /// Signed.
    I32(i32),
    /// 64-bit integers.
    U64(u64),
    /// Signed.
    I64(i64),
    /// Single precision.
    F32(f32),
    /// Double precision.
    F64(f64),
    /// Any other parameter: a struct, a tensor map.
    Bytes(Vec<u8>),
}

impl Arg {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Arg::Ptr(v) | Arg::U64(v) => v.to_le_bytes().to_vec(),
            Arg::I64(v) => v.to_le_bytes().to_vec(),
            Arg::U32(v) => v.to_le_bytes().to_vec(),
            Arg::I32(v) => v.to_le_bytes().to_vec(),
            Arg::F32(v) => v.to_le_bytes().to_vec(),
            Arg::F64(v) => v.to_le_bytes().to_vec(),
            Arg::Bytes(v) => v.clone(),
        }
    }
}

/// Shape and settings of a launch.
#[derive(Clone, Debug)]
pub struct Config {
    /// CTAs in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a CTA in x, y, z.
    pub block: [u32; 3],
    /// CTAs of a cluster; `.reqnctapercluster` of the kernel goes first.
    pub cluster: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: usize,
    /// Look for races (slower by a third or so).
    pub races: bool,
    /// Count memory transactions and bank conflicts.
    pub count: bool,
    /// Warp instructions one block (or cluster) may execute.
    pub step_limit: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            grid: [1; 3],
            block: [1; 3],
            cluster: [1; 3],
            shared: 0,
            races: true,
            count: false,
            step_limit: 1 << 26,
        }
    }
}

impl Config {
    /// A launch of `grid` CTAs of `block` threads with all checks.
    pub fn new(grid: [u32; 3], block: [u32; 3]) -> Self {
        Config { grid, block, ..Default::default() }
    }
}

/// Runs a kernel.
///
/// # Errors
/// If the launch itself is wrong: no such kernel, sizes, arguments. What goes wrong inside is in the report.
pub fn launch(module: &Module, entry: &str, mem: &mut Memory, cfg: &Config, args: &[Arg]) -> Result<Report> {
    let k = module.entry(entry).ok_or_else(|| Error::launch(format!("no kernel {entry} in the module")))?;
    if args.len() != k.params.len() {
        return Err(Error::launch(format!("{entry} takes {} arguments, not {}", k.params.len(), args.len())));
    }
    let mut params = vec![0u8; k.param_bytes as usize];
    for (i, (a, p)) in args.iter().zip(&k.params).enumerate() {
        let b = a.bytes();
        if b.len() != p.size as usize {
            return Err(Error::launch(format!("argument {i} of {entry} has {} bytes, not {}", b.len(), p.size)));
        }
        params[p.offset as usize..][..b.len()].copy_from_slice(&b);
    }
    launch_raw(module, entry, mem, cfg, params)
}

/// Runs a kernel with its parameter block as bytes.
///
/// # Errors
/// As [`launch`].
pub fn launch_raw(module: &Module, entry: &str, mem: &mut Memory, cfg: &Config, params: Vec<u8>) -> Result<Report> {
    let k = module.entry(entry).ok_or_else(|| Error::launch(format!("no kernel {entry} in the module")))?;
    if params.len() != k.param_bytes as usize {
        return Err(Error::launch(format!(
            "{entry} takes {} bytes of parameters, not {}",
            k.param_bytes,
            params.len()
        )));
    }
    let cluster = check(k, cfg)?;
    let explicit_cluster = k.limits.cluster.is_some() || cfg.cluster != [1; 3];
    let vars = module.place(mem)?;
    let dynamic_at = (k.shared_bytes as usize).next_multiple_of(k.shared_align.max(16) as usize);
    let shared_len = if cfg.shared > 0 { dynamic_at + cfg.shared } else { k.shared_bytes as usize };
    let reserved_at = shared_len.next_multiple_of(16);
    if shared_len > MAX_SHARED {
        return Err(Error::launch(format!("{shared_len} bytes of shared memory, more than {MAX_SHARED}")));
    }
    let consts = k.consts.iter().map(|c| -> Lanes {
        [match c {
            Const::Int(v) => *v,
            Const::Global(i, add) => vars.get(*i).copied().unwrap_or(0).wrapping_add(*add as u64),
            Const::Dynamic(add) => (dynamic_at as u64).wrapping_add(*add as u64),
        }; 32]
    });
    let uses = |i: &Inst| matches!(i.op, Op::Special { s: Special::Workspace { .. }, .. });
    let workspace = if k.insts.iter().any(uses) { mem.upload(&[8u32, 0]) } else { 0 };
    let l = exec::Launch {
        kernel: k,
        consts: consts.collect(),
        params,
        grid: cfg.grid,
        block: cfg.block,
        cluster,
        dynamic: cfg.shared as u32,
        shared_len: if k.reserved { reserved_at + RESERVED_SHARED } else { shared_len },
        total_shared: shared_len,
        reserved_at,
        explicit_cluster,
        races: cfg.races,
        count: cfg.count,
        step_limit: cfg.step_limit,
        workspace,
        stopped: AtomicU32::new(u32::MAX),
    };
    let units = (cfg.grid[0] as u64 * cfg.grid[1] as u64 * cfg.grid[2] as u64
        / (cluster[0] as u64 * cluster[1] as u64 * cluster[2] as u64)) as u32;
    let report = if k.coherent { in_turn(&l, mem, units) } else { in_waves(&l, mem, units) };
    if workspace != 0 {
        mem.free(workspace)?;
    }
    Ok(report)
}

fn check(k: &Kernel, cfg: &Config) -> Result<[u32; 3]> {
    let threads = cfg.block.iter().fold(1u64, |a, b| a.saturating_mul(*b as u64));
    if threads == 0 || threads > 1024 || cfg.block[2] > 64 {
        return Err(Error::launch(format!("block of {:?} threads (1–1024 in all, at most 64 in z)", cfg.block)));
    }
    let local = threads * k.local_bytes as u64;
    if local > MAX_LOCAL {
        return Err(Error::launch(format!("{local} bytes of local memory for one block, more than {MAX_LOCAL}")));
    }
    let ctas = cfg.grid.iter().fold(1u64, |a, b| a.saturating_mul(*b as u64));
    if ctas == 0 || cfg.grid[0] > i32::MAX as u32 || cfg.grid[1] > 65535 || cfg.grid[2] > 65535 || ctas >= 1 << 32 {
        return Err(Error::launch(format!("grid of {:?} blocks", cfg.grid)));
    }
    if let Some(m) = k.limits.max_threads {
        let m = m.iter().fold(1u64, |a, b| a.saturating_mul(*b as u64));
        if threads > m {
            return Err(Error::launch(format!("{} allows {m} threads a block (.maxntid), not {threads}", k.name)));
        }
    }
    if let Some(r) = k.limits.required_threads
        && r != cfg.block
    {
        return Err(Error::launch(format!("{} requires blocks of {r:?} (.reqntid), not {:?}", k.name, cfg.block)));
    }
    let cluster = k.limits.cluster.unwrap_or(cfg.cluster);
    let size = cluster.iter().fold(1u64, |a, b| a.saturating_mul(*b as u64));
    if size == 0 || size > 8 || (0..3).any(|d| !cfg.grid[d].is_multiple_of(cluster[d].max(1))) {
        return Err(Error::launch(format!("clusters of {cluster:?} do not tile a grid of {:?} (at most 8)", cfg.grid)));
    }
    Ok(cluster)
}
