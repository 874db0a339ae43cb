//! Modules, kernels and launches, with the limits that drivers enforce.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use ptxsim::Config;

use crate::abi::{In, Out, R, api, host_read, host_write};
use crate::codes::*;
use crate::device;
use crate::state::{Func, SHARED_DEFAULT, State, Work};

fn load(s: &mut State, o: Out<u64>, text: &str) -> R<()> {
    s.ready()?;
    match device::module(text) {
        Ok(m) => {
            let h = s.handle();
            s.modules.get_or_insert_default().insert(h, Arc::new(m));
            o.set(h)
        }
        Err(e) => {
            eprintln!("ptxsim-driver: {e}");
            Err(INVALID_PTX)
        }
    }
}

/// Writes the error text into the buffer of `CU_JIT_ERROR_LOG_BUFFER` (option 5; its size is option 6).
fn error_log(text: &str, n: c_uint, options: &In<c_int>, values: &In<usize>) -> R {
    let Err(e) = device::module(text) else { return Ok(()) };
    let (opts, vals) = (options.read(n as usize)?, values.read(n as usize)?);
    let get = |o: c_int| opts.iter().position(|x| *x == o).map(|i| vals[i]);
    if let (Some(buf), Some(size)) = (get(5), get(6)) {
        let mut text = e.into_bytes();
        text.truncate(size.saturating_sub(1));
        text.push(0);
        if size > 0 {
            host_write(buf, &text)?;
        }
    }
    Ok(())
}

/// Shared memory of a block with opt-in.
fn optin() -> R<usize> {
    Ok(device::device().map_err(|_| NO_DEVICE)?.shared_optin)
}

/// What a launch asks for.
pub(crate) struct Shape {
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub cluster: [c_uint; 3],
    pub shared: c_uint,
}

fn launch(s: &mut State, f: u64, shape: Shape, stream: u64, args: In<usize>, extra: In<usize>) -> R {
    let work = prepare(s, f, shape, args, extra)?;
    s.submit(stream, work)
}

/// A launch, checked, with its arguments read.
pub(crate) fn prepare(s: &mut State, f: u64, shape: Shape, args: In<usize>, extra: In<usize>) -> R<Work> {
    s.ready()?;
    let func = s.funcs.get_or_insert_default().get(&f).cloned().ok_or(INVALID_HANDLE)?;
    let module = s.modules.get_or_insert_default().get(&func.module).cloned().ok_or(INVALID_HANDLE)?;
    let info = module.kernel(&func.name).ok_or(INVALID_HANDLE)?;
    let refuse = |m: String| {
        eprintln!("ptxsim-driver: launch of {}: {m}", func.name);
        INVALID_VALUE
    };
    let shared = shape.shared as usize;
    let allowed = func.max_dynamic.max(SHARED_DEFAULT.saturating_sub(info.shared_bytes));
    if shared > allowed {
        return Err(refuse(format!(
            "{shared} bytes of dynamic shared memory beside {} static ones; {allowed} are allowed \
             (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES raises it)",
            info.shared_bytes
        )));
    }
    let total = info.params.last().map_or(0, |(o, n)| o + n);
    let mut params = vec![0u8; total];
    if !args.is_null() {
        for ((off, n), p) in info.params.iter().zip(args.read(info.params.len())?) {
            params[*off..off + n].copy_from_slice(&host_read(p, *n)?);
        }
    } else if !extra.is_null() {
        // 1 is the buffer, 2 the address of its size, 0 the end.
        let e = extra.read(5)?;
        let (mut buf, mut size) = (0, 0);
        for pair in e[..4].chunks_exact(2) {
            match pair[0] {
                1 => buf = pair[1],
                2 => size = host_read(pair[1], 8)?.iter().rev().fold(0usize, |v, b| v << 8 | *b as usize),
                _ => break,
            }
        }
        if size != total {
            return Err(refuse(format!("{size} bytes of arguments, not {total}")));
        }
        params.copy_from_slice(&host_read(buf, size)?);
    } else if total > 0 {
        return Err(refuse(format!("no arguments for {} parameters", info.params.len())));
    }
    let races = std::env::var_os("LOWRANK_PTXSIM_RACES").is_none_or(|v| v != "0");
    let cfg =
        Config { grid: shape.grid, block: shape.block, cluster: shape.cluster, shared, races, ..Config::default() };
    Ok(Work::Launch { func: f, cfg: Box::new(cfg), params })
}

/// `CUlaunchAttribute`: an id, and a union of 64 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchAttribute {
    id: c_int,
    pad: [c_int; 1],
    value: [u32; 16],
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: u64,
    attrs: *const LaunchAttribute,
    count: c_uint,
}

api! {
    healthy;
    fn cuModuleLoadData(o: Out<u64>, image: In<c_char>) |s| {
        let text = image.text()?;
        load(s, o, &text)
    }
    fn cuModuleLoadDataEx(o: Out<u64>, image: In<c_char>, n: c_uint, options: In<c_int>, values: In<usize>) |s| {
        let text = image.text()?;
        error_log(&text, n, &options, &values)?;
        load(s, o, &text)
    }
    fn cuModuleLoad(o: Out<u64>, path: In<c_char>) |s| {
        let text = std::fs::read_to_string(path.text()?).map_err(|_| FILE_NOT_FOUND)?;
        load(s, o, &text)
    }
    fn cuModuleGetFunction(o: Out<u64>, m: u64, name: In<c_char>) |s| {
        let name = name.text()?;
        let module = s.modules.get_or_insert_default().get(&m).ok_or(INVALID_HANDLE)?;
        module.kernel(&name).ok_or(NOT_FOUND)?;
        let h = s.handle();
        s.funcs.get_or_insert_default().insert(h, Func { module: m, name, max_dynamic: 0 });
        o.set(h)
    }
    fn cuModuleGetGlobal_v2(addr: Out<u64>, size: Out<usize>, m: u64, name: In<c_char>) |s| {
        let module = s.modules.get_or_insert_default().get(&m).cloned().ok_or(INVALID_HANDLE)?;
        let (a, n) = module.symbol(s.mem(), &name.text()?).map_err(|_| NOT_FOUND)?;
        addr.set_opt(a)?;
        size.set_opt(n)
    }
    fn cuFuncSetAttribute(f: u64, a: c_int, v: c_int) |s| {
        let func = s.funcs.get_or_insert_default().get(&f).cloned().ok_or(INVALID_HANDLE)?;
        let module = s.modules.get_or_insert_default().get(&func.module).ok_or(INVALID_HANDLE)?;
        let own = module.kernel(&func.name).map_or(0, |k| k.shared_bytes);
        if a == 8 {
            if v < 0 || v as usize + own > optin()? {
                return Err(INVALID_VALUE);
            }
            if let Some(x) = s.funcs.get_or_insert_default().get_mut(&f) {
                x.max_dynamic = v as usize;
            }
        }
        Ok(())
    }
    fn cuFuncGetAttribute(o: Out<c_int>, a: c_int, f: u64) |s| {
        let func = s.funcs.get_or_insert_default().get(&f).cloned().ok_or(INVALID_HANDLE)?;
        let module = s.modules.get_or_insert_default().get(&func.module).ok_or(INVALID_HANDLE)?;
        let k = module.kernel(&func.name).ok_or(INVALID_HANDLE)?;
        o.set(match a {
            0 => k.max_threads.unwrap_or(1024) as c_int,
            1 => k.shared_bytes as c_int,
            3 => k.local_bytes as c_int,
            4 => k.registers.min(255) as c_int,
            5 | 6 => 90,
            8 => func.max_dynamic.max(SHARED_DEFAULT.saturating_sub(k.shared_bytes)) as c_int,
            _ => 0,
        })
    }
    fn cuFuncSetCacheConfig(_f: u64, _c: c_int) |s| { s.ready() }
    fn cuLaunchKernel(
        f: u64, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint, stream: u64,
        args: In<usize>, extra: In<usize>,
    ) |s| {
        let shape = Shape { grid: [gx, gy, gz], block: [bx, by, bz], cluster: [1; 3], shared };
        launch(s, f, shape, stream, args, extra)
    }
    fn cuLaunchCooperativeKernel(
        f: u64, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint, stream: u64,
        args: In<usize>,
    ) |s| {
        let shape = Shape { grid: [gx, gy, gz], block: [bx, by, bz], cluster: [1; 3], shared };
        launch(s, f, shape, stream, args, In::null())
    }
    fn cuLaunchKernelEx(config: In<LaunchConfig>, f: u64, args: In<usize>, extra: In<usize>) |s| {
        let c = config.read(1)?[0];
        let mut cluster = [1; 3];
        for a in In::from_raw(c.attrs).read(c.count as usize)? {
            // CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
            if a.id == 4 {
                cluster.copy_from_slice(&a.value[..3]);
            }
        }
        let shape = Shape { grid: c.grid, block: c.block, cluster, shared: c.shared };
        launch(s, f, shape, c.stream, args, extra)
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(o: Out<c_int>, _f: u64, block: c_int, shared: usize) |s| {
        s.ready()?;
        let by_threads = 2048 / block.max(1);
        o.set(if shared > 0 { by_threads.min((optin()? / shared.max(1)) as c_int) } else { by_threads }.min(32))
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        o: Out<c_int>, _f: u64, block: c_int, shared: usize, _flags: c_uint,
    ) |s| {
        s.ready()?;
        let by_threads = 2048 / block.max(1);
        o.set(if shared > 0 { by_threads.min((optin()? / shared.max(1)) as c_int) } else { by_threads }.min(32))
    }
}

api! {
    always;
    fn cuModuleUnload(m: u64) |s| {
        s.funcs.get_or_insert_default().retain(|_, f| f.module != m);
        s.modules.get_or_insert_default().remove(&m).map(|_| ()).ok_or(INVALID_HANDLE)
    }
    fn cuLaunchHostFunc(stream: u64, f: Option<extern "C" fn(*mut c_void)>, data: In<u8>) |s| {
        let f = f.ok_or(INVALID_VALUE)?;
        s.submit(stream, Work::Host { f, data: data.addr() })
    }
}
