//! One optimiser step, watched.

use std::collections::BTreeMap;

use lowrank_core::optim::{AdamW, AdamWOptions, Group};
use lowrank_core::{DType, Tensor, no_grad};
use lowrank_lora::{Adapter, Host, LowRank};

use super::linalg::{squares_of_product, transpose};
use super::others::Others;
use super::{DoctorOptions, LayerReport};
use crate::Result;

/// ‖BA‖/(‖A‖‖B‖) of factors in f32 that cancel; of random ones it is 1/√r or so.
const CANCELLED: f64 = 1e-5;

/// What a step shows.
pub(super) struct Flow {
    pub loss: f64,
    pub loss_after: Option<f64>,
    pub layers: Vec<LayerReport>,
    pub others: Others,
}

/// Every trainable value.
pub(super) fn values(adapter: &Adapter) -> Result<Vec<(Tensor, Vec<f64>)>> {
    adapter.parameters().into_iter().map(|(_, t)| Ok((t.clone(), t.to_f64()?))).collect()
}

/// The values back, no gradients.
pub(super) fn restore(adapter: &Adapter, saved: &[(Tensor, Vec<f64>)]) -> Result<()> {
    for (t, values) in saved {
        match t.dtype() {
            DType::F64 => t.set(values)?,
            _ => t.set(&values.iter().map(|&v| v as f32).collect::<Vec<f32>>())?,
        }
    }
    zero_grad(adapter);
    Ok(())
}

fn zero_grad(adapter: &Adapter) {
    adapter.parameters().iter().for_each(|(_, t)| t.zero_grad());
}

/// The attached adapter's figures before, during and after a step.
pub(super) fn measure<H: Host>(
    host: &H,
    adapter: &Adapter,
    loss: &dyn Fn(&H) -> Result<Tensor>,
    options: &DoctorOptions,
) -> Result<Flow> {
    let norms = weight_norms(host, adapter)?;
    let mut layers = Vec::new();
    let mut before = Vec::new();
    for (name, pair) in &adapter.layers {
        let factors = Factors::of(pair)?;
        let zero = |x: &[f64]| x.iter().all(|&v| v == 0.0);
        let weight_norm = norms.get(name).copied().unwrap_or(f64::NAN);
        layers.push(LayerReport {
            name: name.clone(),
            shape: [factors.n, factors.k],
            rank: pair.rank,
            scale: pair.scale,
            weight_norm,
            not_finite: factors.bt.iter().chain(&factors.a).any(|v| !v.is_finite()),
            base_not_finite: !weight_norm.is_finite(),
            both_zero: zero(&factors.a) && zero(&factors.bt),
            product_zero: factors.cancel(),
            ..LayerReport::default()
        });
        before.push(factors);
    }
    state(&mut layers, &before, 0);
    let mut others = Others::of(host, adapter)?;

    zero_grad(adapter);
    let start = loss(host)?;
    let first = start.item()?;
    // With nothing trainable under the loss there is no backward pass, and no layer has a gradient.
    if start.requires_grad() {
        start.backward()?;
    }
    drop(start);
    gradients(adapter, &mut layers, 0)?;
    others.gradients(adapter, 0, options.energy)?;
    let moved: Vec<(String, Tensor)> = adapter.parameters().into_iter().filter(|(_, t)| t.grad().is_some()).collect();
    if moved.is_empty() || !first.is_finite() {
        return Ok(Flow { loss: first, loss_after: None, layers, others });
    }
    let group = Group { params: moved, lr: options.lr, weight_decay: 0.0 };
    AdamW::new(vec![group], AdamWOptions::default())?.step(1.0, options.clip)?;
    zero_grad(adapter);

    let mut after = Vec::new();
    for ((layer, pair), old) in layers.iter_mut().zip(adapter.layers.values()).zip(&before) {
        let new = Factors::of(pair)?;
        let update = new.minus(old).singular_squares();
        layer.update_ratio = ratio(pair.scale.abs() * update.iter().sum::<f64>().max(0.0).sqrt(), layer.weight_norm);
        after.push(new);
    }
    state(&mut layers, &after, 1);
    others.after(adapter, options.energy.is_some())?;
    let second = loss(host)?;
    let loss_after = second.item()?;
    if second.requires_grad() {
        second.backward()?;
    }
    gradients(adapter, &mut layers, 1)?;
    others.gradients(adapter, 1, None)?;
    Ok(Flow { loss: first, loss_after: Some(loss_after), layers, others })
}

/// What follows from A and B alone.
fn state(layers: &mut [LayerReport], factors: &[Factors], at: usize) {
    for (layer, factors) in layers.iter_mut().zip(factors) {
        let squares = factors.singular_squares();
        let energy = squares.iter().sum::<f64>().max(0.0);
        let norm = layer.scale.abs() * energy.sqrt();
        if at == 0 {
            layer.ratio = ratio(norm, layer.weight_norm);
        }
        let largest = squares.first().copied().unwrap_or(0.0);
        layer.stable_rank[at] = if largest > 0.0 { finite(energy / largest) } else { None };
        layer.forward_scale[at] = finite(norm / (factors.n as f64).sqrt());
        layer.backward_scale[at] = finite(norm / (factors.k as f64).sqrt());
    }
}

fn gradients(adapter: &Adapter, layers: &mut [LayerReport], at: usize) -> Result<()> {
    let norm = |t: &Tensor| -> Result<Option<f64>> {
        let Some(g) = t.grad() else { return Ok(None) };
        Ok(Some(g.to_f64()?.iter().map(|v| v * v).sum::<f64>().sqrt()))
    };
    for (layer, pair) in layers.iter_mut().zip(adapter.layers.values()) {
        (layer.da[at], layer.db[at]) = (norm(&pair.a)?, norm(&pair.b)?);
    }
    Ok(())
}

/// Norms of the base's weights under the adapter.
fn weight_norms<H: Host>(host: &H, adapter: &Adapter) -> Result<BTreeMap<String, f64>> {
    let mut norms = BTreeMap::new();
    let mut outcome = Ok(());
    host.visit(&mut |m| {
        if outcome.is_ok()
            && adapter.layers.contains_key(m.name())
            && let Some(w) = m.base_tensors().next()
        {
            match no_grad(|| w.to_f64()) {
                Ok(w) => drop(norms.insert(m.name().to_string(), w.iter().map(|v| v * v).sum::<f64>().sqrt())),
                Err(e) => outcome = Err(e),
            }
        }
    });
    outcome?;
    Ok(norms)
}

/// A pair on the host, with what its init took off the base.
struct Factors {
    /// Bᵀ `[r, n]`.
    bt: Vec<f64>,
    /// `[r, k]`
    a: Vec<f64>,
    r: usize,
    n: usize,
    k: usize,
}

impl Factors {
    fn of(pair: &LowRank) -> Result<Self> {
        let r = pair.full_rank().max(1);
        let (a, b) = no_grad(|| pair.product())?;
        let (a, b) = (a.to_f64()?, b.to_f64()?);
        let (n, k) = (b.len() / r, a.len() / r);
        Ok(Factors { bt: transpose(&b, n, r), a, r, n, k })
    }

    /// Whether B A is zero up to rounding: one of them is, or they are orthogonal (so starts `orthogonal`), or the second
    /// half takes off just what the first one adds (when the init split the base).
    fn cancel(&self) -> bool {
        let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
        let product: f64 = self.singular_squares().iter().sum();
        product.max(0.0).sqrt() <= CANCELLED * norm(&self.a) * norm(&self.bt)
    }

    /// `BA − B₀A₀` as [B, −B₀][A; A₀].
    fn minus(&self, old: &Factors) -> Factors {
        let mut bt = self.bt.clone();
        bt.extend(old.bt.iter().map(|v| -v));
        let a = [&self.a[..], &old.a].concat();
        Factors { bt, a, r: self.r + old.r, n: self.n, k: self.k }
    }

    fn singular_squares(&self) -> Vec<f64> {
        if self.bt.iter().chain(&self.a).any(|v| !v.is_finite()) {
            return vec![f64::NAN];
        }
        squares_of_product(&self.bt, &self.a, self.r)
    }
}

fn ratio(norm: f64, of: f64) -> Option<f64> {
    finite(norm / of)
}

fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}
