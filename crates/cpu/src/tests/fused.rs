use lowrank_backend::{AdamW, AdamWParam, CrossEntropy, IGNORE, Matrix, Norm, Rope, Sgd, SgdParam, Unfused};

use super::*;

const SIZES: [(usize, usize); 7] = [(1, 1), (0, 5), (3, 7), (70, 33), (5, 3000), (200, 300), (2, 20_000)];

#[test]
fn softmax() {
    for (rows, cols) in SIZES.into_iter().chain([(4, 0)]) {
        against_reference(&format!("softmax {rows} {cols}"), 2e-6, |b| {
            let op = Matrix { rows, cols };
            let len = rows * cols;
            let x: Vec<f32> = random(1, len).iter().map(|x| 20.0 * x).collect();
            let (x, gy) = (put(b, &x), put(b, &random(2, len)));
            let (mut y, mut dx, mut add) = (empty(b, len), empty(b, len), put(b, &random(3, len)));
            b.softmax_forward(&op, x.view(), y.out()).unwrap();
            b.softmax_backward(&op, y.view(), gy.view(), dx.set()).unwrap();
            b.softmax_backward(&op, y.view(), gy.view(), add.add()).unwrap();
            [y, dx, add].iter().map(T::f32).collect()
        });
    }
    let cpu = Cpu::new();
    let x = put(&cpu, &[0.0, 3.0f32.ln(), f32::NAN, 1.0, f32::NEG_INFINITY, 2.0]);
    let mut y = empty(&cpu, 6);
    cpu.softmax_forward(&Matrix { rows: 3, cols: 2 }, x.view(), y.out()).unwrap();
    let y = y.f32();
    assert_close("softmax", &y[..2], &[0.25, 0.75], 1e-6);
    assert!(y[2].is_nan() && y[3].is_nan());
    assert_eq!(y[4..], [0.0, 1.0]);
}

#[test]
fn norms() {
    for (rows, cols) in SIZES {
        for add in [false, true] {
            against_reference(&format!("norm {rows} {cols}"), 4e-6, |b| {
                let op = Norm { rows, cols, eps: 1e-5 };
                let len = rows * cols;
                // With one column the variance is 0, and rstd would blow differences up.
                let eps = if cols == 1 { 0.5 } else { 1e-5 };
                let layer = Norm { eps, ..op };
                let x: Vec<f32> = random(1, len).iter().map(|x| x + 0.7).collect();
                let (x, w, bias) = (put(b, &x), put(b, &random(2, cols)), put(b, &random(3, cols)));
                let gy = put(b, &random(4, len));
                let (mut y, mut z, mut mean) = (empty(b, len), empty(b, len), empty(b, rows));
                let (mut rstd, mut rstd2) = (empty(b, rows), empty(b, rows));
                let old = |len| if add { put(b, &random(5, len)) } else { empty(b, len) };
                let (mut dx, mut dw, mut dx2, mut dw2, mut db2) = (old(len), old(cols), old(len), old(cols), old(cols));
                b.rms_norm_forward(&op, x.view(), w.view(), y.out(), rstd.out()).unwrap();
                let slots = (Some(dx.slot(add)), Some(dw.slot(add)));
                b.rms_norm_backward(&op, x.view(), w.view(), rstd.view(), gy.view(), slots.0, slots.1).unwrap();
                b.layer_norm_forward(&layer, x.view(), w.view(), bias.view(), z.out(), mean.out(), rstd2.out())
                    .unwrap();
                b.layer_norm_backward(
                    &layer,
                    x.view(),
                    w.view(),
                    mean.view(),
                    rstd2.view(),
                    gy.view(),
                    Some(dx2.slot(add)),
                    Some(dw2.slot(add)),
                    Some(db2.slot(add)),
                )
                .unwrap();
                [y, rstd, dx, dw, z, mean, rstd2, dx2, dw2, db2].iter().map(T::f32).collect()
            });
        }
    }
}

#[test]
fn rope() {
    for (batch, seq, heads, dim, start) in [(1, 1, 1, 2, 0), (2, 5, 3, 8, 4), (3, 70, 4, 64, 0), (1, 0, 2, 4, 1)] {
        against_reference("rope", 1e-6, |b| {
            let op = Rope { batch, seq, heads, dim, start, positions: start + seq + 1, inverse: false };
            let table = op.positions * dim / 2;
            let (cos, sin) = (put(b, &random(1, table)), put(b, &random(2, table)));
            let len = batch * seq * heads * dim;
            let (x, mut y, mut z) = (put(b, &random(3, len)), empty(b, len), put(b, &random(4, len)));
            b.rope(&op, x.view(), cos.view(), sin.view(), y.set()).unwrap();
            b.rope(&Rope { inverse: true, ..op }, x.view(), cos.view(), sin.view(), z.add()).unwrap();
            vec![y.f32(), z.f32()]
        });
    }
    let cpu = Cpu::new();
    let (x, t, mut y) = (put(&cpu, &[0.0f32; 4]), put(&cpu, &[0.0f32; 1]), empty(&cpu, 4));
    let op = Rope { batch: 1, seq: 2, heads: 1, dim: 2, start: 0, positions: 1, inverse: false };
    assert!(cpu.rope(&op, x.view(), t.view(), t.view(), y.set()).unwrap_err().to_string().contains("exceed"));
}

#[test]
fn swiglu() {
    for len in [0, 1, 50_001] {
        for add in [false, true] {
            against_reference("swiglu", 1e-6, |b| {
                let gate: Vec<f32> = random(1, len).iter().map(|x| 9.0 * x).collect();
                let (gate, up, gy) = (put(b, &gate), put(b, &random(2, len)), put(b, &random(3, len)));
                let (mut y, mut dg, mut du) = (empty(b, len), put(b, &random(4, len)), put(b, &random(5, len)));
                b.swiglu_forward(gate.view(), up.view(), y.out()).unwrap();
                let slots = (Some(dg.slot(add)), Some(du.slot(add)));
                b.swiglu_backward(gate.view(), up.view(), gy.view(), slots.0, slots.1).unwrap();
                [y, dg, du].iter().map(T::f32).collect()
            });
        }
    }
}

#[test]
fn cross_entropy() {
    for (rows, vocab) in [(1, 2), (5, 7), (64, 3000), (3, 20_000), (0, 4)] {
        against_reference(&format!("cross entropy {rows} {vocab}"), 2e-6, |b| {
            let op = CrossEntropy { rows, vocab, denominator: 2.5 };
            let logits: Vec<f32> = random(1, rows * vocab).iter().map(|x| 8.0 * x).collect();
            let targets: Vec<u32> =
                (0..rows as u32).map(|i| if i % 3 == 1 { IGNORE } else { i * 31 % vocab as u32 }).collect();
            let (mut logits, targets, gy) = (put(b, &logits), put(b, &targets), put(b, &[3.0f32]));
            let (mut loss, mut lse) = (empty(b, 1), empty(b, rows));
            b.cross_entropy_forward(&op, logits.view(), targets.view(), loss.out(), lse.out()).unwrap();
            b.cross_entropy_backward(&op, logits.out(), targets.view(), lse.view(), gy.view()).unwrap();
            [loss, lse, logits].iter().map(T::f32).collect()
        });
    }
}

/// Logits (0, ln 3): probabilities ¼, ¾; the ignored row may hold anything.
#[test]
fn cross_entropy_by_hand() {
    let cpu = Cpu::new();
    let op = CrossEntropy { rows: 2, vocab: 2, denominator: 1.0 };
    let mut logits = put(&cpu, &[0.0, 3.0f32.ln(), f32::NAN, f32::INFINITY]);
    let (targets, gy) = (put(&cpu, &[0, IGNORE]), put(&cpu, &[1.0f32]));
    let (mut loss, mut lse) = (empty(&cpu, 1), empty(&cpu, 2));
    cpu.cross_entropy_forward(&op, logits.view(), targets.view(), loss.out(), lse.out()).unwrap();
    assert_close("loss", &loss.f32(), &[4.0f32.ln()], 1e-6);
    cpu.cross_entropy_backward(&op, logits.out(), targets.view(), lse.view(), gy.view()).unwrap();
    assert_close("gradient", &logits.f32(), &[-0.75, 0.75, 0.0, 0.0], 1e-6);
    let bad = put(&cpu, &[0u32, 2]);
    let error = cpu.cross_entropy_forward(&op, logits.view(), bad.view(), loss.out(), lse.out()).unwrap_err();
    assert_eq!(error.to_string(), "cross_entropy_forward: target 2 in row 1 is not below 2 classes");
}

#[test]
fn gradient_norm() {
    for max in [None, Some(1.0), Some(1e6)] {
        against_reference("grad_norm", 1e-6, |b| {
            let grads = [put(b, &random(1, 50_000)), put(b, &random(2, 3)), put(b, &[0.0f32; 0])];
            let mut words = put(b, &scalars());
            b.grad_norm(&grads.each_ref().map(T::view), max, words.out()).unwrap();
            vec![words.f32()]
        });
    }
    let cpu = Cpu::new();
    let (g, mut words) = (put(&cpu, &[3.0f32, 4.0, f32::INFINITY]), put(&cpu, &scalars()));
    cpu.grad_norm(&[g.view().narrow(0, 2)], Some(2.5), words.out()).unwrap();
    assert_eq!(words.f32()[Scalars::NORM], 5.0);
    assert_close("clip", &words.f32()[Scalars::CLIP..Scalars::CLIP + 1], &[0.5], 1e-6);
    cpu.grad_norm(&[g.view()], Some(2.5), words.out()).unwrap();
    assert!(words.f32()[Scalars::CLIP].is_nan());
    assert!(cpu.grad_norm(&[], Some(0.0), words.out()).is_err());
}

#[test]
fn optimisers() {
    against_reference("adamw", 1e-6, |b| {
        let op = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, group: 1 };
        let words = put(b, &scalars());
        let mut states: Vec<[T<'_>; 4]> = [40_000usize, 1, 0]
            .iter()
            .map(|&len| {
                let v: Vec<f32> = random(3, len).iter().map(|x| x * x * 1e-3).collect();
                [put(b, &random(1, len)), put(b, &random(2, len)), put(b, &v), put(b, &random(4, len))]
            })
            .collect();
        for _ in 0..2 {
            let mut params: Vec<AdamWParam<'_>> = states
                .iter_mut()
                .map(|[p, m, v, g]| AdamWParam { p: p.out(), m: m.out(), v: v.out(), g: g.view() })
                .collect();
            b.adamw(&op, words.view(), &mut params).unwrap();
        }
        states.iter().flatten().map(T::f32).collect()
    });
    for momentum in [0.0, 0.9] {
        against_reference("sgd", 1e-6, |b| {
            let op = Sgd { momentum, weight_decay: 0.1, group: 0 };
            let words = put(b, &scalars());
            let (mut p, mut u, g) =
                (put(b, &random(1, 40_000)), put(b, &random(2, 40_000)), put(b, &random(3, 40_000)));
            let buffer = (momentum != 0.0).then(|| u.out());
            b.sgd(&op, words.view(), &mut [SgdParam { p: p.out(), u: buffer, g: g.view() }]).unwrap();
            vec![p.f32(), u.f32()]
        });
    }
    let cpu = Cpu::new();
    let words = put(&cpu, &scalars());
    let op = Sgd { momentum: 0.0, weight_decay: 0.0, group: Scalars::GROUPS };
    assert!(cpu.sgd(&op, words.view(), &mut []).is_err());
    let (mut p, g) = (put(&cpu, &[1.0f32]), put(&cpu, &[1.0f32]));
    let op = Sgd { momentum: 0.9, weight_decay: 0.0, group: 0 };
    assert!(cpu.sgd(&op, words.view(), &mut [SgdParam { p: p.out(), u: None, g: g.view() }]).is_err());
}

/// The required operations alone give what the fused ones give.
#[test]
fn fused_equals_unfused() {
    let cpu = std::sync::Arc::new(Cpu::new());
    let unfused = Unfused::new(cpu.clone());
    let run = |b: &dyn Backend| {
        let op = CrossEntropy { rows: 40, vocab: 70, denominator: 40.0 };
        let targets: Vec<u32> = (0..40).map(|i| if i == 3 { IGNORE } else { i }).collect();
        let (mut logits, targets, gy) = (put(b, &random(1, 2800)), put(b, &targets), put(b, &[1.0f32]));
        let (mut loss, mut lse) = (empty(b, 1), empty(b, 40));
        b.cross_entropy_forward(&op, logits.view(), targets.view(), loss.out(), lse.out()).unwrap();
        b.cross_entropy_backward(&op, logits.out(), targets.view(), lse.view(), gy.view()).unwrap();
        [loss.f32(), lse.f32(), logits.f32()].concat()
    };
    assert_close("cross entropy", &run(&*cpu), &run(&unfused), 1e-6);
}
