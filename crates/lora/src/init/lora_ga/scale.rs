//! How long A's rows and B's columns are.
//!
//! The theory (section 3.3): `A₀ = (√ζ/s) V…ᵀ`, `B₀ = (√ζ/s) U…`. Forward stability (definition 3.2) asks for
//! ζ = Θ(√(n/r²)) where s = α/√r, backward stability for √(k/r²). With ζ = s²√n/γ the length is n^¼/√γ, whatever s is:
//! "stable" of the authors' code. (The paper prints γ where √γ is meant.)

use lowrank_core::Tensor;
use lowrank_core::philox::Rng;

use super::super::{GaScale, LoraGa, Sizes};
use crate::Result;
use crate::linalg::{Matrix, nn, svd_lowrank};

/// Elements that are on the host at one time.
const BLOCK: usize = 1 << 20;

pub(super) fn length(w: &Tensor, s: f64, options: &LoraGa, sizes: &Sizes, rng: &mut Rng) -> Result<f64> {
    let quarter = |size: usize| (size as f64).powf(0.25) / options.gamma.sqrt();
    let length = match options.scale {
        GaScale::Stable => quarter(sizes.n),
        GaScale::Backward => quarter(sizes.k),
        GaScale::Gd => 1.0 / s,
        GaScale::Unit => 1.0,
        GaScale::Zeta(zeta) => zeta.sqrt() / s,
        GaScale::WeightSvd => {
            // A weight's spectrum is flat: more iterations than for a gradient, as many products as the authors have.
            let svd = svd_lowrank(w, (4 * sizes.r).min(sizes.n.min(sizes.k)), 8, rng)?;
            svd.s[..sizes.r].iter().map(|x| (x / s).sqrt()).sum::<f64>() / sizes.r as f64
        }
    };
    if length.is_finite() && length != 0.0 {
        return Ok(length);
    }
    Err(crate::Error::adapter(format!("lora-ga: the length of A and B is {length}; s is {s}")))
}

/// With `ratio = max|W| / max|s B A|` below 1, A and B are multiplied by √ratio. B A is formed some rows at a time.
pub(super) fn clip(a: Matrix, b: Matrix, w: &Tensor, s: f64) -> Result<(Matrix, Matrix)> {
    let dtype = if w.dtype() == lowrank_core::DType::F64 { w.dtype() } else { lowrank_core::DType::F32 };
    let right = a.to_tensor(dtype, w.device())?;
    let (mut of_product, mut of_weight) = (0.0f64, 0.0f64);
    let rows = (BLOCK / a.cols.max(1)).max(1);
    for start in (0..b.rows).step_by(rows) {
        let rows = rows.min(b.rows - start);
        let part = Matrix::new(rows, b.cols, b.data[start * b.cols..(start + rows) * b.cols].to_vec())?;
        let product = nn(&part.to_tensor(dtype, w.device())?, &right)?.to_f64()?;
        of_product = product.iter().fold(of_product, |max, x| max.max((s * x).abs()));
    }
    blocks(w, &mut |values| of_weight = values.iter().fold(of_weight, |max, x| max.max(x.abs())))?;
    let ratio = of_weight / of_product;
    if ratio >= 1.0 {
        return Ok((a, b));
    }
    Ok((a.scaled(ratio.sqrt()), b.scaled(ratio.sqrt())))
}

/// Shows all elements, some at a time.
pub(super) fn blocks(t: &Tensor, f: &mut dyn FnMut(&[f64])) -> Result<()> {
    let flat = t.detach().reshape(&[t.len()])?;
    for start in (0..t.len()).step_by(BLOCK) {
        f(&flat.rows_view(start, BLOCK.min(t.len() - start))?.to_f64()?);
    }
    Ok(())
}
