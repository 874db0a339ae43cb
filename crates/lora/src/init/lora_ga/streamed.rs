//! The gradient's leading singular triples without the gradient: products `G X = Σ dYᵀ(x X)` and `Gᵀ Y = Σ xᵀ(dY Y)` with
//! thin matrices are all that a randomised range finder needs (Halko, Martinsson and Tropp 2011, algorithm 4.4).
//!
//! Pass 0: `Y = G Ω`. Every further pass multiplies an orthonormal basis of the last result from the other side. After
//! the last one, G ≈ Q (GᵀQ)ᵀ or (G Q) Qᵀ. The width is 4r (at least 2r + 8), as in the full estimator. Passes over
//! several micro-batches replay them; with a single one everything is done when it comes by.
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
use crate::linalg::{Matrix, Svd, factored, gaussian, nn, orthonormal, tn};
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
        let state = State { pass: 0, factor, sum: None, probes: None, flops: 0.0 };
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
        (self.sizes.n + self.sizes.k) * (self.width + PROBES)
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
        let (svd, inside) = if self.passes.is_multiple_of(2) {
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
        if state.pass == self.passes {
            state.sum = Some(product);
        } else {
            let basis = orthonormal(&product).map_err(|_| Error::adapter("the gradient is not finite"))?;
            drop(replace(&mut state.factor, basis));
        }
        Ok(())
    }

    /// `G X` or `Gᵀ X` of one micro-batch, by the pass.
    fn product(&self, state: &mut State, x: &Tensor, gy: &Tensor) -> Result<Tensor> {
        let columns = state.factor.shape()[1];
        state.flops += 2.0 * (x.shape()[0] * (self.sizes.n + self.sizes.k) * columns) as f64;
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
        state.sum = Some(match state.sum.take() {
            Some(sum) => sum.add(&product)?,
            None => product,
        });
        Ok(())
    }
}
