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
