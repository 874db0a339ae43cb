//! A device for tests: memory and launches on ptxsim, random operands of every type, comparison with f64.
#![allow(dead_code)]

use half::{bf16, f16};
use lowrank_kernels::launch::{Launch, Operand, Type};
use ptxsim::{Config, Memory, Module, Report, launch_raw};

/// Numbers in −1 … 1, or small integers, whose products and sums are exact.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    pub fn real(&mut self) -> f64 {
        self.next() as f64 / (1u64 << 30) as f64 - 1.0
    }

    pub fn integer(&mut self) -> f64 {
        (self.next() % 7) as f64 - 3.0
    }
}

/// Values as the device holds them (rounded to the type), in f64.
pub fn bytes(values: &mut [f64], ty: Type) -> Vec<u8> {
    let mut out = Vec::new();
    for v in values {
        match ty {
            Type::F32 => {
                out.extend((*v as f32).to_le_bytes());
                *v = f64::from(*v as f32);
            }
            Type::Bf16 => {
                let b = bf16::from_f64(*v);
                out.extend(b.to_bits().to_le_bytes());
                *v = b.to_f64();
            }
            Type::F16 => {
                let b = f16::from_f64(*v);
                out.extend(b.to_bits().to_le_bytes());
                *v = b.to_f64();
            }
        }
    }
    out
}

pub struct Gpu {
    pub mem: Memory,
    pub rng: Rng,
    /// Exact inputs: the result must equal the f64 one bit for bit.
    pub exact: bool,
    /// Text in the place of a module's own.
    pub mutant: Option<String>,
    modules: Vec<(&'static str, Module)>,
}

impl Gpu {
    pub fn new(seed: u64) -> Self {
        Gpu { mem: Memory::new(), rng: Rng(seed), exact: false, mutant: None, modules: Vec::new() }
    }

    /// A random operand and its values.
    pub fn random(&mut self, len: usize, ty: Type) -> (Operand, Vec<f64>) {
        self.shifted(len, ty, 0)
    }

    /// The same, `shift` elements into an allocation: not aligned for vectors.
    pub fn shifted(&mut self, len: usize, ty: Type, shift: usize) -> (Operand, Vec<f64>) {
        let mut v: Vec<f64> =
            (0..len + shift).map(|_| if self.exact { self.rng.integer() } else { self.rng.real() }).collect();
        let at = self.mem.upload(&bytes(&mut v, ty));
        (Operand::new(at + (shift * ty.size()) as u64, ty), v.split_off(shift))
    }

    /// Values of the caller's.
    pub fn upload(&mut self, v: &mut [f64], ty: Type) -> Operand {
        Operand::new(self.mem.upload(&bytes(v, ty)), ty)
    }

    /// Memory that nobody has written.
    pub fn alloc(&mut self, len: usize, ty: Type) -> Operand {
        Operand::new(self.mem.alloc((len * ty.size()).max(1)), ty)
    }

    pub fn read(&self, x: Operand, len: usize) -> Vec<f64> {
        match x.ty {
            Type::F32 => self.mem.download::<f32>(x.at, len).unwrap().into_iter().map(f64::from).collect(),
            Type::Bf16 => {
                self.mem.download::<u16>(x.at, len).unwrap().into_iter().map(|b| bf16::from_bits(b).to_f64()).collect()
            }
            Type::F16 => {
                self.mem.download::<u16>(x.at, len).unwrap().into_iter().map(|b| f16::from_bits(b).to_f64()).collect()
            }
        }
    }

    fn module(&mut self, name: &'static str, entry: &str) -> usize {
        if let Some(i) = self.modules.iter().position(|m| m.0 == name) {
            return i;
        }
        let committed = || lowrank_kernels::ALL.iter().find(|m| m.name == name).unwrap().ptx.to_string();
        let mutant = self.mutant.clone().filter(|text| text.contains(&format!(".entry {entry}(")));
        let text = mutant.unwrap_or_else(committed);
        self.modules.push((name, Module::parse(&text).unwrap()));
        self.modules.len() - 1
    }

    /// Runs a launch with every check.
    pub fn run(&mut self, l: &Launch) -> Report {
        let i = self.module(l.module, &l.entry);
        let cfg = Config { shared: l.shared as usize, count: true, ..Config::new(l.grid, [l.block, 1, 1]) };
        launch_raw(&self.modules[i].1, &l.entry, &mut self.mem, &cfg, l.params.clone()).unwrap()
    }

    /// Runs a launch that must have no findings.
    pub fn clean(&mut self, l: &Launch) -> Report {
        let r = self.run(l);
        assert!(r.is_clean(), "{} {:?}: {r}", l.entry, l.grid);
        r
    }
}

/// |got − want| ≤ bound, element by element; the bound is given per element.
pub fn close(what: &str, got: &[f64], want: &[f64], bound: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= bound(i), "{what}: element {i} is {g}, not {w} (bound {})", bound(i));
    }
}

/// The text with the n-th line that contains `needle` changed (removed where `with` is empty).
pub fn mutate(text: &str, entry: &str, needle: &str, nth: usize, with: impl Fn(&str) -> String) -> String {
    let start = text.find(&format!(".entry {entry}(")).unwrap_or_else(|| panic!("no entry {entry}"));
    let end = text[start + 1..].find(".entry ").map_or(text.len(), |e| start + 1 + e);
    let body = &text[start..end];
    let mut seen = 0;
    let mut out = String::new();
    for line in body.lines() {
        if line.contains(needle) {
            seen += 1;
            if seen == nth + 1 {
                out += &with(line);
                out.push('\n');
                continue;
            }
        }
        out += line;
        out.push('\n');
    }
    assert!(seen > nth, "{entry} has only {seen} lines with {needle}");
    format!("{}{out}{}", &text[..start], &text[end..])
}

/// For [`mutate`]: the (first) register that a line loads becomes one larger.
pub fn one_more(line: &str) -> String {
    let register = line.trim().split([' ', '\t', ',', '{', '}']).find(|w| w.starts_with('%')).unwrap();
    format!("{line}\nadd.u32 {register}, {register}, 1;")
}
