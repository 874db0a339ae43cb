//! GGUF adapters, which llama.cpp loads beside a GGUF model.
//!
//! llama.cpp scales every pair by α/r, with one α for the file and r from B. So what PEFT says beyond that (rsLoRA, patterns)
//! is multiplied into B: the product keeps its value. Rows of q and k stand in llama.cpp's rotary order in its llama models,
//! and so do B's here. DoRA, saved modules and biases have no place in the format and are refused by name.

mod layout;
mod read;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use half::f16;
use lowrank_core::{DType, Tensor};

use crate::adapter::check_name;
use crate::algebra::{Factors, assemble_like, plain};
use crate::host::infos;
use crate::{Adapter, Error, Host, Kind, LoraConfig, Result, Targets, files};
use layout::{Layout, transposed};
use read::File;
use write::{TensorOut, Value};

/// Attention heads of the model, by which rows of q and k are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Of queries.
    pub query: usize,
    /// Of keys and values.
    pub key_value: usize,
}

/// The content of a GGUF file with this adapter for this host, with elements in f32 or f16.
///
/// Values that f16 cannot hold after folding the scales are an error, as is all that the format cannot hold.
pub fn to_bytes(adapter: &Adapter, host: &dyn Host, heads: Heads, dtype: DType) -> Result<Vec<u8>> {
    plain(adapter, "gguf")?;
    if !matches!(dtype, DType::F32 | DType::F16) {
        return Err(Error::config("dtype", format!("{dtype} is not written to GGUF adapters; f32 and f16 are")));
    }
    let layout = Layout::of(host, heads)?;
    let alpha = adapter.config.alpha;
    if !(alpha as f32).is_finite() || alpha as f32 == 0.0 {
        return Err(Error::config("lora_alpha", format!("{alpha} has no place in a GGUF adapter")));
    }
    let mut tensors = Vec::new();
    for (layer, pair) in &adapter.layers {
        let f = Factors::of(pair)?;
        let name = layout.gguf_name(layer)?;
        // llama.cpp multiplies with α/r; what is left of s goes into B, and is 1 for plain LoRA.
        let fold = f.scale / (alpha / f.r as f64);
        let b: Vec<f64> =
            layout.reordered(layer, &f.left, f.r)?.iter().map(|x| if fold == 1.0 { *x } else { x * fold }).collect();
        let (a, a_shape) = match f.kind {
            Kind::Embedding => (transposed(&f.right, f.r, f.k), [f.k, f.r]),
            _ => (f.right.clone(), [f.r, f.k]),
        };
        for (part, values, shape) in [("lora_a", a, a_shape), ("lora_b", b, [f.n, f.r])] {
            let name = format!("{name}.{part}");
            fits(&name, &values, dtype)?;
            tensors.push(TensorOut { name, shape, values });
        }
    }
    let text = |s: &str| Value::Text(s.to_string());
    let fields = [
        ("general.architecture", text(layout.architecture)),
        ("general.type", text("adapter")),
        ("general.name", text(&adapter.name)),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", Value::F32(alpha as f32)),
    ];
    Ok(write::file(&fields, &tensors, dtype))
}

fn fits(name: &str, values: &[f64], dtype: DType) -> Result<()> {
    let lost = |x: f64| match dtype {
        DType::F16 => !f16::from_f64(x).is_finite(),
        _ => !(x as f32).is_finite(),
    };
    match values.iter().position(|&x| lost(x)) {
        Some(i) => {
            let detail =
                format!("gguf: {name}: element {i} is {} with the scale in it, beyond the range of {dtype}", values[i]);
            Err(Error::adapter(detail))
        }
        None => Ok(()),
    }
}

/// Writes a GGUF file, whole or not at all.
pub fn save(adapter: &Adapter, path: &Path, host: &dyn Host, heads: Heads, dtype: DType) -> Result<()> {
    files::write_atomically(path, &to_bytes(adapter, host, heads, dtype)?)
}

/// Reads a GGUF adapter and checks it against the host; it is called after the file.
pub fn load(path: &Path, host: &dyn Host, heads: Heads) -> Result<Adapter> {
    let name: String = path.file_stem().map(|n| n.to_string_lossy().replace(['.', '/', '\\'], "_")).unwrap_or_default();
    let name = if name.is_empty() { "default" } else { &name };
    from_bytes(name, &path.display().to_string(), &files::read(path)?, host, heads)
}

/// An adapter from the content of a GGUF file, whose name is for messages. Another architecture, names or shapes that the
/// host has not, and pairs of which a half is missing are errors.
pub fn from_bytes(name: &str, file_name: &str, bytes: &[u8], host: &dyn Host, heads: Heads) -> Result<Adapter> {
    check_name(name)?;
    let bad = |detail: String| Error::file(file_name, detail);
    let file = File::parse(file_name, bytes)?;
    let layout = Layout::of(host, heads)?;
    for (key, want) in
        [("general.type", "adapter"), ("adapter.type", "lora"), ("general.architecture", layout.architecture)]
    {
        let have = file.text(key)?;
        if have != want {
            return Err(bad(format!("{key} is `{have}`, not `{want}`: it is no adapter for this model")));
        }
    }
    let alpha = f64::from(file.f32("adapter.lora.alpha")?);
    if !alpha.is_finite() {
        return Err(bad(format!("adapter.lora.alpha is {alpha}")));
    }
    let infos = infos(host);
    let mut layers = BTreeMap::new();
    for tensor in file.names() {
        let Some((gguf_name, part)) = tensor.rsplit_once('.').filter(|(_, p)| ["lora_a", "lora_b"].contains(p)) else {
            return Err(bad(format!("tensor `{tensor}` is neither a lora_a nor a lora_b")));
        };
        let Some(m) = infos.iter().find(|m| layout.gguf_name(&m.name).is_ok_and(|n| n == gguf_name)) else {
            return Err(bad(format!("tensor `{tensor}`: the model has no such layer")));
        };
        let (a_name, b_name) = (format!("{gguf_name}.lora_a"), format!("{gguf_name}.lora_b"));
        let other = if part == "lora_a" { &b_name } else { &a_name };
        if !file.contains(other) {
            return Err(bad(format!("tensor `{tensor}` has no `{other}` beside it")));
        }
        if part == "lora_b" {
            continue;
        }
        let r = file.shape(&b_name)?[1];
        let shapes = if r == 0 { None } else { m.pair(r) };
        let Some(([_, k], [n, _])) = shapes else {
            return Err(bad(format!("tensor `{b_name}` has rank {r}, or its layer carries no pair")));
        };
        let a_shape = if m.kind == Kind::Embedding { [k, r] } else { [r, k] };
        for (name, want) in [(&a_name, a_shape), (&b_name, [n, r])] {
            let have = file.shape(name)?;
            if have != want {
                let detail = format!("has shape {have:?}, the model's layer needs {want:?}: it is for another model");
                return Err(bad(format!("tensor `{name}` {detail}")));
            }
        }
        let (a, b) = (file.values(&a_name)?, file.values(&b_name)?);
        let right = if m.kind == Kind::Embedding { transposed(&a, k, r) } else { a };
        let left = layout.restored(&m.name, &b, r)?;
        layers.insert(m.name.clone(), Factors { kind: m.kind, n, k, r, scale: alpha / r as f64, left, right });
    }
    if layers.is_empty() {
        return Err(bad("has no tensors".into()));
    }
    let config = LoraConfig { targets: Targets::List(layers.keys().cloned().collect()), ..LoraConfig::default() };
    let like = Tensor::zeros(&[1], host.dtype(), host.device())?;
    assemble_like(name, config, &like, layers).map_err(|e| e.in_file(file_name))
}

#[cfg(test)]
mod tests;
