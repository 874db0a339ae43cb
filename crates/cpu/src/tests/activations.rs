//! Activations in bf16: what products write is what they write in f32, rounded once; whatever way c takes to memory.

use half::bf16;
use lowrank_backend::{Dropout, Linear, Lora, Precision, Weight};

use super::*;

/// Values of bf16.
fn narrow(seed: u64, len: usize) -> Vec<bf16> {
    random(seed, len).into_iter().map(bf16::from_f32).collect()
}

fn wide(x: &[bf16]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}

/// y, dx, da, db of a low-rank linear (r = 0: of a frozen one) with x, gy and their like in bf16, or the same values in f32. dx is
/// added to what is there.
fn run(cpu: &Cpu, [m, n, k, r]: [usize; 4], precision: Precision, dropout: bool, stored: bool) -> [Vec<f32>; 4] {
    let t =
        |seed: u64, len: usize| if stored { put(cpu, &narrow(seed, len)) } else { put(cpu, &wide(&narrow(seed, len))) };
    let (x, gy, mut y, mut dx) = (t(1, m * k), t(2, m * n), t(3, m * n), t(4, m * k));
    let (w, bias) = (put(cpu, &narrow(5, n * k)), put(cpu, &random(6, n)));
    let (a, b, words) = (put(cpu, &random(7, r * k)), put(cpu, &random(8, n * r)), put(cpu, &scalars()));
    let base = Linear { m, n, k, w: Weight::Dense(w.view()), bias: Some(bias.view()), precision };
    let (mut h, mut da, mut db) = (empty(cpu, m * r), empty(cpu, r * k), empty(cpu, n * r));
    if r == 0 {
        cpu.linear_forward(&base, x.view(), y.out()).unwrap();
        cpu.linear_backward(&base, gy.view(), dx.add()).unwrap();
    } else {
        let dropout = dropout.then_some(Dropout { p: 0.4, seed: 11, stream: 2 });
        let op = Lora { base, r, scale: 0.5, a: a.view(), b: b.view(), dropout, scalars: words.view() };
        cpu.lora_forward(&op, x.view(), y.out(), h.out()).unwrap();
        let slots = (Some(dx.add()), Some(da.set()), Some(db.set()));
        cpu.lora_backward(&op, x.view(), h.view(), gy.view(), slots.0, slots.1, slots.2).unwrap();
    }
    let float = |t: &T<'_>| if t.dtype == DType::BF16 { wide(&t.get()) } else { t.f32() };
    [float(&y), float(&dx), da.f32(), db.f32()]
}

#[track_caller]
fn check(cpu: &Cpu, sizes: [usize; 4], precision: Precision, dropout: bool) {
    let got = run(cpu, sizes, precision, dropout, true);
    let [y, dx, da, db] = run(cpu, sizes, precision, dropout, false);
    let round = |x: &[f32]| -> Vec<f32> { x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect() };
    for (what, got, want) in
        [("y", &got[0], round(&y)), ("dx", &got[1], round(&dx)), ("da", &got[2], da), ("db", &got[3], db)]
    {
        let at = got.iter().zip(&want).position(|(g, w)| g.to_bits() != w.to_bits());
        assert!(at.is_none(), "{what} of {sizes:?} {precision:?} on {}: {at:?}", cpu.path());
    }
}

/// Odd sizes, ranks and numbers of rows, with and without dropout, on every path.
#[test]
fn results_are_those_of_f32_rounded_once() {
    on_every_path(|cpu| {
        for precision in [Precision::Full, Precision::Bf16] {
            for sizes in
                [[1, 5, 3, 0], [7, 33, 1100, 3], [16, 40, 24, 3], [33, 150, 530, 40], [65, 300, 77, 128], [20, 9, 0, 0]]
            {
                check(&cpu, sizes, precision, false);
                check(&cpu, sizes, precision, true);
            }
        }
    });
}

/// A branch over no inputs is no number times nothing: h is zeros, and so is what it gives.
#[test]
fn a_product_over_nothing_is_zero() {
    on_every_path(|cpu| {
        for stored in [false, true] {
            let [y, _, da, db] = run(&cpu, [20, 9, 0, 3], Precision::Full, false, stored);
            let bias = random(6, 9).into_iter().map(|b| if stored { bf16::from_f32(b).to_f32() } else { b });
            let bias: Vec<f32> = bias.collect();
            assert!(y.chunks(9).all(|row| row == bias), "{} {y:?}", cpu.path());
            assert!(da.is_empty() && db.iter().all(|&x| x == 0.0), "{} {db:?}", cpu.path());
            let [_, dx, da, _] = run(&cpu, [20, 0, 9, 3], Precision::Full, false, stored);
            let old = wide(&narrow(4, 20 * 9));
            assert!(dx == old && da.iter().all(|&x| x == 0.0), "{} {dx:?} {da:?}", cpu.path());
        }
    });
}

/// Sums too long for all of k to be packed at once: they are kept in f32, some rows after the other.
#[test]
fn long_sums_are_rounded_once_too() {
    let cpu = Cpu::new();
    // 40 blocks of depth: rows of c in f32. More rows than are packed at a time, k of one block.
    for sizes in [[520, 70, 20_000, 8], [70, 20_000, 33, 0], [4500, 40, 300, 3]] {
        check(&cpu, sizes, Precision::Full, true);
    }
    check(&cpu, [600, 12_300, 24, 3], Precision::Bf16, false);
}

/// Beyond the largest bf16 is infinity, NaN stays, and denormals are rounded as any other number.
#[test]
fn what_is_not_a_usual_number_is_rounded_as_ieee_says() {
    let cpu = Cpu::new();
    let tiny = f32::from_bits(0x0001_8000);
    let x = put(&cpu, &[f32::MAX, -f32::MAX, f32::INFINITY, f32::NAN, tiny, f32::from_bits(0x7F80_0001), -0.0]);
    let mut y = put(&cpu, &[bf16::ZERO; 7]);
    cpu.map(lowrank_backend::Map::Copy, x.view(), y.set()).unwrap();
    let y: Vec<bf16> = y.get();
    let want = [bf16::INFINITY, bf16::NEG_INFINITY, bf16::INFINITY];
    assert_eq!(y[..3], want);
    assert!(y[3].is_nan() && y[5].is_nan());
    // Half way between 1 and 2 units of the denormals: even.
    assert_eq!((y[4].to_bits(), y[6].to_bits()), (2, 0x8000));
}
