use lowrank_core::{DType, Device, Tensor, no_grad};

use crate::algebra::{Method, combine, rerank};
use crate::linalg::Matrix;
use crate::testing::{Layers, planted, random};
use crate::{Adapter, Host, Init, LoraConfig, Targets, attach, detach, merge, peft, unmerge};

fn config(init: &str, rslora: bool) -> LoraConfig {
    LoraConfig {
        r: 3,
        alpha: 6.0,
        use_rslora: rslora,
        rank_pattern: [("l1".to_string(), 2)].into(),
        alpha_pattern: [("l0".to_string(), 5.0)].into(),
        targets: Targets::List(vec!["l0".into(), "l1".into()]),
        init: init.parse().unwrap(),
        ..LoraConfig::default()
    }
}

fn host() -> Layers {
    Layers::new(&[(12, 10), (9, 14)], DType::F32, &Device::cpu().unwrap())
}

fn outputs(host: &Layers) -> Vec<f64> {
    let y = |l: &crate::Linear| {
        let x = random(20, l.in_features(), 5).to_tensor(DType::F32, host.device()).unwrap();
        no_grad(|| l.forward(&x)).unwrap().to_f64().unwrap()
    };
    host.layers.iter().flat_map(y).collect()
}

fn close(x: &[f64], y: &[f64], tolerance: f64) {
    let worst = x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
    assert!(x.len() == y.len() && worst < tolerance, "{worst}");
}

/// As after training: A and B have moved.
fn move_on(adapter: &Adapter) {
    for (i, (_, t)) in adapter.parameters().into_iter().enumerate() {
        let change = random(t.shape()[0], t.shape()[1], 30 + i as u64).data;
        let moved: Vec<f32> = t.to_f64().unwrap().iter().zip(change).map(|(x, d)| (x + 0.05 * d) as f32).collect();
        t.set(&moved).unwrap();
    }
}

#[test]
fn the_adapted_model_starts_as_the_base_and_the_base_stays() {
    for init in ["pissa", "pissa:niter=4", "olora"] {
        let mut host = host();
        let bits: Vec<Vec<f32>> = host.layers.iter().map(|l| l.weight().to_vec().unwrap()).collect();
        let base = outputs(&host);
        let adapter = Adapter::create(&host, "a", config(init, false), 0).unwrap();
        attach(&mut host, &adapter).unwrap();
        close(&outputs(&host), &base, 1e-6);
        merge(&mut host).unwrap();
        close(&outputs(&host), &base, 1e-6);
        unmerge(&mut host).unwrap();
        move_on(&adapter);
        let trained = outputs(&host);
        assert!(trained.iter().zip(&base).any(|(x, y)| (x - y).abs() > 1e-3));
        merge(&mut host).unwrap();
        close(&outputs(&host), &trained, 1e-5);
        detach(&mut host);
        assert!(host.layers.iter().zip(&bits).all(|(l, bits)| l.weight().to_vec::<f32>().unwrap() == *bits));
        assert_eq!(outputs(&host), base);
    }
}

/// Against planted singular vectors: A = √(S/s) Vᵀ, B = U √(S/s), so s B A is the best approximation of the weight.
#[test]
fn pissa_is_the_leading_part_of_the_weight() {
    let device = Device::cpu().unwrap();
    let s = [3.0, 2.0, 1.0, 0.5, 0.25, 0.1];
    let (us, v) = planted(30, 20, &s, 1);
    let mut host = Layers::new(&[(30, 20)], DType::F32, &device);
    host.layers[0] = crate::Linear::new("l0", us.times(&v.transposed()).to_tensor(DType::F32, &device).unwrap(), None);
    for init in ["pissa", "pissa:niter=4"] {
        let config = LoraConfig { r: 2, alpha: 3.0, init: init.parse().unwrap(), ..LoraConfig::default() };
        let adapter = Adapter::create(&host, "a", config, 0).unwrap();
        let pair = &adapter.layers["l0"];
        let (a, b) = (Matrix::from_tensor(&pair.a).unwrap(), Matrix::from_tensor(&pair.b).unwrap());
        let leading = us.columns(&[0, 1]).times(&v.columns(&[0, 1]).transposed());
        close(&b.times(&a).scaled(pair.scale).data, &leading.data, 1e-5);
        for (i, s) in s.iter().enumerate().take(2) {
            let length: f64 = a.data[i * 20..(i + 1) * 20].iter().map(|x| x * x).sum();
            assert!((length - s / pair.scale).abs() < 1e-5, "{length}");
        }
    }
}

/// B orthonormal and spanning the first columns of W; B A = B Bᵀ W.
#[test]
fn olora_is_the_weights_first_columns() {
    let host = host();
    let adapter = Adapter::create(&host, "a", config("olora", false), 0).unwrap();
    let pair = &adapter.layers["l0"];
    let (a, b) = (Matrix::from_tensor(&pair.a).unwrap(), Matrix::from_tensor(&pair.b).unwrap());
    let w = Matrix::from_tensor(host.layers[0].weight()).unwrap();
    close(&b.transposed().times(&b).data, &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], 1e-6);
    close(&a.data, &b.transposed().times(&w).data, 1e-7);
    close(&b.times(&a).columns(&[0, 1, 2]).data, &w.columns(&[0, 1, 2]).data, 1e-7);
    // R is upper triangular.
    assert!(a.data[10].abs() < 1e-8 && a.data[20].abs() < 1e-8 && a.data[21].abs() < 1e-8);
}

#[test]
fn gradients_go_to_the_trained_pair_also_with_dropout() {
    for dropout in [0.0, 0.5] {
        let mut host = host();
        let adapter = Adapter::create(&host, "a", LoraConfig { dropout, ..config("pissa", false) }, 0).unwrap();
        attach(&mut host, &adapter).unwrap();
        let x = random(20, 10, 5).to_tensor(DType::F32, host.device()).unwrap();
        host.layers[0].forward(&x).unwrap().square().unwrap().sum().unwrap().backward().unwrap();
        let pair = &adapter.layers["l0"];
        for t in [&pair.a, &pair.b] {
            let grad = t.grad().unwrap();
            assert_eq!(grad.shape(), t.shape());
            assert!(grad.to_f64().unwrap().iter().any(|g| *g != 0.0));
        }
        let o = pair.offset.as_ref().unwrap();
        assert!(o.a.grad().is_none() && o.b.grad().is_none() && !o.a.requires_grad());
        assert_eq!(adapter.parameters().len(), 4);
    }
}

#[test]
fn plain_files_are_for_the_untouched_base() {
    for rslora in [false, true] {
        let mut host = host();
        let adapter = Adapter::create(&host, "a", config("olora", rslora), 0).unwrap();
        attach(&mut host, &adapter).unwrap();
        move_on(&adapter);
        let trained = outputs(&host);
        let dir = tempfile::tempdir().unwrap();
        peft::save(&adapter, dir.path(), None).unwrap();
        let json = std::fs::read_to_string(dir.path().join(peft::CONFIG_FILE)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["r"], &json["rank_pattern"]["l1"]), (&6.into(), &4.into()));
        assert_eq!(json["init_lora_weights"], true);
        let longer = if rslora { 2f64.sqrt() } else { 2.0 };
        assert!((json["lora_alpha"].as_f64().unwrap() - 6.0 * longer).abs() < 1e-12);
        assert!((json["alpha_pattern"]["l0"].as_f64().unwrap() - 5.0 * longer).abs() < 1e-12);
        let loaded = peft::load(dir.path(), &host).unwrap();
        assert!(!loaded.is_split() && loaded.layers["l0"].rank == 6);
        attach(&mut host, &loaded).unwrap();
        close(&outputs(&host), &trained, 1e-6);
    }
}

#[test]
fn recompression_is_the_best_of_rank_r_and_says_what_it_loses() {
    let mut host = host();
    let adapter = Adapter::create(&host, "a", config("pissa", false), 0).unwrap();
    attach(&mut host, &adapter).unwrap();
    move_on(&adapter);
    let (small, lost) = adapter.recompressed().unwrap();
    for l in &lost {
        let (pair, cut) = (&adapter.layers[&l.layer], &small.layers[&l.layer]);
        assert_eq!((cut.rank, cut.a.shape(), cut.b.shape()), (pair.rank, pair.a.shape(), pair.b.shape()));
        let product = |(a, b): (Tensor, Tensor)| {
            Matrix::from_tensor(&b).unwrap().times(&Matrix::from_tensor(&a).unwrap()).scaled(pair.scale)
        };
        let (exact, kept) = (no_grad(|| pair.product()).unwrap(), no_grad(|| cut.product()).unwrap());
        let (exact, kept) = (product(exact), product(kept));
        let rest: f64 = exact.data.iter().zip(&kept.data).map(|(x, y)| (x - y).powi(2)).sum();
        // The tail of the exact spectrum, from the whole matrix.
        let tail: f64 = crate::linalg::svd(&exact).unwrap().s[pair.rank..].iter().map(|s| s * s).sum();
        assert!((rest.sqrt() - tail.sqrt()).abs() < 1e-5 && (l.lost - tail.sqrt()).abs() < 1e-5, "{rest} {tail} {l:?}");
        assert!((l.norm - exact.squared_norm().sqrt()).abs() < 1e-5);
    }
    assert_eq!(lost.len(), 2);
    let dir = tempfile::tempdir().unwrap();
    peft::save(&small, dir.path(), None).unwrap();
    assert_eq!(peft::load(dir.path(), &host).unwrap().layers["l0"].rank, 3);
}

#[test]
fn a_pair_goes_back_to_its_base_only() {
    let mut host = host();
    let adapter = Adapter::create(&host, "a", config("pissa:niter=2", false), 0).unwrap();
    attach(&mut host, &adapter).unwrap();
    move_on(&adapter);
    let trained = outputs(&host);
    let dir = tempfile::tempdir().unwrap();
    peft::save_pair(&adapter, dir.path(), Some("base"), &host).unwrap();
    let loaded = peft::load(dir.path(), &host).unwrap();
    assert_eq!((loaded.config.init, loaded.is_split()), (Init::Pissa { niter: Some(2) }, true));
    attach(&mut host, &loaded).unwrap();
    assert_eq!(outputs(&host), trained);
    let text = std::fs::read_to_string(dir.path().join(peft::CONFIG_FILE)).unwrap();
    assert_eq!(peft::read_config("f", &text).unwrap().r, 3);

    let other = Layers::new(&[(12, 10), (9, 14)], DType::F64, host.device());
    let e = peft::load(dir.path(), &other).unwrap_err().to_string();
    assert!(e.contains("belongs to another base") && e.contains("l0"), "{e}");
    std::fs::remove_file(dir.path().join(peft::INIT_FILE)).unwrap();
    assert!(peft::load(dir.path(), &host).unwrap_err().to_string().contains(peft::INIT_FILE));
    let plain = Adapter::create(&host, "a", config("default", false), 0).unwrap();
    assert!(peft::save_pair(&plain, dir.path(), None, &host).unwrap_err().to_string().contains("no pair"));
}

#[test]
fn files_of_a_residual_base_are_refused_by_name() {
    for init in ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga"] {
        let json = format!(r#"{{"peft_type":"LORA","target_modules":["l0"],"init_lora_weights":"{init}"}}"#);
        let e = peft::read_config("c.json", &json).unwrap_err().to_string();
        assert!(e.contains(init) && e.contains("residual base"), "{e}");
    }
    let json = r#"{"peft_type":"LORA","target_modules":["l0"],"init_lora_weights":"eva"}"#;
    assert!(peft::read_config("c.json", json).is_ok());
}

#[test]
fn inits_that_cannot_be_are_one_error_with_the_layers_name() {
    let host = host();
    let e = |init: &str, r: usize| {
        let config = LoraConfig { r, init: init.parse().unwrap(), ..LoraConfig::default() };
        Adapter::create(&host, "a", config, 0).unwrap_err().to_string()
    };
    assert_eq!(e("pissa", 11), "l0: pissa needs rank 11, but the layer [12, 10] has only 10");
    assert_eq!(e("olora", 11), "l0: olora needs rank 11, but the layer [12, 10] has only 10");
    assert!(e("orthogonal", 3).starts_with("l0: orthogonal needs an even rank"));
    assert!(e("lora-ga", 3).contains("needs data"));
    let negative = LoraConfig { alpha: -1.0, ..config("pissa", false) };
    assert!(Adapter::create(&host, "a", LoraConfig { alpha_pattern: Default::default(), ..negative }, 0).is_err());
}

/// Inputs along planted directions with falling strength, in three micro-batches: A's rows are those directions.
#[test]
fn eva_finds_the_directions_of_the_inputs() {
    let device = Device::cpu().unwrap();
    let mut host = Layers::new(&[(20, 24)], DType::F32, &device);
    let s: Vec<f64> = (0..24).map(|i| 0.6f64.powi(i)).collect();
    let (us, v) = planted(60, 24, &s, 3);
    let x = us.times(&v.transposed());
    let mut run = |host: &Layers, i: usize| {
        let rows: Vec<usize> = (i * 20..(i + 1) * 20).collect();
        let part = x.transposed().columns(&rows).transposed();
        Ok(host.layers[0].forward(&part.to_tensor(DType::F32, &device)?)?.sum()?)
    };
    let config = |r| LoraConfig { r, init: "eva:batches=3".parse().unwrap(), ..LoraConfig::default() };
    let (adapter, report) = Adapter::create_with_data(&mut host, "a", config(3), 0, &mut run).unwrap();
    let pair = &adapter.layers["l0"];
    let a = pair.a.to_f64().unwrap();
    for i in 0..3 {
        let dot: f64 = (0..24).map(|c| a[i * 24 + c] * v.data[c * 24 + i]).sum();
        assert!((dot.abs() - 1.0).abs() < 1e-3, "{i}: {dot}");
    }
    assert!(pair.b.to_f64().unwrap().iter().all(|&b| b == 0.0) && pair.offset.is_none() && report.cost.runs == 3);
}

#[test]
fn algebra_takes_the_offset_along() {
    let host = host();
    let adapter = Adapter::create(&host, "a", config("olora", false), 0).unwrap();
    move_on(&adapter);
    let change = |adapter: &Adapter, layer: &str| {
        let pair = &adapter.layers[layer];
        let (a, b) = no_grad(|| pair.product()).unwrap();
        let product = Matrix::from_tensor(&b).unwrap().times(&Matrix::from_tensor(&a).unwrap());
        product.data.iter().map(|x| pair.scale * x).collect::<Vec<f64>>()
    };
    let sum = combine("sum", &[(&adapter, 1.0)], Method::Cat).unwrap().adapter;
    let same = rerank(&adapter, 6, 0).unwrap().adapter;
    for layer in ["l0", "l1"] {
        let want = change(&adapter, layer);
        close(&change(&sum, layer), &want, 1e-5);
        close(&change(&same, layer), &want, 1e-5);
    }
}

#[test]
fn a_frozen_a_is_saved_with_the_rest() {
    let host = host();
    let adapter = Adapter::create(&host, "a", LoraConfig { freeze_a: true, ..config("olora", false) }, 0).unwrap();
    let dir = tempfile::tempdir().unwrap();
    peft::save_pair(&adapter, dir.path(), None, &host).unwrap();
    let loaded = peft::load(dir.path(), &host).unwrap();
    for (name, pair) in &adapter.layers {
        assert_eq!(pair.a.to_f64().unwrap(), loaded.layers[name].a.to_f64().unwrap());
        assert_eq!(pair.full_rank(), loaded.layers[name].full_rank());
    }
    assert_eq!(adapter.plain().unwrap().tensors().len(), 4);
}
