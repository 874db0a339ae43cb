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

fn random_starts(host: &Tiny, configs: Vec<LoraConfig>) -> Vec<Adapter> {
    let make = |(i, config)| Adapter::create(host, "x", config, i as u64).unwrap();
    let adapters: Vec<Adapter> = configs.into_iter().enumerate().map(make).collect();
    for (_, t) in adapters.iter().flat_map(Adapter::parameters) {
        let moved: Vec<f32> = t.to_vec::<f32>().unwrap().iter().map(|x| x + 0.125).collect();
        t.set(&moved).unwrap();
    }
    adapters
}

/// Two results of every sequence and, of every adapter, the gradients of their sum, first all in one batch, then for each
/// entry of `rows` alone. Sequences have two tokens.
type Outcome = (Vec<f64>, Vec<f64>, Vec<Vec<f64>>);

fn in_one_batch_and_alone(mut host: Tiny, adapters: &[Adapter], rows: &[Option<usize>]) -> (Outcome, Vec<Outcome>) {
    let device = host.device().clone();
    let run = |host: &Tiny, start: usize, len: usize, adapters: &[&Adapter]| {
        let ids: Vec<u32> = (2 * start..2 * (start + len)).map(|i| i as u32 * 7 % 11).collect();
        let x = host.embed.forward(&Tensor::from_slice(&ids, &[len, 2], &device).unwrap()).unwrap();
        let x = host.q(0).forward(&x).unwrap().add(&x).unwrap();
        let v = host.v(0).forward(&x).unwrap();
        let y = host.norm.forward(&host.q(1).forward(&x).unwrap()).unwrap().square().unwrap();
        let sum = y.sum().unwrap().add(&v.sum().unwrap()).unwrap();
        if !adapters.is_empty() {
            sum.backward().unwrap();
        }
        let tensors = adapters.iter().flat_map(|a| a.parameters());
        let grads = tensors.map(|(_, t)| t.grad().map_or(vec![0.0; t.len()], |g| g.to_f64().unwrap())).collect();
        adapters.iter().flat_map(|a| a.parameters()).for_each(|(_, t)| t.zero_grad());
        (y.to_f64().unwrap(), v.to_f64().unwrap(), grads)
    };
    let all: Vec<&Adapter> = adapters.iter().collect();
    attach_rows(&mut host, &all, rows).unwrap();
    let together = run(&host, 0, rows.len(), &all);
    let mut alone = Vec::new();
    for part in rows.chunk_by(|a, b| a == b) {
        match part[0] {
            Some(i) => attach(&mut host, &adapters[i]).unwrap(),
            None => detach(&mut host),
        }
        let start = alone.iter().map(|(y, _, _): &Outcome| y.len() / (2 * DIM)).sum();
        alone.push(run(&host, start, part.len(), part[0].map(|i| &adapters[i]).as_slice()));
    }
    (together, alone)
}

fn q_proj(r: usize) -> LoraConfig {
    LoraConfig { targets: "q_proj".parse().unwrap(), init: Init::BothRandom, r, ..LoraConfig::default() }
}

/// Different ranks, targets and inits, some rows without an adapter, one adapter without a row.
#[test]
fn plain_adapters_in_one_batch_have_the_bits_of_each_alone() {
    let host = Tiny::new(DType::F32);
    let adapters = random_starts(
        &host,
        vec![
            q_proj(2),
            LoraConfig { alpha: 3.0, targets: "q_proj,v_proj".parse().unwrap(), ..q_proj(3) },
            LoraConfig { init: Init::Pissa { niter: None }, ..q_proj(1) },
            q_proj(1),
        ],
    );
    let rows = [Some(2), None, None, Some(0), Some(0), Some(0), Some(1), Some(1)];
    let ((y, v, grads), alone) = in_one_batch_and_alone(host, &adapters, &rows);
    let (mut wy, mut wv, mut want) = (Vec::new(), Vec::new(), vec![Vec::new(); 4]);
    for (part, own) in rows.chunk_by(|a, b| a == b).zip(alone) {
        wy.extend(own.0);
        wv.extend(own.1);
        if let Some(i) = part[0] {
            want[i] = own.2;
        }
    }
    want[3] = adapters[3].parameters().iter().map(|(_, t)| vec![0.0; t.len()]).collect();
    assert_eq!(y, wy);
    assert_eq!(v, wv);
    assert_eq!(grads, want.concat());
}

/// DoRA, biases, embeddings, norms and bottlenecks beside plain pairs, in mixed order: equal up to rounding, as the
/// gradients of their inputs are added to each other in another order.
#[test]
fn every_row_has_the_adapter_it_names() {
    let host = Tiny::new(DType::F32);
    let adapters = random_starts(
        &host,
        vec![
            q_proj(2),
            LoraConfig { targets: "q_proj,embed_tokens".parse().unwrap(), ..q_proj(3) },
            LoraConfig { use_dora: true, bias: Bias::All, ..q_proj(2) },
            LoraConfig { modules_to_save: vec!["model.norm".into()], ..q_proj(1) },
        ],
    );
    let rows = [Some(3), Some(0), None, Some(2), Some(2), Some(1), Some(0), Some(1)];
    let ((y, v, grads), alone) = in_one_batch_and_alone(host, &adapters, &rows);
    let (mut wy, mut wv) = (Vec::new(), Vec::new());
    let mut want: Vec<Vec<Vec<f64>>> =
        adapters.iter().map(|a| a.parameters().iter().map(|(_, t)| vec![0.0; t.len()]).collect()).collect();
    for (part, own) in rows.chunk_by(|a, b| a == b).zip(alone) {
        wy.extend(own.0);
        wv.extend(own.1);
        if let Some(i) = part[0] {
            want[i].iter_mut().flatten().zip(own.2.iter().flatten()).for_each(|(sum, g)| *sum += g);
        }
    }
    let close = |what: &str, got: Vec<f64>, want: Vec<f64>| {
        assert_eq!(got.len(), want.len(), "{what}");
        let size = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        for (g, w) in got.iter().zip(&want) {
            assert!((g - w).abs() <= 1e-6 * size, "{what}: {g} {w} of {size}");
        }
    };
    close("y", y, wy);
    close("v", v, wv);
    for (i, (g, w)) in grads.into_iter().zip(want.concat()).enumerate() {
        close(&format!("gradient {i}"), g, w);
    }
}

#[test]
fn batches_and_merges_that_do_not_fit_rows_of_their_own_are_refused() {
    let mut host = Tiny::new(DType::F32);
    let one = random_starts(&host, vec![q_proj(1)]);
    let error = |r: Result<()>| r.unwrap_err().to_string();
    assert!(error(attach_rows(&mut host, &[&one[0]], &[Some(1)])).contains("adapter 1 of 1"));
    assert!(error(attach_rows(&mut host, &[&one[0]], &[])).contains("no sequence"));
    attach_rows(&mut host, &[&one[0]], &[Some(0), None, None]).unwrap();
    assert!(error(merge(&mut host).map(drop)).contains("adapters of their own"));
    assert!(error(host.q(0).forward(&input(&host)).map(drop)).contains("3 sequences"));
    detach(&mut host);
    assert!(host.q(0).forward(&input(&host)).is_ok());
}
