//! An adapter's directory.

use std::io::ErrorKind;
use std::path::Path;

use super::{from_files, pair, to_files};
use crate::files::{io_error, read, write_atomically};
use crate::{Adapter, Error, Host, Result};

/// The configuration's name in an adapter's directory.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// The tensors' name in an adapter's directory.
pub const TENSORS_FILE: &str = "adapter_model.safetensors";

/// Writes an adapter straight into `dir` (made if missing; PEFT looks for one not called `default` in a sub-directory of
/// its name). Each file is replaced whole or not at all, the configuration last. `base` names the base model.
pub fn save(adapter: &Adapter, dir: &Path, base: Option<&str>) -> Result<()> {
    let (config, tensors) = to_files(adapter, base)?;
    std::fs::create_dir_all(dir).map_err(|e| io_error(dir, e))?;
    write_atomically(&dir.join(TENSORS_FILE), &tensors)?;
    write_atomically(&dir.join(CONFIG_FILE), config.as_bytes())
}

/// Reads the adapter in `dir` and checks it against the host (see [`from_files`]). It is called after the directory.
pub fn load(dir: &Path, host: &dyn Host) -> Result<Adapter> {
    let ([config_file, tensors_file], config, tensors) = read_files(dir)?;
    if pair::is_pair(&config) {
        let init_path = dir.join(pair::INIT_FILE);
        let names = [&*config_file, &tensors_file, &init_path.display().to_string()];
        return pair::load(&name_of(dir), names, &config, [&tensors, &read(&init_path)?], host);
    }
    from_files(&name_of(dir), &config_file, &config, &tensors_file, &tensors, host)
}

/// Names and contents of the configuration and the tensors.
pub(super) fn read_files(dir: &Path) -> Result<([String; 2], String, Vec<u8>)> {
    let (config_path, tensors_path) = (dir.join(CONFIG_FILE), dir.join(TENSORS_FILE));
    let config = String::from_utf8(read(&config_path)?)
        .map_err(|e| Error::file(config_path.display().to_string(), e.utf8_error().to_string()))?;
    let tensors = match read(&tensors_path) {
        Err(Error::Io { file, source })
            if source.kind() == ErrorKind::NotFound && dir.join("adapter_model.bin").exists() =>
        {
            return Err(Error::file(file, "is missing; adapter_model.bin is a pickle, which is not read"));
        }
        other => other?,
    };
    Ok(([config_path.display().to_string(), tensors_path.display().to_string()], config, tensors))
}

/// An adapter is called after its directory.
pub(super) fn name_of(dir: &Path) -> String {
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let legal = |c: char| if c == '.' || c == '/' || c == '\\' || c.is_control() { '_' } else { c };
    if name.is_empty() { "default".to_string() } else { name.chars().map(legal).collect() }
}
