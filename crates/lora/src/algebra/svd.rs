//! The best approximation of a product of two thin factors by thinner ones.
//!
//! With left = Q₁R₁ and rightᵀ = Q₂R₂, the SVD of left·right is that of the small core R₁R₂ᵀ between Q₁ and Q₂. Nothing of
//! size `[n,k]` exists; the work is O((n + k) r² + r³).

use super::factors::Factors;
use crate::linalg::{Matrix, svd, thin_qr};
use crate::{Error, Result};

/// The best factors of at most `rank`, the error of leaving the rest out, and the norm of the whole. Singular values are
/// split evenly: left gets U√S, right √S Vᵀ.
pub(super) fn truncated(f: &Factors, rank: usize, layer: &str) -> Result<(Factors, f64, f64)> {
    if rank == 0 {
        return Err(Error::config("rank", "0 is no rank"));
    }
    f.check_finite(layer)?;
    let (q1, r1) = thin_qr(&Matrix::new(f.n, f.r, f.left.clone())?)?;
    let (q2, r2) = thin_qr(&Matrix::new(f.r, f.k, f.right.clone())?.transposed())?;
    let core = r1.times(&r2.transposed()).scaled(f.scale);
    let core = svd(&core).map_err(|e| Error::adapter(format!("{layer}: {e}")))?;
    // More than min(n, k) directions there are not; a rank that is asked for beyond is what there is.
    let kept: Vec<usize> = (0..rank.min(core.s.len())).collect();
    let roots: Vec<f64> = kept.iter().map(|&j| core.s[j].max(0.0).sqrt()).collect();
    let part = |q: &Matrix, x: &Matrix| q.times(&x.columns(&kept).scale_columns(&roots));
    let norm = |values: &[f64]| values.iter().map(|s| s * s).sum::<f64>().sqrt();
    let result = Factors {
        kind: f.kind,
        n: f.n,
        k: f.k,
        r: kept.len(),
        scale: 1.0,
        left: part(&q1, &core.u).data,
        right: part(&q2, &core.v).transposed().data,
    };
    Ok((result, norm(&core.s[kept.len()..]), norm(&core.s)))
}
