//! One adapter at another rank.

use std::collections::BTreeMap;

use super::assemble::assemble;
use super::factors::{Factors, plain};
use super::{Derived, Truncation, svd};
use crate::init::{self, Sizes};
use crate::{Adapter, Kind, LoraConfig, Result};

/// The same adapter at rank `rank` in every layer.
///
/// A layer of higher rank is cut to its best approximation; the error is in the result. One of lower rank grows without
/// a change of ΔW, and the scale stays: new columns of B are zero and new rows of A are drawn from `seed` as in a fresh
/// adapter, so that they can learn (for an embedding, A's are zero and B's are drawn). The old elements keep their bits.
pub fn rerank(adapter: &Adapter, rank: usize, seed: u64) -> Result<Derived> {
    plain(adapter, "rerank")?;
    LoraConfig { r: rank, ..adapter.config.clone() }.validate()?;
    let mut truncations = Vec::new();
    let mut layers = BTreeMap::new();
    for (layer, pair) in &adapter.layers {
        let f = Factors::of(pair)?;
        let f = if rank < f.r {
            let (cut, error, norm) = svd::truncated(&f, rank, layer)?;
            truncations.push(Truncation { layer: layer.clone(), rank: cut.r, error, norm });
            cut
        } else {
            grown(f, rank, layer, seed)
        };
        layers.insert(layer.clone(), f);
    }
    Ok(Derived { adapter: assemble(&adapter.name, adapter, &[adapter], layers)?, truncations })
}

fn grown(f: Factors, rank: usize, layer: &str, seed: u64) -> Factors {
    let more = rank - f.r;
    let sizes = Sizes { kind: f.kind, k: f.k, n: f.n, r: more };
    let (a, b) = init::draw_default(layer, seed, &sizes);
    debug_assert!(if f.kind == Kind::Embedding { &a } else { &b }.iter().all(|&x| x == 0.0));
    let mut left = Vec::with_capacity(f.n * rank);
    for i in 0..f.n {
        left.extend_from_slice(&f.left[i * f.r..(i + 1) * f.r]);
        left.extend_from_slice(&b[i * more..(i + 1) * more]);
    }
    let right = [&f.right[..], &a].concat();
    Factors { r: rank, left, right, ..f }
}
