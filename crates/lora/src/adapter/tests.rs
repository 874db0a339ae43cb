use std::collections::BTreeMap;

use lowrank_core::DType;

use super::*;
use crate::testing::{DIM, Tiny, VOCAB};
use crate::{Init, Kind, Targets};

fn config(targets: &str) -> LoraConfig {
    LoraConfig { targets: targets.parse().unwrap(), r: 2, alpha: 8.0, ..LoraConfig::default() }
}

fn shapes(a: &Adapter) -> Vec<(String, Vec<usize>)> {
    a.parameters().into_iter().map(|(k, t)| (k, t.shape().to_vec())).collect()
}

#[test]
fn shapes_keys_and_scales() {
    let host = Tiny::new(DType::F32);
    let c = LoraConfig {
        use_rslora: true,
        rank_pattern: BTreeMap::from([("v_proj".into(), 16)]),
        alpha_pattern: BTreeMap::from([("1.self_attn.v_proj".into(), 4.0)]),
        ..config("embed_tokens,v_proj,lm_head")
    };
    let a = Adapter::create(&host, "default", c, 3).unwrap();
    let v = "base_model.model.model.layers.0.self_attn.v_proj";
    let w = "base_model.model.model.layers.1.self_attn.v_proj";
    assert_eq!(
        shapes(&a),
        [
            ("base_model.model.lm_head.lora_A.weight".to_string(), vec![2, DIM]),
            ("base_model.model.lm_head.lora_B.weight".to_string(), vec![VOCAB, 2]),
            ("base_model.model.model.embed_tokens.lora_embedding_A".to_string(), vec![2, VOCAB]),
            ("base_model.model.model.embed_tokens.lora_embedding_B".to_string(), vec![DIM, 2]),
            // Rank 16 is above min(n,k) = 4, which is legal.
            (format!("{v}.lora_A.weight"), vec![16, DIM]),
            (format!("{v}.lora_B.weight"), vec![4, 16]),
            (format!("{w}.lora_A.weight"), vec![16, DIM]),
            (format!("{w}.lora_B.weight"), vec![4, 16]),
        ]
    );
    for (key, t) in a.parameters() {
        assert!(t.requires_grad() && t.name() == Some(key.as_str()) && t.dtype() == DType::F32, "{key}");
    }
    let scale = |name: &str| a.layers[name].scale;
    assert_eq!(scale("model.layers.0.self_attn.v_proj"), 2.0);
    assert_eq!(scale("model.layers.1.self_attn.v_proj"), 1.0);
    assert_eq!(scale("lm_head"), 8.0 / 2f64.sqrt());
    assert_eq!(a.layers["model.embed_tokens"].kind, Kind::Embedding);
    assert_eq!(a.config.extra["task_type"], "CAUSAL_LM");
}

#[test]
fn inits_do_not_depend_on_other_targets() {
    let host = Tiny::new(DType::F32);
    let make = |targets, seed| Adapter::create(&host, "x", config(targets), seed).unwrap();
    let a = |adapter: Adapter| adapter.layers["model.layers.1.self_attn.v_proj"].a.to_f64().unwrap();
    assert_eq!(a(make("all-linear", 5)), a(make("v_proj", 5)));
    assert_ne!(a(make("v_proj", 5)), a(make("v_proj", 6)));
}

#[test]
fn saved_modules_and_biases_are_copies() {
    let host = Tiny::new(DType::BF16);
    let c = LoraConfig { modules_to_save: vec!["lm_head".into(), "norm".into()], bias: Bias::All, ..config("q_proj") };
    let a = Adapter::create(&host, "x", c, 0).unwrap();
    assert_eq!(a.saved.keys().collect::<Vec<_>>(), ["lm_head.weight", "model.norm.weight"]);
    let head = &a.saved["lm_head.weight"];
    assert_eq!((head.dtype(), head.to_f64().unwrap()), (DType::F32, host.head.weight().to_f64().unwrap()));
    assert_eq!(
        a.biases.keys().collect::<Vec<_>>(),
        ["model.layers.0.self_attn.v_proj.bias", "model.layers.1.self_attn.v_proj.bias"]
    );
    let keys: Vec<String> = a.parameters().into_iter().map(|(k, _)| k).collect();
    assert!(keys.contains(&"base_model.model.model.layers.0.self_attn.v_proj.bias".to_string()));
    let c = LoraConfig { bias: Bias::LoraOnly, ..config("v_proj") };
    let a = Adapter::create(&host, "x", c, 0).unwrap();
    let keys: Vec<String> = a.parameters().into_iter().map(|(k, _)| k).collect();
    assert!(keys.contains(&"base_model.model.model.layers.0.self_attn.v_proj.base_layer.bias".to_string()), "{keys:?}");
    let c = LoraConfig { bias: Bias::LoraOnly, ..config("q_proj") };
    let e = Adapter::create(&host, "x", c, 0).unwrap_err().to_string();
    assert_eq!(e, "bias: lora_only was asked for, but there is no such bias");
}

#[test]
fn report_counts_tied_weights_once() {
    let host = Tiny::new(DType::F32);
    // embed 66, q 2·36, v 2·(24+4), norm 6; the head is the embedding.
    let base = 66 + 72 + 56 + 6;
    let a = Adapter::create(&host, "x", config("q_proj"), 0).unwrap();
    let r = a.report(&host);
    assert_eq!((r.trainable, r.total, r.bytes), (48, base + 48, 192));
    assert_eq!(r.matched, ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]);
    assert_eq!(r.to_string(), "trainable 48 of 248 (19.35 %), 192 B");
    let a = Adapter::create(&host, "x", LoraConfig { bias: Bias::All, ..config("q_proj") }, 0).unwrap();
    assert_eq!((a.report(&host).trainable, a.report(&host).total), (56, base + 48));
}

#[test]
fn bad_names_and_settings() {
    let host = Tiny::new(DType::F32);
    for name in ["", "a/b", "a.b", "a\nb"] {
        assert!(Adapter::create(&host, name, config("q_proj"), 0).is_err(), "{name:?}");
    }
    let zero = LoraConfig { r: 0, ..config("q_proj") };
    assert!(Adapter::create(&host, "x", zero, 0).unwrap_err().to_string().starts_with("r: rank 0"));
    let norm = LoraConfig { targets: Targets::List(vec!["norm".into()]), ..config("q_proj") };
    assert!(Adapter::create(&host, "x", norm, 0).unwrap_err().to_string().contains("which is a norm"));
    let both = LoraConfig { init: Init::BothZero, ..config("q_proj") };
    let a = Adapter::create(&host, "x", both, 0).unwrap();
    assert!(a.parameters().iter().all(|(_, t)| t.to_f64().unwrap().iter().all(|&x| x == 0.0)));
}

/// m = ‖W + sBA‖ of every row, so the adapted layer starts as the low-rank one, bias outside of the scaling.
#[test]
fn dora_starts_as_the_low_rank_layer() {
    let mut host = Tiny::new(DType::F32);
    let x = Tensor::from_slice(&[0.5f32, -1.0, 2.0, 0.25, 1.5, -3.0], &[1, DIM], host.device()).unwrap();
    let mut outs = Vec::new();
    for use_dora in [false, true] {
        let c = LoraConfig { use_dora, init: Init::BothRandom, ..config("v_proj") };
        let a = Adapter::create(&host, "x", c, 2).unwrap();
        crate::attach(&mut host, &a).unwrap();
        outs.push(lowrank_core::no_grad(|| host.v(1).forward(&x)).unwrap().to_f64().unwrap());
        assert_eq!(
            a.parameters().iter().filter(|(k, _)| k.ends_with("lora_magnitude_vector")).count(),
            2 * usize::from(use_dora)
        );
        if use_dora {
            let pair = &a.layers["model.layers.1.self_attn.v_proj"];
            let (w, ma, mb) =
                (host.v(1).weight().to_f64().unwrap(), pair.a.to_f64().unwrap(), pair.b.to_f64().unwrap());
            for (i, m) in pair.magnitude.as_ref().unwrap().to_f64().unwrap().into_iter().enumerate() {
                let row = |j: usize| {
                    w[i * DIM + j] + pair.scale * (0..2).map(|p| mb[i * 2 + p] * ma[p * DIM + j]).sum::<f64>()
                };
                let norm = (0..DIM).map(|j| row(j).powi(2)).sum::<f64>().sqrt();
                assert!((m - norm).abs() < 1e-6 * norm, "{m} {norm}");
            }
        }
    }
    for (dora, plain) in outs[1].iter().zip(&outs[0]) {
        assert!((dora - plain).abs() < 1e-5 * plain.abs().max(1.0), "{dora} {plain}");
    }
    let e = Adapter::create(&host, "x", LoraConfig { use_dora: true, ..config("embed_tokens") }, 0).unwrap_err();
    assert!(e.to_string().starts_with("use_dora: `model.embed_tokens` is an embedding"), "{e}");
    host.blocks[0][0].weight.set(&[0.0f32; DIM * DIM]).unwrap();
    let e = Adapter::create(&host, "x", LoraConfig { use_dora: true, ..config("q_proj") }, 0).unwrap_err().to_string();
    assert!(e.starts_with("use_dora: `model.layers.0.self_attn.q_proj`: row 0"), "{e}");
}

/// LoRA-FA: A is no parameter, but it is in the file.
#[test]
fn a_frozen_a_is_saved_but_not_trained() {
    let host = Tiny::new(DType::F32);
    let a = Adapter::create(&host, "x", LoraConfig { freeze_a: true, ..config("q_proj") }, 0).unwrap();
    assert!(a.parameters().iter().all(|(k, _)| k.contains("lora_B")) && a.parameters().len() == 2);
    assert_eq!(a.tensors().len(), 4);
    let e = Adapter::create(&host, "x", LoraConfig { freeze_a: true, ..config("embed_tokens") }, 0).unwrap_err();
    assert!(e.to_string().starts_with("freeze_a: `model.embed_tokens`: A starts at zero"), "{e}");
}
