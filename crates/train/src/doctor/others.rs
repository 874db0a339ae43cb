//! What is trained besides pairs: copies of weights and biases (full fine-tuning, modules to save) and bottlenecks.

use std::collections::BTreeMap;

use lowrank_core::{Tensor, no_grad};
use lowrank_lora::{Adapter, Bottleneck, Host};
use serde::Serialize;

use super::energy::squares;
use super::linalg::{squares_of_product, transpose};
use crate::Result;

/// A weight or bias that is trained whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WholeReport {
    /// The parameter's full name in the model.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// ‖dW‖ of the first and of the second step; none if no gradient arrived.
    pub gradient: [Option<f64>; 2],
    /// ‖W‖ of the base.
    pub weight_norm: f64,
    /// ‖W′ − W‖ / ‖W‖ before the step.
    pub ratio: Option<f64>,
    /// ‖ΔW′‖ / ‖W‖ of the step.
    pub update_ratio: Option<f64>,
    /// Stable rank of W′ − W after the step; none for vectors, or if no ranks were asked for.
    pub stable_rank: Option<f64>,
    /// The smallest rank that holds the asked-for share of its first gradient: what a pair in its place would need.
    pub suggested_rank: Option<usize>,
    /// W′ = W.
    pub unchanged: bool,
    /// Something in W′ is NaN or infinite.
    pub not_finite: bool,
    /// Likewise in W.
    pub base_not_finite: bool,
}

/// A bottleneck behind a layer with n outputs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BottleneckReport {
    /// The layer's full name in the model.
    pub name: String,
    /// n
    pub outputs: usize,
    /// r
    pub width: usize,
    /// Norm of the gradients of W_down and b_d in the first and in the second step; none if no gradient arrived.
    pub d_down: [Option<f64>; 2],
    /// Of W_up and b_u.
    pub d_up: [Option<f64>; 2],
    /// ‖W_up W_down‖/√n before the step: how much the branch adds to what passes by it (for which it is 1) where φ is no
    /// less than linear.
    pub ratio: Option<f64>,
    /// ‖Δ(W_up W_down)‖/√n of the step.
    pub update_ratio: Option<f64>,
    /// Stable rank of W_up W_down after the step.
    pub stable_rank: Option<f64>,
    /// W_up, W_down and b_d are zero: of all four tensors only b_u ever moves.
    pub dead: bool,
    /// W_up and b_u are zero: the layer is as without it.
    pub adds_nothing: bool,
    /// Something in it is NaN or infinite.
    pub not_finite: bool,
}

/// What is looked at while a step is taken.
pub(super) struct Others {
    pub whole: Vec<WholeReport>,
    pub bottlenecks: Vec<BottleneckReport>,
    tensors: Vec<Tensor>,
    base: Vec<Vec<f64>>,
    start: Vec<Vec<f64>>,
    products: Vec<Product>,
}

impl Others {
    /// Before the step.
    pub fn of<H: Host>(host: &H, adapter: &Adapter) -> Result<Self> {
        let base = base_values(host, adapter)?;
        let mut others = Others {
            whole: Vec::new(),
            bottlenecks: Vec::new(),
            tensors: Vec::new(),
            base: Vec::new(),
            start: Vec::new(),
            products: Vec::new(),
        };
        for (name, copy) in adapter.saved.iter().chain(&adapter.biases) {
            let Some(base) = base.get(name).cloned() else { continue };
            let values = copy.to_f64()?;
            let weight_norm = norm(&base);
            others.whole.push(WholeReport {
                name: name.clone(),
                shape: copy.shape().to_vec(),
                weight_norm,
                ratio: finite(norm(&minus(&values, &base)) / weight_norm),
                unchanged: values == base,
                not_finite: values.iter().any(|v| !v.is_finite()),
                base_not_finite: !weight_norm.is_finite(),
                ..WholeReport::default()
            });
            others.tensors.push(copy.clone());
            others.base.push(base);
            others.start.push(values);
        }
        for (name, bottleneck) in &adapter.bottlenecks {
            let product = Product::of(bottleneck)?;
            let zero = |t: &Tensor| -> Result<bool> { Ok(t.to_f64()?.iter().all(|&v| v == 0.0)) };
            let up_zero = zero(&bottleneck.up)?;
            let mut not_finite = false;
            for (_, t) in bottleneck.tensors() {
                not_finite |= t.to_f64()?.iter().any(|v| !v.is_finite());
            }
            others.bottlenecks.push(BottleneckReport {
                name: name.clone(),
                outputs: product.n,
                width: product.r,
                ratio: product.ratio(),
                dead: up_zero && zero(&bottleneck.down)? && zero(&bottleneck.down_bias)?,
                adds_nothing: up_zero && zero(&bottleneck.up_bias)?,
                not_finite,
                ..BottleneckReport::default()
            });
            others.products.push(product);
        }
        Ok(others)
    }

    /// After a backward pass, the first or the second. `energy` asks for ranks.
    pub fn gradients(&mut self, adapter: &Adapter, at: usize, energy: Option<f64>) -> Result<()> {
        for (report, t) in self.whole.iter_mut().zip(&self.tensors) {
            let Some(g) = t.grad() else { continue };
            let g = g.to_f64()?;
            report.gradient[at] = Some(norm(&g));
            if let (0, Some(share), &[n, k]) = (at, energy, t.shape())
                && g.iter().all(|v| v.is_finite())
            {
                report.suggested_rank = squares(g, n, k).rank_for(share);
            }
        }
        for (report, b) in self.bottlenecks.iter_mut().zip(adapter.bottlenecks.values()) {
            report.d_down[at] = both(&b.down, &b.down_bias)?;
            report.d_up[at] = both(&b.up, &b.up_bias)?;
        }
        Ok(())
    }

    /// After the step.
    pub fn after(&mut self, adapter: &Adapter, ranks: bool) -> Result<()> {
        for (i, report) in self.whole.iter_mut().enumerate() {
            let now = self.tensors[i].to_f64()?;
            report.update_ratio = finite(norm(&minus(&now, &self.start[i])) / report.weight_norm);
            if let (true, &[n, k]) = (ranks, self.tensors[i].shape()) {
                let change = minus(&now, &self.base[i]);
                if change.iter().all(|v| v.is_finite()) {
                    report.stable_rank = squares(change, n, k).stable_rank();
                }
            }
        }
        let bottlenecks = self.bottlenecks.iter_mut().zip(adapter.bottlenecks.values());
        for ((report, bottleneck), old) in bottlenecks.zip(&self.products) {
            let now = Product::of(bottleneck)?;
            report.update_ratio = now.minus(old).ratio();
            report.stable_rank = stable(&now.squares());
        }
        Ok(())
    }
}

/// Base values of the parameters that the adapter has whole, in its own precision: a fresh copy has just these.
fn base_values<H: Host>(host: &H, adapter: &Adapter) -> Result<BTreeMap<String, Vec<f64>>> {
    let mut values = BTreeMap::new();
    let mut outcome = Ok(());
    host.visit(&mut |m| {
        for (i, t) in m.base_tensors().enumerate() {
            let name = format!("{}.{}", m.name(), if i == 0 { "weight" } else { "bias" });
            if outcome.is_ok() && (adapter.saved.contains_key(&name) || adapter.biases.contains_key(&name)) {
                match no_grad(|| t.to_f64()) {
                    Ok(v) => drop(values.insert(name, v)),
                    Err(e) => outcome = Err(e),
                }
            }
        }
    });
    outcome?;
    Ok(values)
}

/// W_up W_down as two factors.
struct Product {
    /// W_upᵀ `[r,n]`.
    upt: Vec<f64>,
    /// W_down `[r,n]`.
    down: Vec<f64>,
    r: usize,
    n: usize,
}

impl Product {
    fn of(b: &Bottleneck) -> Result<Self> {
        let r = b.width().max(1);
        let (up, down) = (b.up.to_f64()?, b.down.to_f64()?);
        let n = down.len() / r;
        Ok(Product { upt: transpose(&up, n, r), down, r, n })
    }

    fn minus(&self, old: &Product) -> Product {
        let mut upt = self.upt.clone();
        upt.extend(old.upt.iter().map(|v| -v));
        Product { upt, down: [&self.down[..], &old.down].concat(), r: self.r + old.r, n: self.n }
    }

    fn squares(&self) -> Vec<f64> {
        if self.upt.iter().chain(&self.down).any(|v| !v.is_finite()) {
            return vec![f64::NAN];
        }
        squares_of_product(&self.upt, &self.down, self.r)
    }

    fn ratio(&self) -> Option<f64> {
        finite((self.squares().iter().sum::<f64>().max(0.0) / self.n as f64).sqrt())
            .filter(|_| self.squares().iter().all(|s| s.is_finite()))
    }
}

/// Norm of the gradients of two tensors together; none if neither has one.
fn both(weight: &Tensor, bias: &Tensor) -> Result<Option<f64>> {
    let mut square = None;
    for t in [weight, bias] {
        if let Some(g) = t.grad() {
            *square.get_or_insert(0.0) += g.to_f64()?.iter().map(|v| v * v).sum::<f64>();
        }
    }
    Ok(square.map(f64::sqrt))
}

fn stable(squares: &[f64]) -> Option<f64> {
    let largest = squares.first().copied().filter(|&s| s > 0.0)?;
    finite(squares.iter().map(|s| s.max(0.0)).sum::<f64>() / largest)
}

fn minus(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| x - y).collect()
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}
