//! A model's state and its size.

use lowrank_core::DType;
use lowrank_lora::{Adapter, Init, LoraConfig, Targets, attach, merge, unmerge, write_tensors};
use serde_json::{Value, json};

use super::{Llama, shapes, tiny};

fn logits(model: &Llama) -> Vec<f64> {
    model.forward(&model.ids(&[1, 2, 3], 1, 3).unwrap()).unwrap().to_f64().unwrap()
}

#[test]
fn state_is_what_was_loaded() {
    for tied in [false, true] {
        let (model, tensors) = tiny(json!({"tie_word_embeddings": tied, "attention_bias": true}));
        assert_eq!(model.is_tied(), tied);
        let mut state = model.state();
        state.sort_by(|a, b| a.0.cmp(&b.0));
        let mut tensors = tensors;
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(state.len(), tensors.len());
        for ((name, got), (want_name, want)) in state.iter().zip(&tensors) {
            assert_eq!((name, got.shape()), (want_name, want.shape()));
            assert_eq!(got.to_f64().unwrap(), want.to_f64().unwrap());
        }
        let sum: usize = shapes(model.config()).iter().map(|(_, s)| s.iter().product::<usize>()).sum();
        assert_eq!(model.parameter_count(), sum);
    }
}

/// Merging into the head of a tied model unties it, and the files say so.
#[test]
fn a_merged_head_is_written() {
    let (mut model, _) = tiny(json!({"tie_word_embeddings": true, "extra": [1, 2]}));
    let targets = Targets::List(vec!["lm_head".into(), "q_proj".into()]);
    let config = LoraConfig { r: 2, targets, init: Init::BothRandom, ..LoraConfig::default() };
    let adapter = Adapter::create(&model, "default", config, 4).unwrap();
    let plain = logits(&model);
    attach(&mut model, &adapter).unwrap();
    let adapted = logits(&model);
    assert!(super::largest_difference(&plain, &adapted) > 1e-3);
    merge(&mut model).unwrap();
    assert!(!model.is_tied());
    let (state, config) = (model.state(), model.config_json_for_state().unwrap());
    assert!(state.iter().any(|(name, _)| name == "lm_head.weight"));
    let value: Value = serde_json::from_str(&config).unwrap();
    assert_eq!((&value["tie_word_embeddings"], &value["extra"]), (&json!(false), &json!([1, 2])));

    let bytes = write_tensors(&state).unwrap();
    let files = [("m".to_string(), &bytes[..])];
    let device = lowrank_core::Device::reference().unwrap();
    let again = Llama::from_files("c", &config, &files, &device, DType::F64).unwrap();
    assert!(super::largest_difference(&logits(&again), &adapted) < 1e-10);

    unmerge(&mut model).unwrap();
    assert!(model.is_tied());
    let sum: usize = shapes(model.config()).iter().map(|(_, s)| s.iter().product::<usize>()).sum();
    assert_eq!(model.parameter_count(), sum);
    let value: Value = serde_json::from_str(&model.config_json_for_state().unwrap()).unwrap();
    assert_eq!(value["tie_word_embeddings"], json!(true));
}
