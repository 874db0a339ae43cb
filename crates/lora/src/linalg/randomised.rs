//! The leading singular triples by a randomised range finder with subspace iteration: Halko, Martinsson and Tropp 2011,
//! "Finding structure with randomness", algorithms 4.4 and 5.1. Gaussian test matrices come from Philox.

use lowrank_core::philox::Rng;
use lowrank_core::{DType, Device, Tensor};

use super::host::factor;
use super::{Matrix, Svd, nn, svd, tn};
use crate::{Error, Result};

/// The q leading triples of a matrix `[m,n]` in any float dtype: `Q = orth(G Ω)`, then `niter` times
/// `Q = orth(G orth(Gᵀ Q))`, then the exact SVD of `Q Qᵀ G`.
///
/// As torch's `svd_lowrank(G, q, niter)`. Costs 2(niter+1) products of 2mnq operations on the matrix' device. q above
/// min(m,n), or an element that is not finite, is an error.
pub fn svd_lowrank(g: &Tensor, q: usize, niter: usize, rng: &mut Rng) -> Result<Svd> {
    let &[m, n] = g.shape() else {
        return Err(Error::adapter(format!("{} is no matrix", g.label("the tensor"))));
    };
    if q == 0 || q > m.min(n) {
        return Err(Error::adapter(format!("{q} singular values of a {m}×{n} matrix")));
    }
    // The first product is along the shorter side.
    let (left, right): (Product, Product) = if m >= n { (nn, tn) } else { (tn, nn) };
    let mut basis = orthonormal(&left(g, &gaussian(m.min(n), q, rng, dtype(g), g.device())?)?)?;
    for _ in 0..niter {
        basis = orthonormal(&right(g, &basis)?)?;
        basis = orthonormal(&left(g, &basis)?)?;
    }
    let image = right(g, &basis)?;
    let svd = factored(&basis, &image)?;
    if m >= n { Ok(svd) } else { Ok(Svd { u: svd.v, s: svd.s, v: svd.u }.with_fixed_signs()) }
}

type Product = fn(&Tensor, &Tensor) -> Result<Tensor>;

/// The SVD of `Q Zᵀ`; Q `[m,q]` has orthonormal columns, Z is `[n,q]`.
pub(crate) fn factored(basis: &Tensor, image: &Tensor) -> Result<Svd> {
    let (right, r) = qr(image)?;
    // Q Zᵀ = Q (Qz R)ᵀ = Q Rᵀ Qzᵀ
    let small = svd(&r.transposed())?;
    let times = |x: &Tensor, y: &Matrix| Matrix::from_tensor(&nn(x, &y.to_tensor(x.dtype(), x.device())?)?);
    Ok(Svd { u: times(basis, &small.u)?, s: small.s, v: times(&right, &small.v)? }.with_fixed_signs())
}

/// An orthonormal basis of the columns of a matrix `[m,q]`, q ≤ m.
pub(crate) fn orthonormal(x: &Tensor) -> Result<Tensor> {
    Ok(qr(x)?.0)
}

fn qr(x: &Tensor) -> Result<(Tensor, Matrix)> {
    let &[m, n] = x.shape() else {
        return Err(Error::adapter(format!("{} is no matrix", x.label("the tensor"))));
    };
    let p = m.min(n);
    if x.dtype() == DType::F32 {
        let values = x.to_vec::<f32>()?;
        finite(values.iter().all(|v| v.is_finite()))?;
        let (q, r) = factor(&values, m, n);
        let r = Matrix::new(p, n, r.into_iter().map(f64::from).collect())?;
        return Ok((Tensor::from_slice(&q, &[m, p], x.device())?, r));
    }
    let values = x.to_f64()?;
    finite(values.iter().all(|v| v.is_finite()))?;
    let (q, r) = factor(&values, m, n);
    Ok((Tensor::from_f64(&q, &[m, p], dtype(x), x.device())?, Matrix::new(p, n, r)?))
}

fn finite(yes: bool) -> Result<()> {
    if yes { Ok(()) } else { Err(Error::adapter("an element of the matrix is not finite")) }
}

/// Standard normal values.
pub(crate) fn gaussian(rows: usize, cols: usize, rng: &mut Rng, dtype: DType, device: &Device) -> Result<Tensor> {
    let values: Vec<f64> = (0..rows * cols).map(|_| rng.normal()).collect();
    Ok(Tensor::from_f64(&values, &[rows, cols], dtype, device)?)
}

/// Dtype to compute in.
fn dtype(x: &Tensor) -> DType {
    if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 }
}
