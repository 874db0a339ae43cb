//! `W′ = W + s·B A` (embedding: `W + s·Aᵀ Bᵀ`; with an offset `W + s (B A − B₀A₀)`; DoRA: `m ⊙ (W + s·B A) / ‖W + s·B A‖` by rows), summed in f64 on the host and rounded once to W's dtype.
//!
//! In bf16 an update below half a unit of W's last place is lost whatever one does; summing wide and rounding once
//! loses nothing more. The base's tensor is kept, so unmerging is exact; subtracting again would not be.

mod loss;

use std::collections::BTreeMap;

use lowrank_core::{Tensor, no_grad};

use crate::attach::is_merged;
use crate::host::Module;
use crate::scalar::{Scalar, with_scalar};
use crate::{Error, Host, Kind, LowRank, Result};

/// Folds the active adapter into the weights: the layers compute as plain ones from then on. Waits for the device; needs
/// memory for a second copy of the merged weights. On an error (nothing active, merged already, a sum beyond the
/// weight's range) nothing changes.
pub fn merge(host: &mut dyn Host) -> Result<()> {
    merge_with(host, Rounding::Nearest).map(drop)
}

/// [`merge`] with a choice of rounding, and what it lost.
pub fn merge_with(host: &mut dyn Host, rounding: Rounding) -> Result<MergeReport> {
    if is_merged(host) {
        return Err(Error::adapter("merge: an adapter is merged already"));
    }
    let mut merged = BTreeMap::new();
    let mut outcome = Ok(());
    let mut report = MergeReport::default();
    host.visit(&mut |m| {
        if outcome.is_ok() && m.slot().by_row.is_some() {
            outcome = Err(Error::adapter("merge: sequences have adapters of their own; attach one adapter"));
        } else if outcome.is_ok() && m.slot().bottleneck.is_some() {
            let detail = "has a bottleneck behind it, which is not linear: no weight can hold it";
            outcome = Err(Error::adapter(format!("merge: `{}` {detail}", m.name())));
        } else if outcome.is_ok() && !m.slot().is_empty() {
            let weight = merged_weight(m, rounding, &mut report);
            outcome = weight.map(|w| drop(merged.insert(m.name().to_string(), w)));
        }
    });
    outcome?;
    if merged.is_empty() {
        return Err(Error::adapter("merge: no adapter is attached"));
    }
    host.visit_mut(&mut |mut m| {
        let weight = merged.remove(m.name());
        m.slot().merged = weight;
    });
    Ok(report)
}

/// Takes [`merge`] back: the weights have the same bits as before, and the adapter is active beside them again.
pub fn unmerge(host: &mut dyn Host) -> Result<()> {
    if !is_merged(host) {
        return Err(Error::adapter("unmerge: nothing is merged"));
    }
    host.visit_mut(&mut |mut m| m.slot().merged = None);
    Ok(())
}

/// The weight of a layer with something in its slot, in the base's dtype.
fn merged_weight(m: Module<'_>, rounding: Rounding, report: &mut MergeReport) -> Result<Tensor> {
    let base = m.base_weight();
    let name = format!("{}.weight", m.name());
    let dtype = base.dtype();
    let merged = match (&m.slot().lora, &m.slot().weight) {
        (Some(pair), _) => {
            let mut layer = LayerLoss::new(m.name());
            let mut rounder = Rounder::new(rounding, m.name());
            let weight = with_scalar!(dtype, T => add_product::<T>(base, pair, &mut rounder, &mut layer));
            report.layers.push(layer);
            weight
        }
        (None, Some(copy)) if copy.dtype() == dtype => return Ok(copy.detach().named(name)),
        (None, Some(copy)) => with_scalar!(dtype, T => {
            finished(base, copy.to_f64()?.into_iter().map(T::narrow).collect())
        }),
        (None, None) => return Ok(base.clone()),
    };
    match merged {
        Some(weight) => Ok(weight.map_err(|e| in_layer(m.name(), e))?.named(name)),
        None => Err(Error::adapter(format!("merge: {name} has dtype {dtype}, which is no float type"))),
    }
}

fn in_layer(name: &str, e: Error) -> Error {
    match e {
        Error::Adapter(detail) => Error::adapter(format!("merge: {name}: {detail}")),
        other => other,
    }
}

/// W + s·left·right, row by row, so that a row of W and the whole of `right` stay in the cache.
fn add_product<T: Scalar>(w: &Tensor, pair: &LowRank, rounder: &mut Rounder, loss: &mut LayerLoss) -> Result<Tensor> {
    let (a, b) = no_grad(|| pair.product())?;
    let (a, b, r) = (a.to_f64()?, b.to_f64()?, pair.full_rank());
    let &[rows, cols] = w.shape() else {
        return Err(Error::adapter(format!("shape {:?} is no matrix", w.shape())));
    };
    // Linear: left = B [rows,r], right = A [r,cols]. Embedding: left = Aᵀ, right = Bᵀ.
    let (left, right) = match pair.kind {
        Kind::Embedding => (transposed(&a, r, rows), transposed(&b, cols, r)),
        _ => (b, a),
    };
    let magnitude = pair.magnitude.as_ref().map(Tensor::to_f64).transpose()?;
    let mut out = w.to_vec::<T>()?;
    let mut sum = vec![0.0; cols];
    for i in 0..rows {
        let row = &mut out[i * cols..(i + 1) * cols];
        sum.fill(0.0);
        for p in 0..r {
            let factor = left[i * r + p];
            for (s, x) in sum.iter_mut().zip(&right[p * cols..(p + 1) * cols]) {
                *s += factor * x;
            }
        }
        for (w, s) in row.iter().zip(&mut sum) {
            *s = w.wide() + pair.scale * *s;
        }
        if let Some(m) = &magnitude {
            let g = m[i] / sum.iter().map(|x| x * x).sum::<f64>().sqrt();
            sum.iter_mut().for_each(|x| *x *= g);
        }
        for (w, s) in row.iter_mut().zip(&sum) {
            let (before, after) = (w.wide(), rounder.round::<T>(*s));
            loss.count(before, *s, after.wide());
            *w = after;
        }
    }
    finished(w, out)
}

fn finished<T: Scalar>(base: &Tensor, values: Vec<T>) -> Result<Tensor> {
    if let Some(i) = values.iter().position(|x| !x.wide().is_finite()) {
        return Err(Error::adapter(format!("element {i} is {} in {}", values[i].wide(), T::DTYPE)));
    }
    Ok(Tensor::from_slice(&values, base.shape(), base.device())?)
}

fn transposed(x: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.len());
    for j in 0..cols {
        out.extend((0..rows).map(|i| x[i * cols + j]));
    }
    out
}

use loss::Rounder;
pub use loss::{LayerLoss, MergeReport, Rounding};

#[cfg(test)]
mod tests;
