//! RMSNorm and LayerNorm. No low-rank branch, but they can be saved whole or have their bias trained.

use lowrank_core::Tensor;

use super::Slot;
use crate::Result;

/// A normalisation over the last dimension.
pub struct Norm {
    name: String,
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
    eps: f64,
    pub(crate) slot: Slot,
}

impl Norm {
    /// RMSNorm of weight `[dim]`; LayerNorm if there is a bias `[dim]`. `name` is its full name in the model.
    pub fn new(name: impl Into<String>, weight: Tensor, bias: Option<Tensor>, eps: f64) -> Self {
        Norm { name: name.into(), weight, bias, eps, slot: Slot::default() }
    }

    /// x `[…, dim]` → the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.slot.by_row {
            None => self.through(&self.slot, x),
            Some(rows) => rows.apart(x, |slot, x| self.through(slot, x)),
        }
    }

    fn through(&self, slot: &Slot, x: &Tensor) -> Result<Tensor> {
        let weight = slot.weight(&self.weight);
        Ok(match slot.bias.as_ref().or(self.bias.as_ref()) {
            None => x.rms_norm(weight, self.eps)?,
            Some(bias) => x.layer_norm(weight, bias, self.eps)?,
        })
    }

    /// Full name in the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The weight in use `[dim]`.
    pub fn weight(&self) -> &Tensor {
        self.slot.weight(&self.weight)
    }

    /// The bias in use `[dim]`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.slot.bias.as_ref().or(self.bias.as_ref())
    }

    /// Added to the variance under the root.
    pub fn eps(&self) -> f64 {
        self.eps
    }
}
