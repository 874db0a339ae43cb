//! Arithmetic on adapters as a whole: ΔW = s·BA of every layer is what counts, and it is never formed.
//!
//! * [`combine`]: `Σ cᵢ ΔWᵢ` of adapters of any ranks, exactly ([`Method::Cat`]), as the best of a rank ([`Method::Svd`]), or
//!   by the heuristics TIES and DARE on the factors. A coefficient may be negative. * [`rerank`]: one adapter at another
//!   rank.
//!
//! What is truncated is reported by the singular values left out, which is the exact error (Eckart and Young 1936).

mod assemble;
mod factors;
mod rank;
mod svd;
mod trim;

use std::collections::BTreeMap;

use crate::{Adapter, Error, Result};
use assemble::assemble;
use factors::{check_parts, layers};

pub(crate) use assemble::assemble_like;
pub(crate) use factors::{Factors, plain};

pub use rank::rerank;

/// How adapters are combined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// Factors side by side: exact, of rank Σr.
    Cat,
    /// The best adapter of at most this rank, by the SVD of the sum.
    Svd {
        /// Rank of every layer, if its sum has as many.
        rank: usize,
    },
    /// Trim, elect signs, mean of those that agree (Yadav et al. 2023), on A and on B as PEFT's `ties` does. Equal ranks only.
    Ties {
        /// Share of each factor's elements, the largest ones, that are kept.
        density: f64,
    },
    /// Drop at random and rescale (Yu et al. 2023), on A and on B as PEFT's `dare_linear` does. Equal ranks only.
    Dare {
        /// Chance of an element to be kept; kept ones are divided by it.
        density: f64,
        /// Of the drawing.
        seed: u64,
    },
    /// Drop at random and rescale, then elect signs and take means like [`Method::Ties`]: PEFT's `dare_ties`.
    DareTies {
        /// Chance of an element to be kept; kept ones are divided by it.
        density: f64,
        /// Of the drawing.
        seed: u64,
    },
}

/// What a layer lost by truncation.
#[derive(Clone, Debug, PartialEq)]
pub struct Truncation {
    /// The layer's name.
    pub layer: String,
    /// Its rank now.
    pub rank: usize,
    /// ‖ΔW − ΔW′‖ in the Frobenius norm.
    pub error: f64,
    /// ‖ΔW‖.
    pub norm: f64,
}

/// An adapter that was computed from others.
#[derive(Clone, Debug)]
pub struct Derived {
    /// The result. It is not attached to anything.
    pub adapter: Adapter,
    /// Every layer that went through an SVD.
    pub truncations: Vec<Truncation>,
}

impl Derived {
    /// ‖ΔW − ΔW′‖ / ‖ΔW‖ over all layers that went through an SVD; 0 if none did.
    pub fn relative_error(&self) -> f64 {
        let sum = |f: fn(&Truncation) -> f64| self.truncations.iter().map(|t| f(t).powi(2)).sum::<f64>();
        let (error, norm) = (sum(|t| t.error), sum(|t| t.norm));
        if norm == 0.0 { 0.0 } else { (error / norm).sqrt() }
    }
}

/// `Σ coefficient · ΔW` over these adapters, which must be LoRA alone (neither DoRA nor tensors saved whole) and fit each
/// other's layers. A layer that some of them lack counts as ΔW = 0 there with [`Method::Cat`] and [`Method::Svd`]; the other
/// methods, in which absence has no meaning, refuse it by name.
///
/// The result has scale 1 in every layer (α = r), whatever conventions and patterns the parts had.
pub fn combine(name: &str, parts: &[(&Adapter, f64)], method: Method) -> Result<Derived> {
    check_parts(parts)?;
    let list: Vec<&Adapter> = parts.iter().map(|(a, _)| *a).collect();
    let mut truncations = Vec::new();
    let mut combined = BTreeMap::new();
    for (layer, members) in layers(&list)? {
        let mut factors = Vec::with_capacity(members.len());
        for (i, pair) in &members {
            factors.push((*i, Factors::of(pair)?, parts[*i].1));
        }
        let result = match method {
            Method::Cat => Factors::concatenated(&factors),
            Method::Svd { rank } => {
                let (result, error, norm) = svd::truncated(&Factors::concatenated(&factors), rank, &layer)?;
                truncations.push(Truncation { layer: layer.clone(), rank: result.r, error, norm });
                result
            }
            Method::Ties { density } => {
                trim::complete(&layer, &list, &factors, "ties")?;
                trim::ties(&factors, density)?
            }
            Method::Dare { density, seed } => {
                trim::complete(&layer, &list, &factors, "dare")?;
                trim::dare(&factors, density, &trim::by_chance(density, seed, &layer), false)?
            }
            Method::DareTies { density, seed } => {
                trim::complete(&layer, &list, &factors, "dare-ties")?;
                trim::dare(&factors, density, &trim::by_chance(density, seed, &layer), true)?
            }
        };
        result.check_finite(&layer)?;
        combined.insert(layer, result);
    }
    let Some((first, _)) = parts.first() else { return Err(Error::adapter("combine: there are no adapters")) };
    Ok(Derived { adapter: assemble(name, first, &list, combined)?, truncations })
}

#[cfg(test)]
mod peft_tests;
#[cfg(test)]
mod tests;
