//! `lowrank merge`.

use std::path::PathBuf;

use lowrank_core::{DType, Tensor, no_grad};
use lowrank_lora::{Host, MergeReport, Rounding, attach, files, merge_with, write_tensors};
use lowrank_models::Llama;
use lowrank_train::OutDir;
use serde_json::Value;

use crate::args::{DeviceArgs, read_adapter};
use crate::base::Base;
use crate::failure::{Failure, Result};
use crate::interrupt;
use crate::show::{bytes, program, quote_path, say};

/// What the model is asked before and after merging.
const PROBE: &str = "To be, or not to be, that is the question: 0 1 2 3 4 5 6 7 8 9.";

/// Options of `merge`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lowrank merge --adapter lowrank-out --out merged
  lowrank merge --model ./SmolLM2-135M --adapter ./notes-lora --out ./SmolLM2-notes --dtype bf16")]
pub struct Args {
    /// Adapter directory
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Directory for the merged model; an existing one is not overwritten
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Model directory [default: the adapter's base model, or the built-in glass-en]
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    model: Option<PathBuf>,
    /// dtype of the written weights: f32, bf16 or f16 [default: as the base model stores them]
    #[arg(long, value_name = "T", help_heading = "Model", value_parser = storage)]
    dtype: Option<DType>,
    /// Round each merged weight up or down by chance, so that small updates survive on average
    #[arg(long, value_name = "SEED", help_heading = "Model")]
    stochastic_rounding: Option<u64>,
    /// Warn if a larger share of the update than this is lost to rounding
    #[arg(long, value_name = "X", default_value_t = 0.1, help_heading = "Model")]
    warn_above: f64,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Writes a plain model and says how far it is from base and adapter apart.
pub fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    let out = OutDir::reserve(&args.out)?;
    interrupt::install(out.path(), false)?;
    let base = Base::of(args.model.as_deref(), Some(&args.adapter))?;
    let dtype = match args.dtype {
        Some(dtype) => dtype,
        None => base.stored_dtype()?,
    };
    // Loaded in the dtype to write, so that merging rounds once.
    let mut model = base.load(&device, Some(dtype))?;
    let adapter = read_adapter(&args.adapter, &model)?;
    attach(&mut model, &adapter)?;
    let was_tied = model.is_tied();

    let tokenizer = base.tokenizer(model.config())?;
    let mut probe = tokenizer.encode(PROBE, true)?;
    probe.truncate(model.config().max_position_embeddings);
    let apart = logits(&model, &probe)?;
    let rounding = args.stochastic_rounding.map_or(Rounding::Nearest, Rounding::Stochastic);
    let report = merge_with(&mut model, rounding)?;
    let merged = logits(&model, &probe)?;

    let state = model.state();
    let mut tensors = Vec::with_capacity(state.len());
    for (name, tensor) in state {
        let tensor = convert(&name, tensor, dtype)?;
        tensors.push((name, tensor));
    }
    let weights = write_tensors(&tensors)?;
    files::write_atomically(&out.path().join("model.safetensors"), &weights)?;
    let config = config(&model, dtype)?;
    files::write_atomically(&out.path().join("config.json"), config.as_bytes())?;
    for (name, bytes) in base.companions()? {
        files::write_atomically(&out.path().join(name), &bytes)?;
    }
    out.commit()?;

    let (difference, largest) = distance(&apart, &merged);
    let head = match (was_tied, model.is_tied()) {
        (true, false) => "; output head and embedding are no longer tied, as the adapter changes one of them",
        _ => "",
    };
    say(&format!(
        "merged {} of {} layers into {} ({}, {}){head}",
        adapter.layers.len() + adapter.saved.len(),
        layers(&model),
        args.out.join("model.safetensors").display(),
        dtype,
        bytes(weights.len())
    ));
    say(&format!(
        "logits merged and unmerged differ by at most {difference:.2e} (the largest is {largest:.1}) on a probe of {} \
         tokens",
        probe.len()
    ));
    loss(&report, dtype, args.warn_above);
    let out = quote_path(&args.out);
    say(&format!("\nnext:\n  {} generate --model {out} --prompt \"To be, or not to be\"", program()));
    Ok(())
}

/// What rounding took of the update.
fn loss(report: &MergeReport, dtype: DType, warn_above: f64) {
    let percent = |x: f64| format!("{:.2} %", 100.0 * x);
    let Some(worst) = report.worst() else { return };
    say(&format!(
        "rounding to {dtype}: {} of the entries did not change, {} of the update was lost (most in {}: {})",
        percent(report.unchanged()),
        percent(report.lost()),
        worst.layer,
        percent(worst.share_lost())
    ));
    if report.lost() > warn_above {
        say(&format!(
            "warning: more than {} of the update is lost; keep the adapter apart, merge with --dtype f32, or try \
             --stochastic-rounding 0",
            percent(warn_above)
        ));
    }
}

/// All logits of a sequence.
fn logits(model: &Llama, ids: &[u32]) -> Result<Vec<f64>> {
    Ok(no_grad(|| model.forward(&model.ids(ids, 1, ids.len())?)?.to_f64().map_err(lowrank_lora::Error::from))?)
}

/// Largest difference, and largest value.
fn distance(a: &[f64], b: &[f64]) -> (f64, f64) {
    let difference = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    (difference, a.iter().map(|a| a.abs()).fold(0.0, f64::max))
}

fn layers(model: &Llama) -> usize {
    let mut n = 0;
    model.visit(&mut |_| n += 1);
    n
}

/// A tensor in the dtype of the file. Matrices have it already.
fn convert(name: &str, tensor: Tensor, dtype: DType) -> Result<Tensor> {
    if tensor.dtype() == dtype {
        return Ok(tensor);
    }
    let values = tensor.to_f64()?;
    let converted = Tensor::from_f64(&values, tensor.shape(), dtype, tensor.device())?;
    if let Some(i) = converted.to_f64()?.iter().position(|x| !x.is_finite()) {
        return Err(Failure::new(format!("{name}: element {i} is {}, beyond the range of {dtype}", values[i])));
    }
    Ok(converted)
}

/// The model's configuration with the dtype that its weights now have.
fn config(model: &Llama, dtype: DType) -> Result<String> {
    let mut config: Value = serde_json::from_str(&model.config_json_for_state()?)?;
    let name = match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    };
    if let Some(fields) = config.as_object_mut() {
        // transformers 5 calls it `dtype`.
        let key = if fields.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        fields.insert(key.into(), name.into());
    }
    Ok(serde_json::to_string_pretty(&config)? + "\n")
}

fn storage(name: &str) -> Result<DType, String> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        "f16" => Ok(DType::F16),
        _ => Err("write f32, bf16 or f16".into()),
    }
}
