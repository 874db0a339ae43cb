//! What a model must offer to carry adapters.

use lowrank_core::{DType, Device, Tensor};

use crate::layer::Slot;
use crate::{Embedding, Linear, Norm};

/// A model whose layers can carry adapters. Each layer is visited once, under its full name in the model's own files
/// (`model.layers.0.self_attn.q_proj`), in the same order every time.
pub trait Host {
    /// Shows every layer.
    fn visit(&self, f: &mut dyn FnMut(Module<'_>));

    /// Shows every layer, to change its slot.
    fn visit_mut(&mut self, f: &mut dyn FnMut(ModuleMut<'_>));

    /// Name of the layer that makes the logits, which `all-linear` leaves out.
    fn output_head(&self) -> Option<&str>;

    /// Where the layers live.
    fn device(&self) -> &Device;

    /// Dtype of activations, and so of adapters: f32; f64 in gradient checks.
    fn dtype(&self) -> DType;

    /// What kind of model it is, as its configuration calls it (`llama`).
    fn model_type(&self) -> &str;

    /// Where the base model came from, written into adapters' files.
    fn base_name(&self) -> Option<&str>;
}

/// Kinds of layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// [`Linear`]
    Linear,
    /// [`Embedding`]
    Embedding,
    /// [`Norm`]: can be saved whole, but carries no low-rank pair.
    Norm,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Linear => "linear",
            Kind::Embedding => "embedding",
            Kind::Norm => "norm",
        })
    }
}

/// A layer of a [`Host`].
#[derive(Clone, Copy)]
pub enum Module<'a> {
    /// A linear layer.
    Linear(&'a Linear),
    /// An embedding.
    Embedding(&'a Embedding),
    /// A normalisation.
    Norm(&'a Norm),
}

/// A layer of a [`Host`], to change.
pub enum ModuleMut<'a> {
    /// A linear layer.
    Linear(&'a mut Linear),
    /// An embedding.
    Embedding(&'a mut Embedding),
    /// A normalisation.
    Norm(&'a mut Norm),
}

impl<'a> Module<'a> {
    /// The layer's full name.
    pub fn name(&self) -> &'a str {
        match self {
            Module::Linear(l) => l.name(),
            Module::Embedding(l) => l.name(),
            Module::Norm(l) => l.name(),
        }
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        match self {
            Module::Linear(_) => Kind::Linear,
            Module::Embedding(_) => Kind::Embedding,
            Module::Norm(_) => Kind::Norm,
        }
    }

    /// The tensors in use, by full name: `<name>.weight` and, where there is one, `<name>.bias`; merged weights and
    /// saved copies stand in for the base's.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        let (weight, bias) = match self {
            Module::Linear(l) => (l.weight(), l.bias()),
            Module::Embedding(l) => (l.weight(), None),
            Module::Norm(l) => (l.weight(), l.bias()),
        };
        let mut list = vec![(format!("{}.weight", self.name()), weight.clone())];
        list.extend(bias.map(|b| (format!("{}.bias", self.name()), b.clone())));
        list
    }

    /// The base's own tensors, weight first, whatever an adapter puts beside them or in their place.
    pub fn base_tensors(&self) -> impl Iterator<Item = &'a Tensor> + use<'a> {
        [Some(self.base_weight()), self.base_bias()].into_iter().flatten()
    }

    /// The weight without any adapter.
    pub(crate) fn base_weight(&self) -> &'a Tensor {
        match self {
            Module::Linear(l) => &l.weight,
            Module::Embedding(l) => &l.weight,
            Module::Norm(l) => &l.weight,
        }
    }

    /// The bias without any adapter.
    pub(crate) fn base_bias(&self) -> Option<&'a Tensor> {
        match self {
            Module::Linear(l) => l.bias.as_ref(),
            Module::Embedding(_) => None,
            Module::Norm(l) => l.bias.as_ref(),
        }
    }

    pub(crate) fn slot(&self) -> &'a Slot {
        match self {
            Module::Linear(l) => &l.slot,
            Module::Embedding(l) => &l.slot,
            Module::Norm(l) => &l.slot,
        }
    }
}

impl ModuleMut<'_> {
    /// The layer's full name.
    pub fn name(&self) -> &str {
        match self {
            ModuleMut::Linear(l) => l.name(),
            ModuleMut::Embedding(l) => l.name(),
            ModuleMut::Norm(l) => l.name(),
        }
    }

    pub(crate) fn slot(&mut self) -> &mut Slot {
        match self {
            ModuleMut::Linear(l) => &mut l.slot,
            ModuleMut::Embedding(l) => &mut l.slot,
            ModuleMut::Norm(l) => &mut l.slot,
        }
    }
}

/// What targeting needs to know of a layer, without borrowing the host.
#[derive(Clone, Debug)]
pub(crate) struct Info {
    pub name: String,
    pub kind: Kind,
    /// It makes the logits.
    pub head: bool,
    /// Shape of the base weight: `[out, in]`, `[vocab, dim]` or `[dim]`.
    pub shape: Vec<usize>,
    pub bias: bool,
}

impl Info {
    /// Shapes of A and B at this rank: `[r, in]`, `[out, r]`; for an embedding `[r, vocab]`, `[dim, r]`. `None` for a
    /// layer that carries no pair.
    pub(crate) fn pair(&self, r: usize) -> Option<([usize; 2], [usize; 2])> {
        let &[rows, cols] = &self.shape[..] else { return None };
        match self.kind {
            Kind::Linear => Some(([r, cols], [rows, r])),
            Kind::Embedding => Some(([r, rows], [cols, r])),
            Kind::Norm => None,
        }
    }
}

pub(crate) fn infos(host: &dyn Host) -> Vec<Info> {
    let mut list = Vec::new();
    let head = host.output_head();
    host.visit(&mut |m| {
        list.push(Info {
            name: m.name().to_string(),
            kind: m.kind(),
            head: Some(m.name()) == head,
            shape: m.base_weight().shape().to_vec(),
            bias: m.base_bias().is_some(),
        });
    });
    list
}
