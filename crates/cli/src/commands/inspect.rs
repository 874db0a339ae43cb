//! `lowrank inspect`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lowrank_core::{DType, Device, Tensor};
use lowrank_lora::{LoraConfig, Method, NO_TARGETS, Targets, TensorFile, files, peft};
use lowrank_models::Llama;

use crate::base::Base;
use crate::failure::{Failure, Result};
use crate::show::{bytes, say, table, thousands};

const PREFIX: &str = "base_model.model.";

/// Options of `inspect`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lowrank inspect lowrank-out
  lowrank inspect ./SmolLM2-135M
  lowrank inspect                   the built-in model")]
pub struct Args {
    /// Directory of an adapter or of a model [default: the built-in model]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints what the directory holds.
pub fn run(args: &Args) -> Result<()> {
    let device = Device::from_name("cpu")?;
    let Some(dir) = &args.dir else { return model(&Base::BuiltIn, &device) };
    if dir.join(peft::CONFIG_FILE).exists() {
        return adapter(dir, &device);
    }
    if dir.join("config.json").exists() {
        return model(&Base::Dir(dir.clone()), &device);
    }
    Err(Failure::new(format!(
        "{}: has neither {} (an adapter) nor config.json (a model)",
        dir.display(),
        peft::CONFIG_FILE
    )))
}

/// The tensors of one module in an adapter's file.
#[derive(Default)]
struct Parts {
    a: Option<Tensor>,
    b: Option<Tensor>,
    /// Copies and biases: name of the part, tensor.
    whole: Vec<(String, Tensor)>,
    dtype: String,
}

/// Everything is read from the adapter's own files: its model need not be there.
fn adapter(dir: &Path, device: &Device) -> Result<()> {
    let (config_path, tensors_path) = (dir.join(peft::CONFIG_FILE), dir.join(peft::TENSORS_FILE));
    let config_file = config_path.display().to_string();
    let text = files::read(&config_path)?;
    let text = String::from_utf8(text).map_err(|_| Failure::new(format!("{config_file}: not UTF-8")))?;
    let config = peft::read_config(&config_file, &text)?;
    let tensors = files::read(&tensors_path)?;
    let file = TensorFile::parse(&tensors_path.display().to_string(), &tensors)?;

    let mut modules: BTreeMap<String, Parts> = BTreeMap::new();
    let mut parameters = 0;
    for key in file.names() {
        let shape = file.shape(key)?;
        let dtype = match file.dtype(key)? {
            Some(DType::F64) => DType::F64,
            _ => DType::F32,
        };
        let tensor = file.load(key, shape, dtype, device)?;
        parameters += tensor.len();
        let (module, part) = split(key);
        let parts = modules.entry(module.to_string()).or_default();
        parts.dtype = file.dtype_name(key)?;
        // Old files have the adapter's name after `lora_A.`.
        let is = |names: [&str; 2]| names.iter().any(|n| part.starts_with(n));
        if is(["lora_A.", "lora_embedding_A"]) {
            parts.a = Some(tensor);
        } else if is(["lora_B.", "lora_embedding_B"]) {
            parts.b = Some(tensor);
        } else {
            parts.whole.push((part.to_string(), tensor));
        }
    }

    let base = config.extra.get("base_model_name_or_path").and_then(|v| v.as_str()).unwrap_or("unknown");
    say(&format!("adapter   {}", dir.display()));
    say(&format!("base      {base}"));
    say(&format!("type      {}, r {}, α {}, dropout {}", kind(&config), config.r, config.alpha, config.dropout));
    say(&format!("targets   {}", config.targets));
    say(&format!("size      {} parameters, {}", thousands(parameters), bytes(tensors.len())));
    say("");
    let head = ["module", "dtype", "r", "α", "scale", "parameters", "|A|", "|B|", "|scale·BA|"];
    let mut rows = vec![head.map(str::to_string).to_vec()];
    for (name, parts) in &modules {
        rows.extend(module_rows(name, parts, &config, &config_file)?);
    }
    for line in table(&rows, 2) {
        say(&line);
    }
    Ok(())
}

fn kind(config: &LoraConfig) -> &'static str {
    if config.method == Method::Bottleneck {
        return "bottlenecks behind layers";
    }
    if config.targets == Targets::Regex(NO_TARGETS.into()) {
        return "no pairs, layers trained whole";
    }
    match (config.use_dora, config.use_rslora) {
        (false, false) => "LoRA with α/r",
        (false, true) => "LoRA with α/√r (rsLoRA)",
        (true, false) => "DoRA with α/r",
        (true, true) => "DoRA with α/√r (rsLoRA)",
    }
}

/// Module and part of a key in PEFT's file.
fn split(key: &str) -> (&str, &str) {
    let key = key.strip_prefix(PREFIX).unwrap_or(key);
    for marker in [".lora_A.", ".lora_B.", ".lora_embedding_", ".bottleneck_", ".base_layer.", ".modules_to_save."] {
        if let Some(at) = key.find(marker) {
            return (&key[..at], &key[at + 1..]);
        }
    }
    key.rsplit_once('.').unwrap_or((key, ""))
}

fn module_rows(name: &str, parts: &Parts, config: &LoraConfig, config_file: &str) -> Result<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    match (&parts.a, &parts.b) {
        (Some(a), Some(b)) => {
            let (&[r, _], &[_, br]) = (a.shape(), b.shape()) else {
                return Err(Failure::new(format!("{name}: A {:?} and B {:?} are no matrices", a.shape(), b.shape())));
            };
            if r != br || r == 0 {
                return Err(Failure::new(format!("{name}: A {:?} and B {:?} do not fit", a.shape(), b.shape())));
            }
            let (rank, alpha) = config.rank_and_alpha(name)?;
            if rank != r {
                return Err(Failure::new(format!("{config_file}: says rank {rank} for {name}, whose A has {r}")));
            }
            let scale = config.scale(r, alpha);
            let (av, bv) = (a.to_f64()?, b.to_f64()?);
            rows.push(vec![
                name.to_string(),
                parts.dtype.clone(),
                r.to_string(),
                alpha.to_string(),
                format!("{scale:.4}"),
                thousands(a.len() + b.len()),
                format!("{:.4}", norm(&av)),
                format!("{:.4}", norm(&bv)),
                format!("{:.4}", scale.abs() * product_norm(&av, &bv, r)),
            ]);
        }
        (None, None) => {}
        _ => return Err(Failure::new(format!("{name}: has only one of lora_A and lora_B"))),
    }
    for (part, tensor) in &parts.whole {
        let norm = format!("|{part}| {:.4}", norm(&tensor.to_f64()?));
        let dash = || "-".to_string();
        let shown = vec![name.to_string(), parts.dtype.clone(), dash(), dash(), dash(), thousands(tensor.len()), norm];
        rows.push(shown);
    }
    Ok(rows)
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// ‖B A‖ of A `[r,k]` and B `[n,r]` without the product: its square is the trace of (BᵀB)(AAᵀ).
fn product_norm(a: &[f64], b: &[f64], r: usize) -> f64 {
    let k = a.len() / r;
    let mut trace = 0.0;
    for i in 0..r {
        for j in 0..r {
            let aa: f64 = a[i * k..(i + 1) * k].iter().zip(&a[j * k..(j + 1) * k]).map(|(x, y)| x * y).sum();
            let bb: f64 = b.chunks_exact(r).map(|row| row[i] * row[j]).sum();
            trace += aa * bb;
        }
    }
    trace.max(0.0).sqrt()
}

fn model(base: &Base, device: &Device) -> Result<()> {
    let stored = base.stored_dtype();
    let llama = base.load(device, None)?;
    let tokenizer = base.tokenizer(llama.config())?;
    let c = llama.config();
    say(&format!("model      {} ({})", base.name(), c.model_type));
    say(&format!(
        "size       {} parameters, stored as {}; {} of weights as loaded",
        thousands(llama.parameter_count()),
        stored?,
        bytes(llama.state().iter().map(|(_, t)| t.bytes()).sum())
    ));
    say(&format!(
        "layers     {} of width {}, feed-forward {}, {} heads of {} ({} key/value)",
        c.num_hidden_layers,
        c.hidden_size,
        c.intermediate_size,
        c.num_attention_heads,
        c.head_dim,
        c.num_key_value_heads
    ));
    say(&format!(
        "tokens     {} ({} in the tokenizer), {} positions, head {}",
        thousands(c.vocab_size),
        thousands(tokenizer.vocab_size()),
        thousands(c.max_position_embeddings),
        if llama.is_tied() { "tied to the embedding" } else { "of its own" }
    ));
    say("");
    for line in table(&families(&llama)?, 3) {
        say(&line);
    }
    Ok(())
}

/// A row for every kind of tensor; those of the blocks stand together.
fn families(model: &Llama) -> Result<Vec<Vec<String>>> {
    struct Family {
        shape: Vec<usize>,
        dtype: DType,
        count: usize,
        parameters: usize,
        squares: f64,
    }
    let mut order: Vec<String> = Vec::new();
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for (name, tensor) in model.state() {
        let number = |part: &str| part.parse::<usize>().is_ok();
        let family = name.split('.').map(|p| if number(p) { "*" } else { p }).collect::<Vec<_>>().join(".");
        let entry = families.entry(family.clone()).or_insert_with(|| {
            order.push(family);
            Family { shape: tensor.shape().to_vec(), dtype: tensor.dtype(), count: 0, parameters: 0, squares: 0.0 }
        });
        entry.count += 1;
        entry.parameters += tensor.len();
        entry.squares += tensor.to_f64()?.iter().map(|x| x * x).sum::<f64>();
    }
    let mut rows = vec![["tensors", "shape", "dtype", "count", "parameters", "norm"].map(str::to_string).to_vec()];
    for name in order {
        let Some(f) = families.get(&name) else { continue };
        rows.push(vec![
            name.clone(),
            format!("{:?}", f.shape),
            f.dtype.to_string(),
            f.count.to_string(),
            thousands(f.parameters),
            format!("{:.4}", f.squares.sqrt()),
        ]);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_norm_of_a_product() {
        // A = [1 2; 0 1], B = [1 0; 1 1; 0 2]: BA = [1 2; 1 3; 0 2], squares 1 + 4 + 1 + 9 + 4.
        assert!((product_norm(&[1., 2., 0., 1.], &[1., 0., 1., 1., 0., 2.], 2) - 19f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn keys_have_two_parts() {
        assert_eq!(split("base_model.model.m.q.lora_A.weight"), ("m.q", "lora_A.weight"));
        assert_eq!(split("base_model.model.e.lora_embedding_B"), ("e", "lora_embedding_B"));
        assert_eq!(split("base_model.model.norm.weight"), ("norm", "weight"));
        assert_eq!(split("base_model.model.q.base_layer.bias"), ("q", "base_layer.bias"));
    }
}
