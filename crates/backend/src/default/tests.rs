//! The definitions on the reference device, against values worked out by hand and against differences of the forward.

use std::sync::Arc;

use crate::testing::{Held, assert_close, uniform};
use crate::*;

const LN2: f64 = std::f64::consts::LN_2;

/// Holds gradients of the weighted sum of `forward`'s result against central differences.
fn check_gradient(
    shapes: &[usize],
    forward: impl Fn(&Reference, &[Held]) -> Held,
    backward: impl Fn(&Reference, &[Held], In<'_>) -> Vec<Held>,
) {
    let r = Reference::new();
    let values: Vec<Vec<f64>> = shapes.iter().enumerate().map(|(i, &n)| uniform(i as u64, n)).collect();
    let hold = |values: &[Vec<f64>]| values.iter().map(|v| Held::of(&r, v)).collect::<Vec<_>>();
    let inputs = hold(&values);
    let weights = uniform(99, forward(&r, &inputs).view().len);
    let loss = |values: &[Vec<f64>]| -> f64 {
        forward(&r, &hold(values)).read::<f64>(&r).iter().zip(&weights).map(|(y, w)| y * w).sum()
    };
    let grads = backward(&r, &inputs, Held::of(&r, &weights).view());
    assert_eq!(grads.len(), shapes.len());
    let h = 1e-5;
    for (i, grad) in grads.iter().enumerate() {
        let differences: Vec<f64> = (0..shapes[i])
            .map(|j| {
                let mut moved = values.clone();
                moved[i][j] += h;
                let up = loss(&moved);
                moved[i][j] -= 2.0 * h;
                (up - loss(&moved)) / (2.0 * h)
            })
            .collect();
        assert_close(&grad.read::<f64>(&r), &differences, 1e-8);
    }
}

fn zeros(r: &Reference, len: usize) -> Held {
    Held::of(r, &vec![0f64; len])
}

fn linear<'a>(w: &'a Held, bias: Option<&'a Held>, [m, n, k]: [usize; 3]) -> Linear<'a> {
    let w = Weight::Dense(w.view());
    Linear { m, n, k, w, bias: bias.map(Held::view), precision: Precision::Full }
}

#[test]
fn linear_by_hand() {
    let r = Reference::new();
    let (w, bias) = (Held::of(&r, &[3f32, 4., 5., 6.].map(half::bf16::from_f32)), Held::of(&r, &[10f32, 20.]));
    let op = linear(&w, Some(&bias), [2, 2, 2]);
    let x = Held::of(&r, &[1f32, 2., 0., 1.]);
    let mut y = Held::empty(&r, DType::F32, 4);
    r.linear_forward(&op, x.view(), y.out()).unwrap();
    assert_eq!(y.read::<f32>(&r), [21., 37., 14., 26.]);
    let gy = Held::of(&r, &[1f32, 2., 0., 1.]);
    let mut dx = Held::of(&r, &[100f32; 4]);
    r.linear_backward(&op, gy.view(), dx.add()).unwrap();
    assert_eq!(dx.read::<f32>(&r), [113., 116., 105., 106.]);
    let mut dense = Held::empty(&r, DType::F32, 4);
    r.dequantise(op.w, dense.out()).unwrap();
    assert_eq!(dense.read::<f32>(&r), [3., 4., 5., 6.]);
    let error = r.linear_forward(&op, x.view().narrow(0, 2), y.out()).unwrap_err().to_string();
    assert_eq!(error, "linear_forward: x has 2 elements, expected 4");
}

/// h = 1 − 2 = −1; y = 11 + ½·(−1)·2; u = ½·3·2.
#[test]
fn lora_by_hand() {
    let r = Reference::new();
    let (w, a, b) = (Held::of(&r, &[3f64, 4.]), Held::of(&r, &[1f64, -1.]), Held::of(&r, &[2f64]));
    let scalars = Held::of(&r, Scalars::new().words());
    let base = linear(&w, None, [1, 1, 2]);
    let op = Lora { base, r: 1, scale: 0.5, a: a.view(), b: b.view(), dropout: None, scalars: scalars.view() };
    let x = Held::of(&r, &[1f64, 2.]);
    let (mut y, mut h) = (Held::empty(&r, DType::F64, 1), Held::empty(&r, DType::F64, 1));
    r.lora_forward(&op, x.view(), y.out(), h.out()).unwrap();
    assert_eq!((y.read::<f64>(&r), h.read::<f64>(&r)), (vec![10.], vec![-1.]));
    let gy = Held::of(&r, &[3f64]);
    let (mut dx, mut da, mut db) =
        (Held::empty(&r, DType::F64, 2), Held::of(&r, &[100f64; 2]), Held::empty(&r, DType::F64, 1));
    let (dxs, das, dbs) = (Some(dx.set()), Some(da.add()), Some(db.set()));
    r.lora_backward(&op, x.view(), h.view(), gy.view(), dxs, das, dbs).unwrap();
    assert_eq!(dx.read::<f64>(&r), [12., 9.]);
    assert_eq!(da.read::<f64>(&r), [103., 106.]);
    assert_eq!(db.read::<f64>(&r), [-1.5]);
    let before = r.stats().launches;
    r.lora_backward(&op, x.view(), h.view(), gy.view(), None, None, None).unwrap();
    assert_eq!(r.stats().launches, before);
}

/// With W = 0, A = 1, B = 1, s = 1: h is the sum of the kept elements and dx is gy times the mask.
#[test]
fn lora_dropout_masks_both_ways() {
    let r = Reference::new();
    let k = 64;
    let (w, ones, b) = (zeros(&r, k), Held::of(&r, &vec![1f64; k]), Held::of(&r, &[1f64]));
    let mut scalars = Scalars::new();
    scalars[Scalars::STEP] = 3.0;
    let scalars = Held::of(&r, scalars.words());
    let dropout = Dropout { p: 0.5, seed: 11, stream: 2 };
    let mask: Vec<f64> = (0..k).map(|i| if philox::word(11, 2, 3, i as u64) >= 1 << 31 { 2.0 } else { 0.0 }).collect();
    let base = linear(&w, None, [1, 1, k]);
    let (a, b) = (ones.view(), b.view());
    let op = Lora { base, r: 1, scale: 1.0, a, b, dropout: Some(dropout), scalars: scalars.view() };
    let (mut y, mut h) = (zeros(&r, 1), zeros(&r, 1));
    r.lora_forward(&op, ones.view(), y.out(), h.out()).unwrap();
    assert_eq!(h.read::<f64>(&r), [mask.iter().sum::<f64>()]);
    let gy = Held::of(&r, &[3f64]);
    let (mut dx, mut da) = (zeros(&r, k), zeros(&r, k));
    r.lora_backward(&op, ones.view(), h.view(), gy.view(), Some(dx.set()), Some(da.set()), None).unwrap();
    let want: Vec<f64> = mask.iter().map(|m| 3.0 * m).collect();
    assert_eq!(dx.read::<f64>(&r), want);
    assert_eq!(da.read::<f64>(&r), want);
}

/// h = A[0, ids]; the last row is [1, 2] + ½·5·[1, 2].
#[test]
fn lora_embedding_by_hand() {
    let r = Reference::new();
    let (w, a, b) = (Held::of(&r, &[1f64, 2., 3., 4.]), Held::of(&r, &[5f64, 6.]), Held::of(&r, &[1f64, 2.]));
    let ids = Held::of(&r, &[1u32, 1, 0]);
    let op = LoraEmbedding {
        vocab: 2,
        dim: 2,
        count: 3,
        r: 1,
        scale: 0.5,
        w: w.view(),
        a: a.view(),
        b: b.view(),
        ids: ids.view(),
        precision: Precision::Full,
    };
    let (mut y, mut h) = (Held::empty(&r, DType::F64, 6), Held::empty(&r, DType::F64, 3));
    r.lora_embedding_forward(&op, y.out(), h.out()).unwrap();
    assert_eq!(h.read::<f64>(&r), [6., 6., 5.]);
    assert_eq!(y.read::<f64>(&r), [6., 10., 6., 10., 3.5, 7.]);
    let gy = Held::of(&r, &[1f64, 0., 0., 1., 2., 1.]);
    let (mut da, mut db) = (Held::of(&r, &[10f64; 2]), Held::empty(&r, DType::F64, 2));
    r.lora_embedding_backward(&op, h.view(), gy.view(), Some(da.add()), Some(db.set())).unwrap();
    assert_eq!(da.read::<f64>(&r), [12., 11.5]);
    assert_eq!(db.read::<f64>(&r), [8., 5.5]);
}

fn attention(q_len: usize, kv_len: usize, [heads, kv_heads, dim]: [usize; 3]) -> Attention {
    let precision = Precision::Full;
    Attention { batch: 1, q_len, kv_len, heads, kv_heads, dim, scale: 1.0, causal: true, precision }
}

/// Two query heads on one key head: at t = 1 the scores are [0, 0] and [0, ln 3].
#[test]
fn attention_by_hand() {
    let r = Reference::new();
    let op = attention(2, 2, [2, 1, 1]);
    let (q, k, v) =
        (Held::of(&r, &[0f64, LN2, 0.0, 3f64.ln()]), Held::of(&r, &[0f64, 1.0]), Held::of(&r, &[4f64, 8.0]));
    let (mut y, mut lse) = (Held::empty(&r, DType::F64, 4), Held::empty(&r, DType::F64, 4));
    r.attention_forward(&op, q.view(), k.view(), v.view(), y.out(), lse.out()).unwrap();
    assert_close(&y.read(&r), &[4.0, 4.0, 6.0, 7.0], 1e-15);
    assert_close(&lse.read(&r), &[0.0, LN2, 0.0, 2.0 * LN2], 1e-15);
}

/// Keys of 0 give the mean of the visible values: the queries are the last two of three positions.
#[test]
fn attention_sees_the_cache() {
    let r = Reference::new();
    let op = attention(2, 3, [1, 1, 1]);
    let (q, k, v) = (Held::of(&r, &[1f32, 2.]), Held::of(&r, &[0f32; 3]), Held::of(&r, &[3f32, 5., 10.]));
    let (mut y, mut lse) = (Held::empty(&r, DType::F32, 2), Held::empty(&r, DType::F32, 2));
    r.attention_forward(&op, q.view(), k.view(), v.view(), y.out(), lse.out()).unwrap();
    assert_eq!(y.read::<f32>(&r), [4.0, 6.0]);
    let short = attention(2, 1, [1, 1, 1]);
    let one = k.view().narrow(0, 1);
    assert!(r.attention_forward(&short, q.view(), one, one, y.out(), lse.out()).is_err());
    let uneven = attention(2, 3, [3, 2, 1]);
    let error = r.attention_forward(&uneven, q.view(), k.view(), v.view(), y.out(), lse.out()).unwrap_err();
    assert!(error.to_string().contains("3 query heads are no multiple of 2"));
}

#[test]
fn attention_gradient() {
    let op = Attention { batch: 2, scale: 0.7, ..attention(2, 3, [4, 2, 3]) };
    let (nq, nk) = (2 * 2 * 4 * 3, 2 * 3 * 2 * 3);
    for op in [op, Attention { causal: false, ..op }] {
        let forward = |r: &Reference, x: &[Held]| {
            let (mut y, mut lse) = (Held::empty(r, DType::F64, nq), Held::empty(r, DType::F64, 16));
            r.attention_forward(&op, x[0].view(), x[1].view(), x[2].view(), y.out(), lse.out()).unwrap();
            (y, lse)
        };
        check_gradient(
            &[nq, nk, nk],
            |r, x| forward(r, x).0,
            |r, x, gy| {
                let (y, lse) = forward(r, x);
                let (mut dq, mut dk, mut dv) = (zeros(r, nq), zeros(r, nk), zeros(r, nk));
                let (q, k, v) = (x[0].view(), x[1].view(), x[2].view());
                let (y, lse) = (y.view(), lse.view());
                let slots = (Some(dq.set()), Some(dk.add()), Some(dv.add()));
                r.attention_backward(&op, q, k, v, y, lse, gy, slots.0, slots.1, slots.2).unwrap();
                vec![dq, dk, dv]
            },
        );
    }
}

#[test]
fn softmax_by_hand_and_gradient() {
    let r = Reference::new();
    let op = Matrix { rows: 2, cols: 2 };
    let x = Held::of(&r, &[1e4, 1e4 + 3f64.ln(), f64::NEG_INFINITY, -7.0]);
    let mut y = Held::empty(&r, DType::F64, 4);
    r.softmax_forward(&op, x.view(), y.out()).unwrap();
    assert_close(&y.read(&r), &[0.25, 0.75, 0.0, 1.0], 1e-12);
    let op = Matrix { rows: 3, cols: 4 };
    let forward = |r: &Reference, x: &[Held]| {
        let mut y = Held::empty(r, DType::F64, 12);
        r.softmax_forward(&op, x[0].view(), y.out()).unwrap();
        y
    };
    check_gradient(&[12], forward, |r, x, gy| {
        let mut dx = zeros(r, 12);
        r.softmax_backward(&op, forward(r, x).view(), gy, dx.add()).unwrap();
        vec![dx]
    });
}

/// mean of squares (9 + 16)/2; mean 2 and deviation 1.
#[test]
fn norms_by_hand() {
    let r = Reference::new();
    let op = Norm { rows: 1, cols: 2, eps: 0.5 };
    let (x, w, b) = (Held::of(&r, &[3f64, 4.]), Held::of(&r, &[1f64, 2.]), Held::of(&r, &[10f64, 20.]));
    let (mut y, mut mean, mut rstd) = (zeros(&r, 2), zeros(&r, 1), zeros(&r, 1));
    r.rms_norm_forward(&op, x.view(), w.view(), y.out(), rstd.out()).unwrap();
    let root = 13f64.sqrt();
    assert_close(&rstd.read(&r), &[1.0 / root], 1e-15);
    assert_close(&y.read(&r), &[3.0 / root, 8.0 / root], 1e-15);
    let op = Norm { eps: 0.0, ..op };
    let x = Held::of(&r, &[1f64, 3.]);
    r.layer_norm_forward(&op, x.view(), w.view(), b.view(), y.out(), mean.out(), rstd.out()).unwrap();
    assert_eq!((mean.read::<f64>(&r), rstd.read::<f64>(&r)), (vec![2.0], vec![1.0]));
    assert_eq!(y.read::<f64>(&r), [9.0, 22.0]);
}

#[test]
fn rms_norm_gradient() {
    let op = Norm { rows: 3, cols: 5, eps: 1e-3 };
    let forward = |r: &Reference, x: &[Held]| {
        let (mut y, mut rstd) = (zeros(r, 15), zeros(r, 3));
        r.rms_norm_forward(&op, x[0].view(), x[1].view(), y.out(), rstd.out()).unwrap();
        (y, rstd)
    };
    check_gradient(
        &[15, 5],
        |r, x| forward(r, x).0,
        |r, x, gy| {
            let (_, rstd) = forward(r, x);
            let (mut dx, mut dw) = (zeros(r, 15), zeros(r, 5));
            let (dxs, dws) = (Some(dx.add()), Some(dw.set()));
            r.rms_norm_backward(&op, x[0].view(), x[1].view(), rstd.view(), gy, dxs, dws).unwrap();
            vec![dx, dw]
        },
    );
}

#[test]
fn layer_norm_gradient() {
    let op = Norm { rows: 3, cols: 5, eps: 1e-3 };
    let forward = |r: &Reference, x: &[Held]| {
        let (mut y, mut mean, mut rstd) = (zeros(r, 15), zeros(r, 3), zeros(r, 3));
        let (w, b) = (x[1].view(), x[2].view());
        r.layer_norm_forward(&op, x[0].view(), w, b, y.out(), mean.out(), rstd.out()).unwrap();
        (y, mean, rstd)
    };
    check_gradient(
        &[15, 5, 5],
        |r, x| forward(r, x).0,
        |r, x, gy| {
            let (_, mean, rstd) = forward(r, x);
            let (mut dx, mut dw, mut db) = (zeros(r, 15), zeros(r, 5), zeros(r, 5));
            let (w, mean, rstd) = (x[1].view(), mean.view(), rstd.view());
            let slots = (Some(dx.add()), Some(dw.set()), Some(db.set()));
            r.layer_norm_backward(&op, x[0].view(), w, mean, rstd, gy, slots.0, slots.1, slots.2).unwrap();
            vec![dx, dw, db]
        },
    );
}

/// Rows 1 and 2 of the tables: a quarter turn, then none. The first row must not be read.
#[test]
fn rope_turns_and_turns_back() {
    let r = Reference::new();
    let op = Rope { batch: 1, seq: 2, heads: 1, dim: 4, start: 1, positions: 3, inverse: false };
    let (cos, sin) = (Held::of(&r, &[9f64, 9., 0., 0., 1., 1.]), Held::of(&r, &[9f64, 9., 1., 1., 0., 0.]));
    let x = Held::of(&r, &[1f64, 2., 3., 4., 5., 6., 7., 8.]);
    let mut y = Held::empty(&r, DType::F64, 8);
    r.rope(&op, x.view(), cos.view(), sin.view(), y.set()).unwrap();
    assert_eq!(y.read::<f64>(&r), [-3., -4., 1., 2., 5., 6., 7., 8.]);
    let mut back = Held::of(&r, &[100f64; 8]);
    r.rope(&Rope { inverse: true, ..op }, y.view(), cos.view(), sin.view(), back.add()).unwrap();
    assert_eq!(back.read::<f64>(&r), [101., 102., 103., 104., 105., 106., 107., 108.]);
    let far = Rope { start: 2, ..op };
    assert!(r.rope(&far, x.view(), cos.view(), sin.view(), y.set()).unwrap_err().to_string().contains("exceed"));
    assert!(r.rope(&Rope { dim: 3, ..op }, x.view(), cos.view(), sin.view(), y.set()).is_err());
}

/// Two sequences and two heads share the rows of the tables: every element against the rotation by its own angle.
#[test]
fn rope_finds_the_row_of_each_position() {
    let r = Reference::new();
    let op = Rope { batch: 2, seq: 3, heads: 2, dim: 2, start: 0, positions: 3, inverse: false };
    let angles = [0.0, 0.3, 1.1f64];
    let (cos, sin) = (Held::of(&r, &angles.map(f64::cos)), Held::of(&r, &angles.map(f64::sin)));
    let values = uniform(1, 24);
    let mut y = Held::empty(&r, DType::F64, 24);
    r.rope(&op, Held::of(&r, &values).view(), cos.view(), sin.view(), y.set()).unwrap();
    let turned = |(i, pair): (usize, &[f64])| {
        let (s, c) = angles[i / 2 % 3].sin_cos();
        [pair[0] * c - pair[1] * s, pair[1] * c + pair[0] * s]
    };
    let want: Vec<f64> = values.chunks(2).enumerate().flat_map(turned).collect();
    assert_close(&y.read(&r), &want, 1e-15);
}

#[test]
fn swiglu_by_hand_and_gradient() {
    let forward = |r: &Reference, x: &[Held]| {
        let mut y = Held::empty(r, DType::F64, x[0].view().len);
        r.swiglu_forward(x[0].view(), x[1].view(), y.out()).unwrap();
        y
    };
    let r = Reference::new();
    let y = forward(&r, &[Held::of(&r, &[3f64.ln(), 0.0]), Held::of(&r, &[4f64, 5.0])]);
    assert_close(&y.read(&r), &[3.0 * 3f64.ln(), 0.0], 1e-15);
    check_gradient(&[7, 7], forward, |r, x, gy| {
        let (mut dgate, mut dup) = (zeros(r, 7), zeros(r, 7));
        r.swiglu_backward(x[0].view(), x[1].view(), gy, Some(dgate.add()), Some(dup.set())).unwrap();
        vec![dgate, dup]
    });
}

/// Losses ln 4 − ln 3 and ln 2; the ignored row holds what must not matter.
#[test]
fn cross_entropy_by_hand() {
    let r = Reference::new();
    let op = CrossEntropy { rows: 3, vocab: 2, denominator: 2.0 };
    let mut logits = Held::of(&r, &[0.0, 3f64.ln(), f64::NAN, f64::INFINITY, 0.0, 0.0]);
    let targets = Held::of(&r, &[1, IGNORE, 0]);
    let (mut loss, mut lse) = (Held::empty(&r, DType::F64, 1), Held::empty(&r, DType::F64, 3));
    r.cross_entropy_forward(&op, logits.view(), targets.view(), loss.out(), lse.out()).unwrap();
    let gy = Held::of(&r, &[2f64]);
    r.cross_entropy_backward(&op, logits.out(), targets.view(), lse.view(), gy.view()).unwrap();
    assert_eq!(r.stats().waits, 0);
    assert_close(&loss.read(&r), &[((4f64 / 3.0).ln() + LN2) / 2.0], 1e-15);
    assert_close(&logits.read(&r), &[0.25, -0.25, 0.0, 0.0, -0.5, 0.5], 1e-15);
}

#[test]
fn cross_entropy_shows_a_target_beyond_the_vocabulary() {
    let r = Reference::new();
    let op = CrossEntropy { rows: 2, vocab: 2, denominator: 1.0 };
    let (logits, targets) = (zeros(&r, 4), Held::of(&r, &[1u32, 2]));
    let (mut loss, mut lse) = (zeros(&r, 1), zeros(&r, 2));
    r.cross_entropy_forward(&op, logits.view(), targets.view(), loss.out(), lse.out()).unwrap();
    assert!(loss.read::<f64>(&r)[0].is_nan());
    let none = CrossEntropy { denominator: 0.0, ..op };
    assert!(r.cross_entropy_forward(&none, logits.view(), targets.view(), loss.out(), lse.out()).is_err());
    let wrong = zeros(&r, 2);
    assert!(r.cross_entropy_forward(&op, logits.view(), wrong.view(), loss.out(), lse.out()).is_err());
}

/// √(3² + 4²) = 5 over two gradients.
#[test]
fn grad_norm_by_hand() {
    let r = Reference::new();
    let norm_and_clip = |grads: &[f32], max| {
        let (a, b) = (Held::of(&r, &[3f32]), Held::of(&r, grads));
        let mut scalars = Held::of(&r, Scalars::new().words());
        r.grad_norm(&[a.view(), b.view()], max, scalars.out()).unwrap();
        let words = scalars.read::<f32>(&r);
        (words[Scalars::NORM], words[Scalars::CLIP])
    };
    assert_eq!(norm_and_clip(&[0., 4.], None), (5.0, 1.0));
    assert_eq!(norm_and_clip(&[0., 4.], Some(10.0)), (5.0, 1.0));
    let (_, clip) = norm_and_clip(&[0., 4.], Some(1.0));
    assert!((f64::from(clip) - 1.0 / 5.000_001).abs() < 1e-7);
    for max in [None, Some(1.0)] {
        assert!(norm_and_clip(&[f32::NAN], max).1.is_nan());
        let (norm, clip) = norm_and_clip(&[f32::INFINITY], max);
        assert!(norm == f32::INFINITY && clip.is_nan());
    }
    let mut scalars = Held::of(&r, Scalars::new().words());
    assert!(r.grad_norm(&[], Some(0.0), scalars.out()).is_err());
}

/// Powers of two as clip and learning rate: exact in the f32 scalars.
fn optimiser_scalars(group: usize) -> Scalars {
    let mut scalars = Scalars::new();
    scalars[Scalars::CLIP] = 0.5;
    scalars[Scalars::LR + group] = 0.125;
    scalars
}

#[test]
fn adamw_takes_two_steps_like_the_formula() {
    let r = Reference::new();
    let op = AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-3, weight_decay: 0.1, group: 1 };
    let gradients = [[0.3, -2.0], [0.1, 1.0]];
    let start = [1.0, -0.5];
    let (mut p, mut m, mut v) = (Held::of(&r, &start), zeros(&r, 2), zeros(&r, 2));
    let mut scalars = optimiser_scalars(1);
    for (t, g) in gradients.iter().enumerate() {
        let g = Held::of(&r, g);
        // Rounded to 1/64 so that the f32 buffer holds exactly what the plain formula below uses.
        scalars[Scalars::CORRECTION1] = [0.109375, 0.1875][t];
        scalars[Scalars::CORRECTION2] = [0.015625, 0.03125][t];
        let words = Held::of(&r, scalars.words());
        let mut params = [AdamWParam { p: p.out(), m: m.out(), v: v.out(), g: g.view() }];
        r.adamw(&op, words.view(), &mut params).unwrap();
    }
    let (mut want_p, mut want_m, mut want_v) = (start, [0.0; 2], [0.0; 2]);
    for i in 0..2 {
        for (t, g) in gradients.iter().enumerate() {
            let g = 0.5 * g[i];
            want_m[i] = 0.9 * want_m[i] + 0.1 * g;
            want_v[i] = 0.99 * want_v[i] + 0.01 * g * g;
            let m: f64 = want_m[i] / [0.109375, 0.1875][t];
            let v: f64 = want_v[i] / [0.015625, 0.03125][t];
            want_p[i] -= 0.125 * (0.1 * want_p[i] + m / (v.sqrt() + 1e-3));
        }
    }
    assert_close(&p.read(&r), &want_p, 1e-14);
    assert_close(&m.read(&r), &want_m, 1e-14);
    assert_close(&v.read(&r), &want_v, 1e-14);
    assert!(r.adamw(&AdamW { group: Scalars::GROUPS, ..op }, zeros(&r, 64).view(), &mut []).is_err());
}

/// u: 1, then 0.5·1 + 2; p: 4 − ⅛·(½·4 + 1), then …
#[test]
fn sgd_by_hand() {
    let r = Reference::new();
    let op = Sgd { momentum: 0.5, weight_decay: 0.5, group: 0 };
    let scalars = Held::of(&r, optimiser_scalars(0).words());
    let (mut p, mut u) = (Held::of(&r, &[4f32]), Held::of(&r, &[0f32]));
    for (g, want) in [(2f32, 4.0 - 0.125 * 3.0), (4.0, 3.625 - 0.125 * (1.8125 + 2.5))] {
        let g = Held::of(&r, &[g]);
        r.sgd(&op, scalars.view(), &mut [SgdParam { p: p.out(), u: Some(u.out()), g: g.view() }]).unwrap();
        assert_eq!(p.read::<f32>(&r), [want]);
    }
    assert_eq!(u.read::<f32>(&r), [2.5]);
    let g = Held::of(&r, &[2f32]);
    let plain = Sgd { momentum: 0.0, weight_decay: 0.0, group: 0 };
    let mut p = Held::of(&r, &[1f32]);
    r.sgd(&plain, scalars.view(), &mut [SgdParam { p: p.out(), u: None, g: g.view() }]).unwrap();
    assert_eq!(p.read::<f32>(&r), [0.875]);
    assert!(r.sgd(&op, scalars.view(), &mut [SgdParam { p: p.out(), u: None, g: g.view() }]).is_err());
}

#[test]
fn unfused_reaches_the_device() {
    let r = Reference::new();
    let unfused = Unfused::new(Arc::new(r.clone()));
    assert_eq!(unfused.name(), "unfused reference");
    let x = Held::of(&r, &[0f64, 3f64.ln()]);
    let mut y = Held::empty(&r, DType::F64, 2);
    unfused.softmax_forward(&Matrix { rows: 1, cols: 2 }, x.view(), y.out()).unwrap();
    assert_close(&y.read(&r), &[0.25, 0.75], 1e-15);
    assert_eq!(unfused.stats(), r.stats());
}
