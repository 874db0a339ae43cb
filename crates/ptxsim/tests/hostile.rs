//! Hostile text ends in an error with a line, hostile kernels in a finding within the step limit; nothing panics.

#![allow(clippy::needless_range_loop, clippy::type_complexity)]
mod common;
use common::Rng;
use ptxsim::{Arg, Config, ErrorKind, FindingKind, Memory, Module, launch};

fn sources() -> Vec<String> {
    let dir = format!("{}/tests/ptx", env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    names
        .iter()
        .filter(|p| p.to_string_lossy().contains("faults0") || p.to_string_lossy().contains("warp"))
        .map(|p| std::fs::read_to_string(p).unwrap())
        .collect()
}

/// Runs every kernel of a module with arguments that mean nothing.
fn run_all(m: &Module) {
    for name in m.entries().map(String::from).collect::<Vec<_>>() {
        let k = m.kernel(&name).unwrap();
        let mut mem = Memory::new();
        let p = mem.upload(&vec![1u32; 4096]);
        let args: Vec<Arg> = k
            .params
            .iter()
            .map(|(_, n)| {
                let mut b = p.to_le_bytes().to_vec();
                b.resize(*n, 3);
                Arg::Bytes(b)
            })
            .collect();
        let cfg = Config { step_limit: 20_000, shared: 4096, ..Config::new([2, 1, 1], [64, 1, 1]) };
        let _ = launch(m, &name, &mut mem, &cfg, &args);
    }
}

#[test]
fn truncated_text() {
    for s in sources() {
        let step = s.len() / 150 + 1;
        for cut in (0..s.len()).step_by(step) {
            if let Err(e) = Module::parse(&s[..cut]) {
                assert!(e.line > 0 && e.line as usize <= s.lines().count() + 1, "{e}");
            }
        }
    }
}

#[test]
fn mutated_text() {
    let mut r = Rng(2024);
    for s in sources() {
        let words: Vec<&str> = s.split_whitespace().collect();
        for _ in 0..40 {
            let mut b = s.clone().into_bytes();
            for _ in 0..1 + r.next() % 4 {
                let at = (r.next() % b.len() as u64) as usize;
                match r.next() % 4 {
                    0 => b[at] = (r.next() % 96 + 32) as u8,
                    1 => {
                        b.remove(at);
                    }
                    2 => {
                        let w = words[(r.next() % words.len() as u64) as usize];
                        b.splice(at..at, w.bytes());
                    }
                    _ => {
                        let end = (at + (r.next() % 40) as usize).min(b.len());
                        b.drain(at..end);
                    }
                }
            }
            let text = String::from_utf8_lossy(&b);
            match Module::parse(&text) {
                Ok(m) => run_all(&m),
                Err(e) => assert!(e.line > 0, "{e}"),
            }
        }
    }
}

#[test]
fn absurd_numbers() {
    let head = ".version 8.0\n.target sm_80\n.address_size 64\n";
    for body in [
        ".entry k() {\n.reg .b32 %r<4000000000>;\nret; }",
        ".entry k() {\n.reg .b32 %r<99999999999999999999999>;\nret; }",
        ".entry k() {\n.shared .b8 s[999999999999];\nret; }",
        ".entry k() {\n.local .b8 s[99999999];\nret; }",
        ".global .b8 g[18446744073709551615];",
        ".entry k(.param .b8 p[4000000000]) { ret; }",
        ".entry k() {\n.reg .b32 %r<2>;\nmov.u32 %r5, 1;\nret; }",
        ".entry k() {\nbra nowhere;\n}",
        ".entry k() {\nL: ret;\nL: ret; }",
        ".entry k() {\nadd.u32 1, 2, 3; }",
        ".entry k() {\n.reg .b32 %r<3>;\nadd.u32 %r0, %r1; }",
        ".entry k() {\n.reg .b32 %r<3>;\nmov.b64 {%r0}, {%r1, {%r2, {%r2, {%r2, %r2}}}}; }",
        ".global .align 3 .b8 g[4];",
        ".global .u32 g = {1, {2, {3, {4, {5, {6, {7, {8, {9, {10}}}}}}}}}};",
    ] {
        let e = Module::parse(&format!("{head}{body}")).err().unwrap_or_else(|| panic!("{body}"));
        assert!(e.line >= 4, "{body}: {e}");
    }
    let deep = format!("{head}.entry k() {{ {} ", "{".repeat(100_000));
    assert!(Module::parse(&deep).is_err());
    let nest = format!("{head}.entry k() {{ mov.b32 {}", "[".repeat(100_000));
    assert!(Module::parse(&nest).is_err());
    // Functions that call each other twice as often with every level.
    let mut bomb = head.to_string();
    bomb += ".func f0() { .reg .b32 %r<2>; mov.u32 %r0, 1; ret; }\n";
    for i in 1..40 {
        bomb += &format!(".func f{i}() {{ call f{}, (); call f{}, (); ret; }}\n", i - 1, i - 1);
    }
    bomb += ".entry k() { call f39, (); ret; }";
    assert!(Module::parse(&bomb).err().unwrap().message.contains("too large"));
}

#[test]
fn unknown_opcodes_are_refused_by_name() {
    for (line, name) in [
        ("frobnicate.u32 %r0, %r1;", "frobnicate.u32"),
        ("add.frob.u32 %r0, %r1, %r1;", "add.frob.u32"),
        ("ld.global.v3.u32 {%r0, %r1, %r1}, [%rd0];", "ld.global.v3.u32"),
        ("tcgen05.alloc.cta_group::1.sync.aligned.b32 [%r0], 32;", "tcgen05.alloc"),
        ("mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%r0}, {%r0}, {%r0}, {%r0};", "mma.sync.aligned.m8n8k4"),
        ("tex.2d.v4.f32.s32 {%r0, %r0, %r0, %r0}, [%rd0, {%r0, %r0}];", "tex.2d"),
    ] {
        let text = format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n.entry k() {{\n.reg .b32 %r<3>; .reg .b64 %rd<3>;\n{line}\nret; }}"
        );
        let e = Module::parse(&text).err().unwrap();
        assert_eq!((e.kind, e.line), (ErrorKind::Unsupported, 6), "{e}");
        assert!(e.message.contains(name), "{e}");
    }
}

fn kernel(body: &str) -> Module {
    let head = ".version 8.0\n.target sm_90a\n.address_size 64\n.entry k(.param .u64 p) {\n.reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .pred %p<9>;\n.shared .align 8 .b8 s[64];\n";
    Module::parse(&format!("{head}{body}\n}}")).unwrap()
}

#[test]
fn endless_loops_and_deadlocks_end() {
    for (body, kind) in [
        ("L: bra L;", FindingKind::StepLimit),
        (
            "L: ld.param.u64 %rd0, [p]; ld.volatile.global.u32 %r0, [%rd0]; setp.ne.u32 %p0, %r0, 7; @%p0 bra L; ret;",
            FindingKind::Deadlock,
        ),
        (
            "mov.u32 %r0, %tid.x; setp.lt.u32 %p0, %r0, 32; @%p0 bar.sync 0; @!%p0 bar.sync 1; ret;",
            FindingKind::Deadlock,
        ),
        ("bar.sync 3, 96; ret;", FindingKind::Deadlock),
        (
            "mov.u32 %r0, s; mov.u32 %r2, %tid.x; setp.ne.u32 %p1, %r2, 0; @!%p1 mbarrier.init.shared.b64 [%r0], 2; bar.sync 0; L: mbarrier.try_wait.parity.shared.b64 %p0, [%r0], 0; @!%p0 bra L; ret;",
            FindingKind::Deadlock,
        ),
        ("mov.u32 %r0, s; mbarrier.arrive.shared.b64 _, [%r0]; ret;", FindingKind::Misuse),
        (
            "mov.u32 %r0, %tid.x; and.b32 %r1, %r0, 1; setp.eq.u32 %p0, %r1, 0; @%p0 shfl.sync.bfly.b32 %r2, %r0, 1, 31, 0xffffffff; @!%p0 bra E; E: ret;",
            FindingKind::Deadlock,
        ),
        ("trap; ret;", FindingKind::Trap),
        ("mov.u32 %r0, 5; bar.sync %r0, 33; ret;", FindingKind::Misuse),
        ("mov.u64 %rd0, 8; st.global.u32 [%rd0], 1; ret;", FindingKind::OutOfBounds),
        ("mov.u64 %rd0, 0xffffffffffffffff; ld.global.u8 %r0, [%rd0+3]; ret;", FindingKind::OutOfBounds),
        ("ld.shared.u32 %r0, [s+64]; ret;", FindingKind::OutOfBounds),
        ("ld.shared.u32 %r0, [s+61]; ret;", FindingKind::Misaligned),
    ] {
        let m = kernel(body);
        let mut mem = Memory::new();
        let p = mem.upload(&[0u32; 4]);
        let cfg = Config { step_limit: 300_000, ..Config::new([1, 1, 1], [64, 1, 1]) };
        let r = launch(&m, "k", &mut mem, &cfg, &[Arg::Ptr(p)]).unwrap();
        let accepted = r.has(kind) || (kind == FindingKind::Deadlock && r.fatal().is_some() && body.contains("shfl"));
        assert!(accepted || (body.contains("shfl") && r.is_clean()), "{body}: {r}");
        assert!(r.findings.iter().all(|f| f.line >= 4), "{body}: {r}");
    }
}

#[test]
fn launches_that_a_driver_would_refuse() {
    let m = Module::parse(".version 8.0\n.target sm_80\n.address_size 64\n.entry k(.param .u64 p, .param .u32 n)\n.maxntid 128, 1, 1\n{ ret; }").unwrap();
    let mut mem = Memory::new();
    let p = mem.alloc(16);
    let ok = [Arg::Ptr(p), Arg::U32(1)];
    let mut go = |cfg: Config, args: &[Arg]| launch(&m, "k", &mut mem, &cfg, args);
    assert!(go(Config::new([1; 3], [128, 1, 1]), &ok).is_ok());
    for (cfg, args) in [
        (Config::new([1; 3], [129, 1, 1]), &ok[..]),
        (Config::new([1; 3], [0, 1, 1]), &ok[..]),
        (Config::new([0, 1, 1], [32, 1, 1]), &ok[..]),
        (Config::new([1, 70000, 1], [32, 1, 1]), &ok[..]),
        (Config::new([1; 3], [32, 1, 1]), &ok[..1]),
        (Config::new([1; 3], [32, 1, 1]), &[Arg::U32(1), Arg::U32(1)][..]),
        (Config { shared: 300_000, ..Config::new([1; 3], [32, 1, 1]) }, &ok[..]),
    ] {
        assert_eq!(go(cfg, args).unwrap_err().kind, ErrorKind::Launch);
    }
    assert_eq!(launch(&m, "x", &mut mem, &Config::default(), &ok).unwrap_err().kind, ErrorKind::Launch);
}

#[test]
fn use_after_free_is_named() {
    let m = kernel("ld.param.u64 %rd0, [p]; ld.global.u32 %r0, [%rd0]; st.global.u32 [%rd0], %r0; ret;");
    let mut mem = Memory::new();
    let p = mem.upload(&[1u32]);
    mem.free(p).unwrap();
    assert!(mem.free(p).is_err());
    let r = launch(&m, "k", &mut mem, &Config::new([1; 3], [1, 1, 1]), &[Arg::Ptr(p)]).unwrap();
    assert!(r.to_string().contains("use after free"), "{r}");
}
