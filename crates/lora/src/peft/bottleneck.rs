//! Bottleneck adapters in a directory like PEFT's, which has no such adapter: the same two files, with `peft_type`
//! `LOWRANK_BOTTLENECK` so that nothing else takes them for its own.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::config;
use crate::host::infos;
use crate::layer::Bottleneck;
use crate::peft::keys;
use crate::targets::{Lookup, select};
use crate::{Adapter, Error, Host, LoraConfig, Method, Result, TensorFile, write_tensors};

const TYPE: &str = "LOWRANK_BOTTLENECK";

/// Whether a configuration file is a bottleneck adapter's.
pub(super) fn is_bottleneck(config: &str) -> bool {
    serde_json::from_str::<Value>(config).is_ok_and(|v| v.get("peft_type").and_then(Value::as_str) == Some(TYPE))
}

/// Contents of the two files.
pub(super) fn to_files(adapter: &Adapter, base: Option<&str>) -> Result<(String, Vec<u8>)> {
    let bad = |e: serde_json::Error| Error::config("adapter_config.json", e.to_string());
    let mut json: BTreeMap<String, Value> =
        serde_json::from_str(&config::render(&adapter.config, base)?).map_err(bad)?;
    json.insert("peft_type".into(), json!(TYPE));
    Ok((serde_json::to_string_pretty(&json).map_err(bad)?, write_tensors(&adapter.tensors())?))
}

/// The configuration alone.
pub(super) fn config(file: &str, text: &str) -> Result<LoraConfig> {
    let mut json: Map<String, Value> = serde_json::from_str(text).map_err(|e| Error::file(file, e.to_string()))?;
    json.insert("peft_type".into(), json!("LORA"));
    let parsed = config::parse(file, &Value::Object(json).to_string())?.config;
    let config = LoraConfig { method: Method::Bottleneck, ..parsed };
    config.validate().map_err(|e| e.in_file(file))?;
    Ok(config)
}

/// The adapter, checked against the host: every targeted layer has its four tensors, and no tensor is left over.
pub(super) fn from_files(
    name: &str,
    [config_file, tensors_file]: [&str; 2],
    config: &str,
    tensors: &[u8],
    host: &dyn Host,
) -> Result<Adapter> {
    let config = self::config(config_file, config)?;
    let file = TensorFile::parse(tensors_file, tensors)?;
    let targeted = select(&infos(host), &config, false).map_err(|e| e.in_file(config_file))?.targeted;
    let ranks = Lookup::new("rank_pattern", &config.rank_pattern)?;
    let mut bottlenecks = BTreeMap::new();
    let mut known = Vec::new();
    for m in &targeted {
        if m.kind != crate::Kind::Linear {
            return Err(Error::file(config_file, format!("`{}`: a bottleneck behind an {}", m.name, m.kind)));
        }
        let (n, r) = (m.shape[0], ranks.get(&m.name).unwrap_or(config.r));
        let mut leaf = |part: &str, shape: &[usize]| {
            let key = keys::plain(&format!("{}.{part}", m.name));
            known.push(key.clone());
            if !file.names().any(|name| *name == *key) {
                return Err(Error::file(tensors_file, format!("`{key}` is missing")));
            }
            let got = file.shape(&key)?;
            if got != shape {
                return Err(Error::file(tensors_file, format!("`{key}` has shape {got:?}, the layer needs {shape:?}")));
            }
            Ok(file.load(&key, shape, host.dtype(), host.device())?.named(key).trainable()?)
        };
        let bottleneck = Bottleneck {
            down: leaf("bottleneck_down.weight", &[r, n])?,
            down_bias: leaf("bottleneck_down.bias", &[r])?,
            up: leaf("bottleneck_up.weight", &[n, r])?,
            up_bias: leaf("bottleneck_up.bias", &[n])?,
        };
        bottlenecks.insert(m.name.clone(), bottleneck);
    }
    if bottlenecks.is_empty() {
        let detail = format!("target_modules: {} matches no module of the model", config.targets);
        return Err(Error::file(config_file, detail));
    }
    if let Some(key) = file.names().find(|name| !known.iter().any(|k| *k == **name)) {
        return Err(Error::file(tensors_file, format!("`{key}` belongs to no targeted module")));
    }
    Ok(Adapter {
        name: name.to_string(),
        config,
        layers: BTreeMap::new(),
        bottlenecks,
        saved: BTreeMap::new(),
        biases: BTreeMap::new(),
    })
}
