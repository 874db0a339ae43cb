//! Inits that look at a model at work: probes on its layers, micro-batches through it, and what the probes have seen.

use std::collections::BTreeMap;
use std::sync::Arc;

use lowrank_core::{Tensor, no_grad};

use super::eva::Inputs;
use super::lora_ga::{self, Cost, FirstStep, Full, Start, Streamed};
use super::{Estimator, Init, LoraGa, Pair, Sizes, in_layer, linear_only};
use crate::layer::Slot;
use crate::{Error, Host, ModuleMut, Probe, Result};

/// Shows a host a micro-batch, by its number, and returns the loss (a scalar).
pub type Run<'a, H> = dyn FnMut(&H, usize) -> Result<Tensor> + 'a;

/// What an init from data did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InitReport {
    /// By layer, in the order of names; empty for EVA, which makes no promise about the first step.
    pub layers: Vec<(String, FirstStep)>,
    /// Extra work.
    pub cost: Cost,
}

/// A layer to be started.
pub(crate) struct Target {
    pub name: String,
    pub sizes: Sizes,
    pub scale: f64,
    /// The base's.
    pub weight: Tensor,
}

/// The starts of these layers. The host must have no adapter attached; it is given back as it was, also on an error.
pub(crate) fn from_data<H: Host>(
    host: &mut H,
    init: &Init,
    targets: &[Target],
    seed: u64,
    run: &mut Run<'_, H>,
) -> Result<(BTreeMap<String, Pair>, InitReport)> {
    let mut free = true;
    host.visit(&mut |m| free &= m.slot().is_empty() && m.slot().merged.is_none());
    if !free {
        return Err(Error::adapter(format!("init {init}: an adapter is attached; detach it first")));
    }
    for t in targets {
        linear_only(init, &t.sizes).map_err(|e| in_layer(&t.name, e))?;
        if let Init::LoraGa(_) = init {
            lora_ga::check(&t.sizes).map_err(|e| in_layer(&t.name, e))?;
        }
    }
    let outcome = match init {
        Init::LoraGa(options) => gradients(host, options, targets, seed, run),
        Init::Eva { batches } => inputs(host, *batches, targets, seed, run),
        _ => Err(Error::adapter(format!("init {init} needs no data"))),
    };
    host.visit_mut(&mut |mut m| *m.slot() = Slot::default());
    outcome
}

type Starts = (BTreeMap<String, Pair>, InitReport);

fn gradients<H: Host>(
    host: &mut H,
    options: &LoraGa,
    targets: &[Target],
    seed: u64,
    run: &mut Run<'_, H>,
) -> Result<Starts> {
    let mut starts = BTreeMap::new();
    let mut report = InitReport::default();
    let mut keep = |t: &Target, start: Start, report: &mut InitReport| {
        report.layers.push((t.name.clone(), start.first_step));
        starts.insert(t.name.clone(), Pair { a: start.a.data, b: start.b.data, offset: true });
    };
    match options.estimator {
        Estimator::Full { .. } => {
            for group in targets.chunks(options.estimator.group()) {
                let probes: Vec<Arc<Full>> = group.iter().map(|_| Arc::default()).collect();
                put(host, group, &probes);
                backward(host, options.batches, group, run)?;
                report.cost.replays += 1;
                report.cost.runs += options.batches;
                take_off(host);
                let elements = group.iter().map(|t| t.sizes.n * t.sizes.k).sum();
                report.cost.elements = report.cost.elements.max(elements);
                for (t, probe) in group.iter().zip(&probes) {
                    let Some(g) = probe.take() else { return Err(no_gradient(&t.name)) };
                    report.cost.flops += probe.flops();
                    let start = lora_ga::from_gradient(&g, &t.weight, t.sizes.r, t.scale, options, &t.name, seed)?;
                    keep(t, start, &mut report);
                }
            }
        }
        Estimator::Streamed { passes } => {
            let single = options.batches == 1;
            let probe = |t: &Target| Streamed::new(&t.weight, t.sizes, passes, single, &t.name, seed).map(Arc::new);
            let probes = targets.iter().map(probe).collect::<Result<Vec<_>>>()?;
            put(host, targets, &probes);
            for _ in 0..if single { 1 } else { passes } {
                backward(host, options.batches, targets, run)?;
                report.cost.replays += 1;
                report.cost.runs += options.batches;
                for (t, probe) in targets.iter().zip(&probes) {
                    if !probe.next_pass().map_err(|e| in_layer(&t.name, e))? {
                        return Err(no_gradient(&t.name));
                    }
                }
            }
            take_off(host);
            report.cost.elements = probes.iter().map(|p| p.elements()).sum();
            for (t, probe) in targets.iter().zip(&probes) {
                report.cost.flops += probe.flops();
                let start = probe.start(&t.weight, t.scale, options).map_err(|e| in_layer(&t.name, e))?;
                keep(t, start, &mut report);
            }
        }
    }
    report.layers.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok((starts, report))
}

fn inputs<H: Host>(
    host: &mut H,
    batches: usize,
    targets: &[Target],
    seed: u64,
    run: &mut Run<'_, H>,
) -> Result<Starts> {
    let probes: Vec<Arc<Inputs>> = targets.iter().map(|t| Arc::new(Inputs::new(t.sizes, &t.name, seed))).collect();
    put(host, targets, &probes);
    for i in 0..batches {
        no_grad(|| run(host, i)).map(drop)?;
    }
    take_off(host);
    let mut report = InitReport::default();
    report.cost.runs = batches;
    report.cost.replays = 1;
    let mut starts = BTreeMap::new();
    for (t, probe) in targets.iter().zip(&probes) {
        starts.insert(t.name.clone(), probe.start().map_err(|e| in_layer(&t.name, e))?);
    }
    Ok((starts, report))
}

/// Forward and backward of every micro-batch.
fn backward<H: Host>(host: &H, batches: usize, targets: &[Target], run: &mut Run<'_, H>) -> Result<()> {
    for i in 0..batches {
        let loss = run(host, i)?;
        if !loss.requires_grad() {
            return Err(no_gradient(targets.first().map_or("", |t| &t.name)));
        }
        loss.backward()?;
    }
    Ok(())
}

fn no_gradient(name: &str) -> Error {
    Error::adapter(format!("{name}: no gradient reached the layer; the loss does not depend on it"))
}

fn put<P: Probe + 'static>(host: &mut dyn Host, targets: &[Target], probes: &[Arc<P>]) {
    host.visit_mut(&mut |mut m| {
        let Some(at) = targets.iter().position(|t| t.name == m.name()) else { return };
        if let ModuleMut::Linear(_) = m {
            m.slot().probe = Some(probes[at].clone());
        }
    });
}

fn take_off(host: &mut dyn Host) {
    host.visit_mut(&mut |mut m| m.slot().probe = None);
}

/// A tensor `[…, n]` as `[rows, n]`, outside of the graph.
pub(super) fn matrix(t: &Tensor) -> Result<Tensor> {
    let cols = t.shape().last().copied().unwrap_or(1);
    Ok(t.detach().reshape(&[t.len() / cols.max(1), cols])?)
}
