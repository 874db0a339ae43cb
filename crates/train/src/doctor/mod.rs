//! Diagnostics of an adapter, layer by layer: does a gradient reach it, does a step move it, how far is it from the
//! base, and which rank would its gradient need?
//!
//! Pairs are looked at as LoRA's theory does (‖dA‖, ‖dB‖, s·BA); layers that are trained whole, modules to save and
//! bottlenecks by what of it applies to them: gradients, the size of the change and of a step, ranks. What does not apply is
//! said by name.
//!
//! Everything is measured on one batch: at the start, after one optimiser step, and, for the suggested ranks, on the base
//! with one layer's weight trainable at a time. The adapter has its values back afterwards.

mod energy;
mod findings;
mod flow;
mod linalg;
mod others;
mod report;

use lowrank_core::{Tensor, no_grad};
use lowrank_lora::{Adapter, Host, attach, detach};
use serde::Serialize;

use crate::{Error, Result};

pub use findings::{Fault, Finding, Severity};
pub use others::{BottleneckReport, WholeReport};

/// How an adapter is examined.
#[derive(Clone, Debug, PartialEq)]
pub struct DoctorOptions {
    /// Learning rate of the one step.
    pub lr: f64,
    /// Largest 2-norm of all gradients of the step.
    pub clip: Option<f64>,
    /// Whether the adapted model should equal the base: a fresh adapter, not a trained one.
    pub fresh: bool,
    /// The share of the gradient's energy `Σσ²` that a suggested rank holds; none to suggest nothing, which saves a
    /// forward and a backward pass a layer.
    pub energy: Option<f64>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Examination {
    /// Whether it was taken for a fresh adapter.
    pub fresh: bool,
    /// Loss of the batch on the base alone, with the adapter, and after one step; `null` where it is no number.
    pub base_loss: Option<f64>,
    /// With the adapter.
    pub loss: Option<f64>,
    /// After one step.
    pub loss_after: Option<f64>,
    /// One entry a layer with a pair.
    pub layers: Vec<LayerReport>,
    /// One entry a weight or bias that is trained whole.
    pub whole: Vec<WholeReport>,
    /// One entry a layer with a bottleneck behind it.
    pub bottlenecks: Vec<BottleneckReport>,
    /// What is not looked at, and why.
    pub not_applicable: Vec<&'static str>,
    /// What is wrong, errors first.
    pub findings: Vec<Finding>,
}

/// One layer's figures. Norms are Frobenius norms; a figure that could not be measured is `null` in JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LayerReport {
    /// Full name in the model.
    pub name: String,
    /// Rows and columns of `B A`: `[out, in]`; for an embedding `[dim, vocab]`.
    pub shape: [usize; 2],
    /// r
    pub rank: usize,
    /// s
    pub scale: f64,
    /// ‖dA‖ of the first and of the second step; none if no gradient arrived.
    pub da: [Option<f64>; 2],
    /// ‖dB‖ likewise.
    pub db: [Option<f64>; 2],
    /// ‖W‖ of the base.
    pub weight_norm: f64,
    /// ‖sBA‖ / ‖W‖ before the step.
    pub ratio: Option<f64>,
    /// ‖Δ(sBA)‖ / ‖W‖ of the step.
    pub update_ratio: Option<f64>,
    /// Stable rank `‖BA‖² / σ₁²` before and after the step; none where BA = 0.
    pub stable_rank: [Option<f64>; 2],
    /// Root mean square of the branch's output for unit inputs, `s‖BA‖/√out`, before and after the step; its counterpart
    /// for gradients is `backward_scale`. Both should stay of the order of 1 whatever r, in and out are (Wang, Yu & Li
    /// 2024, "LoRA-GA", definition of scale stability).
    pub forward_scale: [Option<f64>; 2],
    /// Root mean square of the branch's input gradient for unit output gradients, `s‖BA‖/√in`.
    pub backward_scale: [Option<f64>; 2],
    /// The smallest rank that holds the asked-for share of the layer's gradient.
    pub suggested_rank: Option<usize>,
    /// The share that the present rank could hold.
    pub energy_at_rank: Option<f64>,
    /// A and B are both zero.
    pub both_zero: bool,
    /// B A is zero, one of them may not be.
    pub product_zero: bool,
    /// Something in A or B is NaN or infinite.
    pub not_finite: bool,
    /// Likewise in the base's weight.
    pub base_not_finite: bool,
}

/// Examines an adapter on a host. `loss` computes the loss of one batch as the host is now; it is called with and
/// without the adapter, and must give the same loss each time. The host is left without an adapter.
pub fn examine<H: Host>(
    host: &mut H,
    adapter: &Adapter,
    loss: &dyn Fn(&H) -> Result<Tensor>,
    options: &DoctorOptions,
) -> Result<Examination> {
    if !(options.lr.is_finite() && options.lr > 0.0) {
        return Err(Error::option("--lr", format!("{} is not a positive number", options.lr)));
    }
    if let Some(energy) = options.energy
        && !(energy > 0.0 && energy < 1.0)
    {
        return Err(Error::option("--energy", format!("{energy} is not between 0 and 1")));
    }
    if adapter.parameters().is_empty() {
        let detail = format!("{} trains nothing that could be looked at", adapter.name);
        return Err(Error::option("--adapter", detail));
    }
    detach(host);
    let base_loss = no_grad(|| loss(host))?.item()?;
    attach(host, adapter)?;
    let saved = flow::values(adapter)?;
    let measured = flow::measure(host, adapter, loss, options);
    flow::restore(adapter, &saved)?;
    detach(host);
    let flow::Flow { loss: start, loss_after, mut layers, others } = measured?;
    if let Some(energy) = options.energy
        && base_loss.is_finite()
    {
        energy::suggest(host, adapter, loss, energy, &mut layers)?;
    }
    let number = |x: f64| x.is_finite().then_some(x);
    let mut examination = Examination {
        fresh: options.fresh,
        base_loss: number(base_loss),
        loss: number(start),
        loss_after: loss_after.and_then(number),
        layers,
        not_applicable: not_applicable(adapter),
        whole: others.whole,
        bottlenecks: others.bottlenecks,
        findings: Vec::new(),
    };
    examination.findings = findings::of(&examination);
    Ok(examination)
}

fn not_applicable(adapter: &Adapter) -> Vec<&'static str> {
    let mut list = Vec::new();
    if !adapter.saved.is_empty() || !adapter.biases.is_empty() {
        list.push(
            "weights and biases trained whole have no A, B and s: ‖dA‖, ‖dB‖, sBA, its forward and backward scale and \
             the fault \"dead\" mean nothing there",
        );
    }
    if !adapter.bottlenecks.is_empty() {
        list.push(
            "a bottleneck is no change of a weight: ‖sBA‖/‖W‖ and a suggested rank mean nothing there; it starts near the \
             base, not on it",
        );
    }
    list
}

impl Examination {
    /// Whether anything is an error.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|f| f.severity == Severity::Error)
    }
}
