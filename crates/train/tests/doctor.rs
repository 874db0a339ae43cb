//! Planted faults are flagged, each by its name; healthy adapters are not.

mod common;

use common::{adapter, alone, config, dataset, faults, model, plant};
use lowrank_core::{DType, Device, Tensor};
use lowrank_lora::{Adapter, Init, LoraConfig, attach, detach};
use lowrank_models::{Llama, Mlp};
use lowrank_train::{
    Batch, Dataset, DoctorOptions, Examination, Fault, Length, Options, Severity, examine, start_adapter,
};

const Q: &str = "model.layers.1.self_attn.q_proj";

fn options(fresh: bool) -> DoctorOptions {
    DoctorOptions { lr: 3e-3, clip: Some(1.0), fresh, energy: None }
}

fn look(model: &mut Llama, data: &Dataset, adapter: &Adapter, options: &DoctorOptions) -> Examination {
    let loss = |model: &Llama| {
        let batch = Batch::new(&data.train[..4], lowrank_lora::Host::device(model))?;
        Ok(model.loss(&batch.ids, &batch.targets, batch.counted as f64)?)
    };
    examine(model, adapter, &loss, options).unwrap()
}

fn trained(model: &mut Llama, data: &Dataset, steps: usize) -> Adapter {
    let adapter = adapter(model, config(8), 0);
    let options = Options { batch: 8, length: Length::Steps(steps), ..Options::default() };
    alone(model, &adapter, data, &options).unwrap();
    detach(model);
    adapter
}

#[test]
fn healthy_adapters_raise_nothing() {
    let mut model = model(DType::F32);
    let data = dataset(&model, 64);
    for config in [
        config(8),
        config(1),
        LoraConfig { init: Init::Gaussian, ..config(64) },
        LoraConfig { use_dora: true, ..config(4) },
        LoraConfig { use_rslora: true, ..config(16) },
        LoraConfig { targets: common::list("embed_tokens,lm_head,v_proj"), ..config(4) },
    ] {
        let adapter = adapter(&model, config, 0);
        let before = adapter.layers.values().next().unwrap().a.to_vec::<f32>().unwrap();
        let e = look(&mut model, &data, &adapter, &options(true));
        assert_eq!(faults(&e), [], "{:?}", e.findings);
        assert_eq!(e.base_loss, e.loss);
        assert!(e.loss_after.unwrap() < e.loss.unwrap());
        for l in &e.layers {
            let embedding = l.name.ends_with("embed_tokens");
            let (still, moved) = if embedding { (l.db, l.da) } else { (l.da, l.db) };
            assert!(still[0] == Some(0.0) && moved[0].unwrap() > 0.0 && still[1].unwrap() > 0.0, "{l:?}");
            assert_eq!((l.ratio, l.stable_rank[0]), (Some(0.0), None));
            let stable = l.stable_rank[1].unwrap();
            assert!(stable >= 1.0 - 1e-9 && stable <= l.rank as f64 + 1e-9, "{l:?}");
        }
        // The adapter is as it was.
        assert_eq!(adapter.layers.values().next().unwrap().a.to_vec::<f32>().unwrap(), before);
        assert!(adapter.parameters().iter().all(|(_, t)| t.grad().is_none()));
    }
    let adapter = trained(&mut model, &data, 30);
    let e = look(&mut model, &data, &adapter, &options(false));
    let largest = e.layers.iter().filter_map(|l| l.ratio).fold(0.0, f64::max);
    println!("trained 30 steps: largest ‖sBA‖/‖W‖ {largest:.3}");
    assert_eq!(faults(&e), [], "{:?}", e.findings);
}

/// Every init that is to start as the base, also those that do so by cancelling: fresh and trained.
#[test]
fn healthy_starts_of_every_init_raise_nothing() {
    let mut model = model(DType::F32);
    let data = dataset(&model, 64);
    for init in [
        "default",
        "gaussian",
        "orthogonal",
        "pissa",
        "pissa:niter=4",
        "olora",
        "eva:batches=4",
        "lora-ga",
        "lora-ga:estimator=streamed,passes=4",
        "lora-ga:direction=random,scale=unit",
    ] {
        let config = LoraConfig { init: init.parse().unwrap(), targets: common::list("q_proj,down_proj"), ..config(4) };
        let (a, _) = start_adapter(&mut model, config, &data, 0, &common::GO_ON).unwrap();
        let e = look(&mut model, &data, &a, &options(true));
        assert_eq!(faults(&e), [], "{init}: {:?}", e.findings);
        assert!((e.base_loss.unwrap() - e.loss.unwrap()).abs() < 1e-4, "{init}");
        let run = Options { batch: 8, length: Length::Steps(5), lr: 3e-4, ..Options::default() };
        alone(&mut model, &a, &data, &run).unwrap();
        detach(&mut model);
        let e = look(&mut model, &data, &a, &DoctorOptions { lr: 3e-4, ..options(false) });
        assert_eq!(faults(&e), [], "{init}: {:?}", e.findings);
        // The same faults as elsewhere are found: B A no longer cancels, and it holds NaN.
        let (a, _) = start_adapter(&mut model, a.config.clone(), &data, 0, &common::GO_ON).unwrap();
        plant(&a.layers[Q].a, |i, v| if i % 3 == 0 { 1.5 * v } else { v });
        plant(&a.layers[Q].b, |i, v| if i % 2 == 0 { 0.01 + v } else { v });
        let e = look(&mut model, &data, &a, &options(true));
        assert!(faults(&e).contains(&(Fault::BrokenIdentity, Some(Q))), "{init}: {:?}", e.findings);
        plant(&a.layers[Q].a, |i, v| if i == 0 { f32::NAN } else { v });
        assert_eq!(faults(&look(&mut model, &data, &a, &options(true))), [(Fault::NotFinite, Some(Q))], "{init}");
    }
}

#[test]
fn both_zero_is_dead() {
    let mut model = model(DType::F32);
    let data = dataset(&model, 64);
    let all = adapter(&model, LoraConfig { init: Init::BothZero, ..config(4) }, 0);
    for fresh in [true, false] {
        let e = look(&mut model, &data, &all, &options(fresh));
        assert_eq!(e.findings.iter().filter(|f| f.fault == Fault::Dead).count(), 28);
        assert!(e.has_errors() && e.findings.len() == 28);
    }
    let one = adapter(&model, config(4), 0);
    plant(&one.layers[Q].a, |_, _| 0.0);
    let e = look(&mut model, &data, &one, &options(true));
    assert_eq!(faults(&e), [(Fault::Dead, Some(Q))]);
}

#[test]
fn both_random_breaks_the_identity() {
    let mut model = model(DType::F32);
    let data = dataset(&model, 64);
    let a = adapter(&model, LoraConfig { init: Init::BothRandom, ..config(4) }, 0);
    let e = look(&mut model, &data, &a, &options(true));
    assert_eq!(e.findings.iter().filter(|f| f.fault == Fault::BrokenIdentity).count(), 28, "{:?}", e.findings);
    // The low-rank norm against B A written out, in f64.
    let pair = &a.layers[Q];
    let (pa, pb) = (pair.a.to_f64().unwrap(), pair.b.to_f64().unwrap());
    let mut square = 0.0;
    for i in 0..128 {
        for j in 0..128 {
            square += (0..4).map(|r| pb[i * 4 + r] * pa[r * 128 + j]).sum::<f64>().powi(2);
        }
    }
    let l = e.layers.iter().find(|l| l.name == Q).unwrap();
    let norm = pair.scale * square.sqrt();
    assert!((l.ratio.unwrap() * l.weight_norm / norm - 1.0).abs() < 1e-9);
    assert!((l.forward_scale[0].unwrap() - norm / 128f64.sqrt()).abs() < 1e-9 * norm);
    // Handed in as a trained one, it is told of by what it does.
    let e = look(&mut model, &data, &a, &options(false));
    assert!(
        e.findings.iter().any(|f| f.fault == Fault::Harmful && f.severity == Severity::Warning),
        "{:?}",
        e.findings
    );
}

#[test]
fn a_layer_with_nan() {
    let mut model = model(DType::F32);
    let data = dataset(&model, 64);
    for fresh in [true, false] {
        let a = if fresh { adapter(&model, config(4), 0) } else { trained(&mut model, &data, 2) };
        plant(&a.layers[Q].b, |i, v| if i == 5 { f32::NAN } else { v });
        let e = look(&mut model, &data, &a, &options(fresh));
        assert_eq!(faults(&e), [(Fault::NotFinite, Some(Q))]);
    }
}

#[test]
fn a_layer_that_was_never_trained() {
    let mut model = model(DType::F32);
    let data = dataset(&model, 64);
    let a = trained(&mut model, &data, 3);
    plant(&a.layers[Q].b, |_, _| 0.0);
    let e = look(&mut model, &data, &a, &options(false));
    assert_eq!(faults(&e), [(Fault::NeverTrained, Some(Q))]);
}

/// fc2 carries a pair, but the loss looks at fc1's result.
#[test]
fn a_layer_that_the_loss_does_not_see() {
    let device = Device::cpu().unwrap();
    let mut mlp = Mlp::new(6, 8, 3, 0, &device, DType::F32).unwrap();
    let a = Adapter::create(&mlp, "default", config(2), 0).unwrap();
    let x =
        Tensor::from_f64(&(0..60).map(|i| f64::from(i % 7) - 3.0).collect::<Vec<_>>(), &[10, 6], DType::F32, &device);
    let x = x.unwrap();
    let seen = |mlp: &Mlp| Ok(mlp.fc1().forward(&x)?.square()?.mean()?);
    let e = examine(&mut mlp, &a, &seen, &options(true)).unwrap();
    assert_eq!(faults(&e), [(Fault::NoGradient, Some("fc2"))]);
    let whole = |mlp: &Mlp| Ok(mlp.forward(&x)?.square()?.mean()?);
    assert_eq!(faults(&examine(&mut mlp, &a, &whole, &options(true)).unwrap()), []);
    let nothing = |_: &Mlp| Ok(x.square()?.mean()?);
    assert_eq!(faults(&examine(&mut mlp, &a, &nothing, &options(true)).unwrap()).len(), 2);
}

#[test]
fn a_scale_that_is_far_too_large() {
    let mut model = model(DType::F32);
    let data = dataset(&model, 64);
    let a = adapter(&model, LoraConfig { alpha: 16_000.0, ..config(8) }, 0);
    let e = look(&mut model, &data, &a, &options(true));
    assert!(e.findings.iter().all(|f| f.fault == Fault::TooLarge) && e.findings.len() == 28, "{:?}", e.findings);
    let mut a = trained(&mut model, &data, 3);
    a.layers.get_mut(Q).unwrap().scale = 2_000.0;
    let e = look(&mut model, &data, &a, &options(false));
    assert!(faults(&e).contains(&(Fault::TooLarge, Some(Q))), "{:?}", e.findings);
}

/// A quadratic loss whose gradient is G = W − T with T of rank 3 away from W: that rank is what is suggested.
#[test]
fn the_suggested_rank_is_the_gradients() {
    let device = Device::cpu().unwrap();
    let (n, k) = (20, 12);
    let mut mlp = Mlp::new(k, n, 2, 0, &device, DType::F32).unwrap();
    let a = Adapter::create(&mlp, "default", LoraConfig { targets: common::list("fc1"), ..config(2) }, 0).unwrap();
    // loss = Σ c_ij y_ij over y = x Wᵀ + b with x = 1: dW = C exactly, C = Σ σ_i u_i v_iᵀ with unit vectors.
    let mut c = vec![0.0; n * k];
    for (i, s) in [3.0, 2.0, 1.0].iter().enumerate() {
        c[i * k + i] = *s;
    }
    let x: Vec<f64> = (0..k * k).map(|i| if i % (k + 1) == 0 { 1.0 } else { 0.0 }).collect();
    let x = Tensor::from_f64(&x, &[k, k], DType::F32, &device).unwrap();
    let ct: Vec<f64> = (0..k).flat_map(|j| (0..n).map(move |i| (i, j))).map(|(i, j)| c[i * k + j]).collect();
    let c = Tensor::from_f64(&ct, &[k, n], DType::F32, &device).unwrap();
    let loss = |mlp: &Mlp| Ok(mlp.fc1().forward(&x)?.mul(&c)?.sum()?);
    for (energy, want) in [(0.6, 1), (0.9, 2), (0.95, 3)] {
        let options = DoctorOptions { energy: Some(energy), ..options(true) };
        let e = examine(&mut mlp, &a, &loss, &options).unwrap();
        assert_eq!(e.layers[0].suggested_rank, Some(want));
        // 9 and 4 of 14.
        assert!((e.layers[0].energy_at_rank.unwrap() - 13.0 / 14.0).abs() < 1e-6);
    }
}

#[test]
fn a_report_of_everything() {
    let mut model = model(DType::F32);
    let data = dataset(&model, 32);
    let a = adapter(&model, LoraConfig { targets: common::list("q_proj,down_proj"), ..config(4) }, 0);
    attach(&mut model, &a).unwrap();
    let e = look(&mut model, &data, &a, &DoctorOptions { energy: Some(0.9), ..options(true) });
    assert!(e.layers.iter().all(|l| l.suggested_rank.is_some_and(|r| (1..=128).contains(&r))));
    assert_eq!((e.tables().len(), e.tables()[0].len()), (1, 9));
    assert!(e.svg().starts_with("<svg") && e.svg().contains("nothing wrong"));
    let json = serde_json::to_value(&e).unwrap();
    assert_eq!(json["layers"][0]["name"], "model.layers.0.mlp.down_proj");
}
