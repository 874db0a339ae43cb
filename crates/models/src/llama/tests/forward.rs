//! Logits, loss and the cache.

use lowrank_core::{DType, Device, Tensor};
use lowrank_lora::{Host, write_tensors};
use serde_json::{Value, json};

use super::plain::Plain;
use super::{Llama, config_json, largest_difference, tensors, tiny};

const IDS: [u32; 7] = [3, 10, 0, 5, 5, 1, 9];

fn variants() -> [Value; 6] {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 12});
    [
        json!({}),
        json!({"tie_word_embeddings": true}),
        json!({"attention_bias": true, "mlp_bias": true}),
        json!({"model_type": "qwen2"}),
        json!({"model_type": "mistral", "sliding_window": 16, "num_key_value_heads": 4, "head_dim": 6}),
        json!({"num_key_value_heads": 1, "head_dim": 8, "rope_scaling": llama3}),
    ]
}

#[test]
fn logits_are_the_definitions() {
    for changes in variants() {
        let (model, tensors) = tiny(changes.clone());
        let ids = [IDS, [1, 2, 3, 4, 5, 6, 7]];
        let logits = model.forward(&model.ids(ids.as_flattened(), 2, 7).unwrap()).unwrap();
        assert_eq!((logits.shape(), logits.dtype()), (&[2, 7, 11][..], DType::F64));
        let plain = Plain::new(model.config(), &tensors);
        let want = ids.map(|ids| plain.logits(&ids)).concat();
        let worst = largest_difference(&logits.to_f64().unwrap(), &want);
        assert!(worst < 1e-10, "{changes}: {worst:e}");
    }
}

#[test]
fn cached_logits_are_the_uncached_ones() {
    for changes in variants() {
        let (model, _) = tiny(changes.clone());
        let all = model.forward(&model.ids(&IDS, 1, 7).unwrap()).unwrap().to_f64().unwrap();
        for split in [vec![7], vec![1; 7], vec![3, 1, 2, 1]] {
            let mut cache = model.new_cache(7).unwrap();
            let mut end = 0;
            for n in split {
                let logits = model.forward_cached(&IDS[end..end + n], &mut cache).unwrap();
                end += n;
                assert_eq!((logits.shape(), cache.len()), (&[1, 11][..], end));
                let worst = largest_difference(&logits.to_f64().unwrap(), &all[(end - 1) * 11..end * 11]);
                assert!(worst < 1e-10, "{changes}: {worst:e}");
            }
        }
    }
}

#[test]
fn a_truncated_cache_goes_on_from_there() {
    let (model, _) = tiny(json!({}));
    let mut cache = model.new_cache(7).unwrap();
    model.forward_cached(&[3, 10, 7, 7, 7], &mut cache).unwrap();
    cache.truncate(2);
    let again = model.forward_cached(&IDS[2..], &mut cache).unwrap().to_f64().unwrap();
    let all = model.forward(&model.ids(&IDS, 1, 7).unwrap()).unwrap().to_f64().unwrap();
    assert!(largest_difference(&again, &all[66..]) < 1e-10);
}

#[test]
fn loss_is_the_mean_of_the_log_probabilities() {
    let (model, tensors) = tiny(json!({}));
    let logits = Plain::new(model.config(), &tensors).logits(&IDS[..3]);
    let log_p = |row: usize, target: usize| {
        let row = &logits[row * 11..][..11];
        row[target] - row.iter().map(|x| x.exp()).sum::<f64>().ln()
    };
    let targets = Tensor::targets(&[10, u32::MAX, 4], &[3], 11, model.device()).unwrap();
    let loss = model.loss(&model.ids(&IDS[..3], 1, 3).unwrap(), &targets, 2.0).unwrap();
    assert!((loss.item().unwrap() + (log_p(0, 10) + log_p(2, 4)) / 2.0).abs() < 1e-10);
}

#[test]
fn tables_grow_with_the_sequence() {
    let (model, tensors) = tiny(json!({"max_position_embeddings": 4096, "num_hidden_layers": 1}));
    let ids: Vec<u32> = (0..2100).map(|i| i * 7 % 11).collect();
    let mut cache = model.new_cache(2100).unwrap();
    let logits = model.forward_cached(&ids, &mut cache).unwrap().to_f64().unwrap();
    let want = Plain::new(model.config(), &tensors).logits(&ids);
    assert!(largest_difference(&logits, &want[2099 * 11..]) < 1e-9);
}

#[test]
fn refusals() {
    let (model, _) = tiny(json!({}));
    let message = |r: crate::Result<Tensor>| r.unwrap_err().to_string();
    let long = message(model.forward(&model.ids(&[1; 17], 1, 17).unwrap()));
    assert!(long.contains("17") && long.contains("16"), "{long}");
    let id = message(model.ids(&[1, 11], 1, 2));
    assert!(id.contains("number 1 is 11") && id.contains("below 11"), "{id}");
    assert!(model.ids(&[1, 2, 3], 2, 2).is_err());
    assert!(model.forward(&Tensor::from_slice(&[1u32], &[1], model.device()).unwrap()).is_err());
    assert!(model.forward(&Tensor::from_slice::<u32>(&[], &[1, 0], model.device()).unwrap()).is_err());

    assert!(model.new_cache(0).is_err());
    let capacity = model.new_cache(17).err().unwrap().to_string();
    assert!(capacity.contains("17") && capacity.contains("16"), "{capacity}");
    let mut cache = model.new_cache(3).unwrap();
    model.forward_cached(&[1, 2], &mut cache).unwrap();
    let full = message(model.forward_cached(&[1, 2], &mut cache));
    assert!(full.contains("2 + 2") && full.contains('3'), "{full}");
    assert!(model.forward_cached(&[], &mut cache).is_err());
    assert!(model.forward_cached(&[11], &mut cache).is_err());
    assert_eq!(cache.len(), 2);
    let other = tiny(json!({"num_hidden_layers": 1})).0.new_cache(3).unwrap();
    assert!(model.forward_cached(&[1], &mut { other }).is_err());
}

/// Storage in bf16 is the same model with every matrix rounded to bf16.
#[test]
fn bf16_storage_rounds_the_weights_only() {
    let device = Device::reference().unwrap();
    let config = config_json(json!({"tie_word_embeddings": true}));
    let exact = tensors(&config, DType::F32, &device);
    let bytes = write_tensors(&exact).unwrap();
    let files = [("model.safetensors".to_string(), &bytes[..])];
    let model = Llama::from_files("config.json", &config, &files, &device, DType::BF16).unwrap();
    let rounded: Vec<(String, Tensor)> = exact
        .into_iter()
        .map(|(name, t)| match t.rank() {
            2 => (name, Tensor::from_f64(&t.to_f64().unwrap(), t.shape(), DType::BF16, &device).unwrap()),
            _ => (name, t),
        })
        .collect();
    let logits = model.forward(&model.ids(&IDS, 1, 7).unwrap()).unwrap();
    assert_eq!(logits.dtype(), DType::F32);
    let want = Plain::new(model.config(), &rounded).logits(&IDS);
    let worst = largest_difference(&logits.to_f64().unwrap(), &want);
    assert!(worst < 1e-4, "{worst:e}");
}
