//! Side by side with PEFT's `add_weighted_adapter`: `tests/golden/make_combined.py` made the values with PEFT 0.21.
//!
//! PEFT's and our random numbers differ, so for DARE the elements that PEFT kept are taken from the file: with them the
//! results are the same. That our own drawing keeps the right share, and the mean, is tested in `tests.rs`.

use std::collections::BTreeMap;

use lowrank_core::{DType, Device};
use safetensors::SafeTensors;

use super::*;
use crate::testing::Layers;
use crate::{LoraConfig, Targets};

const SIZES: [(usize, usize); 2] = [(12, 10), (9, 14)];
const WEIGHTS: [f64; 3] = [0.7, -1.3, 0.4];
const DENSITY: f64 = 0.5;

type Golden = BTreeMap<String, Vec<f64>>;

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/combined.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| bytemuck::pod_collect_to_vec::<u8, f32>(data).into_iter().map(f64::from).collect();
    file.tensors().into_iter().map(|(name, view)| (name, values(view.data()))).collect()
}

/// The adapters of the script.
fn adapters(golden: &Golden) -> Vec<Adapter> {
    let host = Layers::new(&SIZES, DType::F32, &Device::cpu().unwrap());
    let plain = || LoraConfig { r: 4, targets: Targets::AllLinear, ..LoraConfig::default() };
    let settings = [
        ("first", LoraConfig { alpha: 8.0, ..plain() }),
        ("second", LoraConfig { alpha: 6.0, use_rslora: true, ..plain() }),
        ("third", LoraConfig { alpha: 2.0, ..plain() }),
    ];
    let one = |(name, config): (&str, LoraConfig)| {
        let adapter = Adapter::create(&host, name, config, 0).unwrap();
        for (layer, pair) in &adapter.layers {
            for (part, t) in [("A", &pair.a), ("B", &pair.b)] {
                let values: Vec<f32> = golden[&format!("{name}.{layer}.{part}")].iter().map(|&x| x as f32).collect();
                t.set(&values).unwrap();
            }
        }
        adapter
    };
    settings.into_iter().map(one).collect()
}

fn parts(adapters: &[Adapter]) -> Vec<(&Adapter, f64)> {
    adapters.iter().zip(WEIGHTS).collect()
}

fn close(got: &[f64], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (x, y)) in got.iter().zip(want).enumerate() {
        assert!((x - y).abs() <= 1e-5 * y.abs().max(1.0), "{what}: element {i} is {x}, PEFT's {y}");
    }
}

fn product(b: &[f64], a: &[f64], [n, k]: [usize; 2]) -> Vec<f64> {
    let r = b.len() / n;
    (0..n * k).map(|i| (0..r).map(|p| b[i / k * r + p] * a[p * k + i % k]).sum()).collect()
}

#[test]
fn ties_cat_and_svd_are_pefts() {
    let golden = golden();
    let adapters = adapters(&golden);
    let run = |method| combine("x", &parts(&adapters), method).unwrap().adapter;
    let ties = run(Method::Ties { density: DENSITY });
    for (layer, pair) in &ties.layers {
        assert_eq!(pair.scale, 1.0);
        close(&pair.a.to_f64().unwrap(), &golden[&format!("ties.{layer}.A")], "ties A");
        close(&pair.b.to_f64().unwrap(), &golden[&format!("ties.{layer}.B")], "ties B");
    }
    // Other factors of the same product: PEFT puts the scales into A, here they are in B.
    let (cat, svd) = (run(Method::Cat), run(Method::Svd { rank: 4 }));
    for (i, (n, k)) in SIZES.into_iter().enumerate() {
        let layer = format!("l{i}");
        let of = |a: &Adapter| {
            let pair = &a.layers[&layer];
            product(&pair.b.to_f64().unwrap(), &pair.a.to_f64().unwrap(), [n, k])
        };
        let theirs = product(&golden[&format!("cat.{layer}.B")], &golden[&format!("cat.{layer}.A")], [n, k]);
        assert_eq!(cat.layers[&layer].rank, 12);
        close(&of(&cat), &theirs, "cat");
        close(&of(&svd), &golden[&format!("svd.{layer}.delta")], "svd");
    }
}

#[test]
fn dare_with_the_elements_that_peft_kept_is_pefts() {
    let golden = golden();
    let adapters = adapters(&golden);
    for (method, elect) in [("dare_linear", false), ("dare_ties", true)] {
        for layer in ["l0", "l1"] {
            let factors = |(i, a): (usize, &Adapter)| (i, Factors::of(&a.layers[layer]).unwrap(), WEIGHTS[i]);
            let parts: Vec<(usize, Factors, f64)> = adapters.iter().enumerate().map(factors).collect();
            let keep = |i: usize, right: bool, len: usize| -> Vec<bool> {
                let part = if right { "A" } else { "B" };
                let kept = &golden[&format!("{method}.{layer}.{}.{part}.kept", adapters[i].name)];
                assert_eq!(kept.len(), len);
                kept.iter().map(|&x| x == 1.0).collect()
            };
            let f = trim::dare(&parts, DENSITY, &keep, elect).unwrap();
            close(&f.right, &golden[&format!("{method}.{layer}.A")], method);
            close(&f.left, &golden[&format!("{method}.{layer}.B")], method);
        }
    }
}

/// What DARE is on average is PEFT's `linear`, and without dropping it is `linear`, and `dare_ties` is `ties`.
#[test]
fn dare_keeps_everything_or_the_mean_of_pefts_linear() {
    let golden = golden();
    let adapters = adapters(&golden);
    let run = |method| combine("x", &parts(&adapters), method).unwrap().adapter;
    let linear = |layer: &str| golden[&format!("linear.{layer}.A")].clone();
    let all = run(Method::Dare { density: 1.0, seed: 0 });
    for (layer, pair) in &all.layers {
        close(&pair.a.to_f64().unwrap(), &linear(layer), "density 1");
    }
    let (ties, dare) = (run(Method::Ties { density: 1.0 }), run(Method::DareTies { density: 1.0, seed: 0 }));
    for (layer, pair) in &ties.layers {
        assert_eq!(pair.a.to_f64().unwrap(), dare.layers[layer].a.to_f64().unwrap());
    }
    let runs = 1500;
    let mut mean = vec![0.0; 40];
    for seed in 0..runs {
        let a = run(Method::Dare { density: DENSITY, seed }).layers["l0"].a.to_f64().unwrap();
        mean.iter_mut().zip(a).for_each(|(m, x)| *m += x / runs as f64);
    }
    // An element is a sum of w·x/density kept with chance ½: its deviation is √Σ(w x)², below 4.5 here.
    for (m, want) in mean.iter().zip(linear("l0")) {
        assert!((m - want).abs() < 5.0 * 4.5 / (runs as f64).sqrt(), "{m} {want}");
    }
}
