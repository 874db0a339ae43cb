//! A and B random with B A = 0 exactly in the ideal, so that the base is untouched although both have a gradient. r is even:
//! `Q = qr(randn(r,r))`, `A = (randn(k,r/2) Q[0::2])ᵀ/10`, `B = randn(n,r/2) Q[1::2]/10`: the rows of Q are orthogonal.
//! PEFT's "orthogonal" init.

use lowrank_core::philox::Rng;

use super::{Pair, Sizes, normal};
use crate::linalg::{Matrix, thin_qr};
use crate::{Error, Result};

pub(super) fn draw(rng: &mut Rng, s: &Sizes) -> Result<Pair> {
    if !s.r.is_multiple_of(2) {
        return Err(Error::adapter(format!("orthogonal needs an even rank, not {}", s.r)));
    }
    let half = s.r / 2;
    let mut random =
        |rows: usize, cols: usize, deviation| Matrix { rows, cols, data: normal(rng, rows * cols, deviation) };
    let (q, _) = thin_qr(&random(s.r, s.r, 1.0))?;
    let rows = |first: usize| -> Matrix {
        let columns: Vec<usize> = (first..s.r).step_by(2).collect();
        q.transposed().columns(&columns).transposed()
    };
    let (even, odd) = (rows(0), rows(1));
    let a = random(s.k, half, 0.1).times(&even).transposed();
    let b = random(s.n, half, 0.1).times(&odd);
    Ok(Pair { a: a.data, b: b.data, offset: false })
}
