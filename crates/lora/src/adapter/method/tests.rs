use lowrank_core::{DType, Device, Tensor, no_grad};

use super::*;
use crate::algebra::rerank;
use crate::linalg::Matrix;
use crate::testing::{Layers, Tiny, random};
use crate::{LoraConfig, attach, detach, merge, peft, unmerge};

fn config(method: Method, targets: &str) -> LoraConfig {
    LoraConfig { r: 3, method, targets: targets.parse().unwrap(), ..LoraConfig::default() }
}

/// x·Φ(x), Φ by Simpson's rule: no error function of ours.
fn gelu(x: f64) -> f64 {
    let n = 2000;
    let (h, density) = (x / f64::from(n), |t: f64| (-0.5 * t * t).exp() / std::f64::consts::TAU.sqrt());
    let sum: f64 = (1..n).map(|i| if i % 2 == 1 { 4.0 } else { 2.0 } * density(h * f64::from(i))).sum();
    x * (0.5 + h / 3.0 * (density(0.0) + sum + density(x)))
}

/// Every entry moved: at its start the branch is next to nothing.
fn move_on(adapter: &Adapter) {
    for (i, (_, t)) in adapter.parameters().into_iter().enumerate() {
        let change = random(t.len(), 1, 40 + i as u64).data;
        let moved: Vec<f64> = t.to_f64().unwrap().iter().zip(change).map(|(x, d)| x + 0.3 * d).collect();
        match t.dtype() {
            DType::F64 => t.set(&moved).unwrap(),
            _ => t.set(&moved.iter().map(|&x| x as f32).collect::<Vec<_>>()).unwrap(),
        }
    }
}

#[test]
fn a_bottleneck_is_what_the_paper_says() {
    let device = Device::reference().unwrap();
    let mut host = Layers::new(&[(5, 4)], DType::F64, &device);
    let adapter = Adapter::create(&host, "a", config(Method::Bottleneck, "l0"), 0).unwrap();
    let start = adapter.bottlenecks["l0"].down.to_f64().unwrap();
    assert!(start.iter().all(|x| x.abs() <= 0.02) && start.iter().any(|x| x.abs() > 0.005));
    attach(&mut host, &adapter).unwrap();
    move_on(&adapter);
    let b = &adapter.bottlenecks["l0"];
    let values = |t: &Tensor| t.to_f64().unwrap();
    let (down, up) = (Matrix::new(3, 5, values(&b.down)).unwrap(), Matrix::new(5, 3, values(&b.up)).unwrap());
    let x = random(6, 4, 9);
    let y = x.times(&Matrix::from_tensor(host.layers[0].weight()).unwrap().transposed());
    let mut h = y.times(&down.transposed());
    for (i, v) in h.data.iter_mut().enumerate() {
        *v = gelu(*v + values(&b.down_bias)[i % 3]);
    }
    let branch = h.times(&up.transposed());
    let got = host.layers[0].forward(&x.to_tensor(DType::F64, &device).unwrap()).unwrap().to_f64().unwrap();
    for (i, got) in got.iter().enumerate() {
        let want = y.data[i] + branch.data[i] + values(&b.up_bias)[i % 5];
        assert!((got - want).abs() < 1e-9, "{i}: {got} {want}");
    }
}

/// Of every part and of x, in f64, by central differences of a loss that is not linear.
#[test]
fn gradients_through_a_bottleneck() {
    let device = Device::reference().unwrap();
    let mut host = Layers::new(&[(5, 4)], DType::F64, &device);
    let adapter = Adapter::create(&host, "a", config(Method::Bottleneck, "l0"), 0).unwrap();
    attach(&mut host, &adapter).unwrap();
    move_on(&adapter);
    let x = random(6, 4, 9).to_tensor(DType::F64, &device).unwrap().named("x").trainable().unwrap();
    let loss = || host.layers[0].forward(&x).unwrap().square().unwrap().sum().unwrap();
    loss().backward().unwrap();
    let mut leaves = adapter.parameters();
    assert_eq!(leaves.len(), 4);
    leaves.push(("x".into(), x.clone()));
    for (name, t) in leaves {
        let (grad, start) = (t.grad().unwrap().to_f64().unwrap(), t.to_f64().unwrap());
        for i in 0..start.len() {
            let at = |step: f64| {
                let mut moved = start.clone();
                moved[i] += step;
                t.set(&moved).unwrap();
                no_grad(|| loss().item().unwrap())
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            t.set(&start).unwrap();
            assert!(
                (difference - grad[i]).abs() < 1e-6 * (1.0 + grad[i].abs()),
                "{name} {i}: {difference} {}",
                grad[i]
            );
        }
    }
}

fn logits(host: &Tiny) -> Vec<f64> {
    let x = random(3, 6, 2).to_tensor(DType::F32, host.device()).unwrap();
    let y = |l: &crate::Linear| no_grad(|| l.forward(&x)).unwrap().to_f64().unwrap();
    host.blocks.iter().flatten().flat_map(y).collect()
}

#[test]
fn a_bottleneck_lives_in_files_and_in_no_weight() {
    let mut host = Tiny::new(DType::F32);
    let base = logits(&host);
    let adapter = Adapter::create(&host, "b", config(Method::Bottleneck, "q_proj,v_proj"), 0).unwrap();
    assert_eq!(adapter.report(&host).trainable, 2 * (2 * 3 * 6 + 3 + 6) + 2 * (2 * 3 * 4 + 3 + 4));
    move_on(&adapter);
    attach(&mut host, &adapter).unwrap();
    let adapted = logits(&host);
    assert_ne!(adapted, base);

    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("b");
    peft::save(&adapter, &at, None).unwrap();
    detach(&mut host);
    assert_eq!(logits(&host), base);
    let loaded = peft::load(&at, &host).unwrap();
    attach(&mut host, &loaded).unwrap();
    assert_eq!(logits(&host), adapted);
    let other = Layers::new(&[(6, 6)], DType::F32, host.device());
    assert!(peft::load(&at, &other).unwrap_err().to_string().contains("matches no module"));

    let name = "`model.layers.0.self_attn.q_proj` has a bottleneck behind it";
    let e = merge(&mut host).unwrap_err().to_string();
    assert!(e.starts_with(&format!("merge: {name}")) && logits(&host) == adapted, "{e}");
    let e = rerank(&loaded, 2, 0).map(drop).unwrap_err().to_string();
    assert!(e.contains(name), "{e}");
    // Neither embeddings nor settings of low-rank pairs.
    let e = |c: LoraConfig| Adapter::create(&host, "b", c, 0).unwrap_err().to_string();
    assert!(e(config(Method::Bottleneck, "embed_tokens")).contains("method bottleneck is for linear layers"));
    let bottleneck = config(Method::Bottleneck, "q_proj");
    for (c, field) in [
        (LoraConfig { use_dora: true, ..bottleneck.clone() }, "use_dora"),
        (LoraConfig { dropout: 0.1, ..bottleneck.clone() }, "lora_dropout"),
        (LoraConfig { init: crate::Init::Gaussian, ..bottleneck }, "init_lora_weights"),
        (LoraConfig { use_rslora: true, ..config(Method::Full, "q_proj") }, "use_rslora"),
    ] {
        assert!(e(c).starts_with(&format!("{field}: means nothing with method")));
    }
}

/// The same gradient as a plain layer whose weight is trainable, and merging is taking the copy.
#[test]
fn full_trains_the_layers_themselves() {
    let mut host = Tiny::new(DType::F32);
    let base = logits(&host);
    let adapter = Adapter::create(&host, "f", config(Method::Full, "v_proj"), 0).unwrap();
    // Weights and biases of two layers.
    assert_eq!((adapter.layers.len(), adapter.saved.len()), (0, 4));
    assert_eq!(adapter.report(&host).trainable, 2 * (4 * 6 + 4));
    attach(&mut host, &adapter).unwrap();
    assert_eq!(logits(&host), base);
    let x = random(3, 6, 2);
    let y = host.v(0).forward(&x.to_tensor(DType::F32, host.device()).unwrap()).unwrap();
    y.square().unwrap().sum().unwrap().backward().unwrap();
    let gy = Matrix::from_tensor(&y).unwrap().scaled(2.0);
    let grad = adapter.saved["model.layers.0.self_attn.v_proj.weight"].grad().unwrap();
    for (got, want) in grad.to_f64().unwrap().iter().zip(gy.transposed().times(&x).data) {
        assert!((got - want).abs() < 1e-4, "{got} {want}");
    }
    move_on(&adapter);
    let trained = logits(&host);
    assert_ne!(trained, base);
    merge(&mut host).unwrap();
    assert_eq!(logits(&host), trained);
    unmerge(&mut host).unwrap();
    let dir = tempfile::tempdir().unwrap();
    peft::save(&adapter, &dir.path().join("f"), None).unwrap();
    detach(&mut host);
    let loaded = peft::load(&dir.path().join("f"), &host).unwrap();
    attach(&mut host, &loaded).unwrap();
    assert_eq!(logits(&host), trained);
    assert!(rerank(&loaded, 2, 0).is_err());
}
