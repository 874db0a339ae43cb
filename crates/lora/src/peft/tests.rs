use std::collections::BTreeMap;

use lowrank_core::{DType, Tensor};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Tiny, VOCAB};
use crate::{Bias, Init, Targets};

fn config(targets: &str) -> LoraConfig {
    LoraConfig { targets: targets.parse().unwrap(), r: 2, init: Init::BothRandom, ..LoraConfig::default() }
}

fn read(config: &str, tensors: &[u8], host: &Tiny) -> Result<Adapter> {
    from_files("x", "c.json", config, "t.safetensors", tensors, host)
}

fn config_error(json: Value) -> String {
    let e = read_config("c.json", &json.to_string()).unwrap_err().to_string();
    assert!(e.starts_with("c.json: ") && !e.contains('\n'), "{e}");
    e["c.json: ".len()..].to_string()
}

/// A file of zeros.
fn tensors(list: &[(&str, &[usize])], host: &Tiny) -> Vec<u8> {
    let make = |&(key, shape): &(&str, &[usize])| {
        (format!("base_model.model.{key}"), Tensor::zeros(shape, DType::F32, crate::Host::device(host)).unwrap())
    };
    write_tensors(&list.iter().map(make).collect::<Vec<_>>()).unwrap()
}

fn same(a: &Adapter, b: &Adapter) {
    let (a, b) = (a.parameters(), b.parameters());
    assert_eq!(a.len(), b.len());
    for ((ka, ta), (kb, tb)) in a.iter().zip(&b) {
        assert_eq!((ka, ta.shape(), ta.to_f64().unwrap()), (kb, tb.shape(), tb.to_f64().unwrap()));
        assert_eq!((tb.name(), tb.requires_grad()), (Some(kb.as_str()), true));
    }
}

#[test]
fn written_and_read_back() {
    let host = Tiny::new(DType::F32);
    let c = LoraConfig {
        use_rslora: true,
        dropout: 0.25,
        bias: Bias::All,
        modules_to_save: vec!["norm".into()],
        rank_pattern: BTreeMap::from([("q_proj".into(), 5)]),
        alpha_pattern: BTreeMap::from([("1.self_attn.v_proj".into(), 2.5)]),
        ..config("q_proj,v_proj,embed_tokens,lm_head")
    };
    let a = Adapter::create(&host, "x", c, 4).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep").join("my.adapter");
    save(&a, &path, Some("base/model")).unwrap();
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 2);
    let b = load(&path, &host).unwrap();
    same(&a, &b);
    assert_eq!(b.name, "my_adapter");
    for (name, pair) in &a.layers {
        let other = &b.layers[name];
        assert_eq!((pair.scale, pair.rank, pair.alpha, pair.dropout), (other.scale, other.rank, other.alpha, 0.25));
    }
    // init both-random is written as true, which PEFT knows; the base's name is new.
    assert_eq!(b.config.extra["base_model_name_or_path"], "base/model");
    assert_eq!(LoraConfig { init: a.config.init, extra: a.config.extra.clone(), ..b.config }, a.config);
}

#[test]
fn the_written_configuration() {
    let host = Tiny::new(DType::F32);
    let a = Adapter::create(&host, "x", config("q_proj"), 0).unwrap();
    let (text, _) = to_files(&a, None).unwrap();
    let want = r#"{
  "alpha_pattern": {},
  "base_model_name_or_path": null,
  "bias": "none",
  "exclude_modules": null,
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "layers_pattern": null,
  "layers_to_transform": null,
  "lora_alpha": 16,
  "lora_dropout": 0.0,
  "modules_to_save": null,
  "peft_type": "LORA",
  "r": 2,
  "rank_pattern": {},
  "target_modules": [
    "q_proj"
  ],
  "task_type": "CAUSAL_LM",
  "use_dora": false,
  "use_rslora": false
}"#;
    assert_eq!(text, want);
}

#[test]
fn the_smallest_configuration_has_pefts_defaults() {
    let c = read_config("c", r#"{"peft_type":"LORA","target_modules":["q_proj"]}"#).unwrap();
    assert_eq!((c.r, c.alpha, c.dropout, c.use_rslora, c.init), (8, 8.0, 0.0, false, Init::Default));
    assert_eq!(c.targets, Targets::List(vec!["q_proj".into()]));
}

#[test]
fn unknown_keys_are_kept() {
    let text = r#"{"peft_type":"LORA","target_modules":"all-linear","lora_alpha":2.5,"init_lora_weights":"gaussian",
        "inference_mode":false,"peft_version":"0.21.2","zz":{"b":1,"a":[{"d":2,"c":null}]},"use_new":false,
        "task_type":null,"eva_config":{"rho":2},"qalora_group_size":16,"layers_to_transform":null,"revision":"r"}"#;
    let c = read_config("c", text).unwrap();
    let written = config::render(&c, None).unwrap();
    let value: Value = serde_json::from_str(&written).unwrap();
    for (key, want) in [
        ("zz", json!({"a":[{"c":null,"d":2}],"b":1})),
        ("inference_mode", json!(false)),
        ("peft_version", json!("0.21.2")),
        ("task_type", Value::Null),
        ("use_new", json!(false)),
        ("revision", json!("r")),
        ("lora_alpha", json!(2.5)),
        ("init_lora_weights", json!("gaussian")),
        ("target_modules", json!("all-linear")),
    ] {
        assert_eq!(value[key], want, "{key}");
    }
    assert!(written.find("\"a\":").unwrap() < written.find("\"b\": 1").unwrap());
    assert_eq!(
        read_config("c", &written).unwrap(),
        LoraConfig { extra: read_config("c", &written).unwrap().extra, ..c }
    );
}

#[test]
fn unsupported_features_are_named() {
    let base = json!({"peft_type":"LORA","target_modules":["q_proj"]});
    let with = |key: &str, value: Value| {
        let mut all = base.clone();
        all[key] = value;
        config_error(all)
    };
    for (key, value) in [
        ("use_qalora", json!(true)),
        ("use_bdlora", json!({"nblocks":1})),
        ("lora_bias", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("target_parameters", json!(["w"])),
        ("trainable_token_indices", json!([1])),
        ("layer_replication", json!([[0, 2]])),
        ("alora_invocation_tokens", json!([1])),
        ("ensure_weight_tying", json!(true)),
        ("arrow_config", json!({"top_k":3})),
    ] {
        assert_eq!(with(key, value), format!("{key} is not supported yet"));
    }
    assert_eq!(with("init_lora_weights", json!("mica")), "init_lora_weights \"mica\" is not supported yet");
    assert!(with("use_magic", json!(true)).starts_with("use_magic is not known"));
    assert!(with("magic_config", json!({"a":1})).starts_with("magic_config is not known"));
    assert_eq!(with("peft_type", json!("ADALORA")), "peft_type: \"ADALORA\" is not supported yet; LORA is");
    assert_eq!(with("r", json!(0)), "r: rank 0 is not in 1 ..= 65536");
    assert_eq!(with("r", json!(-4)), "r: -4 is not a whole number, 0 or more");
    assert_eq!(with("r", json!(4.5)), "r: 4.5 is not a whole number, 0 or more");
    assert_eq!(with("r", json!("8")), "r: \"8\" is not a whole number, 0 or more");
    assert_eq!(with("rank_pattern", json!({"q":0})), "rank_pattern: `q`: rank 0 is not in 1 ..= 65536");
    assert_eq!(with("alpha_pattern", json!({"q":"x"})), "alpha_pattern: `q`: \"x\" is not a number");
    assert_eq!(with("bias", json!("some")), "bias: `some` is not one of none, all, lora_only");
    assert_eq!(with("modules_to_save", json!("x")), "modules_to_save: \"x\" is not a list of names");
    assert_eq!(with("target_modules", Value::Null), "target_modules: is missing; name the modules, or all-linear");
    assert!(with("target_modules", json!({"a":1})).starts_with("target_modules: {\"a\":1} is not a list"));
    assert_eq!(config_error(json!([1])), "is not a JSON object");
    assert_eq!(config_error(json!({"target_modules":["q"]})), "peft_type: is missing; LORA is supported");
    assert!(read_config("c", "{\"r\":").unwrap_err().to_string().starts_with("c: EOF while parsing"));
}

const SMALL: &str = r#"{"peft_type":"LORA","target_modules":["q_proj"],"r":2}"#;

fn q(i: usize, part: &str) -> String {
    format!("model.layers.{i}.self_attn.q_proj.{part}")
}

fn q_tensors(host: &Tiny, change: impl Fn(&mut Vec<(String, Vec<usize>)>)) -> Vec<u8> {
    let mut list = Vec::new();
    for i in 0..2 {
        list.push((q(i, "lora_A.weight"), vec![2, 6]));
        list.push((q(i, "lora_B.weight"), vec![6, 2]));
    }
    change(&mut list);
    let list: Vec<(&str, &[usize])> = list.iter().map(|(k, s)| (k.as_str(), &s[..])).collect();
    tensors(&list, host)
}

#[test]
fn files_and_configuration_must_agree() {
    let host = Tiny::new(DType::F32);
    read(SMALL, &q_tensors(&host, |_| ()), &host).unwrap();
    let old = q_tensors(&host, |l| l.iter_mut().for_each(|(k, _)| *k = k.replace(".weight", ".default.weight")));
    assert_eq!(read(SMALL, &old, &host).unwrap().layers.len(), 2);
    let error = |config: &str, bytes: &[u8]| read(config, bytes, &host).unwrap_err().to_string();
    let key = |k: &str| format!("t.safetensors: tensor `base_model.model.{k}`");

    let missing = q_tensors(&host, |l| drop(l.remove(3)));
    let want = "is missing; target_modules of c.json selects `model.layers.1.self_attn.q_proj`";
    assert_eq!(error(SMALL, &missing), format!("{} {want}", key(&q(1, "lora_B.weight"))));

    let extra = q_tensors(&host, |l| l.push(("model.layers.0.self_attn.v_proj.lora_A.weight".into(), vec![2, 6])));
    let want = "has no place: target_modules of c.json does not select `model.layers.0.self_attn.v_proj` for it";
    assert_eq!(error(SMALL, &extra), format!("{} {want}", key("model.layers.0.self_attn.v_proj.lora_A.weight")));

    let unknown = q_tensors(&host, |l| l.push((q(7, "lora_A.weight"), vec![2, 6])));
    let e = error(SMALL, &unknown);
    assert!(
        e.starts_with(&format!(
            "{}: the model has no module `{}`",
            key(&q(7, "lora_A.weight")),
            "model.layers.7.self_attn.q_proj"
        )),
        "{e}"
    );

    let rank = q_tensors(&host, |l| l[0].1 = vec![3, 6]);
    assert_eq!(
        error(SMALL, &rank),
        format!("{} has rank 3 (shape [3, 6]), but c.json says 2", key(&q(0, "lora_A.weight")))
    );
    let shape = q_tensors(&host, |l| l[0].1 = vec![2, 5]);
    assert_eq!(error(SMALL, &shape), format!("{}: shape [2, 5], expected [2, 6]", key(&q(0, "lora_A.weight"))));

    let twice = q_tensors(&host, |l| l.push((q(0, "lora_A.default.weight"), vec![2, 6])));
    assert!(error(SMALL, &twice).contains("says the same as"));
    let dora = q_tensors(&host, |l| l.push((q(0, "lora_magnitude_vector"), vec![6])));
    assert!(error(SMALL, &dora).contains("use_dora of c.json does not select"));
    let with_dora = SMALL.replace('{', "{\"use_dora\":true,");
    assert!(
        error(&with_dora, &q_tensors(&host, |_| ())).contains("lora_magnitude_vector` is missing; use_dora of c.json")
    );
    let on_embedding = with_dora.replace("q_proj", "embed_tokens");
    assert!(error(&on_embedding, &q_tensors(&host, |_| ())).contains("`model.embed_tokens` is an embedding"));
    let nothing = SMALL.replace("q_proj", "k_proj");
    assert!(error(&nothing, &tensors(&[], &host)).starts_with("c.json: target_modules: k_proj matches no module"));
    assert!(error(SMALL, b"x").starts_with("t.safetensors: "));
    let whole = q_tensors(&host, |l| l.push(("model.norm.weight".into(), vec![6])));
    assert!(error(SMALL, &whole).ends_with("modules_to_save of c.json does not select `model.norm` for it"));
}

#[test]
fn partial_targets_of_files_are_accepted() {
    let host = Tiny::new(DType::F32);
    let config = r#"{"peft_type":"LORA","target_modules":["1.self_attn.q_proj","gone"],"r":2,"rank_pattern":{"gone":3},
        "modules_to_save":["classifier"]}"#;
    let bytes = q_tensors(&host, |l| drop(l.drain(..2)));
    assert_eq!(read(config, &bytes, &host).unwrap().layers.len(), 1);
}

#[test]
fn the_bases_own_weights_are_compared() {
    for storage in [DType::F32, DType::BF16] {
        let host = Tiny::new(storage);
        let c = r#"{"peft_type":"LORA","target_modules":["embed_tokens"],"r":1}"#;
        let device = crate::Host::device(&host);
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, device).unwrap();
        let key = |k: &str| format!("base_model.model.{k}");
        let mut list = vec![
            (key("model.embed_tokens.lora_embedding_A"), zeros(&[1, VOCAB])),
            (key("model.embed_tokens.lora_embedding_B"), zeros(&[6, 1])),
        ];
        let mut values: Vec<f32> = host.embed.weight().to_f64().unwrap().into_iter().map(|x| x as f32).collect();
        let base = Tensor::from_slice(&values, &[VOCAB, 6], device).unwrap();
        list.push((key("model.embed_tokens.base_layer.weight"), base.clone()));
        list.push((key("lm_head.weight"), base));
        let a = read(c, &write_tensors(&list).unwrap(), &host).unwrap();
        assert_eq!(a.parameters().len(), 2);
        values[7] += 0.5;
        list[2].1 = Tensor::from_slice(&values, &[VOCAB, 6], device).unwrap();
        assert_eq!(
            read(c, &write_tensors(&list).unwrap(), &host).unwrap_err().to_string(),
            "t.safetensors: tensor `base_model.model.model.embed_tokens.base_layer.weight` differs from the model's weights \
             at element 7: the adapter belongs to another base"
        );
        list[2].1 = zeros(&[VOCAB + 1, 6]);
        let e = read(c, &write_tensors(&list).unwrap(), &host).unwrap_err().to_string();
        assert!(e.ends_with("has shape [12, 6], the model's has [11, 6]"), "{e}");
    }
}

#[test]
fn ambiguous_patterns_are_refused() {
    let host = Tiny::new(DType::F32);
    let bytes = q_tensors(&host, |_| ());
    let c = |pattern: &str| format!("{{\"alpha_pattern\":{pattern},{}", &SMALL[1..]);
    let e = read(&c(r#"{"q_proj":1,"0.self_attn.q_proj":2}"#), &bytes, &host).unwrap_err().to_string();
    assert!(e.starts_with("c.json: alpha_pattern: several keys match `model.layers.0.self_attn.q_proj`"), "{e}");
    let a = read(&c(r#"{"0.self_attn.q_proj":2,"q_proj":1}"#), &bytes, &host).unwrap();
    assert_eq!(a.layers["model.layers.0.self_attn.q_proj"].scale, 1.0);
    assert_eq!(a.layers["model.layers.1.self_attn.q_proj"].scale, 0.5);
}

#[test]
fn older_files_lack_the_biases_of_lora_only() {
    let host = Tiny::new(DType::F32);
    let c = LoraConfig { bias: Bias::LoraOnly, ..config("v_proj") };
    let a = Adapter::create(&host, "x", c, 0).unwrap();
    let (text, _) = to_files(&a, None).unwrap();
    let without: Vec<_> = a.parameters().into_iter().filter(|(k, _)| !k.ends_with("bias")).collect();
    let b = read(&text, &write_tensors(&without).unwrap(), &host).unwrap();
    assert!(b.biases.is_empty() && b.layers.len() == 2);
    let plain: Vec<_> = a.parameters().into_iter().map(|(k, t)| (k.replace("base_layer.", ""), t)).collect();
    same(&a, &read(&text, &write_tensors(&plain).unwrap(), &host).unwrap());
}

#[test]
fn a_missing_file_is_named() {
    let host = Tiny::new(DType::F32);
    let dir = tempfile::tempdir().unwrap();
    let e = load(dir.path(), &host).unwrap_err().to_string();
    assert!(e.contains("adapter_config.json: No such file"), "{e}");
    std::fs::write(dir.path().join(CONFIG_FILE), SMALL).unwrap();
    let e = load(dir.path(), &host).unwrap_err().to_string();
    assert!(e.contains("adapter_model.safetensors: No such file"), "{e}");
    std::fs::write(dir.path().join("adapter_model.bin"), "x").unwrap();
    assert!(load(dir.path(), &host).unwrap_err().to_string().contains("adapter_model.bin is a pickle"));
    std::fs::write(dir.path().join(CONFIG_FILE), [0xff, 0xfe]).unwrap();
    assert!(load(dir.path(), &host).unwrap_err().to_string().contains("adapter_config.json: invalid utf-8"));
}

/// JSON of any shape, with the keys that matter.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        r"[a-z().*\[\]|+?{}0-9]{0,10}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((".{0,6}", inner), 0..4).prop_map(|v| Value::Object(v.into_iter().collect())),
        ]
    })
}

const KEYS: [&str; 14] = [
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "bias",
    "init_lora_weights",
    "use_dora",
    "auto_mapping",
];

proptest! {
    #[test]
    fn configurations_do_not_panic(text in ".{0,80}", key in 0..KEYS.len(), value in any_json()) {
        let host = Tiny::new(DType::F32);
        let bytes = q_tensors(&host, |_| ());
        let _ = read(&text, &bytes, &host);
        let mut all: Value = serde_json::from_str(SMALL).unwrap();
        all[KEYS[key]] = value;
        let _ = read(&all.to_string(), &bytes, &host);
    }

    #[test]
    fn damaged_adapters_do_not_panic(edits in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..4)) {
        let host = Tiny::new(DType::F32);
        let mut bytes = q_tensors(&host, |_| ());
        for (at, byte) in edits {
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
        let _ = read(SMALL, &bytes, &host);
    }
}
