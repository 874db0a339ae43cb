//! Layers with a slot for an adapter. The base's tensors are never changed: an adapter stands beside them or in their
//! place, so taking it away gives the original bits back.

mod bottleneck;
mod embedding;
mod linear;
mod norm;
mod offset;
mod probe;
mod rows;

pub use bottleneck::Bottleneck;
pub use embedding::Embedding;
pub use linear::Linear;
use lowrank_core::{Tensor, is_grad_enabled};
pub use norm::Norm;
pub use offset::Offset;
pub use probe::Probe;
pub(crate) use rows::ByRow;

use crate::Kind;

/// The pair A, B of one layer, with what it is multiplied by. Clones are handles on the same tensors.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// Linear: `[r, in]`. Embedding: `[r, vocab]`.
    pub a: Tensor,
    /// Linear: `[out, r]`. Embedding: `[dim, r]`.
    pub b: Tensor,
    /// DoRA's m `[out]`, one for every row of the weight; linear layers only.
    pub magnitude: Option<Tensor>,
    /// s: α/r, or α/√r with rsLoRA.
    pub scale: f64,
    /// Probability of dropout on the branch's input, while gradients are recorded. An embedding has none.
    pub dropout: f64,
    /// r
    pub rank: usize,
    /// α
    pub alpha: f64,
    /// What it belongs on.
    pub kind: Kind,
    /// What is taken off the base, for inits that split it (PiSSA, OLoRA, LoRA-GA).
    pub offset: Option<Offset>,
}

impl LowRank {
    /// The dropout to use now: none in inference.
    fn active_dropout(&self) -> f64 {
        if is_grad_enabled() { self.dropout } else { 0.0 }
    }
}

/// What the active adapter has to say about one layer.
#[derive(Default)]
pub(crate) struct Slot {
    /// Low-rank pair.
    pub lora: Option<LowRank>,
    /// Behind the layer.
    pub bottleneck: Option<Bottleneck>,
    /// Takes the weight's place (modules_to_save).
    pub weight: Option<Tensor>,
    /// Takes the bias's place (modules_to_save, or trained biases).
    pub bias: Option<Tensor>,
    /// Looks at what flows through a linear layer; not an adapter's.
    pub probe: Option<std::sync::Arc<dyn Probe>>,
    /// While merged: the weight with the above in it, in the base's dtype.
    pub merged: Option<Tensor>,
    /// In place of all of the above: sequences of a batch have adapters of their own.
    pub by_row: Option<ByRow>,
}

impl Slot {
    pub(crate) fn is_empty(&self) -> bool {
        self.lora.is_none()
            && self.bottleneck.is_none()
            && self.weight.is_none()
            && self.bias.is_none()
            && self.by_row.is_none()
    }

    /// The weight in use, without a pair that is not merged.
    fn weight<'a>(&'a self, base: &'a Tensor) -> &'a Tensor {
        self.merged.as_ref().or(self.weight.as_ref()).unwrap_or(base)
    }

    /// The pair, unless it is already in the weight.
    fn pair(&self) -> Option<&LowRank> {
        if self.merged.is_some() { None } else { self.lora.as_ref() }
    }
}
