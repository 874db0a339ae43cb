//! From factors by layer to an adapter whose configuration says the right rank and α for each of them.

use std::collections::BTreeMap;

use lowrank_core::Tensor;

use super::factors::Factors;
use crate::peft::keys;
use crate::{Adapter, Bias, Error, Init, LoraConfig, LowRank, Result, Targets};

/// An adapter of these layers at their scale, with tensors like those of `first`. Targets stay as they are if all parts
/// agree on them, else they are the layers' full names.
pub(super) fn assemble(
    name: &str,
    first: &Adapter,
    parts: &[&Adapter],
    layers: BTreeMap<String, Factors>,
) -> Result<Adapter> {
    let Some(like) = first.layers.values().next() else {
        return Err(Error::adapter(format!("adapter {} has no low-rank layers", first.name)));
    };
    let mut config = LoraConfig {
        use_rslora: false,
        use_dora: false,
        init: Init::Default,
        bias: Bias::None,
        ..first.config.clone()
    };
    if parts.iter().any(|p| selection(&p.config) != selection(&first.config)) {
        config.targets = Targets::List(layers.keys().cloned().collect());
        (config.exclude, config.layers_to_transform, config.layers_pattern) = (None, None, None);
    }
    assemble_like(name, config, &like.a, layers)
}

/// The same with given targets and tensors like this one.
pub(crate) fn assemble_like(
    name: &str,
    mut config: LoraConfig,
    like: &Tensor,
    layers: BTreeMap<String, Factors>,
) -> Result<Adapter> {
    crate::adapter::check_name(name)?;
    let alpha = |f: &Factors| f.scale * f.r as f64;
    config.r = commonest(layers.values().map(|f| f.r)).unwrap_or(config.r);
    config.alpha = commonest(layers.values().map(|f| alpha(f).to_bits())).map_or(config.alpha, f64::from_bits);
    let other_ranks = layers.iter().filter(|(_, f)| f.r != config.r).map(|(n, f)| (n.clone(), f.r));
    config.rank_pattern = other_ranks.collect();
    let other_alphas = layers.iter().filter(|(_, f)| alpha(f) != config.alpha).map(|(n, f)| (n.clone(), alpha(f)));
    config.alpha_pattern = other_alphas.collect();
    config.validate()?;
    let mut pairs = BTreeMap::new();
    for (layer, f) in layers {
        let (a, b) = f.tensors(like)?;
        let (rank, alpha) = config.rank_and_alpha(&layer)?;
        let (a, b) = (a.named(keys::a(&layer, f.kind)), b.named(keys::b(&layer, f.kind)));
        let (scale, dropout) = (config.scale(rank, alpha), config.dropout);
        pairs.insert(layer, LowRank { a, b, magnitude: None, scale, dropout, rank, alpha, kind: f.kind, offset: None });
    }
    let (saved, biases) = (BTreeMap::new(), BTreeMap::new());
    Ok(Adapter { name: name.to_string(), config, layers: pairs, bottlenecks: BTreeMap::new(), saved, biases })
}

/// What decides which layers are targeted.
fn selection(c: &LoraConfig) -> impl PartialEq + '_ {
    (&c.targets, &c.exclude, &c.layers_to_transform, &c.layers_pattern)
}

/// The value that comes most often, of those the smallest.
fn commonest<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    for v in values {
        *counts.entry(v).or_default() += 1;
    }
    counts.into_iter().rev().max_by_key(|(_, n)| *n).map(|(v, _)| v)
}
