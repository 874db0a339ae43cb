//! Making an adapter act on a host. Attaching moves handles, not elements, so a swap costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lowrank_core::Tensor;

use crate::host::{Info, infos};
use crate::layer::{ByRow, Slot};
use crate::{Adapter, Error, Host, Kind, Result};

/// Makes this adapter the active one, in place of any other. Every tensor must find its layer, with fitting shape and
/// device, or nothing changes and the error names it; a merged host is refused.
pub fn attach(host: &mut dyn Host, adapter: &Adapter) -> Result<()> {
    if is_merged(host) {
        return Err(Error::adapter("attach: an adapter is merged into the weights; unmerge it first"));
    }
    check(host, adapter)?;
    host.visit_mut(&mut |mut m| *m.slot() = slot(adapter, m.name()));
    Ok(())
}

/// Gives each sequence of the batches to come an adapter of its own, or none: `rows` has an index into `adapters` for
/// every sequence, that is, for every equal part of a layer's input along its first dimension.
///
/// Every row then has the result that it would have with its adapter attached alone, and an adapter's gradients come from
/// its own rows: to the bit if all the adapters are [plain](Adapter::is_plain) and there is no dropout (and the batch is
/// above the size of decoding), else up to the rounding of sums. Adapters may differ in everything; where all of them have
/// plain pairs, a layer is one operation over all rows.
pub fn attach_rows(host: &mut dyn Host, adapters: &[&Adapter], rows: &[Option<usize>]) -> Result<()> {
    if is_merged(host) {
        return Err(Error::adapter("attach: an adapter is merged into the weights; unmerge it first"));
    }
    if rows.is_empty() {
        return Err(Error::adapter("attach: no sequence has an adapter"));
    }
    if let Some(i) = rows.iter().flatten().find(|i| **i >= adapters.len()) {
        return Err(Error::adapter(format!("attach: a sequence names adapter {i} of {}", adapters.len())));
    }
    adapters.iter().try_for_each(|adapter| check(host, adapter))?;
    let rows: Arc<[Option<usize>]> = rows.into();
    host.visit_mut(&mut |mut m| {
        let slots = adapters.iter().map(|adapter| slot(adapter, m.name())).collect();
        *m.slot() = Slot { by_row: Some(ByRow::new(slots, rows.clone())), ..Slot::default() };
    });
    Ok(())
}

/// What an adapter says about the layer of this name.
fn slot(adapter: &Adapter, name: &str) -> Slot {
    let bias = format!("{name}.bias");
    Slot {
        lora: adapter.layers.get(name).cloned(),
        bottleneck: adapter.bottlenecks.get(name).cloned(),
        weight: adapter.saved.get(&format!("{name}.weight")).cloned(),
        bias: adapter.saved.get(&bias).or(adapter.biases.get(&bias)).cloned(),
        ..Slot::default()
    }
}

/// Gives the base back as it was, to the bit, merged or not.
pub fn detach(host: &mut dyn Host) {
    host.visit_mut(&mut |mut m| *m.slot() = Slot::default());
}

pub(crate) fn is_merged(host: &dyn Host) -> bool {
    let mut merged = false;
    host.visit(&mut |m| merged |= m.slot().merged.is_some());
    merged
}

fn check(host: &dyn Host, adapter: &Adapter) -> Result<()> {
    let infos: BTreeMap<String, Info> = infos(host).into_iter().map(|m| (m.name.clone(), m)).collect();
    let refuse =
        |what: &str, detail: String| Err(Error::adapter(format!("adapter {}: {what}: {detail}", adapter.name)));
    let fits = |what: &str, role: &str, t: &Tensor, shape: &[usize]| {
        if t.shape() != shape {
            return refuse(what, format!("{role} has shape {:?}, the layer needs {shape:?}", t.shape()));
        }
        if !t.device().same(host.device()) {
            return refuse(what, format!("{role} is on {}, the model on {}", t.device().name(), host.device().name()));
        }
        Ok(())
    };
    for (name, pair) in &adapter.layers {
        let Some(m) = infos.get(name) else { return refuse(name, "the model has no such layer".into()) };
        let shapes = if m.kind == pair.kind && m.kind != Kind::Norm { m.pair(pair.rank) } else { None };
        let Some((a, b)) = shapes else {
            return refuse(name, format!("the layer's kind is {}, the adapter's {}", m.kind, pair.kind));
        };
        if let Some(o) = &pair.offset {
            if m.kind != Kind::Linear {
                return refuse(name, format!("an offset is for linear layers, not for an {}", m.kind));
            }
            fits(name, "A₀", &o.a, &[o.a.shape().first().copied().unwrap_or(0), a[1]])?;
            fits(name, "B₀", &o.b, &[b[0], o.a.shape().first().copied().unwrap_or(0)])?;
        }
        fits(name, "A", &pair.a, &a)?;
        fits(name, "B", &pair.b, &b)?;
        match &pair.magnitude {
            Some(_) if m.kind != Kind::Linear => return refuse(name, "DoRA's magnitude is for linear layers".into()),
            Some(magnitude) => fits(name, "the magnitude", magnitude, &m.shape[..1])?,
            None => {}
        }
    }
    for (name, bottleneck) in &adapter.bottlenecks {
        let Some(m) = infos.get(name) else { return refuse(name, "the model has no such layer".into()) };
        if m.kind != Kind::Linear {
            return refuse(name, format!("a bottleneck is for linear layers, not for an {}", m.kind));
        }
        let (n, r) = (m.shape[0], bottleneck.width());
        let shapes: [&[usize]; 4] = [&[r, n], &[r], &[n, r], &[n]];
        for ((role, t), shape) in bottleneck.tensors().into_iter().zip(shapes) {
            fits(name, role, t, shape)?;
        }
    }
    let mut weights = BTreeSet::new();
    for (parameter, tensor) in adapter.saved.iter().chain(&adapter.biases) {
        let known = parameter.rsplit_once('.').and_then(|(module, part)| Some((infos.get(module)?, part)));
        let shape = match known {
            Some((m, "weight")) => {
                weights.insert(m.name.as_str());
                m.shape.clone()
            }
            Some((m, "bias")) if m.bias => m.shape[..1].to_vec(),
            _ => return refuse(parameter, "the model has no such parameter".into()),
        };
        fits(parameter, "the tensor", tensor, &shape)?;
    }
    match adapter.layers.keys().find(|name| weights.contains(name.as_str())) {
        Some(name) => refuse(name, "has both a pair and a whole copy".into()),
        None => Ok(()),
    }
}

/// Several loaded adapters of one host, one of them active at most.
#[derive(Default)]
pub struct Adapters {
    adapters: BTreeMap<String, Adapter>,
    active: Option<String>,
}

impl Adapters {
    /// No adapters.
    pub fn new() -> Self {
        Adapters::default()
    }

    /// Adds one, inactive. A name that is taken is an error.
    pub fn insert(&mut self, adapter: Adapter) -> Result<()> {
        if self.adapters.contains_key(&adapter.name) {
            return Err(Error::adapter(format!("there is an adapter called {} already", adapter.name)));
        }
        self.adapters.insert(adapter.name.clone(), adapter);
        Ok(())
    }

    /// Their names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.adapters.keys().map(String::as_str)
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&Adapter> {
        self.adapters.get(name)
    }

    /// Makes one act on the host, in place of the one before. On an error everything stays as it was.
    pub fn activate(&mut self, host: &mut dyn Host, name: &str) -> Result<()> {
        let Some(adapter) = self.adapters.get(name) else {
            let have = self.names().collect::<Vec<_>>().join(", ");
            return Err(Error::adapter(format!("no adapter is called {name}; there are: {have}")));
        };
        attach(host, adapter)?;
        self.active = Some(name.to_string());
        Ok(())
    }

    /// Gives the host its base back.
    pub fn disable(&mut self, host: &mut dyn Host) {
        detach(host);
        self.active = None;
    }

    /// The one that [`Adapters::activate`] made active last.
    pub fn active(&self) -> Option<&str> {
        self.active.as_deref()
    }
}

#[cfg(test)]
mod tests;
