//! `mma.sync` on doubles, 8-bit floats, 4-bit integers and bits, in the shapes of 8 and of 16 rows, against plain
//! triple loops; fragments are laid out here by the figures of the PTX manual.

mod common;
use common::{Rng, clean};
use ptxsim::{Arg, Config, Memory, Module};

struct Case {
    m: usize,
    k: usize,
    bits: usize,
    op: &'static str,
    /// Small integers that the type holds.
    low: i64,
    span: u64,
    encode: fn(i64) -> u64,
}

fn two(v: i64) -> u64 {
    v as u64 & 15
}
fn byte(v: i64) -> u64 {
    v as u64 & 255
}
fn e4m3(v: i64) -> u64 {
    // Powers of two and zero: sign, exponent + 7, no mantissa.
    if v == 0 { 0 } else { ((v < 0) as u64) << 7 | (v.unsigned_abs().ilog2() as u64 + 7) << 3 }
}
fn e5m2(v: i64) -> u64 {
    if v == 0 { 0 } else { ((v < 0) as u64) << 7 | (v.unsigned_abs().ilog2() as u64 + 15) << 2 }
}
fn double(v: i64) -> u64 {
    (v as f64).to_bits()
}

#[test]
fn mma_of_other_types() {
    let case = |m, k, bits, op, low, span, encode| Case { m, k, bits, op, low, span, encode };
    let cases = [
        case(8, 4, 64, "m8n8k4.row.col.f64.f64.f64.f64", -5, 11, double as fn(i64) -> u64),
        case(16, 4, 64, "m16n8k4.row.col.f64.f64.f64.f64", -5, 11, double),
        case(16, 8, 64, "m16n8k8.row.col.f64.f64.f64.f64", -5, 11, double),
        case(16, 16, 64, "m16n8k16.row.col.f64.f64.f64.f64", -5, 11, double),
        case(8, 16, 8, "m8n8k16.row.col.s32.s8.s8.s32", -128, 256, byte),
        case(8, 32, 4, "m8n8k32.row.col.s32.s4.s4.s32", -8, 16, two),
        case(16, 32, 4, "m16n8k32.row.col.s32.u4.u4.s32", 0, 16, two),
        case(16, 64, 4, "m16n8k64.row.col.satfinite.s32.s4.s4.s32", -8, 16, two),
        case(8, 128, 1, "m8n8k128.row.col.s32.b1.b1.s32.xor.popc", 0, 2, byte),
        case(16, 128, 1, "m16n8k128.row.col.s32.b1.b1.s32.and.popc", 0, 2, byte),
        case(16, 256, 1, "m16n8k256.row.col.s32.b1.b1.s32.xor.popc", 0, 2, byte),
        case(16, 32, 8, "m16n8k32.row.col.f32.e4m3.e4m3.f32", -1, 3, e4m3),
        case(16, 32, 8, "m16n8k32.row.col.f32.e5m2.e5m2.f32", -1, 3, e5m2),
        case(16, 16, 8, "m16n8k16.row.col.f32.e4m3.e4m3.f32", -1, 3, e4m3),
    ];
    let mut r = Rng(5);
    for Case { m, k, bits, op, low, span, encode } in cases {
        let (word, n) = (bits.max(32), 8);
        let per = word / bits;
        let (na, nb, nd) = (m * k / 32 / per, n * k / 32 / per, m * n / 32);
        let mut small = |n: usize| (0..n).map(|_| low + (r.next() % span) as i64).collect::<Vec<_>>();
        let (a, b, c) = (small(m * k), small(n * k), small(m * n));
        let (mut fa, mut fb) = (vec![0u64; na * 32], vec![0u64; nb * 32]);
        for lane in 0..32 {
            let (group, tig) = (lane / 4, lane % 4);
            for e in 0..per {
                for i in 0..na {
                    let row = if i % 2 == 0 { group } else { group + 8 };
                    let col = tig * per + e + i / 2 * 4 * per;
                    fa[i * 32 + lane] |= encode(a[row * k + col]) << (e * bits);
                }
                for i in 0..nb {
                    fb[i * 32 + lane] |= encode(b[group * k + tig * per + e + i * 4 * per]) << (e * bits);
                }
            }
        }
        let at = |i: usize, lane: usize| (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
        let acc = |v: i64| match &op[op.find(".col.").unwrap()..] {
            s if s.contains("f64") => (v as f64).to_bits(),
            s if s.contains(".f32") => (v as f32).to_bits() as u64,
            _ => v as u32 as u64,
        };
        let fc: Vec<u64> = (0..nd * 32).map(|x| acc(c[at(x / 32, x % 32).0 * n + at(x / 32, x % 32).1])).collect();
        // Registers travel as 64-bit words; narrow ones are cut.
        let w = if bits == 64 { "b64" } else { "b32" };
        let dw = if bits == 64 { "b64" } else { "b32" };
        let mut text = format!(
            ".version 8.4\n.target sm_90a\n.address_size 64\n.entry k(.param .u64 d, .param .u64 a, .param .u64 b, .param .u64 c) {{
             .reg .{w} %a<16>; .reg .{w} %b<16>; .reg .{dw} %c<16>; .reg .{dw} %d<16>; .reg .b32 %t; .reg .b64 %p<5>; .reg .b64 %o;
             mov.u32 %t, %laneid; mul.wide.u32 %o, %t, 8;\n"
        );
        for (i, (x, n, w)) in [("a", na, w), ("b", nb, w), ("c", nd, dw)].into_iter().enumerate() {
            text += &format!("ld.param.u64 %p{i}, [{x}]; add.u64 %p{i}, %p{i}, %o;\n");
            (0..n).for_each(|j| text += &format!("ld.global.{w} %{x}{j}, [%p{i}+{}];\n", j * 256));
        }
        let list = |p: &str, n: usize| (0..n).map(|i| format!("%{p}{i}")).collect::<Vec<_>>().join(",");
        let (d, la, lb, lc) = (list("d", nd), list("a", na), list("b", nb), list("c", nd));
        text += &format!("mma.sync.aligned.{op} {{{d}}}, {{{la}}}, {{{lb}}}, {{{lc}}};\n");
        text += "ld.param.u64 %p3, [d]; add.u64 %p3, %p3, %o;\n";
        for j in 0..nd {
            text += &match bits {
                64 => format!("st.global.b64 [%p3+{}], %d{j};\n", j * 256),
                _ => format!("cvt.u64.u32 %p4, %d{j}; st.global.b64 [%p3+{}], %p4;\n", j * 256),
            };
        }
        let module = Module::parse(&(text + "ret; }")).unwrap_or_else(|e| panic!("{op}: {e}"));
        let mut mem = Memory::new();
        let args = [mem.alloc(nd * 256), mem.upload(&fa), mem.upload(&fb), mem.upload(&fc)];
        clean(&module, "k", &mut mem, &Config::new([1; 3], [32, 1, 1]), &args.map(Arg::Ptr));
        let got = mem.download::<u64>(args[0], nd * 32).unwrap();
        for (x, got) in got.into_iter().enumerate() {
            let (row, col) = at(x / 32, x % 32);
            let pairs = (0..k).map(|t| (a[row * k + t], b[col * k + t]));
            let sum: i64 = match op.rsplit_once('.').unwrap().0.rsplit('.').next() {
                Some("xor") => pairs.map(|(a, b)| a ^ b).sum(),
                Some("and") => pairs.map(|(a, b)| a & b).sum(),
                _ => pairs.map(|(a, b)| a * b).sum(),
            };
            assert_eq!(got, acc(c[row * n + col] + sum), "{op} ({row},{col})");
        }
    }
}
