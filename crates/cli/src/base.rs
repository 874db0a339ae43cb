//! The model under an adapter: the built-in one or a directory.

use std::io::Read;
use std::path::{Path, PathBuf};

use lowrank_core::{DType, Device};
use lowrank_models::{Llama, LlamaConfig, Tokenizer};

use crate::failure::{Failure, Result};

const CONFIG: &str = include_str!("../data/glass-en/config.json");
const WEIGHTS: &[u8] = include_bytes!("../data/glass-en/model.safetensors");
const TOKENIZER: &[u8] = include_bytes!("../data/glass-en/tokenizer.json");

/// Name and content of the built-in text.
pub const HAMLET: (&str, &[u8]) = ("hamlet.txt (built in)", include_bytes!("../data/hamlet.txt"));

/// What adapters of the built-in model say in `base_model_name_or_path`.
const GLASS: &str = "lowrank/glass-en";

/// Longest header of a safetensors file, the format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// Files beside the weights that make a model directory complete.
const COMPANIONS: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
];

/// Where a model comes from.
pub enum Base {
    /// glass-en, inside this program.
    BuiltIn,
    /// A directory in Hugging Face's layout.
    Dir(PathBuf),
}

impl Base {
    /// `--model`, else the base that the adapter names, else the built-in model.
    pub fn of(model: Option<&Path>, adapter: Option<&Path>) -> Result<Self> {
        if let Some(dir) = model {
            return Ok(Base::Dir(dir.to_path_buf()));
        }
        // A GGUF adapter does not say what its base is.
        let Some(adapter) = adapter.filter(|a| !crate::args::is_gguf(a)) else { return Ok(Base::BuiltIn) };
        match base_of_adapter(adapter)?.as_deref() {
            None | Some("" | GLASS) => Ok(Base::BuiltIn),
            Some(name) if Path::new(name).is_dir() => Ok(Base::Dir(name.into())),
            Some(name) => Err(Failure::new(format!(
                "{}: base_model_name_or_path is {name}, which is no directory here; give the model with --model DIR",
                adapter.join("adapter_config.json").display()
            ))),
        }
    }

    /// Name or path, as adapters record it.
    pub fn name(&self) -> String {
        match self {
            Base::BuiltIn => GLASS.into(),
            Base::Dir(dir) => dir.display().to_string(),
        }
    }

    /// The model with its matrices stored as `dtype`; none: bf16 if they are stored so, else f32.
    pub fn load(&self, device: &Device, dtype: Option<DType>) -> Result<Llama> {
        Ok(match self {
            Base::BuiltIn => {
                let weights = [("model.safetensors (built in)".to_string(), WEIGHTS)];
                let dtype = dtype.unwrap_or(DType::F32);
                Llama::from_files("config.json (built in)", CONFIG, &weights, device, dtype)?
            }
            Base::Dir(dir) => Llama::load(dir, device, dtype)?,
        })
    }

    /// The tokenizer, checked to fit the model.
    pub fn tokenizer(&self, config: &LlamaConfig) -> Result<Tokenizer> {
        Ok(match self {
            Base::BuiltIn => {
                let tokenizer = Tokenizer::from_bytes("tokenizer.json (built in)", TOKENIZER)?;
                tokenizer.check_fits(config)?;
                tokenizer
            }
            Base::Dir(dir) => Tokenizer::load_for(dir, config)?,
        })
    }

    /// The tokenizer's and other small files that go along with the weights: name and content.
    pub fn companions(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let Base::Dir(dir) = self else { return Ok(vec![(COMPANIONS[0], TOKENIZER.to_vec())]) };
        let mut files = Vec::new();
        for name in COMPANIONS {
            let path = dir.join(name);
            if path.exists() {
                files.push((name, lowrank_lora::files::read(&path)?));
            }
        }
        Ok(files)
    }

    /// The dtype in which the files store matrices.
    pub fn stored_dtype(&self) -> Result<DType> {
        let (file, header) = match self {
            Base::BuiltIn => ("model.safetensors (built in)".to_string(), header(WEIGHTS)),
            Base::Dir(dir) => {
                let path = first_weights(dir)?;
                (path.display().to_string(), std::fs::File::open(&path).and_then(header))
            }
        };
        let header = header.map_err(|e| Failure::new(format!("{file}: header: {e}")))?;
        let name = header.as_object().into_iter().flatten().find_map(|(key, entry)| {
            if key == "__metadata__" || entry["shape"].as_array()?.len() != 2 { None } else { entry["dtype"].as_str() }
        });
        match name {
            Some("F32" | "F64") => Ok(DType::F32),
            Some("BF16") => Ok(DType::BF16),
            Some("F16") => Ok(DType::F16),
            Some(other) => Err(Failure::new(format!("{file}: dtype {other} is not supported; F32, BF16 and F16 are"))),
            None => Err(Failure::new(format!("{file}: holds no matrix"))),
        }
    }
}

/// The single file of weights, or the first shard.
fn first_weights(dir: &Path) -> Result<PathBuf> {
    let single = dir.join("model.safetensors");
    if single.exists() {
        return Ok(single);
    }
    let entries = std::fs::read_dir(dir).map_err(|e| Failure::new(format!("{}: {e}", dir.display())))?;
    let shards =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "safetensors"));
    shards.min().ok_or_else(|| Failure::new(format!("{}: has no *.safetensors", dir.display())))
}

/// The JSON header of a safetensors file. Whoever reads tensors checks it; here only dtypes are looked up.
fn header(mut file: impl Read) -> std::io::Result<serde_json::Value> {
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length).min(MAX_HEADER)).read_to_end(&mut header)?;
    Ok(serde_json::from_slice(&header)?)
}

fn base_of_adapter(dir: &Path) -> Result<Option<String>> {
    let path = dir.join("adapter_config.json");
    let file = path.display();
    let bytes = lowrank_lora::files::read(&path)?;
    let config: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| Failure::new(format!("{file}: not JSON: {e}")))?;
    Ok(config.get("base_model_name_or_path").and_then(|v| v.as_str()).map(str::to_string))
}
