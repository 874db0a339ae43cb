use std::path::PathBuf;

use lowrank_core::{Device, no_grad};
use tempfile::TempDir;

use super::*;
use crate::peft::{CONFIG_FILE, load, save};
use crate::testing::{Layers, random};
use crate::{Linear, LoraConfig, Targets, attach};

const SIZES: [(usize, usize); 3] = [(12, 10), (9, 14), (6, 6)];

/// What PEFT leaves behind: an adapter over W_res = W − s B₀A₀ in l0 and l1, trained on; and both bases.
struct Left {
    _dir: TempDir,
    trained: PathBuf,
    first: PathBuf,
    host: Layers,
    residual: Layers,
    /// W_res + s B A of l0 and l1.
    weights: Vec<Matrix>,
}

/// Weights stored in `dtype`, everything else in f32.
fn layers(dtype: DType) -> Layers {
    let device = Device::cpu().unwrap();
    let mut host = Layers::new(&SIZES, DType::F32, &device);
    for (i, layer) in host.layers.iter_mut().enumerate() {
        let w = Matrix::from_tensor(layer.weight()).unwrap().to_tensor(dtype, &device).unwrap();
        *layer = Linear::new(format!("l{i}"), w, None);
    }
    host
}

fn left(init: &str, dtype: DType) -> Left {
    let dir = tempfile::tempdir().unwrap();
    let (host, mut residual) = (layers(dtype), layers(dtype));
    let config = LoraConfig { r: 3, alpha: 6.0, targets: "l0,l1".parse::<Targets>().unwrap(), ..LoraConfig::default() };
    let adapter = Adapter::create(&host, "a", config, 0).unwrap();
    let write = |name: &str, seed: u64| {
        for (i, (_, t)) in adapter.parameters().into_iter().enumerate() {
            let values = random(t.shape()[0], t.shape()[1], seed + i as u64).data;
            t.set(&values.iter().map(|x| 0.1 * *x as f32).collect::<Vec<_>>()).unwrap();
        }
        let at = dir.path().join(name);
        save(&adapter, &at, None).unwrap();
        let config = std::fs::read_to_string(at.join(CONFIG_FILE)).unwrap();
        let changed = config.replace("\"init_lora_weights\": true", &format!("\"init_lora_weights\": \"{init}\""));
        assert_ne!(config, changed);
        std::fs::write(at.join(CONFIG_FILE), changed).unwrap();
        let product = |i: usize| {
            let pair = &adapter.layers[&format!("l{i}")];
            Matrix::from_tensor(&pair.b).unwrap().times(&Matrix::from_tensor(&pair.a).unwrap()).scaled(2.0)
        };
        (at, [product(0), product(1)])
    };
    let (first, start) = write("first", 50);
    let (trained, end) = write("trained", 60);
    let mut weights = Vec::new();
    for i in 0..2 {
        let w = Matrix::from_tensor(host.layers[i].weight()).unwrap();
        let with = |a: &Matrix, b: &Matrix, sign: f64| Matrix {
            data: a.data.iter().zip(&b.data).map(|(a, b)| a + sign * b).collect(),
            ..a.clone()
        };
        let w_res = with(&w, &start[i], -1.0).to_tensor(dtype, host.device()).unwrap();
        weights.push(with(&Matrix::from_tensor(&w_res).unwrap(), &end[i], 1.0));
        residual.layers[i] = Linear::new(format!("l{i}"), w_res, None);
    }
    Left { _dir: dir, trained, first, host, residual, weights }
}

/// Outputs of l0 and l1 on the untouched base beside those of W_res + s B A.
fn worst(left: &mut Left, adapter: &Adapter) -> f64 {
    attach(&mut left.host, adapter).unwrap();
    let mut worst: f64 = 0.0;
    for (layer, w) in left.host.layers.iter().zip(&left.weights) {
        let x = random(5, w.cols, 9);
        let y = no_grad(|| layer.forward(&x.to_tensor(DType::F32, left.host.device()).unwrap())).unwrap();
        let want = x.times(&w.transposed());
        worst = y.to_f64().unwrap().iter().zip(&want.data).map(|(y, w)| (y - w).abs()).fold(worst, f64::max);
    }
    worst
}

#[test]
fn a_residual_adapter_computes_the_same_on_the_original() {
    for (init, dtype, bound) in
        [("pissa_niter_4", DType::F32, 1e-5), ("olora", DType::F32, 1e-5), ("lora_ga", DType::BF16, 2e-3)]
    {
        let mut left = left(init, dtype);
        let e = load(&left.trained, &left.host).unwrap_err().to_string();
        assert!(e.contains(init) && e.contains("residual base") && e.contains("lowrank convert"), "{e}");

        let (adapter, splits) = load_residual(&left.trained, Start::Base(&left.residual), &left.host).unwrap();
        assert!(splits.len() == 2 && splits.iter().all(|s| s.norm > 0.1 && s.rest < 0.01 * s.norm), "{splits:?}");
        // In bf16, rounding of W_res is left out by the low-rank part: no more than that.
        assert!(worst(&mut left, &adapter) < bound, "{init}");
        let at = left.trained.with_file_name("plain");
        save(&adapter, &at, None).unwrap();
        let again = load(&at, &left.host).unwrap();
        assert_eq!((again.config.r, again.config.alpha), (6, 12.0));
        assert!(worst(&mut left, &again) < bound, "{init}");

        let (adapter, splits) = load_residual(&left.trained, Start::Adapter(&left.first), &left.host).unwrap();
        assert!(splits.is_empty() && worst(&mut left, &adapter) < bound, "{init}");
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let error =
        |left: &Left, start: Start<'_>| load_residual(&left.trained, start, &left.host).unwrap_err().to_string();
    let mut l = left("pissa", DType::F32);
    let e = error(&l, Start::Base(&l.host));
    assert!(e.starts_with("l0: the two bases have the same weight"), "{e}");
    // The trained adapter of a base that is another one altogether in l1.
    l.residual.layers[1] = Linear::new("l1", random(9, 14, 1).to_tensor(DType::F32, l.host.device()).unwrap(), None);
    let e = error(&l, Start::Base(&l.residual));
    assert!(e.starts_with("l1: the two bases differ by") && e.contains("no product of rank 3"), "{e}");
    let mut l = left("pissa", DType::F32);
    l.residual.layers[2] = Linear::new("l2", random(6, 6, 1).to_tensor(DType::F32, l.host.device()).unwrap(), None);
    let e = error(&l, Start::Base(&l.residual));
    assert!(e.starts_with("l2: differs in the two bases"), "{e}");
    let l = left("loftq", DType::F32);
    assert!(error(&l, Start::Base(&l.residual)).contains("quantised"));
    let l = left("gaussian", DType::F32);
    assert!(error(&l, Start::Base(&l.residual)).contains("did not split the base"));
}
