//! Options that several commands share.

use std::path::{Path, PathBuf};

use clap::Args;
use lowrank_core::{DType, Device, Precision};
use lowrank_lora::{Adapter, gguf, peft};
use lowrank_models::{Llama, Tokenizer};
use lowrank_train::{DataOptions, Dataset, Format};

use crate::base::Base;
use crate::failure::{Failure, Result};
#[cfg(feature = "wgpu")]
use crate::show::complain;

/// Where and how to compute.
#[derive(Args)]
#[command(next_help_heading = "Device")]
pub struct DeviceArgs {
    /// cpu, cuda, wgpu (cuda:1, wgpu:1 for the second one), reference (plain loops in f64, slow) or auto
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub device: String,
    /// Threads of the CPU [default: one a core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// How products are computed: full, bf16x3, tf32 or bf16
    #[arg(long, value_name = "P", default_value = "full", value_parser = precision)]
    pub precision: Precision,
    /// Storage of activations: f32, or bf16 for half the memory
    #[arg(long, value_name = "T", default_value = "f32", value_parser = storage)]
    pub activations: DType,
}

impl DeviceArgs {
    /// The device, with everything set.
    pub fn open(&self) -> Result<Device> {
        if let Some(threads) = self.threads {
            if threads == 0 {
                return Err(Failure::new("--threads: is 0; at least 1"));
            }
            rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
        }
        let device = Device::from_name(&self.device)?;
        #[cfg(feature = "wgpu")]
        if self.device == "wgpu" && lowrank_core::wgpu_adapters().first().is_some_and(|adapter| adapter.software) {
            let name = device.name();
            complain(&format!("note: no GPU was found, only {name}: the processor itself, slower than --device cpu"));
        }
        device.set_precision(self.precision)?;
        device.set_activations(self.activations)?;
        Ok(device)
    }

    /// The device's name with the number of threads that work for it.
    pub fn label(&self, device: &Device) -> String {
        let name = device.name();
        if name != "cpu" {
            return name;
        }
        match rayon::current_num_threads() {
            1 => format!("{name}, 1 thread"),
            n => format!("{name}, {n} threads"),
        }
    }
}

/// Which model.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Model directory in Hugging Face's layout: config.json, *.safetensors, tokenizer.json
    /// [default: the adapter's base model, or the built-in glass-en]
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Storage of the frozen weights: f32 or bf16 [default: bf16 if the model is stored so, else f32]
    #[arg(long, value_name = "T", value_parser = storage)]
    pub dtype: Option<DType>,
}

/// Which text.
#[derive(Args)]
#[command(next_help_heading = "Data")]
pub struct DataArgs {
    /// Text file, or .jsonl with {"text"} or {"prompt","completion"} a line [default: the built-in Hamlet]
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Tokens of an example
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub seq_len: usize,
}

/// A text that has been read.
pub struct Source {
    /// Its name in messages.
    pub file: String,
    bytes: Vec<u8>,
    format: Format,
}

impl DataArgs {
    /// Reads the file.
    pub fn read(&self) -> Result<Source> {
        let Some(path) = &self.data else {
            let (name, bytes) = crate::base::HAMLET;
            return Ok(Source { file: name.into(), bytes: bytes.to_vec(), format: Format::Text });
        };
        let file = path.display().to_string();
        let bytes = lowrank_lora::files::read(path)?;
        Ok(Source { file, bytes, format: Format::of(path) })
    }

    /// Examples for a model: split, or with `whole` all of them as held out.
    pub fn examples(
        &self,
        source: &Source,
        (model, tokenizer): (&Llama, &Tokenizer),
        seed: u64,
        whole: bool,
    ) -> Result<Dataset> {
        let config = model.config();
        if self.seq_len > config.max_position_embeddings {
            return Err(Failure::new(format!(
                "--seq-len: {} is more than the model's max_position_embeddings of {}",
                self.seq_len, config.max_position_embeddings
            )));
        }
        let options = DataOptions {
            seq_len: self.seq_len,
            seed,
            eos: config.eos_token_ids.first().copied(),
            vocab_size: config.vocab_size,
        };
        let make = if whole { Dataset::whole } else { Dataset::from_bytes };
        let encode = |text: &str, special: bool| tokenizer.encode(text, special);
        Ok(make(&source.file, &source.bytes, source.format, &encode, &options)?)
    }
}

/// The base model of an adapter, loaded, with its tokenizer; the adapter is attached.
pub fn load(model: &ModelArgs, adapter: Option<&Path>, device: &Device) -> Result<(Base, Llama, Tokenizer)> {
    let base = Base::of(model.model.as_deref(), adapter)?;
    let mut llama = base.load(device, model.dtype)?;
    let tokenizer = base.tokenizer(llama.config())?;
    if let Some(dir) = adapter {
        let adapter = read_adapter(dir, &llama)?;
        lowrank_lora::attach(&mut llama, &adapter)?;
    }
    Ok((base, llama, tokenizer))
}

/// An adapter from PEFT's directory, or from a file that is called `.gguf`.
pub fn read_adapter(path: &Path, model: &Llama) -> Result<Adapter> {
    Ok(match is_gguf(path) {
        true => gguf::load(path, model, heads(model))?,
        false => peft::load(path, model)?,
    })
}

/// Whether an adapter is a GGUF file, by its name.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

/// By which GGUF orders the rows of q and k.
pub fn heads(model: &Llama) -> gguf::Heads {
    gguf::Heads { query: model.config().num_attention_heads, key_value: model.config().num_key_value_heads }
}

fn precision(name: &str) -> Result<Precision, String> {
    let all = [Precision::Full, Precision::Bf16x3, Precision::Tf32, Precision::Bf16];
    all.into_iter().find(|p| p.name() == name).ok_or_else(|| "write full, bf16x3, tf32 or bf16".into())
}

fn storage(name: &str) -> Result<DType, String> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        _ => Err("write f32 or bf16".into()),
    }
}
