use lowrank_core::DType;

use super::*;
use crate::testing::Tiny;
use crate::{Host, Init, Kind, LoraConfig, attach, peft};

fn adapter(host: &Tiny, name: &str, targets: &str, change: impl FnOnce(&mut LoraConfig)) -> Adapter {
    let mut config =
        LoraConfig { targets: targets.parse().unwrap(), r: 2, init: Init::BothRandom, ..LoraConfig::default() };
    change(&mut config);
    let seed = name.bytes().map(u64::from).sum();
    Adapter::create(host, name, config, seed).unwrap()
}

/// s·BA (for an embedding its transpose) by plain loops; zeros if the adapter lacks the layer.
fn dense(a: &Adapter, layer: &str, [n, k]: [usize; 2]) -> Vec<f64> {
    let mut delta = vec![0.0; n * k];
    let Some(p) = a.layers.get(layer) else { return delta };
    let (ma, mb) = (p.a.to_f64().unwrap(), p.b.to_f64().unwrap());
    for i in 0..n {
        for j in 0..k {
            for q in 0..p.rank {
                delta[i * k + j] += p.scale * mb[i * p.rank + q] * ma[q * k + j];
            }
        }
    }
    delta
}

fn shape(a: &Adapter, layer: &str) -> [usize; 2] {
    [a.layers[layer].b.shape()[0], a.layers[layer].a.shape()[1]]
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn difference(x: &[f64], y: &[f64]) -> f64 {
    norm(&x.iter().zip(y).map(|(x, y)| x - y).collect::<Vec<_>>())
}

/// Adapters of other ranks, scales, patterns and targets.
fn three(host: &Tiny) -> [Adapter; 3] {
    [
        adapter(host, "a", "q_proj,v_proj", |c| c.rank_pattern = [("v_proj".into(), 3)].into()),
        adapter(host, "b", "q_proj,embed_tokens", |c| {
            c.r = 4;
            c.use_rslora = true;
            c.alpha_pattern = [("embed_tokens".into(), 3.0)].into();
        }),
        adapter(host, "c", "v_proj", |c| c.alpha = 5.0),
    ]
}

#[test]
fn concatenation_is_the_sum() {
    let host = Tiny::new(DType::F32);
    let [a, b, c] = three(&host);
    let parts = [(&a, 0.7), (&b, -1.5), (&c, 2.0)];
    let sum = combine("sum", &parts, Method::Cat).unwrap();
    assert!(sum.truncations.is_empty() && sum.relative_error() == 0.0);
    let sum = sum.adapter;
    let ranks: Vec<usize> = sum.layers.values().map(|p| p.rank).collect();
    assert_eq!(
        sum.layers.keys().map(|k| k.rsplit('.').next().unwrap()).collect::<Vec<_>>(),
        ["embed_tokens", "q_proj", "v_proj", "q_proj", "v_proj"]
    );
    assert_eq!(ranks, [4, 6, 5, 6, 5]);
    for (layer, pair) in &sum.layers {
        assert_eq!(pair.scale, 1.0);
        let at = shape(&sum, layer);
        let mut want = vec![0.0; at[0] * at[1]];
        for (part, c) in parts {
            want.iter_mut().zip(dense(part, layer, at)).for_each(|(w, d)| *w += c * d);
        }
        assert!(difference(&dense(&sum, layer, at), &want) < 1e-6 * norm(&want));
    }
}

/// What is written is what was computed: ranks and α of every layer survive PEFT's files.
#[test]
fn ranks_and_alphas_survive_the_file() {
    let mut host = Tiny::new(DType::F32);
    let [a, b, c] = three(&host);
    for method in [Method::Cat, Method::Svd { rank: 3 }] {
        let sum = combine("sum", &[(&a, 1.0), (&b, 1.0), (&c, 1.0)], method).unwrap().adapter;
        attach(&mut host, &sum).unwrap();
        let (config, tensors) = peft::to_files(&sum, None).unwrap();
        let again = peft::from_files("sum", "c.json", &config, "t.safetensors", &tensors, &host).unwrap();
        assert_eq!(again.layers.len(), sum.layers.len());
        for (layer, pair) in &sum.layers {
            let other = &again.layers[layer];
            assert_eq!((pair.rank, pair.alpha, pair.scale), (other.rank, other.alpha, other.scale));
            assert_eq!(pair.b.to_f64().unwrap(), other.b.to_f64().unwrap());
        }
    }
}

/// Against the best approximation found another way: power iteration with deflation on the dense sum.
#[test]
fn the_svd_is_the_best_of_its_rank() {
    let host = Tiny::new(DType::F32);
    let [a, b, c] = three(&host);
    let parts = [(&a, 1.0), (&b, 0.5), (&c, -1.0)];
    let exact = combine("x", &parts, Method::Cat).unwrap().adapter;
    for rank in [1, 2, 3, 50] {
        let cut = combine("x", &parts, Method::Svd { rank }).unwrap();
        for t in &cut.truncations {
            let at = shape(&exact, &t.layer);
            let full = dense(&exact, &t.layer, at);
            let error = difference(&dense(&cut.adapter, &t.layer, at), &full);
            let mut rest = full.clone();
            (0..t.rank).for_each(|_| deflate(&mut rest, at));
            assert_eq!(t.rank, rank.min(exact.layers[&t.layer].rank).min(at[0]).min(at[1]));
            assert!((t.norm - norm(&full)).abs() < 1e-5 * t.norm, "{t:?}");
            assert!((t.error - error).abs() < 1e-5 * t.norm, "{t:?}: really {error}");
            assert!((t.error - norm(&rest)).abs() < 1e-3 * t.norm, "{t:?}: best is {}", norm(&rest));
        }
        assert_eq!(cut.relative_error() < 1e-6, rank == 50);
    }
}

/// Takes the largest singular triple away.
fn deflate(x: &mut [f64], [n, k]: [usize; 2]) {
    let mut v: Vec<f64> = (0..k).map(|j| 1.0 + (j as f64).sin()).collect();
    let mut u = vec![0.0; n];
    for _ in 0..3000 {
        for (i, u) in u.iter_mut().enumerate() {
            *u = (0..k).map(|j| x[i * k + j] * v[j]).sum();
        }
        let size = norm(&u).max(1e-300);
        u.iter_mut().for_each(|u| *u /= size);
        for (j, v) in v.iter_mut().enumerate() {
            *v = (0..n).map(|i| x[i * k + j] * u[i]).sum();
        }
        let size = norm(&v).max(1e-300);
        v.iter_mut().for_each(|v| *v /= size);
    }
    let s: f64 = (0..n * k).map(|at| u[at / k] * x[at] * v[at % k]).sum();
    (0..n * k).for_each(|at| x[at] -= s * u[at / k] * v[at % k]);
}

#[test]
fn negation_cancels() {
    let host = Tiny::new(DType::F32);
    let a = adapter(&host, "a", "v_proj", |_| ());
    let nothing = combine("x", &[(&a, 1.0), (&a, -1.0)], Method::Cat).unwrap().adapter;
    for layer in a.layers.keys() {
        let at = shape(&a, layer);
        assert!(norm(&dense(&nothing, layer, at)) < 1e-5 * norm(&dense(&a, layer, at)));
    }
}

/// One layer `[2,2]` of rank 1 with values that can be followed by hand.
fn by_hand(parts: &[([f64; 2], [f64; 2], f64)]) -> Vec<(usize, Factors, f64)> {
    let factors = |(i, &(b, a, c)): (usize, &([f64; 2], [f64; 2], f64))| {
        let f = Factors { kind: Kind::Linear, n: 2, k: 2, r: 1, scale: 1.0, left: b.to_vec(), right: a.to_vec() };
        (i, f, c)
    };
    parts.iter().enumerate().map(factors).collect()
}

#[test]
fn ties_by_hand() {
    // Half of the elements stay: B₁ → [0, 3], B₂ → [−4, 0], B₃ → [0, −2]. Signs of the sums: −, +. Weights √4, 1, 1:
    // place 0: −4 alone; place 1: 2·3 alone (−2 disagrees).
    let parts = by_hand(&[([1., 3.], [2., 1.], 4.0), ([-4., 1.], [-1., -2.], 1.0), ([1., -2.], [5., 3.], -1.0)]);
    let f = trim::ties(&parts, 0.5).unwrap();
    assert_eq!(f.left, [-4.0, 6.0]);
    // A₁ → [2, 0], A₂ → [0, −2], A₃ → [5, 0]; signs +, −; weights 2, 1, −1: (2·2 − 5)/2 and −2.
    assert_eq!(f.right, [-0.5, -2.0]);
    // Everything stays: the signs are those of B's sums [−2, 2] and A's [6, 2].
    let f = trim::ties(&parts, 1.0).unwrap();
    assert_eq!(f.left, [-4.0, (2.0 * 3.0 + 1.0) / 2.0]);
    assert_eq!(f.right, [(4.0 - 5.0) / 2.0, (2.0 - 3.0) / 2.0]);
    assert!(trim::ties(&parts, 0.0).is_err() && trim::ties(&parts, f64::NAN).is_err());
}

#[test]
fn dare_keeps_the_mean_and_repeats() {
    let host = Tiny::new(DType::F32);
    let a = adapter(&host, "a", "embed_tokens", |c| c.alpha = 2.0);
    let layer = "model.embed_tokens";
    let pair = |d: Derived| d.adapter.layers[layer].b.to_f64().unwrap();
    let run = |density, seed| pair(combine("x", &[(&a, 1.0)], Method::Dare { density, seed }).unwrap());
    let whole = a.layers[layer].b.to_f64().unwrap();
    assert_eq!(run(1.0, 0), whole);
    let once = run(0.5, 1);
    assert_eq!(once, run(0.5, 1));
    assert_ne!(once, run(0.5, 2));
    assert!(once.iter().zip(&whole).all(|(x, w)| *x == 0.0 || (x - 2.0 * w).abs() < 1e-6));
    let mut mean = vec![0.0; whole.len()];
    (0..2000).for_each(|seed| mean.iter_mut().zip(run(0.5, seed)).for_each(|(m, x)| *m += x / 2000.0));
    // The deviation of a mean of 2000 is |w|/√2000; five of them.
    assert!(mean.iter().zip(&whole).all(|(m, w)| (m - w).abs() < 5.0 / 2000f64.sqrt() * w.abs().max(1e-3)));
}

#[test]
fn what_has_no_meaning_is_named() {
    let host = Tiny::new(DType::F32);
    let [a, b, _] = three(&host);
    let error = |parts: &[(&Adapter, f64)], m| combine("x", parts, m).unwrap_err().to_string();
    let (ties, dare) = (Method::Ties { density: 0.5 }, Method::Dare { density: 0.5, seed: 0 });
    for method in [ties, dare, Method::DareTies { density: 0.5, seed: 0 }] {
        let e = error(&[(&a, 1.0), (&b, 1.0)], method);
        assert!(e.contains("a has no `model.embed_tokens`; cat and svd can"), "{e}");
        let c = adapter(&host, "c", "q_proj,v_proj", |c| c.r = 3);
        let e = error(&[(&a, 1.0), (&c, 1.0)], method);
        assert!(e.contains("`model.layers.0.self_attn.q_proj` has rank 2 in a and 3 in c"), "{e}");
    }
    let saved = adapter(&host, "s", "q_proj", |c| c.modules_to_save = vec!["norm".into()]);
    assert!(error(&[(&saved, 1.0)], Method::Cat).contains("`model.norm.weight` is saved whole"));
    let dora = adapter(&host, "d", "q_proj", |c| c.use_dora = true);
    assert!(error(&[(&dora, 1.0)], Method::Cat).contains("is DoRA"));
    assert!(rerank(&dora, 1, 0).unwrap_err().to_string().contains("is DoRA"));
    assert!(error(&[(&a, f64::NAN)], Method::Cat).contains("coefficient NaN"));
    assert!(error(&[], Method::Cat).contains("no adapters"));
    // The same name, another shape.
    let mut other = a.clone();
    let v = other.layers["model.layers.0.self_attn.v_proj"].clone();
    other.layers.insert("model.layers.0.self_attn.q_proj".into(), v);
    let e = error(&[(&a, 1.0), (&other, 1.0)], Method::Cat);
    assert!(e.contains("different architectures"), "{e}");
    a.layers["model.layers.0.self_attn.q_proj"].a.set(&[f32::INFINITY; 12]).unwrap();
    assert!(error(&[(&a, 1.0)], Method::Svd { rank: 1 }).contains("has the value inf"));
    assert!(error(&[(&a, 1.0)], Method::Cat).contains("has the value inf"));
    assert_eq!(host.model_type(), "tiny");
}

#[test]
fn growing_keeps_the_bits_and_shrinking_the_best() {
    let host = Tiny::new(DType::F32);
    let [a, b, _] = three(&host);
    for adapter in [&a, &b] {
        let grown = rerank(adapter, 5, 7).unwrap();
        assert!(grown.truncations.is_empty());
        for (layer, pair) in &adapter.layers {
            let big = &grown.adapter.layers[layer];
            assert_eq!(big.rank, 5);
            assert!((big.scale - pair.scale).abs() < 1e-12);
            let at = shape(adapter, layer);
            assert!(difference(&dense(&grown.adapter, layer, at), &dense(adapter, layer, at)) < 1e-9);
            let (old, new) = (pair.a.to_f64().unwrap(), big.a.to_f64().unwrap());
            assert_eq!(new[..old.len()], old);
            // What is new can learn: one of the factors is not zero.
            let (fresh_a, b) = (&new[old.len()..], big.b.to_f64().unwrap());
            assert!(fresh_a.iter().chain(b.chunks(5).flat_map(|row| &row[pair.rank..])).any(|&x| x != 0.0));
        }
        let back = rerank(&grown.adapter, 2, 0).unwrap();
        for t in &back.truncations {
            let at = shape(adapter, &t.layer);
            let full = dense(adapter, &t.layer, at);
            let error = difference(&dense(&back.adapter, &t.layer, at), &full);
            assert!((t.error - error).abs() < 1e-5 * norm(&full), "{t:?}: really {error}");
        }
    }
    assert!(rerank(&a, 0, 0).is_err() && rerank(&a, usize::MAX, 0).is_err());
}
