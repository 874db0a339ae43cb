//! The gradient's leading singular triples without the gradient: products `G X = Σ dYᵀ(x X)` and `Gᵀ Y = Σ xᵀ(dY Y)` with
//! thin matrices are all that a randomised range finder needs (Halko, Martinsson and Tropp 2011, algorithm 4.4).
//!
//! Pass 0: `Y = G Ω`. Every further pass multiplies an orthonormal basis of the last result from the other side. After
//! the last one, G ≈ Q (GᵀQ)ᵀ or (G Q) Qᵀ. The width is 4r (at least 2r + 8), as in the full estimator. Passes over
//! several micro-batches replay them; with a single one everything is done when it comes by.
//!
//! A single pass over everything takes a second sketch `Z = Gᵀ Ψ` of twice the width on its way and solves
//! `(Ψᵀ Q) X = Zᵀ` by least squares, so that G ≈ Q X (Tropp, Yurtsever, Udell and Cevher 2017, "Practical sketching
//! algorithms for low-rank matrix approximation", algorithm 4).
//!
//! Some columns of Ω serve as probes of the energy outside of the final basis, and so of ‖G‖: they take no part in
//! making the basis, so ‖(I − QQᵀ)GΩ'‖²/columns is an unbiased estimate.

use std::mem::replace;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lowrank_core::philox::Rng;
use lowrank_core::{DType, Tensor};

use super::super::probes::matrix;
use super::super::{LoraGa, Sizes, fnv1a, in_layer};
use super::{FirstStep, Start, pair};
use crate::linalg::{Matrix, Svd, factored, gaussian, nn, orthonormal, thin_qr, tn};
use crate::{Error, Probe, Result};

/// Probes of the norm.
const PROBES: usize = 8;

/// Sketches one layer's gradient.
pub(crate) struct Streamed {
    layer: String,
    sizes: Sizes,
    width: usize,
    passes: usize,
    single: bool,
    rng: Rng,
    state: Mutex<State>,
}

struct State {
    /// Passes done.
    pass: usize,
    /// What the gradient is multiplied by: `[k,·]` in even passes, `[n,·]` in odd ones.
    factor: Tensor,
    /// Sum of the products of this pass.
    sum: Option<Tensor>,
    /// Of a single pass: Ψ `[n,·]`, and the sum of the products Gᵀ Ψ.
    other: Option<(Tensor, Option<Tensor>)>,
    /// Probes and their images.
    probes: Option<(Tensor, Tensor)>,
    /// Of the finished passes.
    flops: f64,
}

impl Streamed {
    /// `single`: there is one micro-batch only.
    pub fn new(weight: &Tensor, sizes: Sizes, passes: usize, single: bool, layer: &str, seed: u64) -> Result<Self> {
        let width = (4 * sizes.r).max(2 * sizes.r + 8).min(sizes.n.min(sizes.k));
        let mut rng = Rng::new(seed, fnv1a(layer));
        let dtype = if weight.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let factor = gaussian(sizes.k, width + PROBES, &mut rng, dtype, weight.device())?;
        let other = match passes {
            1 => Some((gaussian(sizes.n, 2 * width, &mut rng, dtype, weight.device())?, None)),
            _ => None,
        };
        let state = State { pass: 0, factor, sum: None, other, probes: None, flops: 0.0 };
        Ok(Streamed { layer: layer.to_string(), sizes, width, passes, single, rng, state: Mutex::new(state) })
    }

    /// Ends a pass over all micro-batches. False if there was no gradient.
    pub fn next_pass(&self) -> Result<bool> {
        if self.single {
            return Ok(self.lock().pass > 0);
        }
        let mut state = self.lock();
        let Some(sum) = state.sum.take() else { return Ok(false) };
        self.advance(&mut state, sum)?;
        Ok(true)
    }

    /// Elements of sketches in memory.
    pub fn elements(&self) -> usize {
        let other = if self.passes == 1 { 2 * self.width } else { 0 };
        (self.sizes.n + self.sizes.k) * (self.width + PROBES + other)
    }

    /// Operations of products so far.
    pub fn flops(&self) -> f64 {
        self.lock().flops
    }

    /// A and B after the last pass.
    pub fn start(&self, weight: &Tensor, s: f64, options: &LoraGa) -> Result<Start> {
        let mut state = self.lock();
        let (Some(image), Some((probes, seen))) = (state.sum.take(), state.probes.take()) else {
            return Err(Error::adapter("no gradient reached the layer"));
        };
        let basis = &state.factor;
        let svd = factored(basis, &image, self.width)?;
        // What the probes see outside of the basis.
        let (svd, inside) = if self.passes == 1 || self.passes.is_multiple_of(2) {
            (svd, nn(basis, &tn(basis, &seen)?)?)
        } else {
            (Svd { u: svd.v, s: svd.s, v: svd.u }.with_fixed_signs(), nn(&image, &tn(basis, &probes)?)?)
        };
        let (seen, inside) = (Matrix::from_tensor(&seen)?, Matrix::from_tensor(&inside)?);
        let outside: f64 = seen.data.iter().zip(&inside.data).map(|(x, y)| (x - y).powi(2)).sum();
        let norm = svd.s.iter().map(|s| s * s).sum::<f64>() + outside / PROBES as f64;
        if norm == 0.0 {
            return Err(Error::adapter("the gradient is zero"));
        }
        let (a, b) = pair(&svd, weight, s, options, &self.sizes, &mut self.rng.clone())?;
        let first_step = FirstStep::estimated(&a, &b, norm, &svd, self.sizes.r);
        Ok(Start { a, b, first_step })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the product of a whole pass, and prepares the next one; the last product stays in `sum`.
    fn advance(&self, state: &mut State, product: Tensor) -> Result<()> {
        let product = if state.pass == 0 {
            let probes = state.factor.slice(1, self.width, PROBES)?;
            state.probes = Some((probes, product.slice(1, self.width, PROBES)?));
            product.slice(1, 0, self.width)?
        } else {
            product
        };
        state.pass += 1;
        if state.pass == self.passes && self.passes > 1 {
            state.sum = Some(product);
            return Ok(());
        }
        let basis = orthonormal(&product).map_err(|_| Error::adapter("the gradient is not finite"))?;
        if let Some((psi, Some(z))) = state.other.take() {
            let solution = least_squares(&Matrix::from_tensor(&tn(&psi, &basis)?)?)?;
            state.sum = Some(nn(&z, &solution.to_tensor(z.dtype(), z.device())?)?);
        }
        drop(replace(&mut state.factor, basis));
        Ok(())
    }

    /// `G X` or `Gᵀ X` of one micro-batch, by the pass.
    fn product(&self, state: &mut State, x: &Tensor, gy: &Tensor) -> Result<Tensor> {
        let columns = state.factor.shape()[1];
        let flops = |columns: usize| 2.0 * (x.shape()[0] * (self.sizes.n + self.sizes.k) * columns) as f64;
        state.flops += flops(columns);
        if let Some((psi, sum)) = &mut state.other {
            state.flops += flops(psi.shape()[1]);
            add(sum, tn(x, &nn(gy, psi)?)?)?;
        }
        let (near, far) = if state.pass.is_multiple_of(2) { (x, gy) } else { (gy, x) };
        tn(far, &nn(near, &state.factor)?)
    }
}

impl Probe for Streamed {
    fn wants_gradient(&self) -> bool {
        true
    }

    fn gradient(&self, x: &Tensor, gy: &Tensor) -> Result<()> {
        let (x, gy) = (matrix(x)?, matrix(gy)?);
        let mut state = self.lock();
        if self.single {
            if state.pass > 0 {
                let detail = "is used twice in the only micro-batch; give more of them, or estimator=full";
                return Err(Error::adapter(format!("{}: {detail}", self.layer)));
            }
            for _ in 0..self.passes {
                let product = self.product(&mut state, &x, &gy)?;
                self.advance(&mut state, product).map_err(|e| in_layer(&self.layer, e))?;
            }
            return Ok(());
        }
        let product = self.product(&mut state, &x, &gy)?;
        add(&mut state.sum, product)
    }
}

fn add(sum: &mut Option<Tensor>, product: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(sum) => sum.add(&product)?,
        None => product,
    });
    Ok(())
}

/// The transposed pseudo-inverse `[l,w]` of a matrix M `[l,w]` of full column rank: with M = Q R it is `Q R⁻ᵀ`.
fn least_squares(m: &Matrix) -> Result<Matrix> {
    let (mut q, r) = thin_qr(m)?;
    let w = r.cols;
    for row in q.data.chunks_mut(w) {
        // R x = rowᵀ, from the last one up.
        for i in (0..w).rev() {
            let rest: f64 = (i + 1..w).map(|j| r.data[i * w + j] * row[j]).sum();
            row[i] = (row[i] - rest) / r.data[i * w + i];
        }
    }
    Ok(q)
}
