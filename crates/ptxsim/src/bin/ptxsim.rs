//! The `ptxsim` command: run, check or count one kernel of a PTX file.
//!
//! Arguments of the kernel are written as `type:value`; a file or `zeros` makes a buffer whose address is passed:
//! `f32:3.5`, `u32:64`, `f32:a.bin` (raw little-endian), `f32:zeros*4096`, `f32:ramp*16`, `ptr:uninit*4096`.

use std::process::ExitCode;

use ptxsim::{Arg, Config, Memory, Module, launch};

const USAGE: &str = "usage: ptxsim run|check|count|list FILE.ptx --entry NAME [--grid X,Y,Z] [--block X,Y,Z]
         [--cluster X,Y,Z] [--smem BYTES] [--steps N] [--arg TYPE:VALUE]… [--dump I[:N]]… [--out I:FILE]…

  run     run the kernel (no race checks)
  check   run it with race, bounds, initialisation and deadlock checks; exit status 1 if something is found
  count   run it and print instructions by opcode, global transactions, bank conflicts
  list    print the kernels of the file

  --arg   u32:5 i32:-5 u64:5 f32:1.5 f64:1.5      a number
          TYPE:FILE                               a buffer with the bytes of a file
          TYPE:zeros*N TYPE:ramp*N TYPE:uninit*N  a buffer of N elements: 0, 0 1 2 …, or never written
  --dump  print buffer I (counted over all arguments from 0), N elements
  --out   write buffer I to a file";

/// Prints a line; a reader that went away (`| head`) is no reason to panic.
macro_rules! say {
    ($($x:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($x)*);
    }};
}

/// A buffer argument: which argument, element type, device address, elements.
struct Buffer {
    index: usize,
    ty: String,
    addr: u64,
    count: usize,
}

fn main() -> ExitCode {
    match real_main() {
        Ok(clean) => ExitCode::from(!clean as u8),
        Err(e) => {
            eprintln!("ptxsim: {e}");
            ExitCode::from(2)
        }
    }
}

fn triple(s: &str) -> Result<[u32; 3], String> {
    let mut out = [1; 3];
    for (i, p) in s.split(',').enumerate() {
        let slot = out.get_mut(i).ok_or(format!("{s} has more than three parts"))?;
        *slot = p.trim().parse().map_err(|_| format!("{s} is no X,Y,Z"))?;
    }
    Ok(out)
}

fn size_of(ty: &str) -> Result<usize, String> {
    Ok(match ty {
        "u8" | "i8" => 1,
        "u16" | "i16" | "f16" | "bf16" => 2,
        "u32" | "i32" | "f32" => 4,
        "u64" | "i64" | "f64" | "ptr" => 8,
        _ => return Err(format!("unknown type {ty}")),
    })
}

/// The bytes of the number `v` in a type.
fn encode(ty: &str, v: f64) -> Result<Vec<u8>, String> {
    Ok(match ty {
        "u8" | "i8" => vec![v as i64 as u8],
        "u16" | "i16" => (v as i64 as u16).to_le_bytes().to_vec(),
        "u32" | "i32" => (v as i64 as u32).to_le_bytes().to_vec(),
        "u64" | "i64" | "ptr" => (v as i64).to_le_bytes().to_vec(),
        "f32" => (v as f32).to_le_bytes().to_vec(),
        "f64" => v.to_le_bytes().to_vec(),
        "bf16" => ((v as f32).to_bits() >> 16).to_le_bytes()[..2].to_vec(),
        _ => return Err(format!("no literal of type {ty}; use a file")),
    })
}

fn argument(spec: &str, index: usize, mem: &mut Memory, buffers: &mut Vec<Buffer>) -> Result<Arg, String> {
    let (ty, value) = spec.split_once(':').ok_or(format!("--arg {spec} is no TYPE:VALUE"))?;
    let size = size_of(ty)?;
    let mut buffer = |addr: u64, count: usize| {
        buffers.push(Buffer { index, ty: ty.into(), addr, count });
        Ok(Arg::Ptr(addr))
    };
    if let Some((kind, n)) = value.split_once('*') {
        let n: usize = n.parse().map_err(|_| format!("{n} is no count"))?;
        let bytes = n.checked_mul(size).filter(|b| *b <= 1 << 34).ok_or(format!("{n} elements are too many"))?;
        return match kind {
            "uninit" => buffer(mem.alloc(bytes), n),
            "zeros" => buffer(mem.upload(&vec![0u8; bytes]), n),
            "ramp" => {
                let mut data = Vec::with_capacity(bytes);
                for i in 0..n {
                    data.extend(encode(ty, i as f64)?);
                }
                buffer(mem.upload(&data), n)
            }
            _ => Err(format!("unknown fill {kind}")),
        };
    }
    if let Ok(v) = value.parse::<f64>() {
        return match (ty, value.parse::<i64>()) {
            ("u64" | "i64" | "ptr", Ok(v)) => Ok(Arg::I64(v)),
            _ => Ok(Arg::Bytes(encode(ty, v)?)),
        };
    }
    let data = std::fs::read(value).map_err(|e| format!("{value}: {e}"))?;
    buffer(mem.upload(&data), data.len() / size)
}

fn show(ty: &str, b: &[u8]) -> String {
    let int = b.iter().rev().fold(0u64, |v, x| v << 8 | *x as u64);
    match ty {
        "f32" => f32::from_bits(int as u32).to_string(),
        "f64" => f64::from_bits(int).to_string(),
        "bf16" => f32::from_bits((int as u32) << 16).to_string(),
        "i8" => (int as i8).to_string(),
        "i16" => (int as i16).to_string(),
        "i32" => (int as i32).to_string(),
        "i64" => (int as i64).to_string(),
        "f16" => format!("{int:#06x}"),
        _ => int.to_string(),
    }
}

fn real_main() -> Result<bool, String> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(cmd), Some(file)) = (args.first(), args.get(1)) else { return Err(USAGE.into()) };
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    let module = Module::parse(&text).map_err(|e| format!("{file}: {e}"))?;
    if cmd == "list" {
        for name in module.entries() {
            if let Some(k) = module.kernel(name) {
                say!("{name}: {} parameters, {} bytes of shared memory", k.params.len(), k.shared_bytes);
            }
        }
        return Ok(true);
    }
    if !matches!(cmd.as_str(), "run" | "check" | "count") {
        return Err(USAGE.into());
    }
    let mut cfg = Config { races: cmd == "check", count: cmd == "count", ..Config::default() };
    let (mut entry, mut mem, mut buffers) = (None, Memory::new(), Vec::new());
    let (mut kernel_args, mut dumps, mut outs) = (Vec::new(), Vec::new(), Vec::new());
    let mut it = args[2..].iter();
    while let Some(flag) = it.next() {
        let v = it.next().ok_or(format!("{flag} needs a value"))?;
        let number = || v.parse::<u64>().map_err(|_| format!("{flag} {v} is no number"));
        match flag.as_str() {
            "--entry" => entry = Some(v.clone()),
            "--grid" => cfg.grid = triple(v)?,
            "--block" => cfg.block = triple(v)?,
            "--cluster" => cfg.cluster = triple(v)?,
            "--smem" => cfg.shared = number()? as usize,
            "--steps" => cfg.step_limit = number()?,
            "--arg" => {
                let a = argument(v, kernel_args.len(), &mut mem, &mut buffers)?;
                kernel_args.push(a);
            }
            "--dump" => dumps.push(v.clone()),
            "--out" => outs.push(v.clone()),
            _ => return Err(format!("unknown option {flag}\n{USAGE}")),
        }
    }
    let entry = match entry.or(module.entries().next().map(String::from)) {
        Some(e) => e,
        None => return Err("the file has no kernels".into()),
    };
    let start = std::time::Instant::now();
    let report = launch(&module, &entry, &mut mem, &cfg, &kernel_args).map_err(|e| e.to_string())?;
    let seconds = start.elapsed().as_secs_f64();
    let find = |s: &str| -> Result<&Buffer, String> {
        let i: usize = s.parse().map_err(|_| format!("{s} is no argument number"))?;
        buffers.iter().find(|b| b.index == i).ok_or(format!("argument {i} is no buffer"))
    };
    for d in &dumps {
        let (i, n) = d.split_once(':').unwrap_or((d, "16"));
        let b = find(i)?;
        let size = size_of(&b.ty)?;
        let n = n.parse::<usize>().map_err(|_| format!("{n} is no count"))?.min(b.count);
        let bytes = mem.read(b.addr, n * size).map_err(|e| e.to_string())?;
        let text: Vec<String> = bytes.chunks_exact(size).map(|c| show(&b.ty, c)).collect();
        say!("{i}: {}", text.join(" "));
    }
    for o in &outs {
        let (i, path) = o.split_once(':').ok_or(format!("--out {o} is no I:FILE"))?;
        let b = find(i)?;
        let bytes = mem.read(b.addr, b.count * size_of(&b.ty)?).map_err(|e| e.to_string())?;
        std::fs::write(path, bytes).map_err(|e| format!("{path}: {e}"))?;
    }
    let c = &report.counters;
    let rate = c.lane_instructions() as f64 / seconds / 1e6;
    eprintln!(
        "{entry}: {} warp instructions in {seconds:.3} s, {rate:.0} M lane-instructions/s",
        c.warp_instructions()
    );
    if cmd == "count" {
        for (op, (warps, lanes)) in &c.instructions {
            say!("{warps:>12} {lanes:>14} {op}");
        }
        say!("global: {} accesses, {} sectors, {} lines", c.global_accesses, c.global_sectors, c.global_lines);
        say!("shared: {} accesses, {} bank conflicts", c.shared_accesses, c.bank_conflicts);
    }
    if !report.is_clean() || cmd == "check" {
        say!("{}", report.to_string().trim_end());
    }
    Ok(report.is_clean())
}
