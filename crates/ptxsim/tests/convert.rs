//! `cvt` in every pair of types and rounding mode.

#![allow(clippy::needless_range_loop, clippy::type_complexity)]
mod common;
use common::{eval, patterns};
use half::{bf16, f16};

const MODES: [&str; 4] = ["rn", "rz", "rm", "rp"];

/// Rounds to an integer by the definition of each mode.
fn round(x: f64, mode: &str) -> f64 {
    match &mode[..2] {
        "rn" => x.round_ties_even(),
        "rz" => x.trunc(),
        "rm" => x.floor(),
        _ => x.ceil(),
    }
}

fn read(ty: &str, v: u64) -> f64 {
    match ty {
        "f16" => f16::from_bits(v as u16).to_f64(),
        "bf16" => bf16::from_bits(v as u16).to_f64(),
        "f32" => f32::from_bits(v as u32) as f64,
        _ => f64::from_bits(v),
    }
}

fn width(ty: &str) -> u32 {
    match ty {
        "bf16" => 16,
        t => t[1..].parse().unwrap(),
    }
}

#[test]
fn floats_to_integers() {
    for src in ["f16", "bf16", "f32", "f64"] {
        let n = width(src);
        let v = patterns(n, 320, 33);
        let st = format!("b{n}");
        for dst in ["u16", "s16", "u32", "s32", "u64", "s64"] {
            let bits = width(dst);
            for mode in MODES {
                let body = format!("cvt.{mode}i.{dst}.{src} %d, %a0;");
                for (x, d) in v.iter().zip(eval(&body, &format!("b{bits}"), &[(&st, &v)])) {
                    let r = round(read(src, *x), mode);
                    let want = match dst {
                        _ if r.is_nan() && (src == "f64" || bits == 64) => 1 << (bits - 1),
                        "u16" => r as u16 as u64,
                        "s16" => r as i16 as u16 as u64,
                        "u32" => r as u32 as u64,
                        "s32" => r as i32 as u32 as u64,
                        "u64" => r as u64,
                        _ => r as i64 as u64,
                    };
                    assert_eq!(d, want, "{body} of {}", read(src, *x));
                }
            }
        }
    }
}

/// Exact comparison of an integer with a double.
fn cmp(i: i128, x: f64) -> std::cmp::Ordering {
    if x.abs() < 2f64.powi(100) {
        let t = x.trunc();
        (i.cmp(&(t as i128))).then(if x > t {
            std::cmp::Ordering::Less
        } else if x < t {
            std::cmp::Ordering::Greater
        } else {
            std::cmp::Ordering::Equal
        })
    } else if x > 0.0 {
        std::cmp::Ordering::Less
    } else {
        std::cmp::Ordering::Greater
    }
}

#[test]
fn integers_to_floats() {
    use std::cmp::Ordering::*;
    for src in ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"] {
        let n = width(src).max(16);
        let v = patterns(n, 320, 11);
        for dst in ["f32", "f64"] {
            for mode in MODES {
                let body = format!("cvt.{mode}.{dst}.{src} %d, %a0;");
                for (x, d) in v.iter().zip(eval(&body, &format!("b{}", width(dst)), &[(&format!("b{n}"), &v)])) {
                    let i: i128 = match src {
                        "u8" => *x as u8 as i128,
                        "s8" => *x as i8 as i128,
                        "u16" => *x as u16 as i128,
                        "s16" => *x as i16 as i128,
                        "u32" => *x as u32 as i128,
                        "s32" => *x as i32 as i128,
                        "u64" => *x as i128,
                        _ => *x as i64 as i128,
                    };
                    let (y, up, down, near) = if dst == "f32" {
                        let y = f32::from_bits(d as u32);
                        (y as f64, y.next_up() as f64, y.next_down() as f64, i as f32 as f64)
                    } else {
                        let y = f64::from_bits(d);
                        (y, y.next_up(), y.next_down(), i as f64)
                    };
                    let low = cmp(i, y) != Less && cmp(i, up) == Less;
                    let high = cmp(i, y) != Greater && cmp(i, down) == Greater;
                    let ok = match mode {
                        "rn" => y == near,
                        "rm" => low,
                        "rp" => high,
                        _ => {
                            if i >= 0 {
                                low
                            } else {
                                high
                            }
                        }
                    };
                    assert!(ok, "{body} of {i}: {y}");
                }
            }
        }
        for (dst, put) in
            [("f16", (|x| f16::from_f64(x).to_bits()) as fn(f64) -> u16), ("bf16", |x| bf16::from_f64(x).to_bits())]
        {
            let small: Vec<u64> = v.iter().map(|x| x & 0x7f).collect();
            for (x, d) in
                small.iter().zip(eval(&format!("cvt.rn.{dst}.{src} %d, %a0;"), "b16", &[(&format!("b{n}"), &small)]))
            {
                assert_eq!(d, put(*x as f64) as u64, "cvt.rn.{dst}.{src} {x}");
            }
        }
    }
}

#[test]
fn narrowing_to_halves() {
    let v = patterns(32, 960, 7);
    for (ty, bf) in [("f16", false), ("bf16", true)] {
        let get = |b: u64| read(ty, b);
        for mode in MODES {
            for (x, d) in v.iter().zip(eval(&format!("cvt.{mode}.{ty}.f32 %d, %a0;"), "b16", &[("b32", &v)])) {
                let f = f32::from_bits(*x as u32);
                let (y, f64v) = (get(d), f as f64);
                let near = if bf { bf16::from_f32(f).to_f64() } else { f16::from_f32(f).to_f64() };
                if f.is_nan() {
                    assert!(y.is_nan());
                    continue;
                }
                // Neighbours by stepping the pattern.
                let step = |k: i32| {
                    let s = d as u16;
                    let signed = if s & 0x8000 != 0 { -((s & 0x7fff) as i32) } else { s as i32 } + k;
                    get(if signed < 0 { 0x8000 | (-signed) as u64 } else { signed as u64 })
                };
                let ok = match mode {
                    "rn" => y == near,
                    "rm" => y <= f64v && (step(1) > f64v || y.is_infinite()),
                    "rp" => y >= f64v && (step(-1) < f64v || y.is_infinite()),
                    _ => {
                        y.abs() <= f64v.abs()
                            && (if f64v > 0.0 { step(1) > f64v } else { step(-1) < f64v || f64v == 0.0 }
                                || f64v.is_infinite())
                    }
                };
                assert!(ok, "cvt.{mode}.{ty}.f32 {f}: {y}");
                assert!(y != 0.0 || (d >> 15 == 1) == f.is_sign_negative());
            }
        }
        for (x, d) in v.iter().zip(eval(
            &format!("cvt.rn.{ty}x2.f32 %d, %a0, %a1;"),
            "b32",
            &[("b32", &v), ("b32", &v[..].iter().rev().copied().collect::<Vec<_>>())],
        )) {
            let hi = read(ty, d >> 16);
            let f = f32::from_bits(*x as u32);
            let want = if bf { bf16::from_f32(f).to_f64() } else { f16::from_f32(f).to_f64() };
            assert!(hi == want || hi.is_nan() && f.is_nan(), "upper half is the first operand");
        }
        for (x, d) in v.iter().zip(eval(&format!("cvt.rn.relu.{ty}.f32 %d, %a0;"), "b16", &[("b32", &v)])) {
            let f = f32::from_bits(*x as u32);
            let want = if bf { bf16::from_f32(f.max(0.0)).to_f64() } else { f16::from_f32(f.max(0.0)).to_f64() };
            assert!(read(ty, d) == want || f.is_nan(), "relu {f}");
        }
    }
}

#[test]
fn widening() {
    let all: Vec<u64> = (0..65536).collect();
    for ty in ["f16", "bf16"] {
        for (x, d) in all.iter().zip(eval(&format!("cvt.f32.{ty} %d, %a0;"), "b32", &[("b16", &all)])) {
            let (g, w) = (f32::from_bits(d as u32) as f64, read(ty, *x));
            assert!(g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan(), "{x:#x}: {g} {w}");
        }
    }
    let v = patterns(32, 320, 7);
    for (x, d) in v.iter().zip(eval("cvt.f64.f32 %d, %a0;", "b64", &[("b32", &v)])) {
        let w = f32::from_bits(*x as u32) as f64;
        assert!(f64::from_bits(d) == w || w.is_nan());
    }
}

#[test]
fn f64_to_f32() {
    let v = patterns(64, 640, 9);
    for mode in MODES {
        for (x, d) in v.iter().zip(eval(&format!("cvt.{mode}.f32.f64 %d, %a0;"), "b32", &[("b64", &v)])) {
            let (x, y) = (f64::from_bits(*x), f32::from_bits(d as u32));
            if x.is_nan() {
                assert!(y.is_nan());
                continue;
            }
            let ok = match mode {
                "rn" => y == x as f32,
                "rm" => y as f64 <= x && (y.next_up() as f64 > x || x.is_infinite()),
                "rp" => y as f64 >= x && ((y.next_down() as f64) < x || x.is_infinite()),
                _ => (y as f64).abs() <= x.abs() && (y.abs().next_up() as f64 > x.abs() || x.is_infinite()),
            };
            assert!(ok, "cvt.{mode}.f32.f64 {x}: {y}");
        }
    }
}

#[test]
fn integers_to_integers() {
    let tys = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"];
    for src in tys {
        let sw = width(src);
        let reg = sw.max(16);
        let v = patterns(reg, 160, 13);
        for dst in tys {
            let dw = width(dst);
            let out = dw.max(16);
            let value = |x: u64| {
                let s = 64 - sw;
                if src.starts_with('s') { ((x << s) as i64 >> s) as i128 } else { ((x << s) >> s) as i128 }
            };
            for sat in ["", ".sat"] {
                let body = format!("cvt{sat}.{dst}.{src} %d, %a0;");
                for (x, d) in v.iter().zip(eval(&body, &format!("b{out}"), &[(&format!("b{reg}"), &v)])) {
                    let i = value(*x);
                    let (lo, hi) = if dst.starts_with('s') {
                        (-(1i128 << (dw - 1)), (1i128 << (dw - 1)) - 1)
                    } else {
                        (0, (1i128 << dw) - 1)
                    };
                    let r = if sat.is_empty() { i } else { i.clamp(lo, hi) };
                    let mask = if dw == 64 { u64::MAX } else { (1 << dw) - 1 };
                    assert_eq!(d & mask, r as u64 & mask, "{body} of {i}");
                }
            }
        }
    }
}

#[test]
fn rounding_to_integral_floats() {
    let v = patterns(32, 640, 17);
    for mode in MODES {
        for (x, d) in v.iter().zip(eval(&format!("cvt.{mode}i.f32.f32 %d, %a0;"), "b32", &[("b32", &v)])) {
            let f = f32::from_bits(*x as u32);
            let w = round(f as f64, mode) as f32;
            assert!(f32::from_bits(d as u32) == w || f.is_nan());
        }
    }
    for (x, d) in v.iter().zip(eval("cvt.sat.f32.f32 %d, %a0;", "b32", &[("b32", &v)])) {
        let f = f32::from_bits(*x as u32);
        assert_eq!(f32::from_bits(d as u32), if f.is_nan() { 0.0 } else { f.clamp(0.0, 1.0) });
    }
    // tf32: nearest with ties away, 10 bits of fraction.
    for (x, d) in v.iter().zip(eval("cvt.rna.tf32.f32 %d, %a0;", "b32", &[("b32", &v)])) {
        let b = *x as u32;
        if !f32::from_bits(b).is_nan() {
            assert_eq!(d as u32, if f32::from_bits(b).is_infinite() { b } else { (b + 0x1000) & !0x1fff }, "{b:#x}");
        }
    }
}
