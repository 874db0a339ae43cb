//! Every integer opcode against Rust's own arithmetic.

#![allow(clippy::needless_range_loop, clippy::type_complexity)]
mod common;
use common::{eval, patterns};

fn check1(body: &str, bits: u32, f: impl Fn(u64) -> u64) {
    let ty = format!("b{bits}");
    let a = patterns(bits, 128, 3);
    let out_ty =
        if body.starts_with("popc") || body.starts_with("clz") || body.starts_with("bfind") { "b32" } else { &ty };
    for (x, d) in a.iter().zip(eval(body, out_ty, &[(&ty, &a)])) {
        assert_eq!(d, f(*x), "{body} of {x:#x}");
    }
}

fn check2(body: &str, bits: u32, out: u32, f: impl Fn(u64, u64) -> u64) {
    let ty = format!("b{bits}");
    let (a, b) = (patterns(bits, 160, 3), patterns(bits, 160, 14));
    let d = eval(body, &format!("b{out}"), &[(&ty, &a), (&ty, &b)]);
    for i in 0..a.len() {
        assert_eq!(d[i], f(a[i], b[i]), "{body} of {:#x}, {:#x}", a[i], b[i]);
    }
}

fn check3(body: &str, bits: [u32; 3], out: u32, f: impl Fn(u64, u64, u64) -> u64) {
    let tys = bits.map(|b| format!("b{b}"));
    let v: Vec<Vec<u64>> = (0..3).map(|i| patterns(bits[i], 160, [3, 14, 57][i])).collect();
    let d = eval(body, &format!("b{out}"), &[(&tys[0], &v[0]), (&tys[1], &v[1]), (&tys[2], &v[2])]);
    for i in 0..160 {
        assert_eq!(d[i], f(v[0][i], v[1][i], v[2][i]), "{body} of {:#x}, {:#x}, {:#x}", v[0][i], v[1][i], v[2][i]);
    }
}

macro_rules! each {
    ($op:literal, |$a:ident, $b:ident| $e:expr) => {
        check2(concat!($op, ".u16 %d, %a0, %a1;"), 16, 16, |x, y| {
            let ($a, $b) = (x as u16, y as u16);
            ($e) as u16 as u64
        });
        check2(concat!($op, ".s16 %d, %a0, %a1;"), 16, 16, |x, y| {
            let ($a, $b) = (x as i16, y as i16);
            ($e) as u16 as u64
        });
        check2(concat!($op, ".u32 %d, %a0, %a1;"), 32, 32, |x, y| {
            let ($a, $b) = (x as u32, y as u32);
            ($e) as u32 as u64
        });
        check2(concat!($op, ".s32 %d, %a0, %a1;"), 32, 32, |x, y| {
            let ($a, $b) = (x as i32, y as i32);
            ($e) as u32 as u64
        });
        check2(concat!($op, ".u64 %d, %a0, %a1;"), 64, 64, |x, y| {
            let ($a, $b) = (x, y);
            $e
        });
        check2(concat!($op, ".s64 %d, %a0, %a1;"), 64, 64, |x, y| {
            let ($a, $b) = (x as i64, y as i64);
            ($e) as u64
        });
    };
}

#[test]
fn sums_products_and_order() {
    each!("add", |a, b| a.wrapping_add(b));
    each!("sub", |a, b| a.wrapping_sub(b));
    each!("mul.lo", |a, b| a.wrapping_mul(b));
    each!("min", |a, b| a.min(b));
    each!("max", |a, b| a.max(b));
    check2("add.sat.s32 %d, %a0, %a1;", 32, 32, |a, b| (a as i32).saturating_add(b as i32) as u32 as u64);
    check2("sub.sat.s32 %d, %a0, %a1;", 32, 32, |a, b| (a as i32).saturating_sub(b as i32) as u32 as u64);
    check2("mul.wide.u16 %d, %a0, %a1;", 16, 32, |a, b| a * b);
    check2("mul.wide.s16 %d, %a0, %a1;", 16, 32, |a, b| (a as i16 as i32 * b as i16 as i32) as u32 as u64);
    check2("mul.wide.u32 %d, %a0, %a1;", 32, 64, |a, b| a * b);
    check2("mul.wide.s32 %d, %a0, %a1;", 32, 64, |a, b| (a as i32 as i64 * b as i32 as i64) as u64);
    check2("mul.hi.u32 %d, %a0, %a1;", 32, 32, |a, b| (a * b) >> 32);
    check2("mul.hi.s32 %d, %a0, %a1;", 32, 32, |a, b| ((a as i32 as i64 * b as i32 as i64) >> 32) as u32 as u64);
    check2("mul.hi.u64 %d, %a0, %a1;", 64, 64, |a, b| ((a as u128 * b as u128) >> 64) as u64);
    check2("mul.hi.s64 %d, %a0, %a1;", 64, 64, |a, b| ((a as i64 as i128 * b as i64 as i128) >> 64) as u64);
    check2("mul24.lo.u32 %d, %a0, %a1;", 32, 32, |a, b| ((a & 0xffffff) * (b & 0xffffff)) as u32 as u64);
    check2("mul24.hi.s32 %d, %a0, %a1;", 32, 32, |a, b| {
        let s = |x: u64| ((x as i32) << 8 >> 8) as i64;
        ((s(a) * s(b)) >> 16) as u32 as u64
    });
    check3("mad.lo.s32 %d, %a0, %a1, %a2;", [32; 3], 32, |a, b, c| {
        (a as u32).wrapping_mul(b as u32).wrapping_add(c as u32) as u64
    });
    check3("mad.hi.u32 %d, %a0, %a1, %a2;", [32; 3], 32, |a, b, c| {
        (((a * b) >> 32) as u32).wrapping_add(c as u32) as u64
    });
    check3("mad.hi.s64 %d, %a0, %a1, %a2;", [64; 3], 64, |a, b, c| {
        (((a as i64 as i128 * b as i64 as i128) >> 64) as u64).wrapping_add(c)
    });
    check3("mad.wide.s32 %d, %a0, %a1, %a2;", [32, 32, 64], 64, |a, b, c| {
        (a as i32 as i64 * b as i32 as i64).wrapping_add(c as i64) as u64
    });
    check3("mad.wide.u16 %d, %a0, %a1, %a2;", [16, 16, 32], 32, |a, b, c| (a * b + c) as u32 as u64);
    check3("sad.s32 %d, %a0, %a1, %a2;", [32; 3], 32, |a, b, c| {
        (a as i32).abs_diff(b as i32).wrapping_add(c as u32) as u64
    });
    check3("sad.u32 %d, %a0, %a1, %a2;", [32; 3], 32, |a, b, c| {
        (a as u32).abs_diff(b as u32).wrapping_add(c as u32) as u64
    });
}

#[test]
fn division() {
    each!("div", |a, b| if b == 0 { !0 } else { a.wrapping_div(b) });
    each!("rem", |a, b| if b == 0 { a } else { a.wrapping_rem(b) });
}

#[test]
fn signs() {
    check1("neg.s16 %d, %a0;", 16, |a| (a as i16).wrapping_neg() as u16 as u64);
    check1("neg.s32 %d, %a0;", 32, |a| (a as i32).wrapping_neg() as u32 as u64);
    check1("neg.s64 %d, %a0;", 64, |a| (a as i64).wrapping_neg() as u64);
    check1("abs.s16 %d, %a0;", 16, |a| (a as i16).wrapping_abs() as u16 as u64);
    check1("abs.s32 %d, %a0;", 32, |a| (a as i32).wrapping_abs() as u32 as u64);
    check1("abs.s64 %d, %a0;", 64, |a| (a as i64).wrapping_abs() as u64);
    check2("min.relu.s32 %d, %a0, %a1;", 32, 32, |a, b| (a as i32).min(b as i32).max(0) as u64);
    check2("max.relu.s32 %d, %a0, %a1;", 32, 32, |a, b| (a as i32).max(b as i32).max(0) as u64);
}

#[test]
fn bits() {
    for n in [16u32, 32, 64] {
        let m = if n == 64 { !0 } else { (1u64 << n) - 1 };
        check2(&format!("and.b{n} %d, %a0, %a1;"), n, n, |a, b| a & b);
        check2(&format!("or.b{n} %d, %a0, %a1;"), n, n, |a, b| a | b);
        check2(&format!("xor.b{n} %d, %a0, %a1;"), n, n, |a, b| a ^ b);
        check1(&format!("not.b{n} %d, %a0;"), n, |a| !a & m);
        check1(&format!("cnot.b{n} %d, %a0;"), n, |a| (a == 0) as u64);
        let big = |b: u64| b as u32 >= n;
        let ty = format!("b{n}");
        let (a, b) = (patterns(n, 160, 5), patterns(32, 160, 9).iter().map(|x| x % 70).collect::<Vec<_>>());
        let run = |op: &str| eval(&format!("{op} %d, %a0, %a1;"), &ty, &[(&ty, &a), ("b32", &b)]);
        for (op, f) in [
            ("shl.b", Box::new(|a: u64, b: u64| if big(b) { 0 } else { a << b & m }) as Box<dyn Fn(u64, u64) -> u64>),
            ("shr.u", Box::new(|a, b| if big(b) { 0 } else { a >> b })),
            ("shr.b", Box::new(|a, b| if big(b) { 0 } else { a >> b })),
            ("shr.s", Box::new(|a, b| ((((a << (64 - n)) as i64) >> (64 - n)) >> b.min(63)) as u64 & m)),
        ] {
            for (i, d) in run(&format!("{op}{n}")).into_iter().enumerate() {
                assert_eq!(d, f(a[i], b[i]), "{op}{n} {:#x} by {}", a[i], b[i]);
            }
        }
    }
    check1("popc.b32 %d, %a0;", 32, |a| a.count_ones() as u64);
    check1("popc.b64 %d, %a0;", 64, |a| a.count_ones() as u64);
    check1("clz.b32 %d, %a0;", 32, |a| (a as u32).leading_zeros() as u64);
    check1("clz.b64 %d, %a0;", 64, |a| a.leading_zeros() as u64);
    check1("brev.b32 %d, %a0;", 32, |a| (a as u32).reverse_bits() as u64);
    check1("brev.b64 %d, %a0;", 64, |a| a.reverse_bits());
    let top = |a: u32| if a == 0 { u32::MAX } else { 31 - a.leading_zeros() };
    check1("bfind.u32 %d, %a0;", 32, |a| top(a as u32) as u64);
    check1("bfind.s32 %d, %a0;", 32, |a| top(if (a as i32) < 0 { !(a as u32) } else { a as u32 }) as u64);
    check1("bfind.shiftamt.u32 %d, %a0;", 32, |a| if a == 0 { 0xffff_ffff } else { (a as u32).leading_zeros() as u64 });
    check1("bfind.u64 %d, %a0;", 64, |a| if a == 0 { 0xffff_ffff } else { 63 - a.leading_zeros() as u64 });
}

#[test]
fn fields_and_permutations() {
    // The definitions of the manual, bit by bit.
    let bfe = |a: u64, b: u64, c: u64, bits: u64, signed: bool| {
        let (pos, len, msb) = (b & 255, c & 255, bits - 1);
        let sign = if !signed || len == 0 { 0 } else { a >> (pos + len - 1).min(msb) & 1 };
        (0..=msb).fold(0, |d, i| d | (if i < len && pos + i <= msb { a >> (pos + i) & 1 } else { sign }) << i)
    };
    check3("bfe.u32 %d, %a0, %a1, %a2;", [32; 3], 32, |a, b, c| bfe(a, b, c, 32, false));
    check3("bfe.s32 %d, %a0, %a1, %a2;", [32; 3], 32, |a, b, c| bfe(a, b, c, 32, true));
    check3("bfe.u64 %d, %a0, %a1, %a2;", [64, 32, 32], 64, |a, b, c| bfe(a, b, c, 64, false));
    check3("bfe.s64 %d, %a0, %a1, %a2;", [64, 32, 32], 64, |a, b, c| bfe(a, b, c, 64, true));
    for (pos, len) in [(0, 8), (4, 12), (16, 16), (28, 8), (31, 1), (0, 32), (3, 0)] {
        check2(&format!("bfi.b32 %d, %a0, %a1, {pos}, {len};"), 32, 32, |a, b| {
            let m = (((1u64 << len) - 1) << pos) as u32 as u64;
            b & !m | (a << pos) & m
        });
    }
    check2("bfi.b64 %d, %a0, %a1, 40, 16;", 64, 64, |a, b| b & !(0xffff << 40) | (a & 0xffff) << 40);
    check3("prmt.b32 %d, %a0, %a1, %a2;", [32; 3], 32, |a, b, c| {
        let v: Vec<u8> = [(a as u32).to_le_bytes(), (b as u32).to_le_bytes()].concat();
        (0..4).fold(0u64, |d, i| {
            let s = (c >> (4 * i)) as usize & 15;
            let byte = v[s & 7];
            d | (if s & 8 != 0 { if byte & 128 != 0 { 255 } else { 0 } } else { byte as u64 }) << (8 * i)
        })
    });
    let two = |a: u64, b: u64| (b << 32 | a) as u128;
    check3("shf.l.wrap.b32 %d, %a0, %a1, %a2;", [32; 3], 32, |a, b, c| ((two(a, b) << (c & 31)) >> 32) as u32 as u64);
    check3("shf.r.wrap.b32 %d, %a0, %a1, %a2;", [32; 3], 32, |a, b, c| (two(a, b) >> (c & 31)) as u32 as u64);
    check3("shf.l.clamp.b32 %d, %a0, %a1, %a2;", [32; 3], 32, |a, b, c| ((two(a, b) << c.min(32)) >> 32) as u32 as u64);
    check3("shf.r.clamp.b32 %d, %a0, %a1, %a2;", [32; 3], 32, |a, b, c| (two(a, b) >> c.min(32)) as u32 as u64);
    for lut in [0x80u32, 0xfe, 0x96, 0xe8, 0xca, 0x1b] {
        check3(&format!("lop3.b32 %d, %a0, %a1, %a2, {lut};"), [32; 3], 32, |a, b, c| {
            (0..32).fold(0, |d, i| d | ((lut as u64 >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1)) & 1) << i)
        });
    }
    check2("bmsk.clamp.b32 %d, %a0, %a1;", 32, 32, |p, l| {
        (0..32u64).fold(0, |d, i| if i >= p && i - p < l { d | 1 << i } else { d })
    });
}

#[test]
fn dot_products() {
    let b = |x: u64, i: usize| (x as u32).to_le_bytes()[i];
    check3("dp4a.s32.s32 %d, %a0, %a1, %a2;", [32; 3], 32, |x, y, c| {
        (0..4).fold(c as i32, |s, i| s.wrapping_add(b(x, i) as i8 as i32 * b(y, i) as i8 as i32)) as u32 as u64
    });
    check3("dp4a.u32.u32 %d, %a0, %a1, %a2;", [32; 3], 32, |x, y, c| {
        (0..4).fold(c as u32, |s, i| s.wrapping_add(b(x, i) as u32 * b(y, i) as u32)) as u64
    });
    check3("dp4a.u32.s32 %d, %a0, %a1, %a2;", [32; 3], 32, |x, y, c| {
        (0..4).fold(c as i32, |s, i| s.wrapping_add(b(x, i) as i32 * b(y, i) as i8 as i32)) as u32 as u64
    });
    for (m, k) in [("lo", 0), ("hi", 2)] {
        check3(&format!("dp2a.{m}.s32.s32 %d, %a0, %a1, %a2;"), [32; 3], 32, |x, y, c| {
            let h = |i: u32| (x >> (16 * i)) as i16 as i32;
            (0..2).fold(c as i32, |s, i| s.wrapping_add(h(i as u32).wrapping_mul(b(y, i + k) as i8 as i32))) as u32
                as u64
        });
    }
}

#[test]
fn carries() {
    let wide = |a: u64, b: u64| (a as u128) | (b as u128) << 64;
    let v: Vec<Vec<u64>> = (0..3).map(|i| patterns(64, 160, [3, 14, 57][i])).collect();
    let ins = [("b64", &v[0][..]), ("b64", &v[1][..]), ("b64", &v[2][..])];
    let hi = eval("add.cc.u64 %x0, %a0, %a1; addc.u64 %d, %a1, %a2;", "b64", &ins);
    let dif = eval("sub.cc.u64 %x0, %a0, %a1; subc.u64 %d, %a1, %a2;", "b64", &ins);
    for i in 0..160 {
        let (a, b, c) = (v[0][i], v[1][i], v[2][i]);
        assert_eq!(hi[i], (wide(a, b).wrapping_add(wide(b, c)) >> 64) as u64);
        assert_eq!(dif[i], (wide(a, b).wrapping_sub(wide(b, c)) >> 64) as u64);
    }
    // The flag of a subtraction, read as a carry, says that nothing was borrowed.
    check2("sub.cc.u32 %w0, %a0, %a1; addc.u32 %d, 0, 0;", 32, 32, |a, b| (a >= b) as u64);
    // 64 × 64 bits from 32-bit pieces, as compilers write it.
    let lo = "mov.b64 {%w0, %w1}, %a0; mov.b64 {%w2, %w3}, %a1; { .reg .b32 r<4>;
        mul.lo.u32 r0, %w0, %w2; mul.hi.u32 r1, %w0, %w2; mad.lo.cc.u32 r1, %w0, %w3, r1; madc.hi.u32 r2, %w0, %w3, 0;
        mad.lo.cc.u32 r1, %w1, %w2, r1; madc.hi.cc.u32 r2, %w1, %w2, r2; addc.u32 r3, 0, 0;
        mad.lo.cc.u32 r2, %w1, %w3, r2; madc.hi.u32 r3, %w1, %w3, r3; mov.b64 %d, {r2, r3}; }";
    for (i, d) in eval(lo, "b64", &ins[..2]).into_iter().enumerate() {
        assert_eq!(d, ((v[0][i] as u128 * v[1][i] as u128) >> 64) as u64, "{:#x} {:#x}", v[0][i], v[1][i]);
    }
}

#[test]
fn packed_pairs_and_video() {
    let pair = |f: fn(u16, u16) -> u16| {
        move |a: u64, b: u64| f(a as u16, b as u16) as u64 | (f((a >> 16) as u16, (b >> 16) as u16) as u64) << 16
    };
    check2("add.u16x2 %d, %a0, %a1;", 32, 32, pair(u16::wrapping_add));
    check2("min.u16x2 %d, %a0, %a1;", 32, 32, pair(u16::min));
    check2("max.s16x2 %d, %a0, %a1;", 32, 32, pair(|a, b| (a as i16).max(b as i16) as u16));
    check3("vabsdiff4.u32.u32.u32 %d, %a0, %a1, %a2;", [32; 3], 32, |a, b, _| {
        let (a, b) = ((a as u32).to_le_bytes(), (b as u32).to_le_bytes());
        u32::from_le_bytes([0, 1, 2, 3].map(|i| a[i].abs_diff(b[i]))) as u64
    });
}

#[test]
fn comparisons_and_selection() {
    for (ty, bits, signed) in [
        ("u16", 16, false),
        ("s16", 16, true),
        ("u32", 32, false),
        ("s32", 32, true),
        ("u64", 64, false),
        ("s64", 64, true),
    ] {
        let (a, mut b) = (patterns(bits, 160, 3), patterns(bits, 160, 14));
        b[5] = a[5];
        b[90] = a[90];
        let t = format!("b{bits}");
        let key = |x: u64| if signed { ((x << (64 - bits)) as i64 >> (64 - bits)) as i128 } else { x as i128 };
        for (op, f) in [
            ("eq", i128::eq as fn(&i128, &i128) -> bool),
            ("ne", i128::ne),
            ("lt", i128::lt),
            ("le", i128::le),
            ("gt", i128::gt),
            ("ge", i128::ge),
        ] {
            let d = eval(&format!("setp.{op}.{ty} %d, %a0, %a1;"), "pred", &[(&t, &a), (&t, &b)]);
            let e = eval(&format!("setp.{op}.{ty} %q|%d, %a0, %a1;"), "pred", &[(&t, &a), (&t, &b)]);
            let s = eval(&format!("set.{op}.u32.{ty} %d, %a0, %a1;"), "b32", &[(&t, &a), (&t, &b)]);
            for i in 0..160 {
                let want = f(&key(a[i]), &key(b[i]));
                assert_eq!((d[i] == 1, e[i] == 0), (want, want), "setp.{op}.{ty} {:#x} {:#x}", a[i], b[i]);
                assert_eq!(s[i], if want { 0xffff_ffff } else { 0 });
            }
        }
    }
    check2("setp.lt.u32 %q, %a0, %a1; selp.b32 %d, %a0, %a1, %q;", 32, 32, |a, b| a.min(b));
    check3("slct.u32.s32 %d, %a0, %a1, %a2;", [32; 3], 32, |a, b, c| if c as i32 >= 0 { a } else { b });
    check2("setp.lt.u32 %q, %a0, 77; setp.gt.and.u32 %q2, %a1, 5, %q; selp.u32 %d, 1, 0, %q2;", 32, 32, |a, b| {
        (a < 77 && b > 5) as u64
    });
    check2("setp.lt.u32 %q, %a0, %a1; setp.ge.xor.u32 %q2, %a1, 40, !%q; selp.u32 %d, 1, 0, %q2;", 32, 32, |a, b| {
        ((b >= 40) ^ (a >= b)) as u64
    });
    let preds = "setp.lt.u32 %q, %a0, %a1; setp.gt.u32 %q2, %a1, 100; { .reg .pred p<4>; and.pred p0, %q, %q2; or.pred p1, %q, !%q2; xor.pred p2, p0, p1; not.pred p3, p2; selp.u32 %d, 3, 4, p3; }";
    check2(preds, 32, 32, |a, b| {
        let (q, r) = (a < b, b > 100);
        if !((q && r) ^ (q || !r)) { 3 } else { 4 }
    });
}

#[test]
fn moves_between_widths() {
    check1("mov.b32 {%h0, %h1}, %a0; mov.b32 %d, {%h1, %h0};", 32, |a| a >> 16 | (a & 0xffff) << 16);
    check1("mov.b64 {%w0, %w1}, %a0; mov.b64 %d, {%w1, %w0};", 64, |a| a.rotate_left(32));
    check1("mov.b64 {%h0, %h1, %h2, %h3}, %a0; mov.b64 %d, {%h3, %h2, %h1, %h0};", 64, |a| {
        a >> 48 | (a >> 32 & 0xffff) << 16 | (a >> 16 & 0xffff) << 32 | a << 48
    });
}
