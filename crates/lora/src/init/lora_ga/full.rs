//! The gradient itself: `G = Σ dYᵀ x` over micro-batches, one layer's (or a few layers') at a time.

use std::sync::{Mutex, PoisonError};

use lowrank_core::Tensor;

use super::super::probes::matrix;
use crate::linalg::{add_tn, tn};
use crate::{Probe, Result};

/// Sums one layer's gradient.
#[derive(Default)]
pub(crate) struct Full(Mutex<(Option<Tensor>, f64)>);

impl Full {
    /// The sum; none if there was no gradient.
    pub fn take(&self) -> Option<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.take()
    }

    /// Operations of products so far.
    pub fn flops(&self) -> f64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

impl Probe for Full {
    fn wants_gradient(&self) -> bool {
        true
    }

    fn gradient(&self, x: &Tensor, gy: &Tensor) -> Result<()> {
        let (x, gy) = (matrix(x)?, matrix(gy)?);
        let (sum, flops) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *flops += 2.0 * (x.len() * gy.shape()[1]) as f64;
        match sum {
            Some(sum) => add_tn(sum, &gy, &x),
            None => {
                *sum = Some(tn(&gy, &x)?);
                Ok(())
            }
        }
    }
}
