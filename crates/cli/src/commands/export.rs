//! `lowrank export`.

use std::path::PathBuf;

use lowrank_core::DType;
use lowrank_lora::gguf;

use crate::args::{DeviceArgs, heads, read_adapter};
use crate::base::Base;
use crate::failure::{Failure, Result};
use crate::show::say;

/// Options of `export`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lowrank export --adapter lowrank-out --out lowrank.gguf
      for llama.cpp: llama-cli -m model.gguf --lora lowrank.gguf
  lowrank generate --adapter lowrank.gguf --prompt \"To be\"
      a GGUF adapter is read wherever an adapter's directory is")]
pub struct Args {
    /// Adapter directory
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// File to write; an existing one is not overwritten
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// File format; gguf is the one there is
    #[arg(long, value_name = "NAME", default_value = "gguf")]
    format: String,
    /// Elements of the file: f32 or f16
    #[arg(long, value_name = "T", default_value = "f32", value_parser = storage)]
    dtype: DType,
    /// Model directory [default: the adapter's base model, or the built-in glass-en]
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    model: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Writes the file.
pub fn run(args: &Args) -> Result<()> {
    if args.format != "gguf" {
        return Err(Failure::new(format!("--format: `{}` is not written; gguf is", args.format)));
    }
    if args.out.exists() {
        return Err(Failure::new(format!("{}: exists already", args.out.display())));
    }
    let device = args.device.open()?;
    let model = Base::of(args.model.as_deref(), Some(&args.adapter))?.load(&device, None)?;
    let adapter = read_adapter(&args.adapter, &model)?;
    gguf::save(&adapter, &args.out, &model, heads(&model), args.dtype)?;
    say(&format!("saved {}: {} layers in {}", args.out.display(), adapter.layers.len(), args.dtype));
    Ok(())
}

fn storage(name: &str) -> Result<DType, String> {
    match name {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        _ => Err("write f32 or f16".into()),
    }
}
