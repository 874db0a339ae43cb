//! What the tests share: one-instruction kernels, a random generator, launching with expectations.
#![allow(dead_code)]

use ptxsim::{Arg, Config, Memory, Module, Report, launch};

/// xorshift64*, so that failures repeat.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn f32(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    }
}

/// Interesting and random bit patterns for a type of `bits` bits; floats get their special values.
pub fn patterns(bits: u32, n: usize, seed: u64) -> Vec<u64> {
    let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    let special: &[u64] = match bits {
        16 => &[
            0, 1, 0x8000, 0x3c00, 0xbc00, 0x3f80, 0xbf80, 0x7c00, 0xfc00, 0x7e00, 0x7f80, 0xff80, 0x03ff, 0x7bff,
            0x7f7f, 0x3c01,
        ],
        32 => &[
            0,
            1,
            2,
            31,
            32,
            33,
            0x8000_0000,
            0x7fff_ffff,
            0xffff_ffff,
            0x3f80_0000,
            0xbf80_0000,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0000,
            0x007f_ffff,
            0x0080_0000,
            0x7f7f_ffff,
            0x3f00_0000,
            0x4020_0000,
            0xc020_0000,
        ],
        _ => &[
            0,
            1,
            63,
            64,
            1 << 63,
            (1 << 63) - 1,
            u64::MAX,
            0x3ff0_0000_0000_0000,
            0x7ff0_0000_0000_0000,
            0xfff0_0000_0000_0000,
            0x7ff8_0000_0000_0000,
            1 << 52,
            0x4004_0000_0000_0000,
        ],
    };
    let mut r = Rng(seed | 1);
    let mut out: Vec<u64> = special.to_vec();
    while out.len() < n {
        let v = r.next();
        // Every fourth is a float of moderate size.
        out.push(
            match (out.len() % 4, bits) {
                (0, 32) => (r.f32() * 100.0).to_bits() as u64,
                (0, 64) => (r.f32() as f64 * 1e3).to_bits(),
                (0, 16) => 0x3000 + v % 0x2000,
                _ => v,
            } & mask,
        );
    }
    // Rotate by the seed, so that operands do not meet in lockstep.
    let k = seed as usize % out.len();
    out.rotate_left(k);
    out
}

/// Runs `body` once per element. In it, `%a0`…`%a2` hold the inputs and `%d` takes the result; types are register
/// types such as `b32`, or `pred` for the result.
pub fn eval(body: &str, out: &str, ins: &[(&str, &[u64])]) -> Vec<u64> {
    eval_target(body, out, ins, "sm_90a")
}

pub fn eval_target(body: &str, out: &str, ins: &[(&str, &[u64])], target: &str) -> Vec<u64> {
    let n = ins[0].1.len();
    let mut text = format!(".version 8.0\n.target {target}\n.address_size 64\n.visible .entry k(.param .u64 o");
    (0..ins.len()).for_each(|i| text += &format!(", .param .u64 p{i}"));
    text +=
        ") {\n.reg .b64 %rd<9>; .reg .b32 %t; .reg .pred %q, %q2; .reg .b16 %h<4>; .reg .b32 %w<4>; .reg .b64 %x<4>;\n";
    text +=
        "mov.u32 %t, %ctaid.x; mad.lo.u32 %t, %t, 32, 0; { .reg .b32 %l; mov.u32 %l, %tid.x; add.u32 %t, %t, %l; }\n";
    text += "mul.wide.u32 %rd0, %t, 8;\n";
    for (i, (ty, _)) in ins.iter().enumerate() {
        text += &format!("ld.param.u64 %rd1, [p{i}]; add.u64 %rd1, %rd1, %rd0; .reg .{ty} %a{i};\n");
        let ty = if *ty == "b16" || *ty == "b32" || *ty == "b64" { (*ty).to_string() } else { panic!("{ty}") };
        text += &format!("ld.global.{ty} %a{i}, [%rd1];\n");
    }
    if out == "pred" {
        text += &format!(".reg .pred %d;\n{body}\nselp.b64 %rd2, 1, 0, %d;\n");
    } else {
        let mv = match out {
            "b64" => "mov.b64 %rd2, %d;",
            "b32" => "cvt.u64.u32 %rd2, %d;",
            _ => "cvt.u64.u16 %rd2, %d;",
        };
        text += &format!(".reg .{out} %d;\n{body}\n{mv}\n");
    }
    text += "ld.param.u64 %rd1, [o]; add.u64 %rd1, %rd1, %rd0; st.global.b64 [%rd1], %rd2; ret; }\n";
    let m = Module::parse(&text).unwrap_or_else(|e| panic!("{body}: {e}"));
    let mut mem = Memory::new();
    let blocks = n.div_ceil(32);
    let o = mem.alloc(blocks * 32 * 8);
    let mut args = vec![Arg::Ptr(o)];
    for (_, v) in ins {
        let mut v = v.to_vec();
        v.resize(blocks * 32, v[0]);
        args.push(Arg::Ptr(mem.upload(&v)));
    }
    let r = launch(&m, "k", &mut mem, &Config::new([blocks as u32, 1, 1], [32, 1, 1]), &args).unwrap();
    assert!(r.is_clean(), "{body}: {r}");
    let mut v = mem.download::<u64>(o, blocks * 32).unwrap();
    v.truncate(n);
    v
}

/// A launch that must be clean.
pub fn clean(m: &Module, entry: &str, mem: &mut Memory, cfg: &Config, args: &[Arg]) -> Report {
    let r = launch(m, entry, mem, cfg, args).unwrap();
    assert!(r.is_clean(), "{entry}: {r}");
    r
}

/// A module from `tests/ptx`, or from the folder `PTXSIM_PTX` of freshly compiled ones.
pub fn module(name: &str) -> Module {
    let dir = std::env::var("PTXSIM_PTX").unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ptx").into());
    let path = format!("{dir}/{name}.ptx");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    Module::parse(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Nearest-even bf16 of an f32, by the `half` crate.
pub fn bf16(x: f32) -> u16 {
    half::bf16::from_f32(x).to_bits()
}
