//! A PEFT adapter whose init split the base (pissa, olora, corda, lora_ga), carried over to the base as it is.
//!
//! PEFT trains such an adapter over `W_res = W − s B₀A₀`; its files hold A and B alone, which mean nothing on W. The start
//! comes from the adapter as it was saved before training, or from the two bases: W − W_res has rank r, so its leading r
//! singular triples are s B₀A₀ (up to an invertible r×r matrix, which the product does not see). The layer is then
//! `W + s [B, −B₀][A; A₀]`, as with a start of our own. Checked and not taken on trust: that r triples are all there is.

use std::path::Path;

use lowrank_core::philox::Rng;
use lowrank_core::{DType, Tensor};
use serde_json::{Map, Value, json};

use super::config::splits_the_base;
use super::files::{name_of, read_files};
use super::read;
use crate::init::{fnv1a, in_layer};
use crate::linalg::{Matrix, nn, svd_lowrank};
use crate::scalar::host_bytes;
use crate::{Adapter, Error, Host, LowRank, Offset, Result};

/// What tells what was taken off the base.
pub enum Start<'a> {
    /// The residual base itself.
    Base(&'a dyn Host),
    /// The directory of the adapter as it was saved before its first step.
    Adapter(&'a Path),
}

/// What two bases differ by in one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// The layer.
    pub layer: String,
    /// ‖W − W_res‖.
    pub norm: f64,
    /// What of it no product of rank r explains: rounding of W_res, if all is well.
    pub rest: f64,
}

/// The adapter in `dir`, trained over a residual base, as one of `host`, the original: with offsets, so that saving it
/// writes plain LoRA of rank 2r (see [`Adapter::plain`], [`Adapter::recompressed`]). The list is empty if the start is an
/// adapter.
///
/// Refused: an adapter whose init did not split the base; loftq, whose residual base is a quantised one; DoRA; bases
/// that differ by more than rank r, not at all, or outside of the adapter's layers.
pub fn load_residual(dir: &Path, start: Start<'_>, host: &dyn Host) -> Result<(Adapter, Vec<Split>)> {
    let (mut adapter, init) = unsplit(dir, host)?;
    let refuse = |detail: &str| Err(Error::file(dir.display().to_string(), detail));
    match init.as_deref() {
        None => return refuse("its init did not split the base: it belongs to the model as it is, and is loaded so"),
        Some("loftq") => return refuse("init loftq: its residual base is quantised, and no low-rank product away"),
        Some(_) => {}
    }
    if adapter.config.use_dora {
        return refuse("use_dora: the magnitudes are those of the residual base");
    }
    let splits = match start {
        Start::Adapter(first) => {
            offsets_of(&mut adapter, unsplit(first, host)?.0, first)?;
            Vec::new()
        }
        Start::Base(residual) => {
            same_elsewhere(&adapter, host, residual)?;
            let (whole, rest) = (weights(host), weights(residual));
            let mut splits = Vec::new();
            for (name, pair) in &mut adapter.layers {
                let weight = |list: &[(String, Tensor)]| list.iter().find(|(n, _)| n == name).map(|(_, w)| w.clone());
                let (Some(w), Some(w_res)) = (weight(&whole), weight(&rest)) else {
                    return Err(Error::adapter(format!("{name}: the residual base has no such layer")));
                };
                let split = difference(name, pair, &w, &w_res).map_err(|e| in_layer(name, e))?;
                splits.push(split);
            }
            splits
        }
    };
    Ok((adapter, splits))
}

/// The adapter of a directory as if its init had not split the base, and the init's name if it had.
fn unsplit(dir: &Path, host: &dyn Host) -> Result<(Adapter, Option<String>)> {
    let ([config_file, tensors_file], config, tensors) = read_files(dir)?;
    let mut json: Map<String, Value> =
        serde_json::from_str(&config).map_err(|e| Error::file(&config_file, e.to_string()))?;
    let init = match json.get("init_lora_weights") {
        Some(Value::String(s)) if splits_the_base(s) => Some(s.to_ascii_lowercase()),
        _ => None,
    };
    if init.is_some() {
        json.insert("init_lora_weights".into(), json!(true));
    }
    let config = Value::Object(json).to_string();
    Ok((read::adapter(&name_of(dir), &config_file, &config, &tensors_file, &tensors, host)?, init))
}

/// Takes A₀ and B₀ from the adapter as it started.
fn offsets_of(adapter: &mut Adapter, mut first: Adapter, dir: &Path) -> Result<()> {
    for (name, pair) in &mut adapter.layers {
        let start = first.layers.remove(name).filter(|s| s.scale == pair.scale);
        let Some(start) = start else {
            let detail = format!("has no pair of {name} with the scale {}", pair.scale);
            return Err(Error::file(dir.display().to_string(), detail));
        };
        pair.offset = Some(Offset { a: start.a.detach(), b: start.b.detach().neg()?.detach() });
    }
    match first.layers.keys().next() {
        Some(name) => Err(Error::file(dir.display().to_string(), format!("has a pair of {name} too"))),
        None => Ok(()),
    }
}

/// Sets the pair's offset to the rank-r part of `w − w_res`.
fn difference(name: &str, pair: &mut LowRank, w: &Tensor, w_res: &Tensor) -> Result<Split> {
    if w.shape() != w_res.shape() {
        return Err(Error::adapter(format!("{} in one base, {} in the other", w.label("W"), w_res.label("W"))));
    }
    let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
    let (one, other) = (w.to_f64()?, w_res.to_f64()?);
    let size = norm(&one);
    let d: Vec<f64> = one.iter().zip(&other).map(|(x, y)| x - y).collect();
    drop((one, other));
    let dtype = pair.a.dtype();
    let to = |m: &Matrix| m.to_tensor(dtype, w.device());
    let d = Matrix::new(w.shape()[0], w.shape()[1], d)?;
    let total = norm(&d.data);
    if total == 0.0 {
        return Err(Error::adapter("the two bases have the same weight: nothing was taken off"));
    }
    let r = pair.rank.min(d.rows.min(d.cols));
    let svd = svd_lowrank(&to(&d)?, (2 * r + 8).min(d.rows.min(d.cols)), 4, &mut Rng::new(0, fnv1a(name)))?;
    let kept: Vec<usize> = (0..r).collect();
    let roots: Vec<f64> = svd.s[..r].iter().map(|s| (s / pair.scale.abs()).sqrt()).collect();
    let mut b0 = svd.u.columns(&kept).scale_columns(&roots);
    if pair.scale < 0.0 {
        b0 = b0.scaled(-1.0);
    }
    let a0 = svd.v.columns(&kept).scale_columns(&roots).transposed();
    let product = nn(&to(&b0)?, &to(&a0)?)?.to_f64()?;
    let rest = norm(&d.data.iter().zip(product).map(|(d, p)| d - pair.scale * p).collect::<Vec<f64>>());
    // Every element of W and W_res may be off by a unit or two of its own last place, and the triples come from products
    // in f32, whose order is the device's.
    let rounding = 4.0 * unit(w.dtype()).max(unit(w_res.dtype())) * size + 3e-5 * total;
    if rest > rounding {
        return Err(Error::adapter(format!(
            "the two bases differ by {total:.3e}, of which {rest:.3e} is no product of rank {}; rounding explains \
             {rounding:.3e}: this is not the base that the adapter was trained over",
            pair.rank
        )));
    }
    pair.offset =
        Some(Offset { a: to(&padded_rows(&a0, pair.rank))?, b: to(&padded_columns(&b0, pair.rank).scaled(-1.0))? });
    Ok(Split { layer: name.to_string(), norm: total, rest })
}

/// Ranks above min(n,k) are filled with zeros.
fn padded_rows(a: &Matrix, rows: usize) -> Matrix {
    let mut data = a.data.clone();
    data.resize(rows * a.cols, 0.0);
    Matrix { rows, cols: a.cols, data }
}

fn padded_columns(b: &Matrix, cols: usize) -> Matrix {
    padded_rows(&b.transposed(), cols).transposed()
}

/// Half the distance of neighbours at 1.
fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 2f64.powi(-9),
        DType::F16 => 2f64.powi(-12),
        DType::F64 => 2f64.powi(-53),
        _ => 2f64.powi(-25),
    }
}

/// Everything but the adapter's layers must be the same in both bases.
fn same_elsewhere(adapter: &Adapter, host: &dyn Host, residual: &dyn Host) -> Result<()> {
    let others = weights(residual);
    for (name, w) in weights(host) {
        if adapter.layers.contains_key(&name) {
            continue;
        }
        let Some((_, other)) = others.iter().find(|(n, _)| *n == name) else {
            return Err(Error::adapter(format!("{name}: the residual base has no such layer")));
        };
        let same = w.shape() == other.shape() && w.dtype() == other.dtype() && host_bytes(&w)? == host_bytes(other)?;
        if !same {
            let detail = "differs in the two bases, and the adapter has no pair there; the residual base is another model's, \
                          or stored in another dtype";
            return Err(Error::adapter(format!("{name}: {detail}")));
        }
    }
    Ok(())
}

/// Base weights, and biases as `<layer>.bias`.
fn weights(host: &dyn Host) -> Vec<(String, Tensor)> {
    let mut list = Vec::new();
    host.visit(&mut |m| {
        list.push((m.name().to_string(), m.base_weight().clone()));
        list.extend(m.base_bias().map(|b| (format!("{}.bias", m.name()), b.clone())));
    });
    list
}

#[cfg(test)]
mod tests;
