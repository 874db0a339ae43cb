//! A kernel as it is and with one line of its PTX changed, on ptxsim.
#![allow(dead_code)]

use half::bf16;
use lowrank_kernels::Module;
use ptxsim::{Arg, Config, Memory, launch};

/// A kernel's call: entry, blocks, arguments.
pub struct Call<'a> {
    pub entry: &'a str,
    pub blocks: usize,
    pub args: Vec<Arg>,
}

/// Small integers, so that sums are exact in any order.
pub fn integers(seed: u32, n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| ((i.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(97)) >> 13) as f32 % 5.0 - 2.0).collect()
}

/// Elements of a row: f32, or bf16 in the kernels `*_bf16`.
#[derive(Clone, Copy)]
pub struct Elements {
    pub half: bool,
}

pub const BOTH: [Elements; 2] = [Elements { half: false }, Elements { half: true }];

impl Elements {
    pub fn entry(self, name: &str) -> String {
        format!("{name}{}", if self.half { "_bf16" } else { "" })
    }

    pub fn upload(self, mem: &mut Memory, values: &[f32]) -> u64 {
        if !self.half {
            return mem.upload(values);
        }
        mem.upload(&values.iter().map(|v| bf16::from_f32(*v).to_bits()).collect::<Vec<u16>>())
    }

    pub fn read(self, mem: &Memory, at: u64, len: usize) -> Vec<f32> {
        if !self.half {
            return mem.download(at, len).unwrap();
        }
        mem.download::<u16>(at, len).unwrap().into_iter().map(|v| bf16::from_bits(v).to_f32()).collect()
    }

    /// As a kernel stores it.
    pub fn round(self, v: f32) -> f32 {
        if self.half { bf16::from_f32(v).to_f32() } else { v }
    }
}

/// Words of a kernel's struct, of 32 bits each.
pub fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Addresses and sizes of a kernel's struct, of 64 bits each.
pub fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn ptr(mem: &mut Memory, values: &[f32]) -> u64 {
    mem.upload(values)
}

pub fn u64s(values: &[usize]) -> Vec<Arg> {
    values.iter().map(|&v| Arg::U64(v as u64)).collect()
}

pub fn u32s(values: &[u32]) -> Vec<Arg> {
    values.iter().map(|&v| Arg::U32(v)).collect()
}

pub fn ptrs(values: &[u64]) -> Vec<Arg> {
    values.iter().map(|&v| Arg::Ptr(v)).collect()
}

/// Runs it; None if ptxsim has anything to report.
pub fn run(ptx: &str, mem: &mut Memory, call: &Call<'_>) -> Option<()> {
    let module = ptxsim::Module::parse(ptx).unwrap();
    let config = Config { step_limit: 1 << 20, ..Config::new([call.blocks as u32, 1, 1], [256, 1, 1]) };
    launch(&module, call.entry, mem, &config, &call.args).unwrap().is_clean().then_some(())
}

/// The text with the `nth` line of this kernel that contains `what` changed by `by`.
pub fn mutate(ptx: &str, entry: &str, what: &str, nth: usize, by: fn(&str) -> String) -> String {
    let start = ptx.find(&format!(".entry {entry}(")).unwrap();
    let end = ptx[start..].find("\n}").map_or(ptx.len(), |n| start + n);
    let mut seen = 0;
    let body: Vec<String> = ptx[start..end]
        .lines()
        .map(|line| {
            let hit = line.contains(what);
            seen += usize::from(hit);
            if hit && seen == nth + 1 { by(line) } else { line.to_string() }
        })
        .collect();
    assert!(seen > nth, "{entry} has no {what} number {nth}");
    format!("{}{}{}", &ptx[..start], body.join("\n"), &ptx[end..])
}

pub type Mutant = (&'static str, usize, fn(&str) -> String);

pub fn removed(_: &str) -> String {
    String::new()
}

/// A comparison that lets one more in: ≥ becomes >, > becomes ≥, < becomes ≤.
pub fn off_by_one(line: &str) -> String {
    let swaps = [(".ge.", ".gt."), (".gt.", ".ge."), (".lt.", ".le."), (".le.", ".lt.")];
    let (from, to) = swaps.into_iter().find(|(from, _)| line.contains(from)).expect("a comparison");
    line.replacen(from, to, 1)
}

/// The end of the elements is lost.
pub fn unbounded(line: &str) -> String {
    line.replace("min.u64", "max.u64")
}

/// `case` gives what it should with the kernel as it is, and something else, or a finding, with each mutant.
pub fn shows(module: Module, entry: &str, mutants: &[Mutant], case: impl Fn(&str) -> Option<bool>) {
    assert_eq!(case(module.ptx), Some(true), "{entry} as it is");
    for &(what, nth, by) in mutants {
        let broken = mutate(module.ptx, entry, what, nth, by);
        assert_ne!(broken, module.ptx, "{entry}: {what} {nth} is unchanged");
        assert_ne!(case(&broken), Some(true), "{entry}: a change of {what} {nth} does not show");
    }
}

pub const BARRIER: &str = "bar.sync";
