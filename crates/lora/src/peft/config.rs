//! `adapter_config.json`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::fields::Fields;
use crate::{Bias, Error, Init, LoraConfig, Method, Result, Targets};

/// A configuration, and the order of its patterns' keys in the file, in which PEFT tries them.
pub(super) struct Parsed {
    pub config: LoraConfig,
    pub rank_order: Vec<String>,
    pub alpha_order: Vec<String>,
}

/// Features that change what an adapter computes or trains, and that do not exist here.
const UNSUPPORTED: [&str; 14] = [
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "megatron_config",
    "velora_config",
    "monteclora_config",
    "kasa_config",
    "arrow_config",
    "ensure_weight_tying",
];

/// Settings of inits that `init_lora_weights` did not ask for (it is checked itself), or of PEFT's own run time.
const HARMLESS: [&str; 6] =
    ["loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config", "auto_mapping"];

/// Reads the file's content, with PEFT's defaults for what is missing.
pub(super) fn parse(file: &str, json: &str) -> Result<Parsed> {
    let value: Value = serde_json::from_str(json).map_err(|e| Error::file(file, e.to_string()))?;
    let Value::Object(map) = value else {
        return Err(Error::file(file, "is not a JSON object"));
    };
    parse_map(map).map_err(|e| e.in_file(file))
}

fn parse_map(map: Map<String, Value>) -> Result<Parsed> {
    let mut fields = Fields(map);
    match fields.take("peft_type") {
        Some(Value::String(s)) if s.eq_ignore_ascii_case("lora") => {}
        None => return Err(Error::config("peft_type", "is missing; LORA is supported")),
        Some(other) => return Err(Error::config("peft_type", format!("{other} is not supported yet; LORA is"))),
    }
    refuse_unsupported(&fields.0)?;
    fields.take("fan_in_fan_out");
    let (rank_pattern, rank_order) = fields.pattern("rank_pattern", Fields::whole)?;
    let (alpha_pattern, alpha_order) = fields.pattern("alpha_pattern", Fields::number)?;
    let config = LoraConfig {
        r: fields.optional("r", Fields::whole)?.unwrap_or(8),
        alpha: fields.optional("lora_alpha", Fields::number)?.unwrap_or(8.0),
        dropout: fields.optional("lora_dropout", Fields::number)?.unwrap_or(0.0),
        use_rslora: fields.optional("use_rslora", Fields::truth)?.unwrap_or(false),
        use_dora: fields.optional("use_dora", Fields::truth)?.unwrap_or(false),
        freeze_a: false,
        targets: fields
            .optional("target_modules", targets)?
            .ok_or_else(|| Error::config("target_modules", "is missing; name the modules, or all-linear"))?,
        exclude: fields.optional("exclude_modules", exclude)?.filter(|e| *e != Targets::List(Vec::new())),
        layers_to_transform: fields.optional("layers_to_transform", numbers)?,
        layers_pattern: fields.optional("layers_pattern", Fields::string_or_strings)?,
        rank_pattern,
        alpha_pattern,
        bias: match fields.optional("bias", Fields::string)? {
            Some(name) => name.parse()?,
            None => Bias::None,
        },
        modules_to_save: fields.optional("modules_to_save", Fields::strings)?.unwrap_or_default(),
        init: fields.optional("init_lora_weights", init)?.unwrap_or_default(),
        method: Method::Lora,
        fan_in_fan_out: false,
        allow_partial: false,
        extra: fields.0,
    };
    config.validate()?;
    Ok(Parsed { config, rank_order, alpha_order })
}

/// Known features that are missing here, and unknown keys that look like one.
fn refuse_unsupported(map: &Map<String, Value>) -> Result<()> {
    for (key, value) in map {
        if !is_set(value) {
            continue;
        }
        if UNSUPPORTED.contains(&key.as_str()) {
            return Err(Error::adapter(format!("{key} is not supported yet")));
        }
        let switch = key.starts_with("use_") && !["use_rslora", "use_dora"].contains(&key.as_str());
        let settings = key.ends_with("_config") && value.is_object() && !HARMLESS.contains(&key.as_str());
        if switch || settings {
            return Err(Error::adapter(format!("{key} is not known and may change the result; it is not supported")));
        }
    }
    Ok(())
}

/// What Python calls true.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

fn targets(field: &str, value: &Value) -> Result<Targets> {
    match value {
        Value::String(s) if s.eq_ignore_ascii_case("all-linear") => Ok(Targets::AllLinear),
        Value::String(s) => Ok(Targets::Regex(s.clone())),
        _ => Ok(Targets::List(Fields::strings(field, value)?)),
    }
}

fn exclude(field: &str, value: &Value) -> Result<Targets> {
    match value {
        Value::String(s) if s.is_empty() => Ok(Targets::List(Vec::new())),
        Value::String(s) => Ok(Targets::Regex(s.clone())),
        _ => Ok(Targets::List(Fields::strings(field, value)?)),
    }
}

fn numbers(field: &str, value: &Value) -> Result<Vec<usize>> {
    match value {
        Value::Array(list) => list.iter().map(|v| Fields::whole(field, v)).collect(),
        _ => Ok(vec![Fields::whole(field, value)?]),
    }
}

/// Inits that split the base make PEFT change the base again at load: such a file belongs to another base. `orthogonal`
/// and `eva` leave the base alone, and are history once the tensors are there.
fn init(field: &str, value: &Value) -> Result<Init> {
    match value {
        Value::Bool(true) => Ok(Init::Default),
        Value::Bool(false) => Ok(Init::BothRandom),
        Value::String(s) if s.eq_ignore_ascii_case("gaussian") => Ok(Init::Gaussian),
        Value::String(s) if s == "orthogonal" || s == "eva" => Ok(Init::Default),
        Value::String(s) if splits_the_base(s) => Err(Error::adapter(format!(
            "{field} \"{s}\": the adapter belongs to a residual base, from which PEFT took the adapter's start away, and not \
             to the model's own weights; `lowrank convert` carries it over, given the residual base or the adapter's start"
        ))),
        other => Err(Error::adapter(format!("{field} {other} is not supported yet"))),
    }
}

/// PiSSA with its iterations (`pissa_niter_4`), and the others.
pub(super) fn splits_the_base(init: &str) -> bool {
    let init = init.to_ascii_lowercase();
    init.starts_with("pissa") || ["olora", "corda", "loftq", "lora_ga"].contains(&&*init)
}

/// The file's content: keys sorted, two spaces, as PEFT writes it.
pub(super) fn render(config: &LoraConfig, base: Option<&str>) -> Result<String> {
    let alphas: BTreeMap<&String, Value> = config.alpha_pattern.iter().map(|(k, &a)| (k, number(a))).collect();
    let mut all: BTreeMap<String, Value> = config.extra.iter().map(|(k, v)| (k.clone(), sorted(v))).collect();
    let mut put = |key: &str, value: Value| drop(all.insert(key.to_string(), value));
    put("peft_type", json!("LORA"));
    put("r", json!(config.r));
    put("lora_alpha", number(config.alpha));
    put("lora_dropout", json!(config.dropout));
    put("bias", json!(config.bias.to_string()));
    put("use_rslora", json!(config.use_rslora));
    put("use_dora", json!(config.use_dora));
    put("fan_in_fan_out", json!(config.fan_in_fan_out));
    put("init_lora_weights", if config.init == Init::Gaussian { json!("gaussian") } else { json!(true) });
    put("rank_pattern", json!(config.rank_pattern));
    put("alpha_pattern", json!(alphas));
    put("target_modules", names(&config.targets));
    put("exclude_modules", config.exclude.as_ref().map_or(Value::Null, names));
    // PEFT refuses even empty ones beside a regular expression.
    put("layers_to_transform", json!(config.layers_to_transform.as_ref().filter(|l| !l.is_empty())));
    put("layers_pattern", json!(config.layers_pattern.as_ref().filter(|l| !l.is_empty())));
    let saved = &config.modules_to_save;
    put("modules_to_save", if saved.is_empty() { Value::Null } else { json!(saved) });
    if let Some(base) = base {
        put("base_model_name_or_path", json!(base));
    }
    for (key, default) in
        [("base_model_name_or_path", Value::Null), ("task_type", json!("CAUSAL_LM")), ("inference_mode", json!(true))]
    {
        all.entry(key.to_string()).or_insert(default);
    }
    serde_json::to_string_pretty(&all).map_err(|e| Error::config("adapter_config.json", e.to_string()))
}

/// A whole number without a point: PEFT's α is an integer.
fn number(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 9e15 { json!(x as i64) } else { json!(x) }
}

fn names(targets: &Targets) -> Value {
    match targets {
        Targets::AllLinear => json!("all-linear"),
        Targets::Regex(pattern) => json!(pattern),
        Targets::List(list) => json!(list),
    }
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let map: BTreeMap<&String, Value> = map.iter().map(|(k, v)| (k, sorted(v))).collect();
            json!(map)
        }
        Value::Array(list) => list.iter().map(sorted).collect(),
        other => other.clone(),
    }
}
