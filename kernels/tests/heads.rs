//! What the heads of `cu/*` say of registers, shared memory and blocks is what `resources.txt`, the PTX and the launches
//! say. A head has a line for kernels that are alike:
//!
//! ```text
//! //   NAME, NAME: T threads, R registers, M of shared memory: B blocks on 9.0, C on 8.6
//! ```
//!
//! In a NAME `*` stands for letters and digits, so `norm_*` is not `norm_forward_bf16`. R is the largest number over these
//! kernels and all GPUs; M, in bytes or KiB, is static and dynamic shared memory, likewise, and absent where there is none.
//! B and C are how many blocks a multiprocessor of compute capability 9.0 (2048 threads, 228 KiB of shared memory) and of
//! 8.6, 8.9 or 12.0 (1536, 100 KiB) can hold of each, at least; the kernels for 9.0a alone have no C. Every kernel has one line.

use std::collections::BTreeMap;
use std::path::Path;

use lowrank_kernels::attention::{Attention, Gradient, Saved};
use lowrank_kernels::gemm::{Gemm, Layout, Math};
use lowrank_kernels::hopper::{Backward, Forward};
use lowrank_kernels::launch::{Launch, Operand, Type};
use lowrank_kernels::lora::{Plan, Slot};
use lowrank_kernels::{ALL, Module};

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// A launch of every kernel that has dynamic shared memory.
fn planned() -> Vec<Launch> {
    let (single, half) = (Operand::new(4096, Type::F32), Operand::new(4096, Type::Bf16));
    let mut all = Vec::new();
    for dim in [64, 128, 256] {
        for (ty, rounded) in [(Type::F32, false), (Type::F32, true), (Type::Bf16, true), (Type::Bf16, false)] {
            let (batch, q_len, kv_len, heads, kv_heads) = (1, 8, 8, 1, 1);
            let a = Attention { batch, q_len, kv_len, heads, kv_heads, dim, scale: 1.0, causal: false, ty, rounded };
            all.extend(a.forward([4096; 3], 4096, 4096).unwrap());
            let saved = Saved { q: 4096, k: 4096, v: 4096, y: 4096, lse: 4096, gy: 4096 };
            all.extend(a.backward(&saved, [Some(Gradient { at: 4096, add: false }); 3], 4096).unwrap());
        }
    }
    for layout in [Layout::NN, Layout::NT, Layout::TN] {
        for (ty, math) in [
            (Type::F32, Math::Bf16),
            (Type::F32, Math::Bf16x3),
            (Type::F32, Math::Tf32),
            (Type::Bf16, Math::Native),
            (Type::F16, Math::Native),
        ] {
            let (a, c) = (Operand::new(4096, ty), single);
            let g =
                Gemm { layout, batch: 1, m: 8, n: 8, k: 8, alpha: 1.0, add: false, a, b: a, c, bias: None, tail: None };
            all.extend(g.tensor(math).unwrap());
        }
    }
    for r in [16, 32, 64, 128] {
        for x in [single, half] {
            let slot = Slot { out: single, add: false };
            let plain = Plan::new(64, 64, r).unwrap();
            for plan in [plain, plain.tensor()] {
                all.extend(plan.h(x, single, single, None, 4096).unwrap());
                all.extend(plan.da(x, single, slot, None, 4096).unwrap());
                for (u, v) in [(true, true), (true, false), (false, true)] {
                    let (u, v) = (u.then_some((single, single)), v.then_some((single, slot)));
                    all.extend(plan.u_db(x, u, v, 1.0, 4096).unwrap());
                }
            }
        }
    }
    let [m, n, k] = [8; 3];
    let forward = Forward { m, n, k, x: 4096, w: 4096, tail: None, bias: None, y: single };
    let backward = Backward { m, n, k, gy: 4096, w: 4096, tail: None, dropout: None, dx: single, add: false };
    all.extend([forward.launch(1).unwrap().unwrap(), backward.launch(1).unwrap().unwrap()].map(|mapped| mapped.launch));
    all
}

/// What one kernel takes.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
struct Taken {
    threads: u32,
    registers: u32,
    /// Bytes.
    shared: u32,
}

/// The kernels of each file, by what the record, the PTX and the launches say.
fn taken() -> BTreeMap<(String, String), Taken> {
    let mut all: BTreeMap<(String, String), Taken> = BTreeMap::new();
    for line in read("resources.txt").lines().skip(1) {
        let [file, kernel, _, registers, shared] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("resources.txt: {line}")
        };
        let one = all.entry((file.to_string(), kernel.to_string())).or_default();
        one.registers = one.registers.max(registers.parse().unwrap());
        one.shared = one.shared.max(shared.parse().unwrap_or(0));
    }
    let launches = planned();
    for ((file, kernel), one) in &mut all {
        let ptx = Module::named(file).unwrap().ptx;
        let body = ptx.split(".entry ").find(|e| e.starts_with(&format!("{kernel}("))).unwrap();
        let most = body.split(".maxntid ").nth(1).unwrap();
        one.threads = most[..most.find(',').unwrap()].parse().unwrap();
        let dynamic = launches.iter().filter(|l| l.module == *file && l.entry == *kernel).map(|l| l.shared).max();
        assert!(dynamic.is_some() || !ptx.contains(".extern .shared"), "no launch of {kernel} is planned");
        one.shared += dynamic.unwrap_or(0);
    }
    all
}

/// Whether a name fits a pattern with `*` for letters and digits.
fn fits(pattern: &str, name: &str) -> bool {
    let (patterns, names): (Vec<_>, Vec<_>) = (pattern.split('_').collect(), name.split('_').collect());
    patterns.len() == names.len() && patterns.iter().zip(names).all(|(p, n)| *p == "*" || *p == n)
}

/// Blocks that a multiprocessor holds: registers go by eight a thread, and a block takes a KiB of shared memory itself.
fn blocks(one: Taken, threads: u32, shared: u32) -> u32 {
    let by_registers = 65_536 / (one.threads * one.registers.next_multiple_of(8));
    by_registers.min(threads / one.threads).min(shared * 1024 / (one.shared + 1024))
}

fn stated(names: &[&str], one: Taken, hopper: bool) -> String {
    let memory = match one.shared {
        0 => String::new(),
        bytes if bytes < 1024 => format!(", {bytes} bytes of shared memory"),
        bytes => format!(", {} KiB of shared memory", f64::from(bytes) / 1024.0),
    };
    let many = |n: u32| format!("{n} block{}", if n == 1 { "" } else { "s" });
    let on_86 = if hopper { String::new() } else { format!(", {} on 8.6", blocks(one, 1536, 100)) };
    let (threads, registers) = (one.threads, one.registers);
    let (names, on_90) = (names.join(", "), many(blocks(one, 2048, 228)));
    format!("//   {names}: {threads} threads, {registers} registers{memory}: {on_90} on 9.0{on_86}")
}

#[test]
fn heads_say_what_the_record_says() {
    let taken = taken();
    let mut lines: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for Module { name, .. } in ALL {
        let source = read(&format!("cu/{name}.cu"));
        let mut texts = vec![source.clone()];
        let headers = source.lines().filter_map(|l| l.strip_prefix("#include \"")?.strip_suffix('"'));
        texts.extend(headers.map(|header| read(&format!("cu/{header}"))));
        let heads: Vec<&str> = texts
            .iter()
            .flat_map(|t| t.lines())
            .filter(|l| l.contains(" threads, ") && l.contains(" registers"))
            .collect();
        for (file, kernel) in taken.keys().filter(|(file, _)| file == name) {
            let here = |line: &&&str| {
                let names = line.trim_start_matches("//   ").split(": ").next().unwrap();
                names.split(", ").any(|pattern| fits(pattern, kernel))
            };
            let found: Vec<&&str> = heads.iter().filter(here).collect();
            if found.len() != 1 {
                wrong.push(format!(
                    "{file}: {} lines for {kernel}, which takes {}",
                    found.len(),
                    stated(&[kernel], taken[&(file.clone(), kernel.clone())], file.ends_with("sm90a"))
                ));
            }
            for line in found {
                lines.entry((*line).to_string()).or_default().push((file.clone(), kernel.clone()));
            }
        }
    }
    for (line, kernels) in lines {
        let of = |f: fn(&Taken) -> u32| kernels.iter().map(|k| f(&taken[k])).max().unwrap();
        let most = Taken { threads: of(|t| t.threads), registers: of(|t| t.registers), shared: of(|t| t.shared) };
        if kernels.iter().any(|k| taken[k].threads != most.threads) {
            wrong.push(format!("kernels of several sizes: {line}"));
        }
        let names: Vec<&str> = line.trim_start_matches("//   ").split(": ").next().unwrap().split(", ").collect();
        let right = stated(&names, most, kernels[0].0.ends_with("sm90a"));
        if line != right {
            wrong.push(format!("{line}\n  should be\n{right}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
