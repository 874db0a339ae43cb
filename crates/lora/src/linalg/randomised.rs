//! The leading singular triples by a randomised range finder (Halko, Martinsson and Tropp 2011, "Finding structure with
//! randomness", algorithms 4.4 and 5.1), in the form of a block Krylov method (Musco and Musco 2015, "Randomized block
//! Krylov methods for stronger and faster approximate singular value decomposition", algorithm 2): what the iterations
//! went through is kept as a part of the basis instead of thrown away. Gaussian test matrices come from Philox.

use lowrank_core::philox::Rng;
use lowrank_core::{DType, Device, Tensor};

use super::host::factor;
use super::{Matrix, Svd, nn, svd, tn};
use crate::{Error, Result};

/// Columns below which a round more costs little and is needed: with a width of 4, a gap of 2.5 is found to 8e-4 in two rounds,
/// to 3e-5 in three (Chebyshev polynomials of degree 5 and 7).
const FEW: usize = 32;

/// The q leading triples of a matrix `[m,n]` in any float dtype, as accurate as (for flat spectra more than) `niter`
/// subspace iterations, torch's `svd_lowrank(G, q, niter)`.
///
/// `Q₀ = orth(G Ω)`, then niter/2 times `Q_{i+1} = orth((I − QQᵀ) G orth(Gᵀ Q_i))`, then the exact SVD of `Q Qᵀ G` with all
/// blocks of Q side by side. With niter = 4 these are 6 products of 2mnq operations on the matrix' device, where subspace
/// iteration takes 10. Few columns (q below 32) see little of the matrix and get one round more. q above min(m,n), or an element that is not finite, is an error.
pub fn svd_lowrank(g: &Tensor, q: usize, niter: usize, rng: &mut Rng) -> Result<Svd> {
    let &[m, n] = g.shape() else {
        return Err(Error::adapter(format!("{} is no matrix", g.label("the tensor"))));
    };
    let most = m.min(n);
    if q == 0 || q > most {
        return Err(Error::adapter(format!("{q} singular values of a {m}×{n} matrix")));
    }
    // The first product is along the shorter side.
    let (left, right): (Product, Product) = if m >= n { (nn, tn) } else { (tn, nn) };
    let mut basis = orthonormal(&left(g, &gaussian(most, q, rng, dtype(g), g.device())?)?)?;
    let mut image = right(g, &basis)?;
    let mut last = image.clone();
    for _ in 0..niter / 2 + usize::from(niter > 0 && q < FEW) {
        let width = q.min(most - basis.shape()[1]);
        if width == 0 {
            break;
        }
        let start = orthonormal(&last)?.slice(1, 0, width)?;
        let block = orthonormal_to(&basis, &left(g, &start)?)?;
        last = right(g, &block)?;
        basis = Tensor::concat(&[&basis, &block], 1)?;
        image = Tensor::concat(&[&image, &last], 1)?;
    }
    let svd = factored(&basis, &image, q)?;
    if m >= n { Ok(svd) } else { Ok(Svd { u: svd.v, s: svd.s, v: svd.u }.with_fixed_signs()) }
}

/// An orthonormal basis of what x adds to the columns of an orthonormal basis. Where that is little more than rounding errors
/// (the matrix has no more rank than the basis has columns), they are not orthogonal to the basis once they are
/// normalised: repeated until they are.
fn orthonormal_to(basis: &Tensor, x: &Tensor) -> Result<Tensor> {
    const MOST: usize = 5;
    let enough = if dtype(x) == DType::F64 { 1e-12 } else { 3e-6 };
    let mut x = orthonormal(&x.sub(&nn(basis, &tn(basis, x)?)?)?)?;
    for _ in 1..MOST {
        let inside = tn(basis, &x)?;
        let most = inside.to_f64()?.iter().fold(0.0, |most: f64, c| most.max(c.abs()));
        if most < enough {
            break;
        }
        x = orthonormal(&x.sub(&nn(basis, &inside)?)?)?;
        // Taking off so little leaves columns of length 1, and no more of the basis than rounding puts there.
        if most < 1e-3 {
            break;
        }
    }
    Ok(x)
}

type Product = fn(&Tensor, &Tensor) -> Result<Tensor>;

/// The `keep` leading triples of `Q Zᵀ`; Q `[m,q]` has orthonormal columns, Z is `[n,q]`.
pub(crate) fn factored(basis: &Tensor, image: &Tensor, keep: usize) -> Result<Svd> {
    let (right, r) = qr(image)?;
    // Q Zᵀ = Q (Qz R)ᵀ = Q Rᵀ Qzᵀ
    let mut small = svd(&r.transposed())?;
    let first: Vec<usize> = (0..keep.min(small.s.len())).collect();
    (small.u, small.v) = (small.u.columns(&first), small.v.columns(&first));
    small.s.truncate(keep);
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

/// Standard normal values: Box–Muller, both values of each pair.
pub(crate) fn gaussian(rows: usize, cols: usize, rng: &mut Rng, dtype: DType, device: &Device) -> Result<Tensor> {
    let mut values = Vec::with_capacity(rows * cols + 1);
    while values.len() < rows * cols {
        let unit = |w: u32| (f64::from(w) + 0.5) / 4_294_967_296.0;
        let (u, v) = (unit(rng.next_u32()), unit(rng.next_u32()));
        let (radius, (sin, cos)) = ((-2.0 * u.ln()).sqrt(), (std::f64::consts::TAU * v).sin_cos());
        values.extend([radius * cos, radius * sin]);
    }
    values.truncate(rows * cols);
    Ok(Tensor::from_f64(&values, &[rows, cols], dtype, device)?)
}

/// Dtype to compute in.
fn dtype(x: &Tensor) -> DType {
    if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 }
}
