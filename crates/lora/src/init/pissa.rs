//! The leading part of the weight: with W = U S Vᵀ, `A = diag(√(S_r/s)) V_rᵀ`, `B = U_r diag(√(S_r/s))`, and the frozen
//! weight is the rest, `W − s B A` (Meng et al. 2024, "PiSSA", eq. 2–4). Exact, or by a randomised SVD with some subspace
//! iterations ("fast" PiSSA, section 4).

use lowrank_core::Tensor;
use lowrank_core::philox::Rng;

use super::{Pair, Sizes, fits};
use crate::linalg::{Matrix, svd, svd_lowrank};
use crate::{Error, Result};

pub(super) fn from_weight(w: &Tensor, niter: Option<usize>, rng: &mut Rng, s: &Sizes, scale: f64) -> Result<Pair> {
    fits("pissa", s.r, s)?;
    if scale.is_nan() || scale <= 0.0 {
        return Err(Error::adapter(format!("pissa takes the root of 1/s, and s is {scale}")));
    }
    let svd = match niter {
        None => svd(&Matrix::from_tensor(w)?)?,
        // PEFT takes q = r here; twice as many columns cost little and make the r leading triples nearly exact.
        Some(niter) => svd_lowrank(w, (2 * s.r).min(s.n.min(s.k)), niter, rng)?,
    };
    let first: Vec<usize> = (0..s.r).collect();
    let roots: Vec<f64> = svd.s[..s.r].iter().map(|x| (x / scale).sqrt()).collect();
    let a = svd.v.columns(&first).scale_columns(&roots).transposed();
    let b = svd.u.columns(&first).scale_columns(&roots);
    Ok(Pair { a: a.data, b: b.data, offset: true })
}
