//! The doctor on layers that are trained whole and on bottlenecks: planted faults are flagged, healthy ones are not, and
//! what does not apply is said.

mod common;

use common::{adapter, alone, dataset, faults, list, model, plant};
use lowrank_core::{DType, Device, Tensor, no_grad};
use lowrank_lora::{Adapter, Host, LoraConfig, Method, detach};
use lowrank_models::{Llama, Mlp};
use lowrank_train::{Batch, Dataset, DoctorOptions, Examination, Fault, Length, Options, examine};

const Q: &str = "model.layers.1.self_attn.q_proj";
const Q_WEIGHT: &str = "model.layers.1.self_attn.q_proj.weight";

fn options(fresh: bool) -> DoctorOptions {
    DoctorOptions { lr: 1e-3, clip: Some(1.0), fresh, energy: None }
}

fn look(model: &mut Llama, data: &Dataset, adapter: &Adapter, options: &DoctorOptions) -> Examination {
    let loss = |model: &Llama| {
        let batch = Batch::new(&data.train[..2], Host::device(model))?;
        Ok(model.loss(&batch.ids, &batch.targets, batch.counted as f64)?)
    };
    examine(model, adapter, &loss, options).unwrap()
}

fn full() -> LoraConfig {
    LoraConfig { method: Method::Full, targets: list("q_proj,down_proj"), ..LoraConfig::default() }
}

fn bottleneck() -> LoraConfig {
    LoraConfig { method: Method::Bottleneck, r: 8, targets: list("q_proj,down_proj"), ..LoraConfig::default() }
}

fn trained(model: &mut Llama, data: &Dataset, config: LoraConfig) -> Adapter {
    let adapter = adapter(model, config, 0);
    let options = Options { batch: 4, length: Length::Steps(5), lr: 1e-3, ..Options::default() };
    alone(model, &adapter, data, &options).unwrap();
    detach(model);
    adapter
}

#[test]
fn healthy_ones_raise_nothing() {
    let mut model = model(DType::F32);
    let data = dataset(&model, 32);
    let saved =
        LoraConfig { targets: list("v_proj"), modules_to_save: vec!["model.norm".into()], ..LoraConfig::default() };
    for (config, whole, bottlenecks) in [(full(), 8, 0), (bottleneck(), 0, 8), (saved, 1, 0)] {
        for fresh in [true, false] {
            let a = if fresh { adapter(&model, config.clone(), 0) } else { trained(&mut model, &data, config.clone()) };
            let before: Vec<Vec<f32>> = a.parameters().iter().map(|(_, t)| t.to_vec().unwrap()).collect();
            let e = look(&mut model, &data, &a, &DoctorOptions { energy: Some(0.9), ..options(fresh) });
            assert_eq!(faults(&e), [], "{:?}", e.findings);
            assert_eq!((e.whole.len(), e.bottlenecks.len()), (whole, bottlenecks));
            assert!(e.loss_after.unwrap() < e.loss.unwrap());
            for w in &e.whole {
                assert_eq!(w.unchanged, fresh, "{w:?}");
                assert!(w.gradient.iter().all(|g| g.unwrap() > 0.0) && w.update_ratio.unwrap() > 0.0, "{w:?}");
                assert_eq!(w.suggested_rank.is_some(), w.shape.len() == 2);
            }
            for b in &e.bottlenecks {
                assert!(b.d_down.iter().chain(&b.d_up).all(|g| g.unwrap() > 0.0) && b.width == 8, "{b:?}");
                assert!(b.ratio.unwrap() < 0.1 && (1.0..=8.0).contains(&b.stable_rank.unwrap()), "{b:?}");
            }
            // What does not apply is said, and the adapter is as it was.
            assert_eq!(e.not_applicable.len(), 1);
            let word = if bottlenecks > 0 { "bottleneck" } else { "trained whole" };
            assert!(e.not_applicable[0].contains(word), "{:?}", e.not_applicable);
            let after: Vec<Vec<f32>> = a.parameters().iter().map(|(_, t)| t.to_vec().unwrap()).collect();
            assert!(before == after && a.parameters().iter().all(|(_, t)| t.grad().is_none()));
            assert!(e.svg().contains(if bottlenecks > 0 { "‖d down‖ step 0" } else { "‖dW‖ step 0" }));
        }
    }
}

#[test]
fn faults_of_layers_trained_whole() {
    let mut model = model(DType::F32);
    let data = dataset(&model, 32);
    let changed = |a: &Adapter, value: &dyn Fn(usize, f32) -> f32| plant(&a.saved[Q_WEIGHT], value);
    let a = adapter(&model, full(), 0);
    changed(&a, &|i, v| if i == 3 { v + 0.5 } else { v });
    assert_eq!(faults(&look(&mut model, &data, &a, &options(true))), [(Fault::BrokenIdentity, Some(Q_WEIGHT))]);
    let a = adapter(&model, full(), 0);
    changed(&a, &|i, v| if i == 5 { f32::NAN } else { v });
    for fresh in [true, false] {
        let e = look(&mut model, &data, &a, &options(fresh));
        assert!(faults(&e).contains(&(Fault::NotFinite, Some(Q_WEIGHT))), "{:?}", e.findings);
    }
    // Trained, but for one layer that still is the base's.
    let a = trained(&mut model, &data, full());
    let fresh = adapter(&model, full(), 0).saved[Q_WEIGHT].to_vec::<f32>().unwrap();
    changed(&a, &|i, _| fresh[i]);
    assert_eq!(faults(&look(&mut model, &data, &a, &options(false))), [(Fault::NeverTrained, Some(Q_WEIGHT))]);
    changed(&a, &|_, v| 3.0 * v);
    let e = look(&mut model, &data, &a, &options(false));
    assert!(faults(&e).contains(&(Fault::TooLarge, Some(Q_WEIGHT))), "{:?}", e.findings);
    let a = adapter(&model, full(), 0);
    let e = look(&mut model, &data, &a, &DoctorOptions { lr: 10.0, ..options(true) });
    assert_eq!(e.findings.iter().filter(|f| f.fault == Fault::TooLarge).count(), 8, "{:?}", e.findings);
}

#[test]
fn faults_of_bottlenecks() {
    let mut model = model(DType::F32);
    let data = dataset(&model, 32);
    let only = |model: &mut Llama, a: &Adapter, fresh: bool, fault: Fault| {
        let e = look(model, &data, a, &options(fresh));
        assert!(faults(&e).contains(&(fault, Some(Q))), "{:?}", e.findings);
        assert!(e.findings.iter().all(|f| f.layer.is_none() || f.layer.as_deref() == Some(Q)), "{:?}", e.findings);
    };
    let a = adapter(&model, bottleneck(), 0);
    let b = &a.bottlenecks[Q];
    plant(&b.up, |_, _| 0.0);
    plant(&b.down, |_, _| 0.0);
    only(&mut model, &a, true, Fault::Dead);
    let a = adapter(&model, bottleneck(), 0);
    plant(&a.bottlenecks[Q].up, |_, v| 1e4 * v);
    only(&mut model, &a, true, Fault::BrokenIdentity);
    only(&mut model, &a, false, Fault::TooLarge);
    let a = adapter(&model, bottleneck(), 0);
    plant(&a.bottlenecks[Q].down_bias, |i, v| if i == 1 { f32::INFINITY } else { v });
    only(&mut model, &a, true, Fault::NotFinite);
    let a = trained(&mut model, &data, bottleneck());
    plant(&a.bottlenecks[Q].up, |_, _| 0.0);
    plant(&a.bottlenecks[Q].up_bias, |_, _| 0.0);
    only(&mut model, &a, false, Fault::NeverTrained);
}

/// The loss looks at fc1 alone; and figures against loops over the whole product.
#[test]
fn gradients_and_norms_are_what_they_say() {
    let device = Device::cpu().unwrap();
    let mut mlp = Mlp::new(6, 8, 3, 0, &device, DType::F32).unwrap();
    let x =
        Tensor::from_f64(&(0..60).map(|i| f64::from(i % 7) - 3.0).collect::<Vec<_>>(), &[10, 6], DType::F32, &device);
    let x = x.unwrap();
    let seen = |mlp: &Mlp| Ok(mlp.fc1().forward(&x)?.square()?.mean()?);
    for method in [Method::Full, Method::Bottleneck] {
        let a = Adapter::create(&mlp, "a", LoraConfig { method, r: 2, ..LoraConfig::default() }, 0).unwrap();
        let e = examine(&mut mlp, &a, &seen, &options(true)).unwrap();
        let of_fc2 =
            e.findings.iter().all(|f| f.fault == Fault::NoGradient && f.layer.as_ref().unwrap().starts_with("fc2"));
        assert!(of_fc2 && !e.findings.is_empty(), "{:?}", e.findings);
        if method == Method::Full {
            // d mean(y²) / dW = 2/(80) yᵀ x.
            let y = no_grad(|| mlp.fc1().forward(&x)).unwrap().to_f64().unwrap();
            let x = x.to_f64().unwrap();
            let square =
                |i: usize| (0..10).map(|row| y[row * 8 + i / 6] * x[row * 6 + i % 6] / 40.0).sum::<f64>().powi(2);
            let norm = (0..48).map(square).sum::<f64>().sqrt();
            let w = e.whole.iter().find(|w| w.name == "fc1.weight").unwrap();
            assert!((w.gradient[0].unwrap() / norm - 1.0).abs() < 1e-5, "{w:?} {norm}");
        } else {
            let b = &a.bottlenecks["fc1"];
            let (up, down) = (b.up.to_f64().unwrap(), b.down.to_f64().unwrap());
            let square = |i: usize| (0..2).map(|p| up[i / 8 * 2 + p] * down[p * 8 + i % 8]).sum::<f64>().powi(2);
            let norm = ((0..64).map(square).sum::<f64>() / 8.0).sqrt();
            assert!((e.bottlenecks[0].ratio.unwrap() / norm - 1.0).abs() < 1e-9);
        }
    }
}
