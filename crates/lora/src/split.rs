//! Adapters whose init split the base, written for the base as it is.
//!
//! The trained layer is `W − s B₀A₀ + s B A = W + s [B, −B₀][A; A₀]`: a plain LoRA of rank 2r, exactly; or the best one of
//! rank r, through QR of the stacked factors (nothing of size [n,k] is formed).

use std::collections::BTreeMap;

use lowrank_core::{Tensor, no_grad};

use crate::linalg::{Matrix, svd, thin_qr};
use crate::{Adapter, Error, Init, LowRank, Result};

/// What a recompression lost in one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Lost {
    /// The layer.
    pub layer: String,
    /// ‖ΔW‖ of the exact change.
    pub norm: f64,
    /// ‖ΔW − ΔW_r‖: the root of the sum of squares of the singular values left out (Eckart and Young 1936).
    pub lost: f64,
}

impl Adapter {
    /// Whether its init split the base: its pairs alone do not belong to the base as it is.
    pub fn is_split(&self) -> bool {
        self.layers.values().any(|l| l.offset.is_some())
    }

    /// The same change of the base as a plain LoRA: rank 2r and α 2α (√2 α with rsLoRA) everywhere, so that s stays. An
    /// adapter without offsets is returned as it is. Frozen copies.
    pub fn plain(&self) -> Result<Adapter> {
        if !self.is_split() {
            return Ok(self.clone());
        }
        let mut plain = self.clone();
        let longer = if self.config.use_rslora { 2f64.sqrt() } else { 2.0 };
        plain.config.init = Init::Default;
        plain.config.r *= 2;
        plain.config.alpha *= longer;
        plain.config.rank_pattern.values_mut().for_each(|r| *r *= 2);
        plain.config.alpha_pattern.values_mut().for_each(|alpha| *alpha *= longer);
        for (name, layer) in &mut plain.layers {
            if layer.full_rank() != 2 * layer.rank {
                return Err(Error::adapter(format!("{name}: has no offset, and other layers have")));
            }
            let (a, b) = no_grad(|| layer.product())?;
            (layer.rank, layer.alpha) = (2 * layer.rank, layer.alpha * longer);
            layer.offset = None;
            (layer.a, layer.b) = (named(&a, &layer.a), named(&b, &layer.b));
        }
        plain.config.validate()?;
        Ok(plain)
    }

    /// The best plain LoRA of the same ranks, and what that loses by layer. Exact QR and SVD on the host, in f64.
    pub fn recompressed(&self) -> Result<(Adapter, Vec<Lost>)> {
        let mut adapter = self.clone();
        adapter.config.init = Init::Default;
        let mut losses = Vec::new();
        for (name, layer) in &mut adapter.layers {
            if layer.offset.is_some() {
                let (pair, norm, lost) = truncated(layer).map_err(|e| crate::init::in_layer(name, e))?;
                *layer = pair;
                losses.push(Lost { layer: name.clone(), norm, lost });
            }
        }
        Ok((adapter, losses))
    }
}

/// `B′ A′ = (Q_b R_b)(Q_a R_a)ᵀ = Q_b (U S Vᵀ) Q_aᵀ`, cut to rank r; √S goes to either side.
fn truncated(layer: &LowRank) -> Result<(LowRank, f64, f64)> {
    let (a, b) = no_grad(|| layer.product())?;
    let (qb, rb) = thin_qr(&Matrix::from_tensor(&b)?)?;
    let (qa, ra) = thin_qr(&Matrix::from_tensor(&a)?.transposed())?;
    let core = svd(&rb.times(&ra.transposed()))?;
    let kept = layer.rank.min(core.s.len());
    // A rank above what the layer can have is filled with zeros.
    let columns: Vec<usize> = (0..kept).collect();
    let roots: Vec<f64> = core.s[..kept].iter().map(|s| s.sqrt()).collect();
    let new_b = padded(&qb.times(&core.u.columns(&columns).scale_columns(&roots)), layer.rank);
    let new_a = padded(&qa.times(&core.v.columns(&columns).scale_columns(&roots)), layer.rank).transposed();
    let norm = |s: &[f64]| layer.scale.abs() * s.iter().map(|x| x * x).sum::<f64>().sqrt();
    let to = |m: &Matrix, like: &Tensor| Ok::<_, Error>(named(&m.to_tensor(like.dtype(), like.device())?, like));
    let pair = LowRank { a: to(&new_a, &layer.a)?, b: to(&new_b, &layer.b)?, offset: None, ..layer.clone() };
    Ok((pair, norm(&core.s), norm(&core.s[kept..])))
}

/// Columns of zeros on the right, up to `cols`.
fn padded(m: &Matrix, cols: usize) -> Matrix {
    let mut data = Vec::with_capacity(m.rows * cols);
    for row in m.data.chunks(m.cols.max(1)) {
        data.extend_from_slice(row);
        data.resize(data.len() + cols - m.cols, 0.0);
    }
    Matrix { rows: m.rows, cols, data }
}

fn named(t: &Tensor, like: &Tensor) -> Tensor {
    match like.name() {
        Some(name) => t.detach().named(name),
        None => t.detach(),
    }
}

/// The offsets of an adapter, as an adapter of the same configuration.
pub(crate) fn offsets(adapter: &Adapter) -> Result<Adapter> {
    let mut init = adapter.clone();
    (init.saved, init.biases) = (BTreeMap::new(), BTreeMap::new());
    for (name, layer) in &mut init.layers {
        let Some(o) = layer.offset.take() else { return Err(Error::adapter(format!("{name}: has no offset"))) };
        (layer.a, layer.b) = (named(&o.a, &layer.a), named(&no_grad(|| o.b.neg())?, &layer.b));
    }
    Ok(init)
}

#[cfg(test)]
mod tests;
