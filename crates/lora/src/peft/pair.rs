//! An adapter with its init beside it, for training on: PEFT's two files, with `peft_type` `LOWRANK_PAIR` so that nothing
//! mistakes A and B alone for an adapter of the base, and `adapter_init.safetensors` with A₀ and B₀ under the same keys.
//!
//! The base is recognised by a hash of each targeted weight as it is in memory, so that an adapter of one base is not
//! applied to another.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::files::{CONFIG_FILE, TENSORS_FILE};
use super::{config, read};
use crate::files::{io_error, write_atomically};
use crate::hash::Fnv;
use crate::scalar::host_bytes;
use crate::split::offsets;
use crate::{Adapter, Error, Host, Init, LoraConfig, Offset, Result, write_tensors};

/// Name of the file with A₀ and B₀.
pub const INIT_FILE: &str = "adapter_init.safetensors";
const TYPE: &str = "LOWRANK_PAIR";
const HASHES: &str = "lowrank_base_hashes";

/// Writes an adapter whose init split the base as (adapter, init), for the host it was made for. See
/// [`save`](super::save) for the rest.
pub fn save_pair(adapter: &Adapter, dir: &Path, base: Option<&str>, host: &dyn Host) -> Result<()> {
    if !adapter.is_split() {
        return Err(Error::adapter(format!(
            "adapter {}: its init did not split the base: there is no pair",
            adapter.name
        )));
    }
    let init = write_tensors(&offsets(adapter)?.tensors())?;
    let tensors = write_tensors(&adapter.tensors())?;
    let text = config::render(&adapter.config, base)?;
    let mut json: Map<String, Value> =
        serde_json::from_str(&text).map_err(|e| Error::file(CONFIG_FILE, e.to_string()))?;
    json.insert("peft_type".into(), json!(TYPE));
    json.insert("init_lora_weights".into(), json!(adapter.config.init.to_string()));
    json.insert(HASHES.into(), json!(hashes(adapter, host)?));
    let sorted: BTreeMap<&String, &Value> = json.iter().collect();
    let text = serde_json::to_string_pretty(&sorted).map_err(|e| Error::file(CONFIG_FILE, e.to_string()))?;
    std::fs::create_dir_all(dir).map_err(|e| io_error(dir, e))?;
    write_atomically(&dir.join(INIT_FILE), &init)?;
    write_atomically(&dir.join(TENSORS_FILE), &tensors)?;
    write_atomically(&dir.join(CONFIG_FILE), text.as_bytes())
}

/// Whether a configuration file is a pair's.
pub(super) fn is_pair(config: &str) -> bool {
    serde_json::from_str::<Value>(config).is_ok_and(|v| v.get("peft_type").and_then(Value::as_str) == Some(TYPE))
}

/// The adapter, with its offsets. Files come with their names for messages.
pub(super) fn load(
    name: &str,
    [config_file, tensors_file, init_file]: [&str; 3],
    config: &str,
    [tensors, init]: [&[u8]; 2],
    host: &dyn Host,
) -> Result<Adapter> {
    let bad = |detail: String| Error::file(config_file, detail);
    let (mut json, hashes_in_file, init_name) = parts(config_file, config)?;
    let plain = Value::Object(json.clone()).to_string();
    let mut adapter = read::adapter(name, config_file, &plain, tensors_file, tensors, host)?;
    // The file of the init holds pairs only.
    json.insert("modules_to_save".into(), Value::Null);
    json.insert("bias".into(), json!("none"));
    let mut start = read::adapter(name, config_file, &Value::Object(json).to_string(), init_file, init, host)?;
    for (layer, hash) in hashes(&adapter, host)? {
        if hashes_in_file.get(&layer) != Some(&hash) {
            let has = hashes_in_file.get(&layer).map_or("none", String::as_str);
            return Err(bad(format!(
                "belongs to another base: the weight of {layer} has the hash {hash}, the adapter was made for {has}"
            )));
        }
    }
    for (layer, pair) in &mut adapter.layers {
        let Some(o) = start.layers.remove(layer) else {
            return Err(bad(format!("{init_file} has no pair of {layer}")));
        };
        pair.offset = Some(Offset { a: o.a.detach(), b: o.b.detach().neg()? });
    }
    adapter.config.init = init_name;
    Ok(adapter)
}

/// The configuration alone.
pub(super) fn config(file: &str, text: &str) -> Result<LoraConfig> {
    let (json, _, init) = parts(file, text)?;
    Ok(LoraConfig { init, ..config::parse(file, &Value::Object(json).to_string())?.config })
}

type Parts = (Map<String, Value>, BTreeMap<String, String>, Init);

/// The configuration as that of a plain adapter, the hashes, and the init.
fn parts(file: &str, text: &str) -> Result<Parts> {
    let bad = |detail: String| Error::file(file, detail);
    let mut json: Map<String, Value> = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    let hashes = match json.shift_remove(HASHES) {
        Some(v) => serde_json::from_value(v).map_err(|e| bad(format!("{HASHES}: {e}")))?,
        None => return Err(bad(format!("{HASHES} is missing"))),
    };
    let init = match json.get("init_lora_weights") {
        Some(Value::String(s)) => s.parse().map_err(|e: Error| e.in_file(file))?,
        _ => return Err(bad("init_lora_weights is not the name of an init".into())),
    };
    json.insert("peft_type".into(), json!("LORA"));
    json.insert("init_lora_weights".into(), json!(true));
    Ok((json, hashes, init))
}

/// FNV-1a, 64 bits, of the dtype's name and the weight's bytes, by layer. It tells bases apart; it is no protection
/// against someone who wants two to look the same.
fn hashes(adapter: &Adapter, host: &dyn Host) -> Result<BTreeMap<String, String>> {
    let mut hashes = BTreeMap::new();
    let mut outcome = Ok(());
    host.visit(&mut |m| {
        if outcome.is_ok() && adapter.layers.contains_key(m.name()) {
            let w = m.base_weight();
            outcome = host_bytes(w).map(|bytes| {
                let mut hash = Fnv::default();
                hash.eat(w.dtype().name().as_bytes());
                hash.eat(&bytes);
                hashes.insert(m.name().to_string(), format!("{} {:016x}", w.dtype(), hash.0));
            });
        }
    });
    outcome.map(|()| hashes)
}
