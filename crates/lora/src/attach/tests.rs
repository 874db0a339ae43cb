use lowrank_core::{DType, Tensor, no_grad};

use super::*;
use crate::testing::{DIM, Tiny};
use crate::{Bias, Init, LoraConfig, merge};

fn adapter(host: &Tiny, name: &str, targets: &str, seed: u64) -> Adapter {
    let config =
        LoraConfig { targets: targets.parse().unwrap(), r: 2, init: Init::BothRandom, ..LoraConfig::default() };
    Adapter::create(host, name, config, seed).unwrap()
}

fn input(host: &Tiny) -> Tensor {
    let x: Vec<f32> = (0..2 * DIM).map(|i| i as f32 - 5.0).collect();
    Tensor::from_slice(&x, &[2, DIM], host.device()).unwrap()
}

fn q_out(host: &Tiny) -> Vec<f64> {
    no_grad(|| host.q(0).forward(&input(host)).unwrap().to_f64().unwrap())
}

#[test]
fn forward_is_the_definition() {
    let mut host = Tiny::new(DType::F32);
    let plain = q_out(&host);
    let a = adapter(&host, "x", "q_proj", 1);
    attach(&mut host, &a).unwrap();
    let pair = host.q(0).lora().unwrap();
    let (x, ma, mb) = (input(&host).to_f64().unwrap(), pair.a.to_f64().unwrap(), pair.b.to_f64().unwrap());
    let got = q_out(&host);
    for i in 0..2 {
        for j in 0..DIM {
            let h = |p: usize| (0..DIM).map(|k| x[i * DIM + k] * ma[p * DIM + k]).sum::<f64>();
            let want = plain[i * DIM + j] + 8.0 * (0..2).map(|p| mb[j * 2 + p] * h(p)).sum::<f64>();
            assert!((got[i * DIM + j] - want).abs() < 1e-4 * want.abs().max(1.0), "{} {want}", got[i * DIM + j]);
        }
    }
    assert_ne!(plain, got);
    detach(&mut host);
    assert_eq!(q_out(&host), plain);
    assert!(host.q(0).lora().is_none());
}

#[test]
fn embeddings_adapt_and_the_tied_head_stays() {
    let mut host = Tiny::new(DType::F32);
    let ids = Tensor::from_slice(&[3u32, 0, 3], &[3], host.device()).unwrap();
    let out = |h: &Tiny| no_grad(|| h.embed.forward(&ids).unwrap().to_f64().unwrap());
    let (plain, head) = (out(&host), host.head.forward(&input(&host)).unwrap().to_f64().unwrap());
    let a = adapter(&host, "x", "embed_tokens", 1);
    attach(&mut host, &a).unwrap();
    let pair = host.embed.lora().unwrap();
    let (ma, mb) = (pair.a.to_f64().unwrap(), pair.b.to_f64().unwrap());
    let got = out(&host);
    for (i, id) in [3, 0, 3].into_iter().enumerate() {
        for j in 0..DIM {
            let delta: f64 = (0..2).map(|p| ma[p * crate::testing::VOCAB + id] * mb[j * 2 + p]).sum();
            let want = plain[i * DIM + j] + 8.0 * delta;
            assert!((got[i * DIM + j] - want).abs() < 1e-4 * want.abs().max(1.0));
        }
    }
    assert_eq!(host.head.forward(&input(&host)).unwrap().to_f64().unwrap(), head);
}

#[test]
fn dropout_acts_in_training_only() {
    let mut host = Tiny::new(DType::F32);
    let mut a = adapter(&host, "x", "q_proj", 1);
    attach(&mut host, &a).unwrap();
    let without = q_out(&host);
    a.layers.values_mut().for_each(|l| l.dropout = 0.5);
    attach(&mut host, &a).unwrap();
    assert_eq!(q_out(&host), without);
    host.device().begin_step(1).unwrap();
    assert_ne!(host.q(0).forward(&input(&host)).unwrap().to_f64().unwrap(), without);
}

#[test]
fn gradients_reach_pairs_saved_weights_and_biases_only() {
    let mut host = Tiny::new(DType::F32);
    let config = LoraConfig {
        targets: "v_proj".parse().unwrap(),
        r: 2,
        init: Init::BothRandom,
        bias: Bias::LoraOnly,
        modules_to_save: vec!["lm_head".into()],
        ..LoraConfig::default()
    };
    let a = Adapter::create(&host, "x", config, 0).unwrap();
    attach(&mut host, &a).unwrap();
    let ones = |t: &Tensor| Tensor::full(1.0, t.shape(), t.dtype(), t.device()).unwrap();
    for y in [host.v(0).forward(&input(&host)).unwrap(), host.head.forward(&input(&host)).unwrap()] {
        y.backward_with(ones(&y)).unwrap();
    }
    let with_grad: Vec<String> =
        a.parameters().into_iter().filter(|(_, t)| t.grad().is_some()).map(|(k, _)| k).collect();
    assert_eq!(
        with_grad,
        [
            "base_model.model.lm_head.weight",
            "base_model.model.model.layers.0.self_attn.v_proj.base_layer.bias",
            "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight",
            "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight",
        ]
    );
    assert_eq!(a.biases["model.layers.0.self_attn.v_proj.bias"].grad().unwrap().to_f64().unwrap(), [2.0; 4]);
    assert!(host.embed.weight().grad().is_none());
}

#[test]
fn swapping() {
    let mut host = Tiny::new(DType::F32);
    let plain = q_out(&host);
    let mut all = Adapters::new();
    all.insert(adapter(&host, "one", "q_proj", 1)).unwrap();
    all.insert(adapter(&host, "two", "all-linear", 2)).unwrap();
    let taken = all.insert(adapter(&host, "two", "q_proj", 3)).unwrap_err();
    assert_eq!(taken.to_string(), "there is an adapter called two already");
    assert_eq!(all.names().collect::<Vec<_>>(), ["one", "two"]);
    all.activate(&mut host, "one").unwrap();
    let one = q_out(&host);
    all.activate(&mut host, "two").unwrap();
    let two = q_out(&host);
    assert!(host.v(1).lora().is_some());
    all.activate(&mut host, "one").unwrap();
    assert_eq!((q_out(&host), all.active()), (one.clone(), Some("one")));
    assert!(host.v(1).lora().is_none());
    assert!(one != plain && two != plain && one != two);
    let e = all.activate(&mut host, "three").unwrap_err().to_string();
    assert_eq!(e, "no adapter is called three; there are: one, two");
    assert_eq!(all.active(), Some("one"));
    all.disable(&mut host);
    assert_eq!((q_out(&host), all.active()), (plain, None));
}

#[test]
fn what_does_not_fit_is_refused_whole() {
    let mut host = Tiny::new(DType::F32);
    let good = adapter(&host, "x", "all-linear", 1);
    let refused = |host: &mut Tiny, change: &dyn Fn(&mut Adapter)| {
        let mut bad = good.clone();
        change(&mut bad);
        let e = attach(host, &bad).unwrap_err().to_string();
        assert!(host.q(0).lora().is_none() && host.v(0).lora().is_none(), "something was attached");
        e
    };
    let v = "model.layers.0.self_attn.v_proj";
    let e = refused(&mut host, &|a| {
        let pair = a.layers[v].clone();
        a.layers.insert("nowhere".into(), pair);
    });
    assert_eq!(e, "adapter x: nowhere: the model has no such layer");
    let e = refused(&mut host, &|a| {
        let pair = a.layers["model.layers.0.self_attn.q_proj"].clone();
        a.layers.insert(v.into(), pair);
    });
    assert_eq!(e, format!("adapter x: {v}: B has shape [6, 2], the layer needs [4, 2]"));
    let e = refused(&mut host, &|a| a.layers.get_mut(v).unwrap().kind = Kind::Embedding);
    assert_eq!(e, format!("adapter x: {v}: the layer's kind is linear, the adapter's embedding"));
    let other = Tiny::new(DType::F32);
    let e =
        refused(&mut host, &|a| a.layers.get_mut(v).unwrap().a = adapter(&other, "y", "v_proj", 0).layers[v].a.clone());
    assert!(e.contains("A is on "), "{e}");
    let e = refused(&mut host, &|a| drop(a.biases.insert("model.norm.bias".into(), good.layers[v].a.clone())));
    assert_eq!(e, "adapter x: model.norm.bias: the model has no such parameter");
    attach(&mut host, &good).unwrap();
    merge(&mut host).unwrap();
    let e = attach(&mut host, &good).unwrap_err().to_string();
    assert_eq!(e, "attach: an adapter is merged into the weights; unmerge it first");
}
