//! TIES (Yadav et al. 2023, "TIES-Merging", algorithm 1) and DARE (Yu et al. 2023, "Language Models are Super Mario",
//! eq. 2) on the factors A and B, each multiplied with √|c·s| (and A with its sign), as PEFT's `add_weighted_adapter` has
//! it with `combination_type` `ties`, `dare_linear` and `dare_ties`. Working on factors is a heuristic: products do not add up.

use lowrank_core::philox::Rng;

use super::factors::Factors;
use crate::init::fnv1a;
use crate::{Adapter, Error, Result};

type Parts = [(usize, Factors, f64)];

/// Every adapter has this layer, at one rank.
pub(super) fn complete(layer: &str, adapters: &[&Adapter], parts: &Parts, method: &str) -> Result<()> {
    let has = |i: usize| parts.iter().any(|(j, ..)| *j == i);
    if let Some(i) = (0..adapters.len()).find(|&i| !has(i)) {
        let detail =
            format!("combine: {method}: {} has no `{layer}`; cat and svd can take it as zero", adapters[i].name);
        return Err(Error::adapter(detail));
    }
    let (first, rank) = (adapters[parts[0].0], parts[0].1.r);
    match parts.iter().find(|(_, f, _)| f.r != rank) {
        Some((i, f, _)) => Err(Error::adapter(format!(
            "combine: {method}: `{layer}` has rank {rank} in {} and {} in {}; it needs one rank, cat and svd do not",
            first.name, f.r, adapters[*i].name
        ))),
        None => Ok(()),
    }
}

/// Keeps the largest elements of each, lets the sum of all elect a sign at every place, and takes the mean of the weighted
/// elements that have it.
pub(super) fn ties(parts: &Parts, density: f64) -> Result<Factors> {
    check(density)?;
    let merge = |right: bool| {
        elected(parts, right, &parts.iter().map(|(_, f, _)| largest(side(f, right), density)).collect::<Vec<_>>())
    };
    Ok(like(parts, merge(false), merge(true)))
}

/// Which elements of a part's A (true) or B stay, `len` of them.
pub(super) type Keep<'a> = &'a dyn Fn(usize, bool, usize) -> Vec<bool>;

/// Chances from a seed: the same for a layer, part and side.
pub(super) fn by_chance(density: f64, seed: u64, layer: &str) -> impl Fn(usize, bool, usize) -> Vec<bool> {
    move |part, right, len| {
        let site = format!("{layer} {part} {}", if right { "A" } else { "B" });
        let mut rng = Rng::new(seed, fnv1a(&site));
        (0..len).map(|_| rng.uniform() < density).collect()
    }
}

/// Drops what `keep` says, divides the rest by the chance to stay, and adds up; with `elect`, as [`ties`] does.
pub(super) fn dare(parts: &Parts, density: f64, keep: Keep<'_>, elect: bool) -> Result<Factors> {
    check(density)?;
    let merge = |right: bool| {
        let dropped = |(i, f, _): &(usize, Factors, f64)| -> Vec<f64> {
            let x = side(f, right);
            x.iter().zip(keep(*i, right, x.len())).map(|(x, kept)| if kept { x / density } else { 0.0 }).collect()
        };
        let dropped: Vec<Vec<f64>> = parts.iter().map(dropped).collect();
        if elect { elected(parts, right, &dropped) } else { sum(parts, right, &dropped) }
    };
    Ok(like(parts, merge(false), merge(true)))
}

/// `Σ weight · x`.
fn sum(parts: &Parts, right: bool, list: &[Vec<f64>]) -> Vec<f64> {
    let mut sum = vec![0.0; list[0].len()];
    for ((_, f, c), x) in parts.iter().zip(list) {
        let w = weight(c * f.scale, right);
        sum.iter_mut().zip(x).for_each(|(s, x)| *s += w * x);
    }
    sum
}

/// At every place the mean of the weighted elements that have the sign of all elements' sum.
fn elected(parts: &Parts, right: bool, list: &[Vec<f64>]) -> Vec<f64> {
    let weights: Vec<f64> = parts.iter().map(|(_, f, c)| weight(c * f.scale, right)).collect();
    let place = |i: usize| {
        let positive = list.iter().map(|t| t[i]).sum::<f64>() >= 0.0;
        let agree = |x: f64| if positive { x > 0.0 } else { x < 0.0 };
        let (mut sum, mut count) = (0.0, 0.0);
        for (t, w) in list.iter().zip(&weights).filter(|(t, _)| agree(t[i])) {
            sum += w * t[i];
            count += 1.0;
        }
        if count == 0.0 { 0.0 } else { sum / count }
    };
    (0..list[0].len()).map(place).collect()
}

fn check(density: f64) -> Result<()> {
    if density > 0.0 && density <= 1.0 {
        return Ok(());
    }
    Err(Error::config("density", format!("{density} is not in (0, 1]")))
}

fn side(f: &Factors, right: bool) -> &[f64] {
    if right { &f.right } else { &f.left }
}

/// √|x|, with x's sign on A alone, so that it counts once in the product.
fn weight(x: f64, right: bool) -> f64 {
    x.abs().sqrt() * if right && x < 0.0 { -1.0 } else { 1.0 }
}

/// x with all but its ⌊density · len⌋ largest elements set to 0; of equal ones the first stay.
fn largest(x: &[f64], density: f64) -> Vec<f64> {
    let keep = (density * x.len() as f64) as usize;
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&i, &j| x[j].abs().total_cmp(&x[i].abs()));
    let mut out = vec![0.0; x.len()];
    for &i in &order[..keep] {
        out[i] = x[i];
    }
    out
}

fn like(parts: &Parts, left: Vec<f64>, right: Vec<f64>) -> Factors {
    Factors { scale: 1.0, left, right, ..parts[0].1.clone() }
}
