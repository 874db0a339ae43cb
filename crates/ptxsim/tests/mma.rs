//! Tensor-core opcodes against plain triple loops. Fragments are filled by the layouts of the PTX manual, written
//! out here on their own; integer-valued operands make every sum exact, so results are compared bit for bit.

#![allow(clippy::needless_range_loop, clippy::type_complexity)]
mod common;
use common::{Rng, clean};
use half::{bf16, f16};
use ptxsim::{Arg, Config, Memory, Module};

/// Bits of a small integer in an operand type.
fn encode(ty: &str, v: i32) -> u32 {
    match ty {
        "f16" => f16::from_f32(v as f32).to_bits() as u32,
        "bf16" => bf16::from_f32(v as f32).to_bits() as u32,
        "s8" => v as i8 as u8 as u32,
        "u8" => v as u8 as u32,
        _ => (v as f32).to_bits(),
    }
}

fn bits(ty: &str) -> usize {
    match ty {
        "s8" | "u8" => 8,
        "f16" | "bf16" => 16,
        _ => 32,
    }
}

/// A kernel that loads `n` registers of each operand, lane by lane, runs `body` and stores `%d0`….
fn fragments_kernel(body: &str, n: [usize; 4]) -> Module {
    let mut s = String::from(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.entry k(.param .u64 d, .param .u64 a, .param .u64 b, .param .u64 c) {\n",
    );
    s += ".reg .b32 %d<32>; .reg .b32 %a<32>; .reg .b32 %b<32>; .reg .b32 %c<32>; .reg .b32 %t; .reg .b64 %rd<4>; .reg .b64 %o;\n";
    s += "mov.u32 %t, %laneid; mul.wide.u32 %o, %t, 4;\n";
    for (i, x) in ["a", "b", "c"].iter().enumerate() {
        s += &format!("ld.param.u64 %rd{i}, [{x}]; add.u64 %rd{i}, %rd{i}, %o;\n");
        (0..n[i + 1]).for_each(|r| s += &format!("ld.global.b32 %{x}{r}, [%rd{i}+{}];\n", r * 128));
    }
    s += body;
    s += "ld.param.u64 %rd3, [d]; add.u64 %rd3, %rd3, %o;\n";
    (0..n[0]).for_each(|r| s += &format!("st.global.b32 [%rd3+{}], %d{r};\n", r * 128));
    s += "ret; }";
    Module::parse(&s).unwrap_or_else(|e| panic!("{body}: {e}"))
}

fn list(p: &str, n: usize) -> String {
    format!("{{{}}}", (0..n).map(|i| format!("%{p}{i}")).collect::<Vec<_>>().join(","))
}

/// Row and column of element `e` of register `r` of a lane of operand A: 16 rows, `per` elements a register.
fn a_at(lane: usize, r: usize, e: usize, per: usize) -> (usize, usize) {
    let (group, tig) = (lane >> 2, lane & 3);
    let row = if r.is_multiple_of(2) { group } else { group + 8 };
    let col = tig * per + e + if r >= 2 { 4 * per } else { 0 };
    (row, col)
}

#[test]
fn mma_sync_in_every_shape_and_type() {
    let mut r = Rng(17);
    for (k, at, bt, dt, ct) in [
        (16, "bf16", "bf16", "f32", "f32"),
        (8, "bf16", "bf16", "f32", "f32"),
        (16, "f16", "f16", "f32", "f32"),
        (8, "f16", "f16", "f32", "f32"),
        (16, "f16", "f16", "f16", "f16"),
        (8, "f16", "f16", "f16", "f16"),
        (8, "tf32", "tf32", "f32", "f32"),
        (4, "tf32", "tf32", "f32", "f32"),
        (16, "s8", "s8", "s32", "s32"),
        (32, "s8", "s8", "s32", "s32"),
        (32, "u8", "s8", "s32", "s32"),
        (16, "u8", "u8", "s32", "s32"),
        (32, "s8", "u8", "s32", "s32"),
    ] {
        let per = 32 / bits(at);
        let (na, nb) = (16 * k / 32 / per, 8 * k / 32 / per);
        let nd = if dt == "f16" { 2 } else { 4 };
        let op = format!("mma.sync.aligned.m16n8k{k}.row.col.{dt}.{at}.{bt}.{ct}");
        let m = fragments_kernel(
            &format!("{op} {}, {}, {}, {};\n", list("d", nd), list("a", na), list("b", nb), list("c", nd)),
            [nd, na, nb, nd],
        );
        let mut small = |ty: &str| (r.next() % 7) as i32 - if ty == "u8" { 0 } else { 3 };
        let a: Vec<i32> = (0..16 * k).map(|_| small(at)).collect();
        let b: Vec<i32> = (0..8 * k).map(|_| small(bt)).collect(); // b[n][k]
        let c: Vec<i32> = (0..16 * 8).map(|_| small("c")).collect();
        let (mut fa, mut fb, mut fc) = (vec![0u32; na * 32], vec![0u32; nb * 32], vec![0u32; nd * 32]);
        for lane in 0..32 {
            for e in 0..per {
                for i in 0..na {
                    let (row, col) = a_at(lane, i, e, per);
                    fa[i * 32 + lane] |= encode(at, a[row * k + col]) << (e * bits(at));
                }
                for i in 0..nb {
                    let (row, col) = (lane & 3, lane >> 2);
                    fb[i * 32 + lane] |= encode(bt, b[col * k + row * per + e + i * 4 * per]) << (e * bits(bt));
                }
            }
        }
        let acc = |i: usize, lane: usize| ((lane >> 2) + if i < 2 { 0 } else { 8 }, (lane & 3) * 2 + (i & 1));
        for lane in 0..32 {
            for i in 0..4 {
                let (row, col) = acc(i, lane);
                let v = c[row * 8 + col];
                match ct {
                    "f16" => fc[i / 2 * 32 + lane] |= encode("f16", v) << (i % 2 * 16),
                    "s32" => fc[i * 32 + lane] = v as u32,
                    _ => fc[i * 32 + lane] = encode("f32", v),
                }
            }
        }
        let mut mem = Memory::new();
        let args = [mem.alloc(nd * 128), mem.upload(&fa), mem.upload(&fb), mem.upload(&fc)];
        clean(&m, "k", &mut mem, &Config::new([1; 3], [32, 1, 1]), &args.map(Arg::Ptr));
        let d = mem.download::<u32>(args[0], nd * 32).unwrap();
        for lane in 0..32 {
            for i in 0..4 {
                let (row, col) = acc(i, lane);
                let want: i32 = c[row * 8 + col] + (0..k).map(|t| a[row * k + t] * b[col * k + t]).sum::<i32>();
                let got = match dt {
                    "f16" => f16::from_bits((d[i / 2 * 32 + lane] >> (i % 2 * 16)) as u16).to_f32() as i32,
                    "s32" => d[i * 32 + lane] as i32,
                    _ => f32::from_bits(d[i * 32 + lane]) as i32,
                };
                assert_eq!(got, want, "{op} ({row},{col})");
            }
        }
    }
}

#[test]
fn saturating_int8() {
    let body = format!(
        "mma.sync.aligned.m16n8k16.row.col.satfinite.s32.s8.s8.s32 {}, {}, {}, {};\n",
        list("d", 4),
        list("a", 2),
        list("b", 1),
        list("c", 4)
    );
    let m = fragments_kernel(&body, [4, 2, 1, 4]);
    let mut mem = Memory::new();
    let args = [
        mem.alloc(512),
        mem.upload(&[0x7f7f_7f7fu32; 64]),
        mem.upload(&[0x7f7f_7f7fu32; 32]),
        mem.upload(&[i32::MAX - 5; 128]),
    ];
    clean(&m, "k", &mut mem, &Config::new([1; 3], [32, 1, 1]), &args.map(Arg::Ptr));
    assert!(mem.download::<i32>(args[0], 128).unwrap().iter().all(|x| *x == i32::MAX));
}

#[test]
fn matrix_loads_stores_and_transposes() {
    // A tile of 32 × 8 halves in shared memory; each register of ldmatrix is one 8 × 8 matrix.
    for (num, trans) in [(1, false), (2, false), (4, false), (1, true), (2, true), (4, true)] {
        let t = if trans { ".trans" } else { "" };
        let regs = list("d", num);
        let text = format!(".version 8.0\n.target sm_90a\n.address_size 64\n.entry k(.param .u64 p, .param .u64 q, .param .u64 o) {{
            .reg .b32 %r<9>; .reg .b32 %d<4>; .reg .b64 %rd<9>; .shared .align 16 .b8 s[512]; .shared .align 16 .b8 u[512];
            mov.u32 %r0, %tid.x; mul.wide.u32 %rd0, %r0, 16; ld.param.u64 %rd1, [p]; add.u64 %rd1, %rd1, %rd0; mov.u32 %r1, s; shl.b32 %r2, %r0, 4;
            add.u32 %r3, %r1, %r2; ld.global.v4.b32 {{%r4, %r5, %r6, %r7}}, [%rd1]; st.shared.v4.b32 [%r3], {{%r4, %r5, %r6, %r7}}; bar.warp.sync -1;
            ldmatrix.sync.aligned.m8n8.x{num}{t}.shared.b16 {regs}, [%r3];
            mov.u32 %r1, u; add.u32 %r3, %r1, %r2; st.shared.v4.b32 [%r3], {{0, 0, 0, 0}}; bar.warp.sync -1;
            stmatrix.sync.aligned.m8n8.x{num}{t}.shared.b16 [%r3], {regs}; bar.warp.sync -1;
            ld.shared.v4.b32 {{%r4, %r5, %r6, %r7}}, [%r3]; ld.param.u64 %rd2, [o]; add.u64 %rd2, %rd2, %rd0; st.global.v4.b32 [%rd2], {{%r4, %r5, %r6, %r7}};
            mul.wide.u32 %rd0, %r0, 4; ld.param.u64 %rd3, [q]; add.u64 %rd3, %rd3, %rd0; {} ret; }}",
            (0..num).map(|i| format!("st.global.b32 [%rd3+{}], %d{i};", i * 128)).collect::<String>());
        let m = Module::parse(&text).unwrap();
        let mut mem = Memory::new();
        let tile: Vec<u16> = (0..256).map(|i| i * 3 + 1).collect();
        let args = [mem.upload(&tile), mem.alloc(512), mem.alloc(512)];
        clean(&m, "k", &mut mem, &Config::new([1; 3], [32, 1, 1]), &args.map(Arg::Ptr));
        let q = mem.download::<u16>(args[1], num * 64).unwrap();
        for i in 0..num {
            for lane in 0..32 {
                for h in 0..2 {
                    let (row, col) = (lane / 4, lane % 4 * 2 + h);
                    let (row, col) = if trans { (col, row) } else { (row, col) };
                    assert_eq!(q[i * 64 + lane * 2 + h], tile[(i * 8 + row) * 8 + col]);
                }
            }
        }
        // Storing what was loaded gives the tile back; rows of unused matrices stay zero.
        let o = mem.download::<u16>(args[2], 256).unwrap();
        assert!((0..256).all(|i| o[i] == if i < num * 64 { tile[i] } else { 0 }));
    }
    let m = fragments_kernel("movmatrix.sync.aligned.m8n8.trans.b16 %d0, %a0;\n", [1, 1, 0, 0]);
    let mut mem = Memory::new();
    let v: Vec<u16> = (0..64).collect();
    let a = mem.upload(&v);
    let args = [mem.alloc(128), a, a, a];
    clean(&m, "k", &mut mem, &Config::new([1; 3], [32, 1, 1]), &args.map(Arg::Ptr));
    let d = mem.download::<u16>(args[0], 64).unwrap();
    assert!((0..64).all(|i| d[i] as usize == i % 8 * 8 + i / 8));
}

/// A byte image of a wgmma operand in shared memory, after the canonical layouts of the manual, in units of 16
/// bytes: `swizzle` 0 none, 1 128 B, 2 64 B, 3 32 B. Returns the image and the descriptor without its address.
fn operand(
    v: &dyn Fn(usize, usize) -> u32,
    mn: usize,
    k: usize,
    size: usize,
    swizzle: usize,
    transposed: bool,
) -> (Vec<u8>, u64) {
    let t = 16 / size;
    let width = [1, 8, 4, 2][swizzle]; // chunks of a swizzled row
    let (lbo, sbo, place): (usize, usize, Box<dyn Fn(usize, usize) -> usize>) = match (transposed, swizzle) {
        // K-major, no swizzle: 8 × 16-byte core matrices; along k by LBO, along m by SBO.
        (false, 0) => (8, 8 * (k / t), Box::new(move |i, j| i % 8 + (j / t) * 8 + i / 8 * 8 * (k / t))),
        (false, _) => (1, 8 * width, Box::new(move |i, j| i % 8 * width + j / t + i / 8 * 8 * width)),
        // MN-major: chunks run along m; 8 values of k make a core matrix.
        (true, 0) => (8 * (mn / t), 8, Box::new(move |i, j| j % 8 + i / t * 8 + j / 8 * 8 * (mn / t))),
        (true, _) => {
            let blocks = mn.div_ceil(width * t);
            (
                8 * width,
                8 * width * blocks,
                Box::new(move |i, j| {
                    i / t % width + j % 8 * width + i / t / width * 8 * width + j / 8 * 8 * width * blocks
                }),
            )
        }
    };
    let mut image = vec![0u8; 32768];
    for i in 0..mn {
        for j in 0..k {
            let chunk = place(i, j);
            let within = if transposed { i % t } else { j % t };
            let addr = chunk * 16 + within * size;
            let addr = addr ^ ((addr >> 7) & (width - 1)) << 4;
            image[addr..addr + size].copy_from_slice(&v(i, j).to_le_bytes()[..size]);
        }
    }
    (image, (lbo as u64) << 16 | (sbo as u64) << 32 | (swizzle as u64) << 62)
}

#[test]
fn wgmma_in_every_layout() {
    let mut r = Rng(23);
    let mut cases = Vec::new();
    for swizzle in 0..4 {
        for (ta, tb) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            cases.push(("bf16", "f32", 64, swizzle, ta, tb, false));
        }
        cases.push(("f16", "f32", 32, swizzle, 0, 1, true));
        cases.push(("tf32", "f32", 24, swizzle, 0, 0, false));
        cases.push(("tf32", "f32", 8, swizzle, 0, 0, true));
        cases.push(("s8", "s32", 16, swizzle, 0, 0, false));
        cases.push(("u8", "s32", 32, swizzle, 0, 0, true));
    }
    cases.push(("f16", "f16", 40, 1, 0, 0, false));
    cases.push(("bf16", "f32", 256, 1, 0, 0, false));
    cases.push(("bf16", "f32", 128, 1, 1, 1, false));
    for (ty, dt, n, swizzle, ta, tb, a_regs) in cases {
        let size = bits(ty) / 8;
        let k = 32 / size;
        let small = |r: &mut Rng| (r.next() % 5) as i32 - if ty == "u8" { 0 } else { 2 };
        let a: Vec<i32> = (0..64 * k).map(|_| small(&mut r)).collect();
        let b: Vec<i32> = (0..n * k).map(|_| small(&mut r)).collect();
        let (ia, da) = operand(&|i, j| encode(ty, a[i * k + j]), 64, k, size, swizzle, ta == 1);
        let (ib, db) = operand(&|i, j| encode(ty, b[i * k + j]), n, k, size, swizzle, tb == 1);
        let nd = if dt == "f16" { n / 4 } else { n / 2 };
        let scales = match (ty, a_regs) {
            ("s8" | "u8", _) => String::new(),
            ("tf32", _) => ", 1, 1".into(),
            (_, true) => format!(", 1, -1, {tb}"),
            _ => format!(", 1, -1, {ta}, {tb}"),
        };
        let sign = if matches!(ty, "f16" | "bf16") { -1 } else { 1 };
        let op = format!("wgmma.mma_async.sync.aligned.m64n{n}k{k}.{dt}.{ty}.{ty}");
        let a_op = if a_regs { "{%a0,%a1,%a2,%a3}" } else { "%ra" };
        let text = format!(".version 8.0\n.target sm_90a\n.address_size 64\n.entry k(.param .u64 pd, .param .u64 pa, .param .u64 pb, .param .u64 pf) {{
            .reg .b32 %d<{nd}>; .reg .b32 %r<9>; .reg .b32 %a<4>; .reg .b64 %rd<9>; .reg .b64 %ra, %rb; .reg .pred %p<3>;
            .shared .align 1024 .b8 sa[32768]; .shared .align 1024 .b8 sb[32768];
            mov.u32 %r0, %tid.x; ld.param.u64 %rd0, [pa]; ld.param.u64 %rd1, [pb]; mov.u32 %r1, sa; mov.u32 %r2, sb; shl.b32 %r3, %r0, 2;
            cvt.u64.u32 %rd2, %r3; add.u64 %rd0, %rd0, %rd2; add.u64 %rd1, %rd1, %rd2; add.u32 %r4, %r1, %r3; add.u32 %r5, %r2, %r3;
            C: ld.global.b32 %r6, [%rd0]; st.shared.b32 [%r4], %r6; ld.global.b32 %r6, [%rd1]; st.shared.b32 [%r5], %r6;
            add.u64 %rd0, %rd0, 512; add.u64 %rd1, %rd1, 512; add.u32 %r4, %r4, 512; add.u32 %r5, %r5, 512; add.u32 %r3, %r3, 512;
            setp.lt.u32 %p0, %r3, 32768; @%p0 bra C; fence.proxy.async.shared::cta; bar.sync 0;
            shl.b32 %r3, %r0, 2; cvt.u64.u32 %rd2, %r3; ld.param.u64 %rd3, [pf]; add.u64 %rd3, %rd3, %rd2;
            ld.global.b32 %a0, [%rd3]; ld.global.b32 %a1, [%rd3+512]; ld.global.b32 %a2, [%rd3+1024]; ld.global.b32 %a3, [%rd3+1536];
            shr.u32 %r1, %r1, 4; shr.u32 %r2, %r2, 4; cvt.u64.u32 %ra, %r1; cvt.u64.u32 %rb, %r2; or.b64 %ra, %ra, {da}; or.b64 %rb, %rb, {db};
            wgmma.fence.sync.aligned; setp.ne.u32 %p1, 0, 0;
            {op} {{{dl}}}, {a_op}, %rb, %p1{scales}; setp.eq.u32 %p1, 0, 0; {op} {{{dl}}}, {a_op}, %rb, %p1{scales};
            wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
            ld.param.u64 %rd4, [pd]; add.u64 %rd4, %rd4, %rd2; {st} ret; }}",
            dl = (0..nd).map(|i| format!("%d{i}")).collect::<Vec<_>>().join(","),
            st = (0..nd).map(|i| format!("st.global.b32 [%rd4+{}], %d{i};", i * 512)).collect::<String>());
        let m = Module::parse(&text).unwrap_or_else(|e| panic!("{op}: {e}"));
        let per = 4 / size;
        let mut fa = vec![0u32; 512];
        for t in 0..128 {
            for i in 0..4 {
                for e in 0..per {
                    let (row, col) = a_at(t % 32, i, e, per);
                    fa[i * 128 + t] |= encode(ty, a[(t / 32 * 16 + row) * k + col]) << (e * bits(ty));
                }
            }
        }
        let mut mem = Memory::new();
        let args = [mem.alloc(nd * 512), mem.upload(&ia), mem.upload(&ib), mem.upload(&fa)];
        clean(&m, "k", &mut mem, &Config::new([1; 3], [128, 1, 1]), &args.map(Arg::Ptr));
        let d = mem.download::<u32>(args[0], nd * 128).unwrap();
        for t in 0..128usize {
            for j in 0..n / 8 {
                for i in 0..4 {
                    let row = t / 32 * 16 + t % 32 / 4 + if i < 2 { 0 } else { 8 };
                    let col = j * 8 + t % 4 * 2 + i % 2;
                    let want = 2 * sign * (0..k).map(|x| a[row * k + x] * b[col * k + x]).sum::<i32>();
                    let got = match dt {
                        "f16" => f16::from_bits((d[(2 * j + i / 2) * 128 + t] >> (i % 2 * 16)) as u16).to_f32() as i32,
                        "s32" => d[(4 * j + i) * 128 + t] as i32,
                        _ => f32::from_bits(d[(4 * j + i) * 128 + t]) as i32,
                    };
                    assert_eq!(
                        got, want,
                        "{op} swizzle {swizzle} transposes {ta} {tb} registers {a_regs} at ({row},{col})"
                    );
                }
            }
        }
    }
}
