//! The pairs of a layer in several adapters, on the host.

use std::collections::BTreeMap;

use lowrank_core::{Tensor, no_grad};

use crate::{Adapter, Error, Kind, LowRank, Result};

/// ΔW = left · right with left `[n,r]` and right `[r,k]` (of an embedding, its transpose): every scale is in `left`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Factors {
    pub kind: Kind,
    pub n: usize,
    pub k: usize,
    pub r: usize,
    /// s of the pair that this was, still to be multiplied with `left`.
    pub scale: f64,
    pub left: Vec<f64>,
    pub right: Vec<f64>,
}

impl Factors {
    /// Waits for the device.
    pub fn of(pair: &LowRank) -> Result<Self> {
        let (a, b) = no_grad(|| pair.product())?;
        let (&[n, r], &[_, k]) = (b.shape(), a.shape()) else {
            return Err(Error::adapter("a pair's tensors are no matrices"));
        };
        let (left, right) = (b.to_f64()?, a.to_f64()?);
        Ok(Factors { kind: pair.kind, n, k, r, scale: pair.scale, left, right })
    }

    /// `Σ c s B A = [c₁s₁B₁ c₂s₂B₂ …] [A₁; A₂; …]`.
    pub fn concatenated(parts: &[(usize, Factors, f64)]) -> Factors {
        let first = &parts[0].1;
        let (n, k) = (first.n, first.k);
        let r = parts.iter().map(|(_, f, _)| f.r).sum();
        let mut left = Vec::with_capacity(n * r);
        for i in 0..n {
            for (_, f, c) in parts {
                left.extend(f.left[i * f.r..(i + 1) * f.r].iter().map(|x| c * f.scale * x));
            }
        }
        let right = parts.iter().flat_map(|(_, f, _)| f.right.iter().copied()).collect();
        Factors { kind: first.kind, n, k, r, scale: 1.0, left, right }
    }

    /// Refuses what training may have left of a diverged adapter.
    pub fn check_finite(&self, layer: &str) -> Result<()> {
        match self.left.iter().chain(&self.right).find(|x| !x.is_finite()) {
            Some(x) => Err(Error::adapter(format!("combine: {layer}: a factor has the value {x}"))),
            None => Ok(()),
        }
    }

    /// The tensors A and B, trainable, rounded to the dtype of `like`.
    pub fn tensors(&self, like: &Tensor) -> Result<(Tensor, Tensor)> {
        let leaf =
            |data: &[f64], shape: [usize; 2]| Tensor::from_f64(data, &shape, like.dtype(), like.device())?.trainable();
        Ok((leaf(&self.right, [self.r, self.k])?, leaf(&self.left, [self.n, self.r])?))
    }
}

/// What no method can combine is refused by name.
pub(super) fn check_parts(parts: &[(&Adapter, f64)]) -> Result<()> {
    for (adapter, coefficient) in parts {
        plain(adapter, "combine")?;
        if !coefficient.is_finite() {
            return Err(Error::adapter(format!("combine: coefficient {coefficient} of {} is no number", adapter.name)));
        }
    }
    Ok(())
}

/// An adapter that is nothing but pairs.
pub(crate) fn plain(adapter: &Adapter, what: &str) -> Result<()> {
    adapter.no_bottleneck(what)?;
    let refuse = |detail: String| Err(Error::adapter(format!("{what}: adapter {}: {detail}", adapter.name)));
    if let Some((layer, _)) = adapter.layers.iter().find(|(_, pair)| pair.magnitude.is_some()) {
        return refuse(format!("`{layer}` is DoRA, whose change of the weight is not s·BA; merge it instead"));
    }
    match adapter.saved.keys().chain(adapter.biases.keys()).next() {
        Some(name) => refuse(format!("`{name}` is saved whole, which has no low-rank algebra")),
        None => Ok(()),
    }
}

/// A layer in some adapters: their numbers and pairs.
type Members<'a> = Vec<(usize, &'a LowRank)>;

/// Every layer of any adapter, with those that have it; other shapes or kinds under one name are another architecture.
pub(super) fn layers<'a>(adapters: &[&'a Adapter]) -> Result<BTreeMap<String, Members<'a>>> {
    let mut layers: BTreeMap<String, Members<'a>> = BTreeMap::new();
    for (i, adapter) in adapters.iter().enumerate() {
        for (name, pair) in &adapter.layers {
            let members = layers.entry(name.clone()).or_default();
            if let Some((j, first)) = members.first()
                && outer(first) != outer(pair)
            {
                let ((n, k, kind), (on, ok, other)) = (outer(pair), outer(first));
                return Err(Error::adapter(format!(
                    "combine: `{name}` is a {kind} [{n}, {k}] in {} and a {other} [{on}, {ok}] in {}: the adapters \
                     belong to different architectures",
                    adapter.name, adapters[*j].name
                )));
            }
            members.push((i, pair));
        }
    }
    Ok(layers)
}

fn outer(pair: &LowRank) -> (usize, usize, Kind) {
    let at = |t: &Tensor, i: usize| t.shape().get(i).copied().unwrap_or(0);
    (at(&pair.b, 0), at(&pair.a, 1), pair.kind)
}
