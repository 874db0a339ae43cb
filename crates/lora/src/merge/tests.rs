use half::bf16;
use lowrank_core::{DType, no_grad};

use super::*;
use crate::testing::{DIM, Tiny, VOCAB};
use crate::{Adapter, Init, LoraConfig, attach, detach, unmerge};

fn adapted(dtype: DType, targets: &str) -> (Tiny, Adapter) {
    let mut host = Tiny::new(dtype);
    let config = LoraConfig {
        targets: targets.parse().unwrap(),
        r: 3,
        init: Init::BothRandom,
        modules_to_save: vec!["norm".into()],
        ..LoraConfig::default()
    };
    let a = Adapter::create(&host, "x", config, 0).unwrap();
    attach(&mut host, &a).unwrap();
    (host, a)
}

#[test]
fn sums_wide_and_rounds_once() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let (mut host, a) = adapted(dtype, "v_proj,embed_tokens");
        let (w, e) = (host.v(1).weight().to_f64().unwrap(), host.embed.weight().to_f64().unwrap());
        merge(&mut host).unwrap();
        let pair = &a.layers["model.layers.1.self_attn.v_proj"];
        let (ma, mb) = (pair.a.to_f64().unwrap(), pair.b.to_f64().unwrap());
        let merged = host.v(1).weight();
        assert_eq!((merged.dtype(), host.v(1).is_merged()), (dtype, true));
        let got = merged.to_f64().unwrap();
        for i in 0..4 {
            for j in 0..DIM {
                let mut delta = 0.0;
                for p in 0..3 {
                    delta += mb[i * 3 + p] * ma[p * DIM + j];
                }
                let want = crate::scalar::rounded(w[i * DIM + j] + 16.0 / 3.0 * delta, dtype);
                assert_eq!(got[i * DIM + j], want);
            }
        }
        let pair = &a.layers["model.embed_tokens"];
        let (ma, mb) = (pair.a.to_f64().unwrap(), pair.b.to_f64().unwrap());
        let got = host.embed.weight().to_f64().unwrap();
        for i in 0..VOCAB {
            for j in 0..DIM {
                let mut delta = 0.0;
                for p in 0..3 {
                    delta += ma[p * VOCAB + i] * mb[j * 3 + p];
                }
                assert_eq!(got[i * DIM + j], crate::scalar::rounded(e[i * DIM + j] + 16.0 / 3.0 * delta, dtype));
            }
        }
        // The head was tied; the adapter was the embedding's alone.
        assert_eq!(host.head.weight().to_f64().unwrap(), e);
        assert_ne!(host.head.weight().id(), host.embed.weight().id());
    }
}

#[test]
fn merged_computes_what_unmerged_did_and_unmerge_restores_the_bits() {
    let (mut host, _) = adapted(DType::F32, "all-linear");
    let x = Tensor::from_slice(&[0.5f32, -1.0, 2.0, 0.25, 1.5, -3.0], &[1, DIM], host.device()).unwrap();
    let out = |h: &Tiny| no_grad(|| h.q(0).forward(&x).unwrap().to_f64().unwrap());
    let (before, weight) = (out(&host), host.q(0).weight().clone());
    merge(&mut host).unwrap();
    assert!(host.q(0).lora().is_none());
    for (a, b) in out(&host).iter().zip(&before) {
        assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "{a} {b}");
    }
    unmerge(&mut host).unwrap();
    assert_eq!(host.q(0).weight().id(), weight.id());
    assert_eq!(out(&host), before);
    merge(&mut host).unwrap();
    detach(&mut host);
    assert_eq!(host.q(0).weight().id(), weight.id());
    assert!(host.q(0).lora().is_none() && !host.q(0).is_merged());
}

#[test]
fn bf16_bits_come_back() {
    let (mut host, _) = adapted(DType::BF16, "all-linear");
    let bits = |h: &Tiny| h.q(1).weight().to_vec::<bf16>().unwrap();
    let before = bits(&host);
    merge(&mut host).unwrap();
    assert_ne!(bits(&host), before);
    unmerge(&mut host).unwrap();
    assert_eq!(bits(&host), before);
}

#[test]
fn saved_weights_are_merged_in_the_bases_dtype() {
    let (mut host, a) = adapted(DType::F32, "q_proj");
    a.saved["model.norm.weight"].set(&[2.0f32; DIM]).unwrap();
    merge(&mut host).unwrap();
    assert_eq!(host.norm.weight().to_f64().unwrap(), [2.0; DIM]);
    assert!(!host.norm.weight().requires_grad());
    let config = LoraConfig {
        targets: "q_proj".parse().unwrap(),
        modules_to_save: vec!["lm_head".into()],
        ..LoraConfig::default()
    };
    let mut host = Tiny::new(DType::BF16);
    let a = Adapter::create(&host, "x", config, 0).unwrap();
    attach(&mut host, &a).unwrap();
    assert_eq!(host.head.weight().dtype(), DType::F32);
    merge(&mut host).unwrap();
    assert_eq!(host.head.weight().dtype(), DType::BF16);
}

#[test]
fn wrong_states() {
    let mut host = Tiny::new(DType::F32);
    assert_eq!(merge(&mut host).unwrap_err().to_string(), "merge: no adapter is attached");
    assert_eq!(unmerge(&mut host).unwrap_err().to_string(), "unmerge: nothing is merged");
    let (mut host, a) = adapted(DType::F32, "q_proj");
    merge(&mut host).unwrap();
    assert_eq!(merge(&mut host).unwrap_err().to_string(), "merge: an adapter is merged already");
    unmerge(&mut host).unwrap();
    let b = &a.layers["model.layers.0.self_attn.q_proj"].b;
    b.set(&vec![f32::MAX; b.len()]).unwrap();
    let e = merge(&mut host).unwrap_err().to_string();
    assert!(e.starts_with("merge: model.layers.0.self_attn.q_proj: element ") && e.ends_with("inf in f32"), "{e}");
    assert!(!host.q(0).is_merged() && !host.q(1).is_merged());
}

/// Entries of W that are 1, and updates below, at and above half of bf16's last place there.
#[test]
fn the_loss_of_rounding_is_counted() {
    let ulp = 2f64.powi(-7);
    let merged = |step: f64, rounding: Rounding| {
        let (mut host, a) = adapted(DType::BF16, "v_proj");
        for block in &host.blocks {
            block[1].weight.set(&[bf16::from_f32(1.0); 4 * DIM]).unwrap();
        }
        for pair in a.layers.values() {
            let (la, lb) = (pair.a.len(), pair.b.len());
            pair.a.set(&[[1.0f32; DIM].to_vec(), vec![0.0; la - DIM]].concat()).unwrap();
            let b: Vec<f32> =
                (0..lb).map(|i| if i % 3 == 0 { (step * ulp / pair.scale) as f32 } else { 0.0 }).collect();
            pair.b.set(&b).unwrap();
        }
        let report = merge_with(&mut host, rounding).unwrap();
        (report, host.v(0).weight().to_f64().unwrap())
    };
    let (report, _) = merged(0.25, Rounding::Nearest);
    assert_eq!((report.unchanged(), report.lost()), (1.0, 1.0));
    assert_eq!(report.layers.len(), 2);
    let (report, w) = merged(0.75, Rounding::Nearest);
    assert_eq!((report.unchanged(), w[0]), (0.0, 1.0 + ulp));
    assert!((report.lost() - 1.0 / 3.0).abs() < 1e-5, "{}", report.lost());
    assert_eq!(merged(1.0, Rounding::Nearest).0.worst().unwrap().share_lost().round(), 0.0);
    // By chance: a quarter of the entries moves up, and the same ones again.
    let (mut up, runs) = (0, 200);
    for seed in 0..runs {
        let (_, w) = merged(0.25, Rounding::Stochastic(seed));
        assert!(w.iter().all(|&x| x == 1.0 || x == 1.0 + ulp));
        up += w.iter().filter(|&&x| x > 1.0).count();
    }
    let share = up as f64 / (runs as usize * 4 * DIM) as f64;
    assert!((share - 0.25).abs() < 0.03, "{share}");
    assert_eq!(merged(0.25, Rounding::Stochastic(3)).1, merged(0.25, Rounding::Stochastic(3)).1);
}
