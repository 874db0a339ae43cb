//! From a directory, or from bytes, to the tensors of a model. The only place here that touches the file system.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Component, Path};

use lowrank_core::{DType, Device, Tensor};
use lowrank_lora::TensorFile;
use memmap2::Mmap;
use serde_json::Value;

use super::fields::Fields;
use crate::{Error, Result, in_file};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a model, in one file or several, each to be taken once.
pub(crate) struct Weights<'a> {
    files: Vec<TensorFile<'a>>,
    names: Vec<&'a str>,
    /// Which file has a tensor.
    places: BTreeMap<String, usize>,
    taken: BTreeSet<String>,
}

impl<'a> Weights<'a> {
    /// From (name for messages, safetensors bytes) of every file.
    pub(crate) fn parse(files: &'a [(String, &'a [u8])]) -> Result<Self> {
        let mut weights =
            Weights { files: Vec::new(), names: Vec::new(), places: BTreeMap::new(), taken: BTreeSet::new() };
        for (i, (name, bytes)) in files.iter().enumerate() {
            let file = TensorFile::parse(name, bytes)?;
            for tensor in file.names() {
                if let Some(other) = weights.places.insert(tensor.to_string(), i) {
                    return Err(in_file(name, format!("{tensor} is also in {}", files[other].0)));
                }
            }
            weights.files.push(file);
            weights.names.push(name);
        }
        Ok(weights)
    }

    /// A tensor of this shape, converted to `dtype`, named after itself.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(&i) = self.places.get(name) else {
            let file = if self.names.is_empty() { "the model's files".to_string() } else { self.names.join(", ") };
            return Err(in_file(&file, format!("tensor {name} {shape:?} is missing")));
        };
        self.taken.insert(name.to_string());
        Ok(self.files[i].load(name, shape, dtype, device)?.named(name))
    }

    /// Fails on a tensor that nobody took, unless it is one that may lie around.
    pub(crate) fn finish(&self, harmless: impl Fn(&str) -> bool) -> Result<()> {
        match self.places.iter().find(|(name, _)| !self.taken.contains(*name) && !harmless(name)) {
            None => Ok(()),
            Some((name, &i)) => {
                let shape = self.files[i].shape(name)?;
                Err(in_file(self.names[i], format!("tensor {name} {shape:?} does not belong to this model")))
            }
        }
    }

    /// What to store matrices as if nobody says: bf16 if all of them are, else f32.
    pub(crate) fn natural_dtype(&self) -> Result<DType> {
        for (name, &i) in &self.places {
            if self.files[i].shape(name)?.len() == 2 && self.files[i].dtype_name(name)? != "BF16" {
                return Ok(DType::F32);
            }
        }
        Ok(DType::BF16)
    }
}

/// Runs `f` with the name and text of a directory's `config.json` and its safetensors files, which are mapped, not read.
pub(crate) fn with_directory<T>(dir: &Path, f: impl FnOnce(&str, &str, &[(String, &[u8])]) -> Result<T>) -> Result<T> {
    let config_path = dir.join("config.json");
    let config = fs::read_to_string(&config_path).map_err(|e| io(&config_path, e))?;
    let mut maps = Vec::new();
    for name in weight_files(dir)? {
        let path = dir.join(name);
        let file = File::open(&path).map_err(|e| io(&path, e))?;
        // SAFETY: the map is private and read-only, its bytes are copied into tensors before it is dropped, and any
        // bytes are valid u8; a file cut short by another process meanwhile raises a signal, as for every mapping.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| io(&path, e))?;
        maps.push((path.display().to_string(), map));
    }
    let weights: Vec<(String, &[u8])> = maps.iter().map(|(name, map)| (name.clone(), &map[..])).collect();
    f(&config_path.display().to_string(), &config, &weights)
}

/// The names of the files with the weights.
fn weight_files(dir: &Path) -> Result<Vec<String>> {
    let shown = dir.display().to_string();
    if dir.join(SINGLE).exists() {
        return Ok(vec![SINGLE.to_string()]);
    }
    let index = dir.join(INDEX);
    if index.exists() {
        let json = fs::read_to_string(&index).map_err(|e| io(&index, e))?;
        return shards(&index.display().to_string(), &json);
    }
    let entries = fs::read_dir(dir).map_err(|e| io(dir, e))?;
    let has_bin = entries.filter_map(|e| e.ok()).any(|e| {
        let name = e.file_name();
        let ext = Path::new(&name).extension().and_then(|e| e.to_str());
        matches!(ext, Some("bin" | "pt" | "pth"))
    });
    let detail = if has_bin {
        format!("has PyTorch weights only; safetensors are needed ({SINGLE}, or shards with {INDEX})")
    } else {
        format!("has neither {SINGLE} nor {INDEX}")
    };
    Err(in_file(&shown, detail))
}

/// The distinct files of an index's `weight_map`. They must lie beside the index.
fn shards(file: &str, json: &str) -> Result<Vec<String>> {
    let value: Value = serde_json::from_str(json).map_err(|e| in_file(file, format!("not JSON: {e}")))?;
    let fields = Fields::new(file, &value)?;
    let Some(Value::Object(map)) = fields.get("weight_map") else {
        return Err(fields.error("weight_map", "is missing or not an object"));
    };
    let mut names = BTreeSet::new();
    for (tensor, shard) in map {
        match shard.as_str() {
            Some(name) if is_plain_name(name) => names.insert(name.to_string()),
            _ => {
                let detail = format!("{tensor}: {shard} is not the name of a .safetensors file beside the index");
                return Err(fields.error("weight_map", detail));
            }
        };
    }
    if names.is_empty() {
        return Err(fields.error("weight_map", "is empty"));
    }
    Ok(names.into_iter().collect())
}

fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let single = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    single && name.ends_with(".safetensors") && !name.contains(['/', '\\', ':']) && !name.contains("..")
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io { file: path.display().to_string(), source }
}
