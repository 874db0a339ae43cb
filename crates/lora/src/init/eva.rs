//! A from the layer's inputs: with X the inputs of all micro-batches below each other and X = U S Vᵀ, `A = V_rᵀ`, B zero
//! (Paischer et al. 2024, "EVA", section 3). The branch then sees the directions in which activations vary most.
//!
//! X is never whole: as in incremental SVD (Ross et al. 2008), the leading `diag(S) Vᵀ` stands for the rows seen so far,
//! and the next micro-batch is put below it. PEFT subtracts the mean first and moves rank between layers; neither is done
//! here.

use std::sync::{Mutex, PoisonError};

use lowrank_core::philox::Rng;
use lowrank_core::{DType, Tensor};

use super::probes::matrix;
use super::{Pair, Sizes, fnv1a};
use crate::linalg::{Matrix, Svd, svd_lowrank};
use crate::{Error, Probe, Result};

/// Takes in one layer's inputs.
pub(super) struct Inputs {
    sizes: Sizes,
    seed: Rng,
    seen: Mutex<Option<Svd>>,
}

impl Inputs {
    pub fn new(sizes: Sizes, layer: &str, seed: u64) -> Self {
        Inputs { sizes, seed: Rng::new(seed, fnv1a(layer)), seen: Mutex::new(None) }
    }

    pub fn start(&self) -> Result<Pair> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(svd) = &*seen else { return Err(Error::adapter("no input reached the layer")) };
        let Sizes { n, r, .. } = self.sizes;
        let rank = svd.rank(1e-6);
        if rank < r {
            return Err(Error::adapter(format!("eva needs {r} directions, but the inputs span only {rank}")));
        }
        let a = svd.v.columns(&(0..r).collect::<Vec<_>>()).transposed();
        Ok(Pair { a: a.data, b: vec![0.0; n * r], offset: false })
    }
}

impl Probe for Inputs {
    fn input(&self, x: &Tensor) -> Result<()> {
        let mut x = matrix(x)?;
        if !matches!(x.dtype(), DType::F32 | DType::F64) {
            return Err(Error::adapter(format!("eva: inputs of {}", x.dtype())));
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Svd { s, v, .. }) = &*seen {
            let before: Matrix = v.scale_columns(s).transposed();
            x = Tensor::concat(&[&before.to_tensor(x.dtype(), x.device())?, &x], 0)?;
        }
        let most = x.shape()[0].min(self.sizes.k);
        *seen = Some(svd_lowrank(&x, (4 * self.sizes.r).min(most), 4, &mut self.seed.clone())?);
        Ok(())
    }
}
