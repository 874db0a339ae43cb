//! Where the first step on A and B leads, compared with the gradient.

use lowrank_core::Tensor;

use crate::Result;
use crate::linalg::{Matrix, Svd, nt, tn};

/// The first step's effect `D = B Bᵀ G + G AᵀA` beside G.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FirstStep {
    /// cos(ΔW₁, −G).
    pub cosine: f64,
    /// `min_c ‖c D − G‖_F / ‖G‖_F`, which is √(1 − cos²).
    pub error: f64,
    /// The relative error of the best matrix of rank 2r: no start of rank r can do better.
    pub best: f64,
    /// ‖G‖_F.
    pub norm: f64,
    /// ‖G‖ and what depends on it was estimated from random probes, as no gradient was formed.
    pub estimated: bool,
}

impl FirstStep {
    /// With the gradient at hand. Best is from the found singular values: exact up to the SVD's own error.
    pub(super) fn exact(a: &Matrix, b: &Matrix, g: &Tensor, norm: f64, svd: &Svd, r: usize) -> Result<Self> {
        let to = |m: &Matrix| m.to_tensor(g.dtype(), g.device());
        let bg = Matrix::from_tensor(&tn(&to(b)?, g)?)?;
        let ga = Matrix::from_tensor(&nt(g, &to(a)?)?)?;
        Ok(FirstStep::of(a, b, &bg, &ga, norm, svd, r))
    }

    /// From G ≈ U S Vᵀ, and an estimate of ‖G‖².
    pub(super) fn estimated(a: &Matrix, b: &Matrix, norm: f64, svd: &Svd, r: usize) -> Self {
        let bg = b.transposed().times(&svd.u).scale_columns(&svd.s).times(&svd.v.transposed());
        let ga = svd.u.scale_columns(&svd.s).times(&svd.v.transposed().times(&a.transposed()));
        FirstStep { estimated: true, ..FirstStep::of(a, b, &bg, &ga, norm, svd, r) }
    }

    /// `bg = BᵀG`, `ga = G Aᵀ`, `norm = ‖G‖²`. All sums are over r×r matrices: ⟨D, G⟩ = ‖BᵀG‖² + ‖GAᵀ‖², and ‖D‖² is
    /// ⟨BᵀB, BᵀG GᵀB⟩ + ⟨AAᵀ, A GᵀG Aᵀ⟩ + 2⟨Bᵀ(GAᵀ), (BᵀG)Aᵀ⟩.
    fn of(a: &Matrix, b: &Matrix, bg: &Matrix, ga: &Matrix, norm: f64, svd: &Svd, r: usize) -> Self {
        let (at, bt) = (a.transposed(), b.transposed());
        let inner = bg.squared_norm() + ga.squared_norm();
        let d = bt.times(b).dot(&bg.times(&bg.transposed()))
            + a.times(&at).dot(&ga.transposed().times(ga))
            + 2.0 * bt.times(ga).dot(&bg.times(&at));
        let cosine = if d > 0.0 && norm > 0.0 { (inner / (d * norm).sqrt()).min(1.0) } else { 0.0 };
        let kept: f64 = svd.s.iter().take(2 * r).map(|s| s * s).sum();
        FirstStep {
            cosine,
            error: (1.0 - cosine * cosine).sqrt(),
            best: (1.0 - kept / norm).max(0.0).sqrt(),
            norm: norm.sqrt(),
            estimated: false,
        }
    }
}
