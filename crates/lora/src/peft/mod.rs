//! PEFT's directory format: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! PEFT loads what is written here, and what PEFT wrote is loaded here. Configuration keys without meaning here are
//! kept and written back; features that would change the result and do not exist here are refused by name. What the
//! tensor file holds is compared with what the configuration says, in both directions.

mod bottleneck;
mod config;
mod fields;
mod files;
pub(crate) mod keys;
mod pair;
mod read;
mod residual;

pub use files::{CONFIG_FILE, TENSORS_FILE, load, save};
pub use pair::{INIT_FILE, save_pair};
pub use residual::{Split, Start, load_residual};

use crate::{Adapter, Host, LoraConfig, Result, write_tensors};

/// The contents of the configuration file and of the tensor file. `base` names the base model; without it, what the
/// configuration was loaded with stays. An adapter whose init split the base is written for the base as it is, see
/// [`Adapter::plain`].
pub fn to_files(adapter: &Adapter, base: Option<&str>) -> Result<(String, Vec<u8>)> {
    if !adapter.bottlenecks.is_empty() {
        return bottleneck::to_files(adapter, base);
    }
    let adapter = &adapter.plain()?;
    Ok((config::render(&adapter.config, base)?, write_tensors(&adapter.tensors())?))
}

/// An adapter from the contents of its two files (whose names are for messages), checked against the host: every
/// targeted layer has its pair, every tensor has its place, ranks and shapes agree. Tensors have the host's activation
/// dtype and collect gradients; the adapter is not attached.
///
/// Matching is PEFT's own, without the strictness of [`Adapter::create`]. A trained bias that the file lacks (older PEFT
/// did not write those of `lora_only`) stays the base's.
pub fn from_files(
    name: &str,
    config_file: &str,
    config: &str,
    tensors_file: &str,
    tensors: &[u8],
    host: &dyn Host,
) -> Result<Adapter> {
    if bottleneck::is_bottleneck(config) {
        return bottleneck::from_files(name, [config_file, tensors_file], config, tensors, host);
    }
    read::adapter(name, config_file, config, tensors_file, tensors, host)
}

/// A configuration file's content alone; `file` is for messages. What cannot be supported is refused by name.
pub fn read_config(file: &str, json: &str) -> Result<LoraConfig> {
    match json {
        _ if pair::is_pair(json) => pair::config(file, json),
        _ if bottleneck::is_bottleneck(json) => bottleneck::config(file, json),
        _ => Ok(config::parse(file, json)?.config),
    }
}

#[cfg(test)]
mod tests;
