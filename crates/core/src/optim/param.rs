//! What optimisers share: the parameters in their groups, their gradients, and the norm over all of them.

use std::collections::BTreeMap;

use lowrank_backend::{Block, DType, Error, In, Result, Scalars};

use crate::tensor::{Read, Write};
use crate::{Device, Tensor};

/// Parameters with a common learning rate and weight decay.
#[derive(Clone, Debug)]
pub struct Group {
    /// Trainable leaves, by the name used in messages.
    pub params: Vec<(String, Tensor)>,
    /// Learning rate; a step multiplies it with the schedule's factor.
    pub lr: f64,
    /// Decoupled weight decay: a step takes `lr · weight_decay` of a parameter off it.
    pub weight_decay: f64,
}

/// The groups of an optimiser, checked.
pub(crate) struct Params {
    pub(crate) groups: Vec<Group>,
    pub(crate) device: Device,
    /// Norm of the last step, one f32.
    norm: Option<Tensor>,
}

impl Params {
    pub(crate) fn new(op: &'static str, groups: Vec<Group>) -> Result<Self> {
        let Some((_, first)) = groups.iter().flat_map(|g| &g.params).next() else {
            return Err(Error::invalid(op, "there are no parameters"));
        };
        let device = first.device().clone();
        if groups.len() > Scalars::GROUPS {
            let detail = format!("{} parameter groups, at most {} fit", groups.len(), Scalars::GROUPS);
            return Err(Error::invalid(op, detail));
        }
        let mut seen = BTreeMap::new();
        for group in &groups {
            for (what, value) in [("lr", group.lr), ("weight_decay", group.weight_decay)] {
                not_negative(op, what, value)?;
            }
            for (name, t) in &group.params {
                if !t.requires_grad() || !t.is_leaf() {
                    let detail = format!("{} is not a trainable leaf", t.label(name));
                    return Err(Error::graph(op, detail));
                }
                if !t.device().same(&device) {
                    return Err(Error::DeviceMismatch { op, left: device.name(), right: t.device().name() });
                }
                // Also a deadlock otherwise: both would be locked for writing.
                if let Some(other) = seen.insert(t.storage_id(), name) {
                    return Err(Error::invalid(op, format!("{other} and {name} are the same memory")));
                }
            }
        }
        Ok(Params { groups, device, norm: None })
    }

    /// Zeros like every parameter, group by group.
    pub(crate) fn zeros(&self) -> Result<Vec<Vec<Tensor>>> {
        let like = |(_, t): &(String, Tensor)| Tensor::zeros(t.shape(), t.dtype(), t.device());
        self.groups.iter().map(|g| g.params.iter().map(like).collect()).collect()
    }

    /// Every parameter's gradient, group by group. Those without one are named, all of them.
    pub(crate) fn grads(&self, op: &'static str) -> Result<Vec<Vec<Tensor>>> {
        let mut missing = Vec::new();
        let mut all = Vec::new();
        for group in &self.groups {
            let mut grads = Vec::new();
            for (name, t) in &group.params {
                match t.grad() {
                    Some(g) => grads.push(g),
                    None => missing.push(name.as_str()),
                }
            }
            all.push(grads);
        }
        if missing.is_empty() {
            return Ok(all);
        }
        Err(Error::graph(op, format!("no gradient reached {}: {}", count(missing.len()), missing.join(", "))))
    }

    /// Uploads the learning rates and what `change` sets; then the device computes norm and clip factor over `grads`.
    pub(crate) fn prepare(
        &mut self,
        op: &'static str,
        grads: &[Vec<Tensor>],
        lr_factor: f64,
        max_norm: Option<f64>,
        change: impl FnOnce(&mut Scalars),
    ) -> Result<()> {
        not_negative(op, "lr_factor", lr_factor)?;
        if let Some(max) = max_norm
            && !(max.is_finite() && max > 0.0)
        {
            return Err(Error::invalid(op, format!("max_norm {max} is not positive")));
        }
        // The upload replaces the whole buffer, so it comes before the device writes to it.
        self.device.update_scalars(|s| {
            for (i, group) in self.groups.iter().enumerate() {
                s[Scalars::LR + i] = (group.lr * lr_factor) as f32;
            }
            change(s);
        })?;
        let reads = read(grads.iter().flatten());
        let views: Vec<In<'_>> = reads.iter().map(Read::view).collect();
        self.device.with_scalars_mut(|s| self.device.backend().grad_norm(&views, max_norm, s))?;
        // Copied away, as the next upload forgets it.
        let norm = Tensor::empty(&[1], DType::F32, &self.device)?;
        let one = Block { rows: 1, cols: 1, src_stride: 1, dst_stride: 1 };
        self.device
            .with_scalars(|s| self.device.backend().copy(&one, s.narrow(Scalars::NORM, 1), norm.write().set()))?;
        self.norm = Some(norm);
        Ok(())
    }

    pub(crate) fn zero_grad(&self) {
        for (_, t) in self.groups.iter().flat_map(|g| &g.params) {
            t.zero_grad();
        }
    }

    pub(crate) fn norm(&self, op: &'static str) -> Result<Tensor> {
        self.norm.clone().ok_or_else(|| Error::graph(op, "there is no norm before the first step"))
    }
}

/// Locks tensors for reading, all at once.
pub(crate) fn read<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<Read<'a>> {
    tensors.into_iter().map(Tensor::read).collect()
}

/// Locks tensors of distinct storages for writing, all at once.
pub(crate) fn write<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<Write<'a>> {
    tensors.into_iter().map(Tensor::write).collect()
}

pub(crate) fn not_negative(op: &'static str, what: &str, value: f64) -> Result<()> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(Error::invalid(op, format!("{what} = {value} is negative or not finite")))
}

/// A number in 0 .. 1, as decay rates are.
pub(crate) fn fraction(op: &'static str, what: &str, value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) {
        Ok(())
    } else {
        Err(Error::invalid(op, format!("{what} = {value} is not in [0, 1)")))
    }
}

fn count(n: usize) -> String {
    if n == 1 { "a parameter".into() } else { format!("{n} parameters") }
}
