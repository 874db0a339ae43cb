//! f32, f64, f16 and bf16 opcodes against the machine's floats, the `half` crate, and exact integers.

#![allow(clippy::needless_range_loop, clippy::type_complexity, clippy::double_comparisons)]
mod common;
use common::{Rng, eval, patterns};
use half::{bf16, f16};

fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}
fn same32(d: u64, want: f32, what: &str) {
    assert!(f(d).to_bits() == want.to_bits() || (f(d).is_nan() && want.is_nan()), "{what}: {} not {want}", f(d));
}
fn same64(d: u64, want: f64, what: &str) {
    let d = f64::from_bits(d);
    assert!(d.to_bits() == want.to_bits() || (d.is_nan() && want.is_nan()), "{what}: {d} not {want}");
}

#[test]
fn f32_nearest() {
    let v: Vec<Vec<u64>> = (0..3).map(|i| patterns(32, 480, [3, 14, 57][i])).collect();
    let ins = [("b32", &v[0][..]), ("b32", &v[1][..]), ("b32", &v[2][..])];
    let ops: [(&str, fn(f32, f32, f32) -> f32); 12] = [
        ("add.f32 %d, %a0, %a1;", |a, b, _| a + b),
        ("add.rn.f32 %d, %a0, %a1;", |a, b, _| a + b),
        ("sub.f32 %d, %a0, %a1;", |a, b, _| a - b),
        ("mul.f32 %d, %a0, %a1;", |a, b, _| a * b),
        ("div.rn.f32 %d, %a0, %a1;", |a, b, _| a / b),
        ("fma.rn.f32 %d, %a0, %a1, %a2;", |a, b, c| a.mul_add(b, c)),
        ("sqrt.rn.f32 %d, %a0;", |a, _, _| a.sqrt()),
        ("rcp.rn.f32 %d, %a0;", |a, _, _| 1.0 / a),
        ("neg.f32 %d, %a0;", |a, _, _| -a),
        ("abs.f32 %d, %a0;", |a, _, _| a.abs()),
        ("copysign.f32 %d, %a0, %a1;", |a, b, _| b.copysign(a)),
        ("mad.rn.f32 %d, %a0, %a1, %a2;", |a, b, c| a.mul_add(b, c)),
    ];
    for (body, want) in ops {
        for (i, d) in eval(body, "b32", &ins).into_iter().enumerate() {
            same32(
                d,
                want(f(v[0][i]), f(v[1][i]), f(v[2][i])),
                &format!("{body} {:#x} {:#x} {:#x}", v[0][i], v[1][i], v[2][i]),
            );
        }
    }
}

#[test]
fn fma_has_one_rounding_even_on_ties() {
    // a·b is exactly half a unit away from c, or the least bit beside it.
    let c: Vec<u64> = (0..64).map(|i| (1.0f32 + i as f32 * 2f32.powi(-23)).to_bits() as u64).collect();
    let a: Vec<u64> =
        (0..64).map(|i| (2f32.powi(-12) * (1.0 + (i % 3) as f32 * 2f32.powi(-23))).to_bits() as u64).collect();
    let b: Vec<u64> =
        (0..64).map(|i| (2f32.powi(-12) * (1.0 - (i % 5) as f32 * 2f32.powi(-24))).to_bits() as u64).collect();
    for (i, d) in
        eval("fma.rn.f32 %d, %a0, %a1, %a2;", "b32", &[("b32", &a), ("b32", &b), ("b32", &c)]).into_iter().enumerate()
    {
        same32(d, f(a[i]).mul_add(f(b[i]), f(c[i])), "fma tie");
    }
}

#[test]
fn f64_nearest() {
    let v: Vec<Vec<u64>> = (0..3).map(|i| patterns(64, 320, [3, 14, 57][i])).collect();
    let ins = [("b64", &v[0][..]), ("b64", &v[1][..]), ("b64", &v[2][..])];
    let ops: [(&str, fn(f64, f64, f64) -> f64); 9] = [
        ("add.f64 %d, %a0, %a1;", |a, b, _| a + b),
        ("sub.rn.f64 %d, %a0, %a1;", |a, b, _| a - b),
        ("mul.rn.f64 %d, %a0, %a1;", |a, b, _| a * b),
        ("div.rn.f64 %d, %a0, %a1;", |a, b, _| a / b),
        ("fma.rn.f64 %d, %a0, %a1, %a2;", |a, b, c| a.mul_add(b, c)),
        ("sqrt.rn.f64 %d, %a0;", |a, _, _| a.sqrt()),
        ("rcp.rn.f64 %d, %a0;", |a, _, _| 1.0 / a),
        ("neg.f64 %d, %a0;", |a, _, _| -a),
        ("abs.f64 %d, %a0;", |a, _, _| a.abs()),
    ];
    for (body, want) in ops {
        for (i, d) in eval(body, "b64", &ins).into_iter().enumerate() {
            same64(d, want(f64::from_bits(v[0][i]), f64::from_bits(v[1][i]), f64::from_bits(v[2][i])), body);
        }
    }
}

/// An f32 of moderate size as an integer of units 2^-60.
fn fixed(x: f32) -> i128 {
    (x as f64 * 2f64.powi(60)) as i128
}

/// `d` is the exact value `num / den` rounded as the mode says: between its neighbours, on the right side.
fn directed(d: f32, num: i128, den: i128, mode: &str, what: &str) {
    let (num, den) = if den < 0 { (-num, -den) } else { (num, den) };
    let cmp = |x: f32| (fixed(x) * den).cmp(&num);
    use std::cmp::Ordering::*;
    let down = cmp(d) != Greater && cmp(d.next_up()) == Greater;
    let up = cmp(d) != Less && cmp(d.next_down()) == Less;
    let ok = match mode {
        "rm" => down,
        "rp" => up,
        _ => {
            if num >= 0 {
                down
            } else {
                up
            }
        }
    };
    assert!(ok, "{what}.{mode}: {d}");
}

#[test]
fn f32_directed() {
    let mut r = Rng(99);
    // At most 12 significant bits and exponents in a small range keep everything exact in 128 bits.
    let mut gen_ = |n: usize| -> Vec<u64> {
        (0..n)
            .map(|_| {
                let m = (r.next() % 4095 + 1) as f32 * if r.next().is_multiple_of(2) { 1.0 } else { -1.0 };
                (m * 2f32.powi((r.next() % 16) as i32 - 20)).to_bits() as u64
            })
            .collect()
    };
    let (a, b, c) = (gen_(320), gen_(320), gen_(320));
    let one = 1i128 << 60;
    for mode in ["rz", "rm", "rp"] {
        let ins = [("b32", &a[..]), ("b32", &b[..]), ("b32", &c[..])];
        let add = eval(&format!("add.{mode}.f32 %d, %a0, %a1; mul.rn.f32 %d, %d, 0f3F800000;"), "b32", &ins);
        let sub = eval(&format!("sub.{mode}.f32 %d, %a0, %a1;"), "b32", &ins);
        let mul = eval(&format!("mul.{mode}.f32 %d, %a0, %a1;"), "b32", &ins);
        let div = eval(&format!("div.{mode}.f32 %d, %a0, %a1;"), "b32", &ins);
        let fma = eval(&format!("fma.{mode}.f32 %d, %a0, %a1, %a2;"), "b32", &ins);
        for i in 0..320 {
            let (x, y, z) = (fixed(f(a[i])), fixed(f(b[i])), fixed(f(c[i])));
            if x + y != 0 {
                directed(f(add[i]), x + y, 1, mode, "add");
            }
            if x != y {
                directed(f(sub[i]), x - y, 1, mode, "sub");
            }
            // x·y is in units 2^-120; both are multiples of 2^28, which keeps the quotient exact.
            directed(f(mul[i]), (x >> 28) * (y >> 28), one >> 56, mode, "mul");
            if ((x >> 28) * (y >> 28) + (z >> 28) * (one >> 28)) != 0 {
                directed(f(fma[i]), (x >> 28) * (y >> 28) + (z >> 28) * (one >> 28), one >> 56, mode, "fma");
            }
            let q = f(div[i]);
            let exact = f(a[i]) as f64 / f(b[i]) as f64;
            let (lo, hi) = (q.next_down() as f64, q.next_up() as f64);
            assert!(lo < exact && exact < hi, "div.{mode}");
            let on_side = match mode {
                "rm" => q as f64 <= exact,
                "rp" => q as f64 >= exact,
                _ => (q as f64).abs() <= exact.abs(),
            };
            assert!(on_side, "div.{mode} {} / {} = {q}", f(a[i]), f(b[i]));
        }
    }
    // Square roots: d² against the operand, exactly.
    let pos: Vec<u64> = (1..=256u64).map(|i| (i as f32 * 1.37).to_bits() as u64).collect();
    for mode in ["rz", "rm", "rp"] {
        for (x, d) in pos.iter().zip(eval(&format!("sqrt.{mode}.f32 %d, %a0;"), "b32", &[("b32", &pos)])) {
            let sq = |y: f32| y as f64 * y as f64;
            let x = f(*x) as f64;
            let ok = if mode == "rp" {
                sq(f(d)) >= x && sq(f(d).next_down()) < x
            } else {
                sq(f(d)) <= x && sq(f(d).next_up()) > x
            };
            assert!(ok, "sqrt.{mode} of {x}: {}", f(d));
        }
    }
}

#[test]
fn f64_directed_brackets_the_truth() {
    // Errors of sums and products are doubles: they tell on which side of the nearest value the truth lies.
    let (a, b) = (patterns(64, 320, 4), patterns(64, 320, 8));
    let moderate = |x: &u64| f64::from_bits(*x & 0x800f_ffff_ffff_ffff | (1000 + (x >> 52) % 40) << 52).to_bits();
    let (a, b): (Vec<u64>, Vec<u64>) = (a.iter().map(moderate).collect(), b.iter().map(moderate).collect());
    let ins = [("b64", &a[..]), ("b64", &b[..])];
    for op in ["add", "mul", "div"] {
        let run = |m: &str| eval(&format!("{op}.{m}.f64 %d, %a0, %a1;"), "b64", &ins);
        let (n, z, m, p) = (run("rn"), run("rz"), run("rm"), run("rp"));
        for i in 0..320 {
            let (x, y) = (f64::from_bits(a[i]), f64::from_bits(b[i]));
            let d = |v: &Vec<u64>| f64::from_bits(v[i]);
            let err = match op {
                "add" => {
                    let s = x + y;
                    let t = s - x;
                    (x - (s - t)) + (y - t)
                }
                "mul" => x.mul_add(y, -(x * y)),
                _ => (-(x / y)).mul_add(y, x) * y.signum(),
            };
            if err == 0.0 {
                assert_eq!((d(&z), d(&m), d(&p)), (d(&n), d(&n), d(&n)), "{op} {x} {y}");
            } else {
                assert_eq!(d(&m).next_up(), d(&p), "{op} {x} {y}");
                assert_eq!(d(&n), if err > 0.0 { d(&m) } else { d(&p) });
                assert_eq!(d(&z), if d(&n) > 0.0 { d(&m) } else { d(&p) });
            }
        }
    }
}

#[test]
fn flushing_and_saturation() {
    let v = patterns(32, 320, 21);
    let w = patterns(32, 320, 77);
    let fz = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
    let ins = [("b32", &v[..]), ("b32", &w[..])];
    for (i, d) in eval("mul.ftz.f32 %d, %a0, %a1;", "b32", &ins).into_iter().enumerate() {
        same32(d, fz(fz(f(v[i])) * fz(f(w[i]))), "mul.ftz");
    }
    for (i, d) in eval("add.sat.f32 %d, %a0, %a1;", "b32", &ins).into_iter().enumerate() {
        let s = f(v[i]) + f(w[i]);
        assert_eq!(f(d), if s.is_nan() { 0.0 } else { s.clamp(0.0, 1.0) });
    }
}

#[test]
fn minimum_and_maximum() {
    let (v, w) = (patterns(32, 320, 3), patterns(32, 320, 14));
    let ins = [("b32", &v[..]), ("b32", &w[..])];
    for (op, max) in [("min", false), ("max", true)] {
        let plain = eval(&format!("{op}.f32 %d, %a0, %a1;"), "b32", &ins);
        let nan = eval(&format!("{op}.NaN.f32 %d, %a0, %a1;"), "b32", &ins);
        for i in 0..320 {
            let (a, b) = (f(v[i]), f(w[i]));
            // Compare as integers, so that -0 < +0; a NaN gives way to the other operand.
            let key = |x: f32| if x.is_sign_negative() { !(x.to_bits() as i32) ^ i32::MIN } else { x.to_bits() as i32 };
            let pick = if (key(a) > key(b)) == max { a } else { b };
            let want = if a.is_nan() {
                b
            } else if b.is_nan() {
                a
            } else {
                pick
            };
            same32(plain[i], want, op);
            same32(nan[i], if a.is_nan() || b.is_nan() { f32::NAN } else { pick }, op);
        }
    }
}

#[test]
fn comparisons_know_nan() {
    let (v, mut w) = (patterns(32, 320, 3), patterns(32, 320, 14));
    w[7] = v[7];
    let ins = [("b32", &v[..]), ("b32", &w[..])];
    let ops: [(&str, fn(f32, f32) -> bool); 14] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a < b || a > b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
        ("equ", |a, b| a == b || a.is_nan() || b.is_nan()),
        ("neu", |a, b| a != b),
        ("ltu", |a, b| a < b || a.is_nan() || b.is_nan()),
        ("leu", |a, b| a <= b || a.is_nan() || b.is_nan()),
        ("gtu", |a, b| a > b || a.is_nan() || b.is_nan()),
        ("geu", |a, b| a >= b || a.is_nan() || b.is_nan()),
        ("num", |a, b| !a.is_nan() && !b.is_nan()),
        ("nan", |a, b| a.is_nan() || b.is_nan()),
    ];
    for (op, want) in ops {
        for (i, d) in eval(&format!("setp.{op}.f32 %d, %a0, %a1;"), "pred", &ins).into_iter().enumerate() {
            assert_eq!(d == 1, want(f(v[i]), f(w[i])), "setp.{op}.f32 {} {}", f(v[i]), f(w[i]));
        }
    }
    for (op, want) in [
        ("finite", f32::is_finite as fn(f32) -> bool),
        ("infinite", f32::is_infinite),
        ("notanumber", f32::is_nan),
        ("normal", f32::is_normal),
        ("subnormal", f32::is_subnormal),
    ] {
        for (i, d) in eval(&format!("testp.{op}.f32 %d, %a0;"), "pred", &ins[..1]).into_iter().enumerate() {
            assert_eq!(d == 1, want(f(v[i])), "testp.{op}");
        }
    }
}

/// a·b + c in f64, moved one step towards what was lost, so that rounding it again meets no false tie.
fn sticky_fma(a: f64, b: f64, c: f64) -> f64 {
    let (p, s) = (a * b, a.mul_add(b, c));
    let small = if s == p {
        c
    } else if s == c {
        p
    } else {
        0.0
    };
    if small == 0.0 || !s.is_finite() {
        s
    } else if small > 0.0 {
        s.next_up()
    } else {
        s.next_down()
    }
}

/// `half` looks at the upper 32 bits of a double only: carry what lies below into them.
fn sticky(x: f64) -> f64 {
    let b = x.to_bits();
    f64::from_bits(b | ((b as u32 != 0) as u64) << 32)
}

fn halves(bf: bool) -> (&'static str, fn(u16) -> f64, fn(f64) -> u16) {
    if bf {
        ("bf16", |x| bf16::from_bits(x).to_f64(), |x| bf16::from_f64(sticky(x)).to_bits())
    } else {
        ("f16", |x| f16::from_bits(x).to_f64(), |x| f16::from_f64(sticky(x)).to_bits())
    }
}

#[test]
fn half_precision_arithmetic() {
    for bf in [false, true] {
        let (ty, get, put) = halves(bf);
        let v: Vec<Vec<u64>> = (0..3).map(|i| patterns(16, 640, [3, 14, 57][i])).collect();
        let ins = [("b16", &v[0][..]), ("b16", &v[1][..]), ("b16", &v[2][..])];
        let same = |d: u64, want: f64, what: &str| {
            let (g, w) = (get(d as u16), get(put(want)));
            assert!(
                g == w && (g != 0.0 || g.is_sign_negative() == w.is_sign_negative()) || g.is_nan() && w.is_nan(),
                "{what}: {g} not {w}"
            );
        };
        let ops: [(&str, fn(f64, f64, f64) -> f64, bool); 7] = [
            ("add", |a, b, _| a + b, true),
            ("sub", |a, b, _| a - b, true),
            ("mul", |a, b, _| a * b, true),
            ("fma.rn", sticky_fma, false),
            ("neg", |a, _, _| -a, false),
            ("abs", |a, _, _| a.abs(), false),
            ("min", |a, b, _| a.min(b), true),
        ];
        for (op, want, two) in ops {
            let args = if op.starts_with("fma") {
                "%a0, %a1, %a2"
            } else if two {
                "%a0, %a1"
            } else {
                "%a0"
            };
            let single = eval(&format!("{op}.{ty} %d, {args};"), "b16", &ins);
            for i in 0..640 {
                let (a, b, c) = (get(v[0][i] as u16), get(v[1][i] as u16), get(v[2][i] as u16));
                if op == "min" && a == 0.0 && b == 0.0 {
                    continue;
                }
                // Sums of two halves are exact in f64, or so unequal that the larger, which fits the format, wins.
                same(single[i], want(a, b, c), &format!("{op}.{ty} {a} {b} {c}"));
            }
            // The packed form does the same to both halves.
            let pack = |x: &[u64]| x.chunks(2).map(|p| p[0] | p[1] << 16).collect::<Vec<u64>>();
            let p: Vec<Vec<u64>> = v.iter().map(|x| pack(x)).collect();
            let pins = [("b32", &p[0][..]), ("b32", &p[1][..]), ("b32", &p[2][..])];
            let packed = eval(&format!("{op}.{ty}x2 %d, {args};"), "b32", &pins);
            assert_eq!(packed, pack(&single), "{op}.{ty}x2");
        }
    }
    let v = patterns(16, 320, 5);
    let ins = [("b16", &v[..])];
    for (i, d) in eval("fma.rn.sat.f16 %d, %a0, %a0, %a0;", "b16", &ins).into_iter().enumerate() {
        let a = f16::from_bits(v[i] as u16).to_f64();
        let s = f16::from_f64(a.mul_add(a, a)).to_f64();
        assert_eq!(f16::from_bits(d as u16).to_f64(), if s.is_nan() { 0.0 } else { s.clamp(0.0, 1.0) });
    }
    for (i, d) in eval("fma.rn.relu.bf16 %d, %a0, %a0, %a0;", "b16", &ins).into_iter().enumerate() {
        let a = bf16::from_bits(v[i] as u16).to_f64();
        let (g, w) = (bf16::from_bits(d as u16).to_f64(), bf16::from_f64(a.mul_add(a, a)).to_f64().max(0.0));
        assert!(g == w || a.mul_add(a, a).is_nan() && g.is_nan(), "{a}: {g} {w}");
    }
}

#[test]
fn half_comparisons() {
    let (a, b) = (patterns(16, 320, 3), patterns(16, 320, 14));
    let ins = [("b16", &a[..]), ("b16", &b[..])];
    for (i, d) in eval("setp.lt.f16 %d, %a0, %a1;", "pred", &ins).into_iter().enumerate() {
        assert_eq!(d == 1, f16::from_bits(a[i] as u16) < f16::from_bits(b[i] as u16));
    }
    for (i, d) in eval("set.gt.bf16.bf16 %d, %a0, %a1;", "b16", &ins).into_iter().enumerate() {
        assert_eq!(d, if bf16::from_bits(a[i] as u16) > bf16::from_bits(b[i] as u16) { 0x3f80 } else { 0 });
    }
    let pack = |x: &[u64]| x.chunks(2).map(|p| p[0] | p[1] << 16).collect::<Vec<u64>>();
    let (pa, pb) = (pack(&a), pack(&b));
    for (i, d) in eval("set.le.f16x2.f16x2 %d, %a0, %a1;", "b32", &[("b32", &pa), ("b32", &pb)]).into_iter().enumerate()
    {
        let le = |k: usize| (f16::from_bits(a[k] as u16) <= f16::from_bits(b[k] as u16)) as u64 * 0x3c00;
        assert_eq!(d, le(2 * i) | le(2 * i + 1) << 16);
    }
}

#[test]
fn approximations_stay_within_their_documented_error() {
    let mut r = Rng(5);
    let x: Vec<u64> = (0..960).map(|i| (r.f32() * [2.0, 20.0, 200.0][i % 3]).to_bits() as u64).collect();
    let pos: Vec<u64> = x.iter().map(|v| f(*v).abs().max(1e-6).to_bits() as u64).collect();
    let rel = |op: &str, ins: &[u64], want: fn(f64) -> f64, bound: f64, abs: f64| {
        for (v, d) in ins.iter().zip(eval(&format!("{op} %d, %a0;"), "b32", &[("b32", ins)])) {
            let w = want(f(*v) as f64);
            let e = (f(d) as f64 - w).abs();
            assert!(e <= w.abs() * bound + abs, "{op} {}: {} not {w}", f(*v), f(d));
        }
    };
    rel("ex2.approx.ftz.f32", &x, f64::exp2, 2f64.powi(-22), 1e-38);
    rel("ex2.approx.f32", &x, f64::exp2, 2f64.powi(-22), 0.0);
    rel("lg2.approx.f32", &pos, f64::log2, 2f64.powi(-22), 2f64.powi(-22));
    rel("rcp.approx.ftz.f32", &pos, |v| 1.0 / v, 2f64.powi(-23), 0.0);
    rel("sqrt.approx.f32", &pos, f64::sqrt, 2f64.powi(-22), 0.0);
    rel("rsqrt.approx.f32", &pos, |v| 1.0 / v.sqrt(), 2f64.powf(-22.9), 0.0);
    rel("sin.approx.f32", &x[..320], f64::sin, 0.0, 2f64.powf(-20.5) * 10.0);
    rel("cos.approx.f32", &x[..320], f64::cos, 0.0, 2f64.powf(-20.5) * 10.0);
    rel("tanh.approx.f32", &x, f64::tanh, 2f64.powi(-11), 0.0);
    let ins = [("b32", &x[..]), ("b32", &pos[..])];
    for (i, d) in eval("div.approx.f32 %d, %a0, %a1;", "b32", &ins).into_iter().enumerate() {
        let w = f(x[i]) / f(pos[i]);
        assert!((f(d) - w).abs() <= w.abs() * 2f32.powi(-22), "div.approx");
    }
    for (i, d) in eval("div.full.f32 %d, %a0, %a1;", "b32", &ins).into_iter().enumerate() {
        assert_eq!(f(d), f(x[i]) / f(pos[i]));
    }
    // Special values of the manual.
    let special: Vec<u64> =
        [0f32, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -1.0].map(|v| v.to_bits() as u64).to_vec();
    let at =
        |op: &str| eval(&format!("{op} %d, %a0;"), "b32", &[("b32", &special)]).into_iter().map(f).collect::<Vec<_>>();
    let e = at("ex2.approx.ftz.f32");
    assert_eq!((e[0], e[1], e[2], e[3], e[4].is_nan()), (1.0, 1.0, f32::INFINITY, 0.0, true));
    let l = at("lg2.approx.ftz.f32");
    assert!(
        l[0] == f32::NEG_INFINITY
            && l[1] == f32::NEG_INFINITY
            && l[2] == f32::INFINITY
            && l[3].is_nan()
            && l[5].is_nan()
    );
    let q = at("rsqrt.approx.f32");
    assert!(q[0] == f32::INFINITY && q[1] == f32::NEG_INFINITY && q[2] == 0.0 && q[3].is_nan());
    let t = at("tanh.approx.f32");
    assert_eq!((t[2], t[3]), (1.0, -1.0));
}
