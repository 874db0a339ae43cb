//! Which kernels take a low-rank linear, told by their number, and that both tiers say the same.

use lowrank_backend::*;

use super::{TIER, wanted};
use crate::Cuda;
use crate::driver::DeviceInfo;
use crate::tests::{Held, device};

/// A low-rank layer in bf16: y, h, dx, da and db, and kernels of forward and backward.
fn layer(cuda: &Cuda, [m, n, k, r]: [usize; 4], p: f64, shift: usize) -> (Vec<Vec<f32>>, [u64; 2]) {
    let mut rng = philox::Rng::new(11, 0);
    let mut random = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.uniform() as f32 - 0.5).collect() };
    let w: Vec<half::bf16> = random(n * k + shift).into_iter().map(half::bf16::from_f32).collect();
    let w = Held::of(cuda, &w);
    let [x, a, b, gy, bias] = [m * k, r * k, n * r, m * n, n].map(|len| Held::of(cuda, &random(len)));
    let scalars = Held::of(cuda, Scalars::new().words());
    let weight = Weight::Dense(w.view().narrow(shift, n * k));
    let base = Linear { m, n, k, w: weight, bias: Some(bias.view()), precision: Precision::Bf16 };
    let dropout = (p > 0.0).then_some(Dropout { p, seed: 5, stream: 0 });
    let op = Lora { base, r, scale: 0.7, a: a.view(), b: b.view(), dropout, scalars: scalars.view() };
    let mut out = [m * n, m * r, m * k, r * k, n * r].map(|len| Held::of(cuda, &vec![1.0f32; len]));
    let [y, h, dx, da, db] = &mut out;
    let start = cuda.stats().launches;
    cuda.lora_forward(&op, x.view(), y.out(), h.out()).unwrap();
    let forward = cuda.stats().launches;
    let [dx, da, db] = [Some(dx.out().add()), Some(da.out().set()), Some(db.out().set())];
    cuda.lora_backward(&op, x.view(), h.view(), gy.view(), dx, da, db).unwrap();
    let kernels = [forward - start, cuda.stats().launches - forward];
    (out.iter().map(|t| t.read(cuda)).collect(), kernels)
}

#[test]
fn both_tiers_give_the_same_layer() {
    if device().is_none() {
        return;
    }
    let open = |tier| Cuda::of_tier(0, Some(tier));
    let common = open("80").unwrap();
    let Ok(hopper) = open("90a") else { return eprintln!("skipped: no Hopper") };
    // The sums leave the copies; x, gy and a rank with odd rows are copied; few rows; W's rows are odd, or W is; a rank
    // beyond what the sums have kernels for.
    let cases = [
        ([130, 72, 264, 16], 0.0, 0, [3, 5]),
        ([70, 264, 72, 40], 0.5, 0, [3, 5]),
        ([33, 75, 40, 8], 0.3, 0, [3, 6]),
        ([33, 40, 40, 3], 0.0, 0, [4, 6]),
        ([16, 72, 72, 8], 0.0, 0, [3, 5]),
        ([33, 72, 70, 8], 0.0, 0, [3, 5]),
        ([33, 72, 72, 8], 0.0, 1, [3, 5]),
        ([20, 24, 24, 130], 0.5, 0, [4, 6]),
    ];
    for (sizes, p, shift, kernels) in cases {
        let (want, _) = layer(&common, sizes, p, shift);
        let (got, counted) = layer(&hopper, sizes, p, shift);
        for (what, (got, want)) in ["y", "h", "dx", "da", "db"].iter().zip(got.iter().zip(&want)) {
            let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let worst = got.iter().zip(want).fold(0.0f32, |m, (g, w)| m.max((g - w).abs()));
            // The same operands rounded the same way, but for s h, where s goes before the rounding.
            let allowed = if *what == "y" { 2f32.powi(-8) } else { 1e-5 };
            assert!(worst <= allowed * largest, "{what} of {sizes:?}: {worst} of {largest}");
        }
        assert_eq!(counted, kernels, "{sizes:?} p {p}");
        assert!(layer(&hopper, sizes, p, shift).0 == got, "other bits on the second run, {sizes:?}");
    }
}

#[test]
fn tiers_go_by_the_device_and_by_name() {
    let mut info = DeviceInfo {
        index: 0,
        name: "Some GPU".into(),
        compute_capability: (9, 0),
        driver: 12_000,
        multiprocessors: 132,
        memory: 1 << 36,
        shared_memory: 227 << 10,
        memory_pools: true,
        simulated: false,
    };
    assert_eq!([None, Some(""), Some("80"), Some("90a")].map(|t| wanted(&info, t).unwrap()), [true, true, false, true]);
    let e = wanted(&info, Some("90")).unwrap_err().to_string();
    assert!(e.contains(TIER) && e.contains("80 or 90a"), "{e}");
    // An old driver, and GPUs before and after: PTX for 9.0a is for nothing else.
    for (capability, driver) in [((9, 0), 11_080), ((8, 9), 12_040), ((10, 0), 12_080), ((12, 0), 12_080)] {
        (info.compute_capability, info.driver) = (capability, driver);
        assert!(!wanted(&info, None).unwrap());
        let e = wanted(&info, Some("90a")).unwrap_err().to_string();
        assert!(e.contains("9.0") && e.contains("CUDA 12") && !e.contains('\n'), "{e}");
    }
}
