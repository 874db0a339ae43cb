//! Hostile bytes for every file reader: never a panic or a huge allocation, and every error is one line that names the
//! file.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lowrank_core::{DType, Device, Tensor};
use lowrank_lora::{TensorFile, peft, write_tensors};
use lowrank_models::{Llama, LlamaConfig, Mlp, Tokenizer};
use lowrank_train::{DataOptions, Dataset, Format};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

const FILE: &str = "hostile.file";

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(root(path)).expect("a file of this repository")
}

fn cpu() -> Device {
    Device::from_name("cpu").expect("cpu")
}

/// A change to the bytes of a valid file.
#[derive(Clone, Debug)]
enum Damage {
    None,
    Truncate(prop::sample::Index),
    Set(Vec<(prop::sample::Index, u8)>),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    /// The first eight bytes: the length of safetensors' header.
    Length(u64),
    Replace(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        Just(Damage::None),
        at().prop_map(Damage::Truncate),
        vec((at(), any::<u8>()), 1..5).prop_map(Damage::Set),
        (at(), vec(any::<u8>(), 1..9)).prop_map(|(i, bytes)| Damage::Insert(i, bytes)),
        (at(), 1usize..40).prop_map(|(i, n)| Damage::Remove(i, n)),
        any::<u64>().prop_map(Damage::Length),
        (0u64..4000).prop_map(Damage::Length),
        vec(any::<u8>(), 0..100).prop_map(Damage::Replace),
    ]
}

/// Damage where it matters: within the first `head` bytes.
fn damaged(valid: &[u8], head: usize, damage: &Damage) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    let place = |i: &prop::sample::Index| i.index(head.min(valid.len()).max(1));
    match damage {
        Damage::None => {}
        Damage::Truncate(i) => bytes.truncate(i.index(valid.len() + 1)),
        Damage::Set(changes) => changes.iter().for_each(|(i, b)| bytes[place(i)] = *b),
        Damage::Insert(i, new) => drop(bytes.splice(place(i)..place(i), new.iter().copied())),
        Damage::Remove(i, n) => drop(bytes.drain(place(i)..(place(i) + n).min(valid.len()))),
        Damage::Length(n) => bytes[..8].copy_from_slice(&n.to_le_bytes()),
        Damage::Replace(new) => bytes.clone_from(new),
    }
    bytes
}

/// One line that names the file.
fn check_error(error: &dyn std::fmt::Display, files: &[&str]) -> Result<(), TestCaseError> {
    let text = error.to_string();
    prop_assert!(!text.contains('\n'), "more than one line: {text:?}");
    prop_assert!(files.iter().any(|file| text.contains(file)), "names no file: {text:?}");
    Ok(())
}

/// Any JSON, mostly what a number, a name or a list could be mistaken for.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2i64..300).prop_map(Value::from),
        any::<f64>().prop_map(|x| json!(x)),
        prop_oneof![Just(f64::MAX), Just(1e-320), Just(-1.0), Just(0.5)].prop_map(|x| json!(x)),
        "\\PC{0,12}".prop_map(Value::from),
        prop::sample::select(vec!["all-linear", ".*(", "(a|b)+$", "fc1", "none", "LORA", "llama", "silu"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec(("[a-z_0-9.]{1,8}", inner), 0..4).prop_map(|pairs| pairs.into_iter().collect::<Value>()),
        ]
    })
}

/// A valid JSON object with some of its fields, or new ones, replaced.
fn changed(valid: &Value, changes: &[(prop::sample::Index, Value)]) -> String {
    let mut json = valid.clone();
    if let Value::Object(map) = &mut json {
        let keys: Vec<String> = map.keys().cloned().collect();
        for (i, value) in changes {
            map.insert(keys[i.index(keys.len())].clone(), value.clone());
        }
    }
    json.to_string()
}

fn changes() -> impl Strategy<Value = Vec<(prop::sample::Index, Value)>> {
    vec((any::<prop::sample::Index>(), any_json()), 0..4)
}

/// Everything that can be asked of a tensor file.
fn use_tensor_file(bytes: &[u8]) -> Result<(), TestCaseError> {
    let file = match TensorFile::parse(FILE, bytes) {
        Ok(file) => file,
        Err(e) => return check_error(&e, &[FILE]),
    };
    let device = cpu();
    let names: Vec<String> = file.names().map(String::from).collect();
    for name in &names {
        prop_assert!(file.contains(name));
        let shape = file.shape(name).map(<[usize]>::to_vec);
        match shape {
            Err(e) => check_error(&e, &[FILE])?,
            Ok(shape) => {
                if let Err(e) = file.load(name, &shape, DType::F32, &device) {
                    check_error(&e, &[FILE])?;
                }
            }
        }
        if let Err(e) = file.dtype_name(name) {
            check_error(&e, &[FILE])?;
        }
        if let Err(e) = file.i64s(name) {
            check_error(&e, &[FILE])?;
        }
    }
    if let Err(e) = file.load("no such tensor", &[1], DType::F32, &device) {
        check_error(&e, &[FILE])?;
    }
    Ok(())
}

static SMALL_TENSORS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let device = cpu();
    let tensor = |n: usize| Tensor::from_f64(&vec![0.5; 2 * n], &[2, n], DType::F32, &device).expect("tensor");
    write_tensors(&[("a".into(), tensor(3)), ("b".into(), tensor(5))]).expect("bytes")
});

static ADAPTER_CONFIG: LazyLock<Value> = LazyLock::new(|| {
    let mut json: Value = serde_json::from_slice(&read("tests/golden/lora/adapter_config.json")).expect("json");
    json["target_modules"] = json!(["fc1"]);
    json["r"] = json!(2);
    json
});

static MODEL_CONFIG: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_slice(&read("crates/cli/data/glass-en/config.json")).expect("json"));

static MODEL_WEIGHTS: LazyLock<Vec<u8>> = LazyLock::new(|| read("crates/cli/data/glass-en/model.safetensors"));

static TOKENIZER: LazyLock<Vec<u8>> = LazyLock::new(|| read("crates/cli/data/glass-en/tokenizer.json"));

/// An adapter for `fc1` of a 3 → 4 → 2 perceptron.
static ADAPTER_TENSORS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let device = cpu();
    let tensor = |shape: [usize; 2]| Tensor::full(0.5, &shape, DType::F32, &device).expect("tensor");
    let key = |m: &str| format!("base_model.model.fc1.lora_{m}.weight");
    write_tensors(&[(key("A"), tensor([2, 3])), (key("B"), tensor([4, 2]))]).expect("bytes")
});

fn load_adapter(config: &str, tensors: &[u8]) -> Result<(), TestCaseError> {
    let mlp = Mlp::new(3, 4, 2, 1, &cpu(), DType::F32).expect("mlp");
    match peft::from_files("default", "adapter_config.json", config, FILE, tensors, &mlp) {
        Ok(_) => Ok(()),
        Err(e) => check_error(&e, &["adapter_config.json", FILE]),
    }
}

fn encode(text: &str, _special: bool) -> lowrank_lora::Result<Vec<u32>> {
    Ok(text.bytes().map(u32::from).collect())
}

fn read_data(bytes: &[u8], format: Format, seq_len: usize) -> Result<(), TestCaseError> {
    let options = DataOptions { seq_len, seed: 1, eos: Some(3), vocab_size: 256 };
    for read in [Dataset::from_bytes, Dataset::whole] {
        match read(FILE, bytes, format, &encode, &options) {
            Err(e) => check_error(&e, &[FILE])?,
            Ok(data) => {
                for example in data.train.iter().chain(&data.valid) {
                    prop_assert!(example.ids.len() == example.targets.len() && example.ids.len() <= seq_len);
                    prop_assert!(example.counted() > 0, "an example without a target");
                }
            }
        }
    }
    Ok(())
}

/// The undamaged files are read, so the properties below test more than the first check.
#[test]
fn valid_files_are_read() {
    assert!(TensorFile::parse(FILE, &SMALL_TENSORS).unwrap().load("a", &[2, 3], DType::F32, &cpu()).is_ok());
    let mlp = Mlp::new(3, 4, 2, 1, &cpu(), DType::F32).unwrap();
    peft::from_files("default", FILE, &ADAPTER_CONFIG.to_string(), FILE, &ADAPTER_TENSORS, &mlp).unwrap();
    LlamaConfig::from_json(FILE, &MODEL_CONFIG.to_string()).unwrap();
    Tokenizer::from_bytes(FILE, &TOKENIZER).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn safetensors_damaged(damage in damage()) {
        use_tensor_file(&damaged(&SMALL_TENSORS, 200, &damage))?;
    }

    #[test]
    fn safetensors_with_any_header(
        dtype in prop::sample::select(vec!["F32", "F64", "BF16", "F16", "I64", "U8", "F8_E4M3", "BOOL", "X"]),
        shape in vec(prop_oneof![0u64..4, any::<u64>()], 0..4),
        offsets in vec(prop_oneof![0u64..40, any::<u64>()], 2),
        second in vec(0u64..40, 2),
        data in vec(any::<u8>(), 0..64),
        extra in 0u64..3,
    ) {
        let header = json!({
            "t": {"dtype": dtype, "shape": shape, "data_offsets": offsets},
            "u": {"dtype": "F32", "shape": [2], "data_offsets": second},
        }).to_string();
        let mut bytes = (header.len() as u64 + extra).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        bytes.extend(data);
        use_tensor_file(&bytes)?;
    }

    #[test]
    fn adapter_config_with_any_values(changes in changes()) {
        load_adapter(&changed(&ADAPTER_CONFIG, &changes), &ADAPTER_TENSORS)?;
    }

    #[test]
    fn adapter_config_damaged(damage in damage()) {
        let bytes = damaged(ADAPTER_CONFIG.to_string().as_bytes(), 2000, &damage);
        load_adapter(&String::from_utf8_lossy(&bytes), &ADAPTER_TENSORS)?;
    }

    #[test]
    fn adapter_tensors_damaged(damage in damage()) {
        load_adapter(&ADAPTER_CONFIG.to_string(), &damaged(&ADAPTER_TENSORS, 400, &damage))?;
    }

    #[test]
    fn model_config_with_any_values(changes in changes()) {
        let config = changed(&MODEL_CONFIG, &changes);
        if let Err(e) = LlamaConfig::from_json(FILE, &config) {
            check_error(&e, &[FILE])?;
        }
        let weights = [("weights.file".to_string(), &MODEL_WEIGHTS[..])];
        if let Err(e) = Llama::from_files(FILE, &config, &weights, &cpu(), DType::F32) {
            check_error(&e, &[FILE, "weights.file"])?;
        }
    }

    #[test]
    fn model_config_damaged(damage in damage()) {
        let bytes = damaged(MODEL_CONFIG.to_string().as_bytes(), 1000, &damage);
        if let Err(e) = LlamaConfig::from_json(FILE, &String::from_utf8_lossy(&bytes)) {
            check_error(&e, &[FILE])?;
        }
    }

    #[test]
    fn tokenizer_damaged(damage in damage()) {
        match Tokenizer::from_bytes(FILE, &damaged(&TOKENIZER, 3000, &damage)) {
            Err(e) => check_error(&e, &[FILE])?,
            Ok(tokenizer) => {
                // Whether it knows the text does not matter, only that it answers.
                let ids = tokenizer.encode("To be, or not to be — \u{1F600}", true).unwrap_or_default();
                let _ = tokenizer.decode(&ids);
                let _ = tokenizer.decode(&[u32::MAX, 0]);
            }
        }
    }

    #[test]
    fn data_of_any_bytes(bytes in vec(any::<u8>(), 0..300), seq_len in 1usize..40) {
        read_data(&bytes, Format::Text, seq_len)?;
        read_data(&bytes, Format::Jsonl, seq_len)?;
    }

    #[test]
    fn data_of_any_json_lines(
        lines in vec(
            prop_oneof![
                any_json(),
                any_json().prop_map(|v| json!({"text": v})),
                "\\PC{0,20}".prop_map(|t| json!({"text": t})),
                ("\\PC{0,20}", "\\PC{0,20}").prop_map(|(p, c)| json!({"prompt": p, "completion": c})),
                (any_json(), any_json()).prop_map(|(p, c)| json!({"prompt": p, "completion": c})),
            ],
            0..12,
        ),
        seq_len in 1usize..40,
    ) {
        let text: Vec<String> = lines.iter().map(Value::to_string).collect();
        read_data(text.join("\n").as_bytes(), Format::Jsonl, seq_len)?;
    }

    #[test]
    fn data_of_good_json_lines(texts in vec("[a-z ]{4,30}", 3..12), seq_len in 1usize..40) {
        let lines: Vec<String> = texts.iter().map(|t| json!({"text": t}).to_string()).collect();
        let options = DataOptions { seq_len, seed: 1, eos: None, vocab_size: 256 };
        let data = Dataset::from_bytes(FILE, lines.join("\n").as_bytes(), Format::Jsonl, &encode, &options);
        prop_assert!(data.is_ok(), "{data:?}");
    }
}
