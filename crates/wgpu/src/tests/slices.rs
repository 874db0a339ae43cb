//! Rows that are larger together than one binding.

use super::*;

/// What every operation over rows gives, with gradients where it has them.
fn all(wgpu: &Wgpu, rows: usize, cols: usize) -> Vec<Vec<f32>> {
    let len = rows * cols;
    let (x, gy, w, b) = (integers(1, len), integers(2, len), integers(3, cols), integers(4, cols));
    let [x, gy, w, b] = [x, gy, w, b].map(|x| Held::of(wgpu, &x));
    let targets: Vec<u32> = (0..rows as u32).map(|i| if i % 5 == 4 { IGNORE } else { i * 7 % cols as u32 }).collect();
    let (targets, one) = (Held::of(wgpu, &targets), Held::of(wgpu, &[1.0f32]));
    let matrix = |_| Held::empty(wgpu, DType::F32, len);
    let [mut y, mut dx, mut rms, mut rms_dx, mut layer, mut layer_dx] = [0; 6].map(matrix);
    let [mut rstd, mut layer_rstd, mut mean, mut lse] = [(); 4].map(|()| Held::empty(wgpu, DType::F32, rows));
    let [mut dw, mut db, mut rms_dw] = [(); 3].map(|()| Held::of(wgpu, &vec![1.0f32; cols]));
    let mut loss = Held::empty(wgpu, DType::F32, 1);
    let (op, norm) = (Matrix { rows, cols }, Norm { rows, cols, eps: 1e-5 });
    wgpu.softmax_forward(&op, x.view(), y.out()).unwrap();
    wgpu.softmax_backward(&op, y.view(), gy.view(), dx.out().set()).unwrap();
    wgpu.rms_norm_forward(&norm, x.view(), w.view(), rms.out(), rstd.out()).unwrap();
    let (dx_slot, dw_slot) = (Some(rms_dx.out().set()), Some(rms_dw.out().add()));
    wgpu.rms_norm_backward(&norm, x.view(), w.view(), rstd.view(), gy.view(), dx_slot, dw_slot).unwrap();
    wgpu.layer_norm_forward(&norm, x.view(), w.view(), b.view(), layer.out(), mean.out(), layer_rstd.out()).unwrap();
    let slots = (Some(layer_dx.out().set()), Some(dw.out().add()), Some(db.out().set()));
    let saved = (mean.view(), layer_rstd.view());
    wgpu.layer_norm_backward(&norm, x.view(), w.view(), saved.0, saved.1, gy.view(), slots.0, slots.1, slots.2)
        .unwrap();
    let op = CrossEntropy { rows, vocab: cols, denominator: 8.0 };
    wgpu.cross_entropy_forward(&op, x.view(), targets.view(), loss.out(), lse.out()).unwrap();
    let mut logits = x;
    wgpu.cross_entropy_backward(&op, logits.out(), targets.view(), lse.view(), one.view()).unwrap();
    let rows = [&y, &dx, &rms, &rms_dx, &layer, &layer_dx, &rstd, &mean, &lse, &loss, &logits, &rms_dw, &dw, &db];
    rows.map(|t| t.read::<f32>(wgpu)).to_vec()
}

#[test]
fn rows_larger_than_a_binding_are_taken_in_slices() {
    let Some(mut wgpu) = device() else { return };
    let whole = all(&wgpu, 45, 300);
    // 54 KB in slices of 13 rows.
    wgpu.max_binding = 16 << 10;
    let sliced = all(&wgpu, 45, 300);
    for (i, (whole, sliced)) in whole.iter().zip(&sliced).enumerate() {
        // Rows have the same bits; sums over rows go in parts.
        let tolerance = if i < 11 { 0.0 } else { 1e-3 };
        for (a, b) in whole.iter().zip(sliced) {
            assert!((a - b).abs() <= tolerance && a.is_finite(), "result {i}: {b} in slices, {a} at once");
        }
    }
    // A row that is larger than a binding is refused by name.
    let (x, mut y) = (Held::of(&wgpu, &[0.0f32; 5000]), Held::empty(&wgpu, DType::F32, 5000));
    let error = wgpu.softmax_forward(&Matrix { rows: 1, cols: 5000 }, x.view(), y.out()).unwrap_err().to_string();
    assert!(error.contains("at most 16384 bytes"), "{error}");
}

/// Both optimisers and the gradient norm over one tensor that is larger than a binding and one that is not.
#[test]
fn optimisers_take_tensors_larger_than_a_binding_in_slices() {
    let Some(mut wgpu) = device() else { return };
    let (lengths, op) = ([300_000, 10], AdamW { group: 0, beta1: 0.5, beta2: 0.5, eps: 1e-8, weight_decay: 0.1 });
    let mut words = vec![0.0f32; Scalars::LEN];
    words[Scalars::CORRECTION1] = 0.5;
    words[Scalars::CORRECTION2] = 0.5;
    words[Scalars::LR] = 0.5;
    let run = |wgpu: &Wgpu| -> Vec<Vec<f32>> {
        let of = |seed: u64| -> Vec<Held> { lengths.iter().map(|&n| Held::of(wgpu, &integers(seed, n))).collect() };
        let (mut p, mut m, mut v, mut q, mut u, g) = (of(1), of(2), of(0), of(4), of(5), of(3));
        v.iter_mut().for_each(|v| wgpu.fill(1.0, v.out()).unwrap());
        let mut scalars = Held::of(wgpu, &words);
        let views: Vec<In<'_>> = g.iter().map(Held::view).collect();
        wgpu.grad_norm(&views, Some(2.0), scalars.out()).unwrap();
        let mut all: Vec<AdamWParam<'_>> = (p.iter_mut().zip(&mut m).zip(&mut v).zip(&g))
            .map(|(((p, m), v), g)| AdamWParam { p: p.out(), m: m.out(), v: v.out(), g: g.view() })
            .collect();
        wgpu.adamw(&op, scalars.view(), &mut all).unwrap();
        let mut all: Vec<SgdParam<'_>> = (q.iter_mut().zip(&mut u).zip(&g))
            .map(|((p, u), g)| SgdParam { p: p.out(), u: Some(u.out()), g: g.view() })
            .collect();
        wgpu.sgd(&Sgd { group: 0, momentum: 0.5, weight_decay: 0.1 }, scalars.view(), &mut all).unwrap();
        [p, m, v, q, u, vec![scalars]].iter().flatten().map(|t| t.read(wgpu)).collect()
    };
    let whole = run(&wgpu);
    // Two slices of 1.2 MB; the norm's chunks are of 256 KB.
    wgpu.max_binding = 1 << 20;
    assert!(run(&wgpu) == whole);
    let norm = lengths.iter().flat_map(|&n| integers(3, n)).map(|g| f64::from(g * g)).sum::<f64>().sqrt();
    assert!((f64::from(whole[10][Scalars::NORM]) - norm).abs() < 1e-3 * norm);
}

/// Logits of 136 MiB with the adapter's own limit.
#[test]
fn logits_of_136_mebibytes() {
    let Some(wgpu) = device() else { return };
    let (rows, vocab) = (272, 131_072);
    let mut logits = Held::empty(&wgpu, DType::F32, rows * vocab);
    wgpu.fill(0.0, logits.out()).unwrap();
    let targets = Held::of(&wgpu, &vec![5u32; rows]);
    let [mut loss, mut lse] = [1, rows].map(|len| Held::empty(&wgpu, DType::F32, len));
    let op = CrossEntropy { rows, vocab, denominator: rows as f64 };
    wgpu.cross_entropy_forward(&op, logits.view(), targets.view(), loss.out(), lse.out()).unwrap();
    // Equal logits: ln of the vocabulary.
    let loss = loss.read::<f32>(&wgpu)[0];
    assert!((loss - (vocab as f32).ln()).abs() < 1e-4, "{loss}");
}
