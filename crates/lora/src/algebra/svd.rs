//! The best approximation of a product of two thin factors by thinner ones.
//!
//! With left = Q₁R₁ and rightᵀ = Q₂R₂, the SVD of left·right is that of the small core R₁R₂ᵀ between Q₁ and Q₂. Nothing of
//! size `[n,k]` exists; the work is O((n + k) r² + r³).

use faer::{Mat, MatRef};

use super::factors::Factors;
use crate::{Error, Result};

/// The best factors of at most `rank`, the error of leaving the rest out, and the norm of the whole. Singular values are
/// split evenly: left gets U√S, right √S Vᵀ.
pub(super) fn truncated(f: &Factors, rank: usize, layer: &str) -> Result<(Factors, f64, f64)> {
    if rank == 0 {
        return Err(Error::config("rank", "0 is no rank"));
    }
    f.check_finite(layer)?;
    let left = MatRef::from_row_major_slice(&f.left, f.n, f.r);
    let right = MatRef::from_row_major_slice(&f.right, f.r, f.k);
    let (q1, r1) = qr(left);
    let (q2, r2) = qr(right.transpose());
    let core = r1 * r2.transpose() * f.scale;
    let svd =
        core.thin_svd().map_err(|e| Error::adapter(format!("{layer}: the singular values did not converge: {e:?}")))?;
    let values: Vec<f64> = svd.S().column_vector().iter().copied().collect();
    // More than min(n, k) directions there are not; a rank that is asked for beyond is what there is.
    let kept = rank.min(values.len());
    let root = |j: usize| values[j].max(0.0).sqrt();
    let (u, v) = (svd.U(), svd.V());
    let u = Mat::from_fn(u.nrows(), kept, |i, j| u[(i, j)] * root(j));
    let v = Mat::from_fn(v.nrows(), kept, |i, j| v[(i, j)] * root(j));
    let (left, right) = (&q1 * u, &q2 * v);
    let norm = |values: &[f64]| values.iter().map(|s| s * s).sum::<f64>().sqrt();
    let result = Factors {
        kind: f.kind,
        n: f.n,
        k: f.k,
        r: kept,
        scale: 1.0,
        left: (0..f.n).flat_map(|i| (0..kept).map(move |j| (i, j))).map(|at| left[at]).collect(),
        right: (0..kept).flat_map(|j| (0..f.k).map(move |i| (i, j))).map(|at| right[at]).collect(),
    };
    Ok((result, norm(&values[kept..]), norm(&values)))
}

/// Thin Q and R, columns in place.
fn qr(x: MatRef<'_, f64>) -> (Mat<f64>, Mat<f64>) {
    let qr = x.qr();
    (qr.compute_thin_Q(), qr.thin_R().to_owned())
}
