//! Transactions and bank conflicts of one warp-wide access, against counts made by hand.

use ptxsim::{Arg, Config, Counters, Memory, Module, launch};

/// One access of `op` by 32 lanes, lane i at byte `first + stride * i`.
fn count(space: &str, op: &str, first: u32, stride: u32) -> Counters {
    let regs = if op.contains("v4") {
        "{%r1,%r2,%r3,%r4}"
    } else if op.contains("v2") {
        "{%r1,%r2}"
    } else {
        "%r1"
    };
    let base = if space == "shared" { "mov.u64 %rd1, s;" } else { "ld.param.u64 %rd1, [p];" };
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.entry k(.param .u64 p) {{ .reg .b32 %r<9>; .reg .b64 %rd<4>;
        .shared .align 16 .b8 s[8192]; {base} mov.u32 %r0, %tid.x; mul.wide.u32 %rd2, %r0, {stride}; add.u64 %rd1, %rd1, %rd2;
        add.u64 %rd1, %rd1, {first}; ld.{space}.{op} {regs}, [%rd1]; ret; }}"
    );
    let m = Module::parse(&text).unwrap();
    let mut mem = Memory::new();
    let p = mem.upload(&[0u8; 8192]);
    let cfg = Config { count: true, ..Config::new([1; 3], [32, 1, 1]) };
    launch(&m, "k", &mut mem, &cfg, &[Arg::Ptr(p)]).unwrap().counters
}

#[test]
fn global_sectors_and_lines() {
    for (op, first, stride, sectors, lines) in [
        ("u32", 0, 4, 4, 1),
        // Shifted by one word: one sector and one line more.
        ("u32", 4, 4, 5, 2),
        ("u32", 0, 8, 8, 2),
        ("u32", 0, 32, 32, 8),
        ("u32", 0, 128, 32, 32),
        ("u32", 64, 0, 1, 1),
        ("u8", 0, 1, 1, 1),
        ("v2.u32", 0, 8, 8, 2),
        ("v4.u32", 0, 16, 16, 4),
    ] {
        let c = count("global", op, first, stride);
        assert_eq!((c.global_accesses, c.global_sectors, c.global_lines), (1, sectors, lines), "{op} {first} {stride}");
    }
}

#[test]
fn shared_bank_conflicts() {
    for (op, stride, conflicts) in [
        ("u32", 4, 0),
        ("u32", 0, 0),
        // Two, four, 32 lanes to a bank; 33 words apart none.
        ("u32", 8, 1),
        ("u32", 16, 3),
        ("u32", 128, 31),
        ("u32", 132, 0),
        ("u8", 1, 0),
        ("u16", 2, 0),
        // 8 bytes go in two halves of a warp, 16 bytes in four quarters.
        ("v2.u32", 8, 0),
        ("v2.u32", 16, 2),
        ("v4.u32", 16, 0),
        ("v4.u32", 32, 4),
        ("v4.u32", 144, 0),
    ] {
        let c = count("shared", op, 0, stride);
        assert_eq!((c.shared_accesses, c.bank_conflicts), (1, conflicts), "{op} {stride}");
    }
}
