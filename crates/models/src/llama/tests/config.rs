//! What `config.json` may say.

use lowrank_core::ops::Llama3Scaling;
use serde_json::{Value, json};

use super::{LlamaConfig, config_json};

fn parse(changes: Value) -> crate::Result<LlamaConfig> {
    LlamaConfig::from_json("config.json", &config_json(changes))
}

#[test]
fn fields_and_defaults() {
    let c = parse(json!({})).unwrap();
    assert_eq!((c.vocab_size, c.hidden_size, c.intermediate_size, c.num_hidden_layers), (11, 8, 6, 2));
    assert_eq!((c.num_attention_heads, c.num_key_value_heads, c.head_dim), (4, 2, 2));
    assert_eq!((c.max_position_embeddings, c.rope_theta, c.rms_norm_eps), (16, 100.0, 1e-5));
    assert_eq!((c.bos_token_id, &c.eos_token_ids[..]), (Some(1), &[2][..]));
    assert!(!c.attention_bias && !c.o_bias && !c.mlp_bias && c.rope_scaling.is_none());

    let absent = "<absent>";
    let c = parse(json!({
        "num_key_value_heads": absent, "head_dim": null, "rope_theta": absent, "rms_norm_eps": absent,
        "tie_word_embeddings": absent, "bos_token_id": null, "eos_token_id": [3, 4], "hidden_act": absent
    }))
    .unwrap();
    assert_eq!((c.num_key_value_heads, c.head_dim, c.rope_theta, c.rms_norm_eps), (4, 2, 1e4, 1e-6));
    assert_eq!((c.tie_word_embeddings, c.bos_token_id, &c.eos_token_ids[..]), (false, None, &[3, 4][..]));
}

#[test]
fn model_types() {
    let c = parse(json!({"model_type": "qwen2", "use_sliding_window": false, "sliding_window": 4})).unwrap();
    assert!(c.attention_bias && !c.o_bias && !c.mlp_bias);
    let c = parse(json!({"model_type": "mistral", "sliding_window": 16})).unwrap();
    assert!(!c.attention_bias && !c.o_bias);
    parse(json!({"model_type": "mistral", "sliding_window": null, "max_position_embeddings": 32768})).unwrap();
    let c = parse(json!({"attention_bias": true, "mlp_bias": true})).unwrap();
    assert!(c.attention_bias && c.o_bias && c.mlp_bias);
}

#[test]
fn rope() {
    let fields = |key: &str, more: Value| {
        let mut v = json!({
            key: "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192
        });
        v.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        v
    };
    let want = Llama3Scaling {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    for key in ["rope_type", "type"] {
        let c = parse(json!({"rope_scaling": fields(key, json!({}))})).unwrap();
        assert_eq!((c.rope_theta, c.rope_scaling.as_ref()), (100.0, Some(&want)));
    }
    // As transformers 5 writes it.
    let new = fields("rope_type", json!({"rope_theta": 5e5}));
    let c = parse(json!({"rope_theta": "<absent>", "rope_parameters": new})).unwrap();
    assert_eq!((c.rope_theta, c.rope_scaling.as_ref()), (5e5, Some(&want)));
    for old in [json!(null), json!({"rope_type": "default"}), json!({"type": "default"})] {
        assert!(parse(json!({"rope_scaling": old})).unwrap().rope_scaling.is_none());
    }
}

/// Changes to the configuration, and what the message must contain.
#[test]
fn refusals_name_file_and_field() {
    let llama3 = |low: f64, high: f64| {
        json!({
            "rope_type": "llama3", "factor": 8, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": 64
        })
    };
    let cases = [
        (json!({"model_type": "gpt2"}), vec!["model_type", "`gpt2`", "llama, mistral, qwen2"]),
        (json!({"model_type": "gemma"}), vec!["model_type", "`gemma`"]),
        (json!({"model_type": "qwen3"}), vec!["model_type", "`qwen3`"]),
        (json!({"model_type": "<absent>"}), vec!["model_type", "missing"]),
        (json!({"model_type": 3}), vec!["model_type", "3", "string"]),
        (json!({"hidden_act": "gelu"}), vec!["hidden_act", "`gelu`", "silu"]),
        (json!({"vocab_size": "<absent>"}), vec!["vocab_size", "missing"]),
        (json!({"vocab_size": 0}), vec!["vocab_size", "0"]),
        (json!({"vocab_size": -5}), vec!["vocab_size", "-5"]),
        (json!({"vocab_size": 1u64 << 40}), vec!["vocab_size", "1099511627776"]),
        (json!({"hidden_size": 8.5}), vec!["hidden_size", "8.5"]),
        (json!({"num_hidden_layers": 100000}), vec!["num_hidden_layers", "100000"]),
        (json!({"num_key_value_heads": 3}), vec!["num_key_value_heads", "3", "4"]),
        (json!({"num_attention_heads": 3, "num_key_value_heads": 3}), vec!["head_dim", "8", "3"]),
        (json!({"head_dim": 3}), vec!["head_dim", "odd"]),
        (json!({"rope_theta": -1.0}), vec!["rope_theta", "-1"]),
        (json!({"rms_norm_eps": 0}), vec!["rms_norm_eps"]),
        (json!({"tie_word_embeddings": "yes"}), vec!["tie_word_embeddings", "yes"]),
        (json!({"eos_token_id": 11}), vec!["eos_token_id", "11", "vocab_size"]),
        (json!({"eos_token_id": "</s>"}), vec!["eos_token_id", "</s>"]),
        (json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), vec!["rope_scaling.type", "`linear`", "llama3"]),
        (json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}), vec!["rope_type", "`dynamic`"]),
        (json!({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}), vec!["rope_parameters.rope_type", "`yarn`"]),
        (json!({"rope_scaling": {"factor": 2.0}}), vec!["rope_scaling.rope_type", "missing"]),
        (json!({"rope_scaling": {"rope_type": "llama3"}}), vec!["rope_scaling.factor", "missing"]),
        (json!({"rope_scaling": llama3(4.0, 4.0)}), vec!["rope_scaling.high_freq_factor", "4"]),
        (json!({"rope_scaling": 2.0}), vec!["rope_scaling", "object"]),
        (json!({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}), vec!["rope_theta", "100", "7"]),
        (json!({"rope_scaling": llama3(1.0, 4.0), "rope_parameters": {"rope_type": "default"}}), vec!["rope_scaling"]),
        (json!({"model_type": "mistral", "sliding_window": 8}), vec!["sliding_window", "8", "16"]),
        (
            json!({"model_type": "mistral", "max_position_embeddings": 32768}),
            vec!["sliding_window", "4096", "max_position_embeddings = 32768"],
        ),
        (json!({"model_type": "mistral", "attention_bias": true}), vec!["attention_bias", "mistral"]),
        (json!({"model_type": "qwen2", "use_sliding_window": true}), vec!["use_sliding_window"]),
        (json!({"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]}), vec!["layer_types"]),
        (json!({"model_type": "qwen2", "mlp_bias": true}), vec!["mlp_bias", "qwen2"]),
        (json!({"quantization_config": {"bits": 4}}), vec!["quantization_config"]),
        (json!({"attention_dropout": 0.1}), vec!["attention_dropout", "0.1"]),
        (json!({"partial_rotary_factor": 0.5}), vec!["partial_rotary_factor", "0.5"]),
    ];
    for (changes, parts) in cases {
        let message = parse(changes.clone()).expect_err(&changes.to_string()).to_string();
        assert!(!message.contains('\n'), "{message}");
        for part in ["config.json"].iter().chain(&parts) {
            assert!(message.contains(part), "{changes}: `{message}` does not mention `{part}`");
        }
    }
}

#[test]
fn text_that_is_no_object() {
    for text in ["", "[]", "{", "3"] {
        let message = LlamaConfig::from_json("c.json", text).unwrap_err().to_string();
        assert!(message.starts_with("c.json: "), "{message}");
    }
}
