//! Activations in bf16 through the backend's methods, against the reference in f64 on the same rounded numbers; and which
//! kernels take them, told by their number.

use half::bf16;
use lowrank_backend::*;

use super::{Held, device};
use crate::Cuda;

/// Half a unit in the last place, relative.
const HALF: f64 = 1.0 / 256.0;

/// Numbers that bf16 holds.
fn numbers(seed: u64, len: usize) -> Vec<f64> {
    let mut rng = philox::Rng::new(seed, 0);
    (0..len).map(|_| bf16::from_f64(2.0 * rng.uniform() - 1.0).to_f64()).collect()
}

/// On a device, as a dtype.
fn held(b: &dyn Backend, dtype: DType, v: &[f64]) -> Held {
    match dtype {
        DType::F64 => Held::of(b, v),
        DType::F32 => Held::of(b, &v.iter().map(|v| *v as f32).collect::<Vec<_>>()),
        DType::F16 => Held::of(b, &v.iter().map(|v| half::f16::from_f64(*v)).collect::<Vec<_>>()),
        _ => Held::of(b, &v.iter().map(|v| bf16::from_f64(*v)).collect::<Vec<_>>()),
    }
}

fn read(b: &dyn Backend, t: &Held) -> Vec<f64> {
    match t.view().dtype {
        DType::F64 => t.read(b),
        DType::F32 => t.read::<f32>(b).into_iter().map(f64::from).collect(),
        _ => t.read::<bf16>(b).into_iter().map(bf16::to_f64).collect(),
    }
}

/// A low-rank layer: what it is made of and how.
#[derive(Clone, Copy, Debug)]
struct Layer {
    sizes: [usize; 4],
    w: DType,
    precision: Precision,
    p: f64,
    add: bool,
}

/// y, h, dx, da, db and the plain layer's y and dx; and the kernels of `lora_forward` and `lora_backward`.
fn layer(b: &dyn Backend, c: Layer, act: DType) -> (Vec<Vec<f64>>, [u64; 2]) {
    let Layer { sizes: [m, n, k, r], w, precision, p, add } = c;
    let wide = act.wide();
    let operand = |seed, dtype, len| held(b, dtype, &numbers(seed, len));
    let (x, gy) = (operand(1, act, m * k), operand(2, act, m * n));
    let w = operand(3, if act == DType::F64 { act } else { w }, n * k);
    // Adapters need more than bf16 has.
    let thirds =
        |seed, len| held(b, wide, &numbers(seed, len).iter().map(|v| f64::from((v / 3.0) as f32)).collect::<Vec<_>>());
    let (a, bb, bias) = (thirds(4, r * k), thirds(5, n * r), thirds(6, n));
    let scalars = Held::of(b, Scalars::new().words());
    let base = Linear { m, n, k, w: Weight::Dense(w.view()), bias: Some(bias.view()), precision };
    let dropout = (p > 0.0).then_some(Dropout { p, seed: 5, stream: 0 });
    let op = Lora { base, r, scale: 0.75, a: a.view(), b: bb.view(), dropout, scalars: scalars.view() };
    let mut out = [(m * n, act), (m * r, wide), (m * k, act), (r * k, wide), (n * r, wide), (m * n, act), (m * k, act)]
        .map(|(len, dtype)| held(b, dtype, &vec![1.0; len]));
    let [y, h, dx, da, db, plain, dplain] = &mut out;
    let slot = |out| Slot { out, mode: if add { Mode::Add } else { Mode::Set } };
    let start = b.stats().launches;
    b.lora_forward(&op, x.view(), y.out(), h.out()).unwrap();
    let forward = b.stats().launches;
    b.lora_backward(
        &op,
        x.view(),
        h.view(),
        gy.view(),
        Some(slot(dx.out())),
        Some(da.out().set()),
        Some(slot(db.out())),
    )
    .unwrap();
    let kernels = [forward - start, b.stats().launches - forward];
    b.linear_forward(&op.base, x.view(), plain.out()).unwrap();
    b.linear_backward(&op.base, gy.view(), slot(dplain.out())).unwrap();
    (out.iter().map(|t| read(b, t)).collect(), kernels)
}

/// On both tiers, as far as they are here.
fn tiers() -> Vec<Cuda> {
    if device().is_none() {
        return Vec::new();
    }
    ["80", "90a"].into_iter().filter_map(|tier| Cuda::of_tier(0, Some(tier)).ok()).collect()
}

#[test]
fn low_rank_layers() {
    use Precision::{Bf16, Bf16x3, Full, Tf32};
    let plain = Layer { sizes: [40, 48, 56, 8], w: DType::BF16, precision: Full, p: 0.0, add: false };
    let mut cases = vec![
        plain,
        Layer { precision: Bf16, add: true, ..plain },
        Layer { precision: Tf32, p: 0.5, ..plain },
        Layer { precision: Bf16x3, w: DType::F32, ..plain },
    ];
    for precision in [Full, Bf16] {
        cases.extend([
            Layer { w: DType::F32, p: 0.5, add: true, precision, ..plain },
            // A few rows; rows that are no multiples of 16 bytes; an odd rank; a rank beyond the sums' kernels.
            Layer { sizes: [5, 40, 72, 16], p: 0.25, precision, ..plain },
            Layer { sizes: [33, 45, 43, 8], add: true, precision, ..plain },
            Layer { sizes: [33, 75, 40, 8], p: 0.5, precision, ..plain },
            Layer { sizes: [130, 72, 264, 3], p: 0.5, precision, ..plain },
            Layer { sizes: [20, 24, 32, 130], p: 0.5, add: true, precision, ..plain },
        ]);
    }
    let tiers = tiers();
    for c in cases {
        let (want, _) = layer(&Reference::new(), Layer { precision: Full, ..c }, DType::F64);
        for cuda in &tiers {
            let (got, _) = layer(cuda, c, DType::BF16);
            for (what, (got, want)) in
                ["y", "h", "dx", "da", "db", "plain y", "plain dx"].iter().zip(got.iter().zip(&want))
            {
                let largest = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
                // A plain product of two bf16 is exact but for its sum, in any precision.
                let exact = c.w == DType::BF16 && what.starts_with("plain");
                let lost = match c.precision {
                    Full => 2f64.powi(-19),
                    _ if exact => 2f64.powi(-19),
                    Bf16x3 => 2f64.powi(-13),
                    Tf32 => 2f64.powi(-8),
                    Bf16 => 2f64.powi(-5),
                };
                let stored = if matches!(*what, "h" | "da" | "db") { 0.0 } else { HALF };
                for (i, (g, w)) in got.iter().zip(want).enumerate() {
                    let allowed = stored * w.abs() + lost * largest;
                    assert!(
                        (g - w).abs() <= allowed,
                        "{what} {c:?} hopper {}: element {i} is {g}, not {w}",
                        cuda.hopper
                    );
                }
            }
        }
    }
}

/// Kernels of forward and backward: x and gy in bf16 are read as they are, and only what is not bf16 or not aligned is copied.
#[test]
fn nothing_is_copied_that_is_bf16_already() {
    let c = Layer { sizes: [130, 72, 264, 16], w: DType::BF16, precision: Precision::Bf16, p: 0.5, add: true };
    let rows = |sizes| Layer { sizes, ..c };
    // The sums into the rank are two kernels each, the product one; a copy is one more.
    let cases = [
        (c, [3, 5]),
        (Layer { precision: Precision::Full, ..c }, [3, 5]),
        (rows([130, 75, 264, 16]), [3, 6]),
        (rows([130, 72, 264, 3]), [4, 6]),
        (rows([10, 72, 264, 16]), [3, 5]),
        (rows([130, 72, 260, 16]), [3, 5]),
    ];
    for cuda in tiers() {
        for (c, hopper) in cases {
            let (_, counted) = layer(&cuda, c, DType::BF16);
            assert_eq!(counted, if cuda.hopper { hopper } else { [3, 5] }, "{c:?} hopper {}", cuda.hopper);
        }
    }
}

/// y = W[ids] + s h Bᵀ is rounded once, whatever W is stored as; gradients are those of gy in bf16.
#[test]
fn embeddings() {
    let Some(cuda) = device() else { return };
    let [vocab, dim, r] = [11, 24, 4];
    let ids: Vec<u32> = vec![3, 10, 3, 0, 7, 3];
    let count = ids.len();
    for table in [DType::F32, DType::BF16, DType::F16] {
        let run = |b: &dyn Backend, act: DType| {
            let wide = act.wide();
            // Of ten bits, which f16 holds and bf16 does not: rounded before the low-rank part is added, y would differ.
            let fine = |v: &f64| if table == DType::BF16 { *v } else { (v * 999.0).round() / 1024.0 };
            let values: Vec<f64> = numbers(1, vocab * dim).iter().map(fine).collect();
            let w = held(b, if act == DType::F64 { act } else { table }, &values);
            let (a, bb) = (held(b, wide, &numbers(2, r * vocab)), held(b, wide, &numbers(3, dim * r)));
            let (ids, gy) = (Held::of(b, &ids), held(b, act, &numbers(4, count * dim)));
            let mut out = [(count * dim, act), (count * r, wide), (r * vocab, wide), (dim * r, wide)]
                .map(|(len, dtype)| held(b, dtype, &vec![1.0; len]));
            let [y, h, da, db] = &mut out;
            let (w, a, bb, ids) = (w.view(), a.view(), bb.view(), ids.view());
            let op = LoraEmbedding { vocab, dim, count, r, scale: 0.5, w, a, b: bb, ids, precision: Precision::Full };
            b.lora_embedding_forward(&op, y.out(), h.out()).unwrap();
            b.lora_embedding_backward(&op, h.view(), gy.view(), Some(da.out().add()), Some(db.out().set())).unwrap();
            out.iter().map(|t| read(b, t)).collect::<Vec<_>>()
        };
        let (got, want) = (run(&cuda, DType::BF16), run(&Reference::new(), DType::F64));
        // What f32 loses is far from where bf16 rounds, in these numbers.
        let y: Vec<f64> = want[0].iter().map(|v| bf16::from_f64(*v).to_f64()).collect();
        assert_eq!(got[0], y, "{table}");
        for (got, want) in got[1..].iter().flatten().zip(want[1..].iter().flatten()) {
            assert!((got - want).abs() <= 1e-5 * (1.0 + want.abs()), "{table}: {got}, not {want}");
        }
    }
}

/// Activations of one operation have one dtype, and it is f32 or bf16.
#[test]
fn other_dtypes_are_refused_by_name() {
    let Some(cuda) = device() else { return };
    let [mut f32s, bf16s, mut f16s] = [DType::F32, DType::BF16, DType::F16].map(|dtype| held(&cuda, dtype, &[1.0; 64]));
    let matrix = Matrix { rows: 8, cols: 8 };
    let e = cuda.softmax_forward(&matrix, bf16s.view(), f32s.out()).unwrap_err().to_string();
    assert!(e.contains("softmax_forward") && e.contains("bf16") && e.contains("f32"), "{e}");
    let e = cuda.softmax_forward(&matrix, bf16s.view(), f16s.out()).unwrap_err().to_string();
    assert!(e.contains("f16"), "{e}");
    let e = cuda.swiglu_forward(f16s.view(), bf16s.view(), f32s.out()).unwrap_err().to_string();
    assert!(e.contains("swiglu_forward") && e.contains("f32 or bf16"), "{e}");
    let w = held(&cuda, DType::BF16, &[1.0; 64]);
    let op = Linear { m: 8, n: 8, k: 8, w: Weight::Dense(w.view()), bias: None, precision: Precision::Full };
    let e = cuda.linear_forward(&op, bf16s.view(), f32s.out()).unwrap_err().to_string();
    assert!(e.contains("linear_forward") && e.contains("y"), "{e}");
    assert!([DType::F32, DType::BF16].iter().all(|d| cuda.supports_activations(*d)));
    assert!([DType::F16, DType::F64, DType::U32].iter().all(|d| !cuda.supports_activations(*d)));
}
