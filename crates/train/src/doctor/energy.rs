//! Which rank a layer's gradient needs: its singular values, with one layer's gradient in memory at a time.

use std::collections::BTreeMap;

use lowrank_core::Tensor;
use lowrank_core::philox::Rng;
use lowrank_lora::{Adapter, Host, Kind, attach, detach};

use super::LayerReport;
use super::linalg::{eigenvalues, gram_of_rows, orthonormal, transpose};
use crate::Result;

/// Above this smaller side, singular values come from a sketch.
const EXACT: usize = 512;
/// Columns of the sketch.
const SKETCH: usize = 128;

/// Fills in suggested ranks, with `share` of `Σσ²` of ∂loss/∂W on the base.
pub(super) fn suggest<H: Host>(
    host: &mut H,
    adapter: &Adapter,
    loss: &dyn Fn(&H) -> Result<Tensor>,
    share: f64,
    layers: &mut [LayerReport],
) -> Result<()> {
    for layer in layers {
        let Some(g) = gradient(host, adapter, loss, &layer.name)? else { continue };
        let [mut n, mut k] = layer.shape;
        if adapter.layers.get(&layer.name).is_some_and(|p| p.kind == Kind::Embedding) {
            (n, k) = (k, n);
        }
        if g.iter().any(|v| !v.is_finite()) {
            continue;
        }
        let spectrum = squares(g, n, k);
        layer.suggested_rank = spectrum.rank_for(share);
        layer.energy_at_rank = spectrum.share_of(layer.rank);
    }
    Ok(())
}

/// Squares of a matrix's singular values, the largest first; of a large matrix, the leading ones.
pub(super) struct Spectrum {
    /// Leading squares.
    pub squares: Vec<f64>,
    /// Sum of all.
    pub total: f64,
}

impl Spectrum {
    /// The smallest rank that holds a share of the whole; none of a zero matrix, or if the known ones do not hold it.
    pub fn rank_for(&self, share: f64) -> Option<usize> {
        let mut held = 0.0;
        self.squares
            .iter()
            .position(|square| {
                held += square.max(0.0) / self.total;
                held >= share
            })
            .map(|i| i + 1)
    }

    /// The share that a rank holds.
    pub fn share_of(&self, rank: usize) -> Option<f64> {
        let held: f64 = self.squares.iter().take(rank).map(|s| s.max(0.0)).sum();
        (self.total > 0.0 && rank > 0).then(|| (held / self.total).min(1.0))
    }

    /// `Σσ² / σ₁²`.
    pub fn stable_rank(&self) -> Option<f64> {
        let largest = self.squares.first().copied().filter(|&s| s > 0.0)?;
        Some(self.total / largest)
    }
}

/// Of g `[n,k]`.
pub(super) fn squares(g: Vec<f64>, n: usize, k: usize) -> Spectrum {
    let (g, n, k) = if n > k { (transpose(&g, n, k), k, n) } else { (g, n, k) };
    let total = g.iter().map(|v| v * v).sum();
    let squares = match total {
        0.0 => Vec::new(),
        _ if n <= EXACT => eigenvalues(gram_of_rows(&g, n, k), n),
        _ => sketched(&g, n, k),
    };
    Spectrum { squares, total }
}

/// ∂loss/∂W of one layer of the base; none if the loss does not depend on it.
fn gradient<H: Host>(
    host: &mut H,
    adapter: &Adapter,
    loss: &dyn Fn(&H) -> Result<Tensor>,
    name: &str,
) -> Result<Option<Vec<f64>>> {
    let mut base = None;
    host.visit(&mut |m| {
        if m.name() == name {
            base = m.base_tensors().next().cloned();
        }
    });
    let Some(base) = base else { return Ok(None) };
    let copy = Tensor::from_f64(&base.to_f64()?, base.shape(), host.dtype(), host.device())?.trainable()?;
    let probe = Adapter {
        layers: BTreeMap::new(),
        saved: BTreeMap::from([(format!("{name}.weight"), copy.clone())]),
        biases: BTreeMap::new(),
        ..adapter.clone()
    };
    attach(host, &probe)?;
    let value = loss(host)?;
    if value.requires_grad() {
        value.backward()?;
    }
    detach(host);
    let Some(g) = copy.grad() else { return Ok(None) };
    Ok(Some(g.to_f64()?))
}

/// The largest squared singular values of G `[n, k]`, from a random range and one power iteration (Halko, Martinsson &
/// Tropp 2011, algorithm 4.4); never above the true ones.
fn sketched(g: &[f64], n: usize, k: usize) -> Vec<f64> {
    let mut rng = Rng::new(0, 0x5356_4400);
    let width = SKETCH.min(n);
    let mut q: Vec<f64> = (0..width * k).map(|_| rng.normal()).collect();
    for _ in 0..2 {
        q = times(g, &q, n, k, width);
        orthonormal(&mut q, n);
        q = transposed_times(g, &q, n, k, width);
        orthonormal(&mut q, k);
    }
    let y = times(g, &q, n, k, width);
    eigenvalues(gram_of_rows(&y, width, n), width)
}

/// Rows q of `[width, k]` to rows G q of `[width, n]`.
fn times(g: &[f64], q: &[f64], n: usize, k: usize, width: usize) -> Vec<f64> {
    let mut y = vec![0.0; width * n];
    for (i, row) in g.chunks_exact(k).enumerate() {
        for (j, q) in q.chunks_exact(k).enumerate() {
            y[j * n + i] = row.iter().zip(q).map(|(g, q)| g * q).sum();
        }
    }
    y
}

/// Rows q of `[width, n]` to rows Gᵀ q of `[width, k]`.
fn transposed_times(g: &[f64], q: &[f64], n: usize, k: usize, width: usize) -> Vec<f64> {
    let mut y = vec![0.0; width * k];
    for (i, row) in g.chunks_exact(k).enumerate() {
        for (y, q) in y.chunks_exact_mut(k).zip(q.chunks_exact(n)) {
            y.iter_mut().zip(row).for_each(|(y, g)| *y += g * q[i]);
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A planted spectrum 2, 1, ½, …: the sketch is wider than the rank, so it has them all.
    #[test]
    fn the_sketch_finds_a_planted_spectrum() {
        let (n, k, rank) = (130, 150, 6);
        let mut rng = Rng::new(4, 0);
        let mut random = |rows: usize| {
            let mut x: Vec<f64> = (0..rank * rows).map(|_| rng.normal()).collect();
            orthonormal(&mut x, rows);
            x
        };
        let (u, v) = (random(n), random(k));
        let mut g = vec![0.0; n * k];
        for i in 0..rank {
            let s = 2.0 / f64::from(1 << i);
            for a in 0..n {
                for b in 0..k {
                    g[a * k + b] += s * u[i * n + a] * v[i * k + b];
                }
            }
        }
        let squares = sketched(&g, n, k);
        for (i, square) in squares.iter().take(rank).enumerate() {
            let want = (2.0 / f64::from(1 << i)).powi(2);
            assert!((square - want).abs() < 1e-9, "{square} {want}");
        }
        assert!(squares[rank..].iter().all(|s| s.abs() < 1e-9));
    }
}
