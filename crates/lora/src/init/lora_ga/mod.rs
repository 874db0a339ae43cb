//! LoRA-GA (Wang, Yu, Li 2024, "LoRA-GA: Low-Rank Adaptation with Gradient Approximation"): A and B start along the
//! gradient's singular vectors, so that the first step goes where full fine-tuning's would.
//!
//! A step of size η on A and B moves the layer's weight by `ΔW = −ηs²(B Bᵀ G + G AᵀA) + O(η²)`, with G = ∂L/∂W. Theorem 3.1
//! makes that as parallel to −G as rank 2r allows: with G = U S Vᵀ, A along V[0..r] and B along U[r..2r]. The residual is
//! then the truncation error of rank 2r. Directions and scales are those of the authors' code (`gradients.py`,
//! `lora_ga_init`), whose default is ArB2r, stable, γ = 16.
//!
//! The frozen weight becomes `W − s B₀A₀`; see [`Offset`](crate::Offset) for how.

mod first_step;
mod full;
mod scale;
mod streamed;

use lowrank_core::philox::Rng;
use lowrank_core::{DType, Tensor};

use super::{Direction, Estimator, LoraGa, Sizes, fits, fnv1a};
use crate::linalg::{Matrix, Svd, svd_lowrank};
use crate::{Error, Kind, Result};
pub use first_step::FirstStep;
pub(crate) use full::Full;
pub(crate) use streamed::Streamed;

/// Singular values below this part of the largest are rounding errors of an f32 gradient.
const TOLERANCE: f64 = 1e-6;

/// A and B of one layer, and how well they do.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// A `[r,k]`.
    pub a: Matrix,
    /// B `[n,r]`.
    pub b: Matrix,
    /// Where the first step leads.
    pub first_step: FirstStep,
}

/// The start of a layer whose gradient `[n,k]` is known; `weight` is its weight (scale weight_svd and norm_clip look at
/// it), `scale` its s. The name and the seed key the random numbers.
///
/// 2r above min(n,k) or above the gradient's rank, or a gradient that is not finite, is an error that names the layer.
pub fn from_gradient(
    gradient: &Tensor,
    weight: &Tensor,
    r: usize,
    scale: f64,
    options: &LoraGa,
    layer: &str,
    seed: u64,
) -> Result<Start> {
    let start = || {
        let &[n, k] = gradient.shape() else {
            return Err(Error::adapter(format!("{} is no matrix", gradient.label("the gradient"))));
        };
        let sizes = Sizes { kind: Kind::Linear, k, n, r };
        check(&sizes)?;
        let norm = squared_norm(gradient)?;
        if !norm.is_finite() {
            return Err(Error::adapter("the gradient is not finite"));
        }
        if norm == 0.0 {
            return Err(Error::adapter("the gradient is zero"));
        }
        let rng = &mut Rng::new(seed, fnv1a(layer));
        let svd = svd_lowrank(gradient, (4 * r).min(n.min(k)), options.niter, rng)?;
        let (a, b) = pair(&svd, weight, scale, options, &sizes, rng)?;
        let first_step = FirstStep::exact(&a, &b, gradient, norm, &svd, r)?;
        Ok(Start { a, b, first_step })
    };
    start().map_err(|e| super::in_layer(layer, e))
}

/// 2r singular vectors exist.
pub(super) fn check(sizes: &Sizes) -> Result<()> {
    fits("lora-ga", 2 * sizes.r, sizes)
}

/// A and B along the gradient's singular vectors.
fn pair(
    svd: &Svd,
    weight: &Tensor,
    s: f64,
    options: &LoraGa,
    sizes: &Sizes,
    rng: &mut Rng,
) -> Result<(Matrix, Matrix)> {
    let r = sizes.r;
    let rank = svd.rank(if weight.dtype() == DType::F64 { 1e-13 } else { TOLERANCE });
    if rank < 2 * r {
        let detail = format!("lora-ga needs 2r = {} singular vectors, but the gradient has rank {rank}", 2 * r);
        return Err(Error::adapter(detail));
    }
    let range = |from: usize, step: usize| (0..r).map(|i| from + step * i).collect::<Vec<usize>>();
    let (of_a, of_b) = match options.direction {
        Direction::ArB2r => (range(0, 1), range(r, 1)),
        Direction::A2rBr => (range(r, 1), range(0, 1)),
        Direction::ArBr => (range(1, 2), range(0, 2)),
        Direction::Random => {
            let mut all = range(0, 1);
            all.extend(range(r, 1));
            rng.shuffle(&mut all);
            (all[..r].to_vec(), all[r..].to_vec())
        }
    };
    let (a, b) = (svd.v.columns(&of_a).transposed(), svd.u.columns(&of_b));
    let length = scale::length(weight, s, options, sizes, rng)?;
    let (a, b) = (a.scaled(length), b.scaled(length));
    if options.norm_clip { scale::clip(a, b, weight, s) } else { Ok((a, b)) }
}

/// Σ of squares; waits for the device.
pub(super) fn squared_norm(t: &Tensor) -> Result<f64> {
    let mut sum = 0.0;
    scale::blocks(t, &mut |values| sum += values.iter().map(|x| x * x).sum::<f64>())?;
    Ok(sum)
}

/// Work that an estimate cost beyond what training does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Forward and backward passes over a micro-batch.
    pub runs: usize,
    /// How often each micro-batch was gone through.
    pub replays: usize,
    /// Operations of the products that sum or sketch the gradients.
    pub flops: f64,
    /// Most elements of gradients and sketches in memory at one time.
    pub elements: usize,
}

impl Estimator {
    /// Layers that are looked at together.
    pub(crate) fn group(&self) -> usize {
        match self {
            Estimator::Full { alive } => *alive,
            Estimator::Streamed { .. } => usize::MAX,
        }
    }
}

#[cfg(test)]
mod tests;
