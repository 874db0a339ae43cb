//! How A and B start. One file each.
//!
//! Every layer draws from its own Philox stream, keyed by the seed and the layer's name: which other layers are
//! targeted, and in which order, changes nothing.

mod both_random;
mod both_zero;
mod default;
mod gaussian;

use lowrank_core::philox::Rng;

use crate::{Init, Kind};

/// Sizes of a layer's pair.
pub(crate) struct Sizes {
    pub kind: Kind,
    /// Columns of A: in-features, or the vocabulary.
    pub k: usize,
    /// Rows of B: out-features, or the embedding's dimension.
    pub n: usize,
    pub r: usize,
}

/// A `[r,k]` and B `[n,r]`, row-major.
pub(crate) fn draw(init: Init, layer: &str, seed: u64, sizes: &Sizes) -> (Vec<f64>, Vec<f64>) {
    let rng = &mut Rng::new(seed, fnv1a(layer));
    match init {
        Init::Default => default::draw(rng, sizes),
        Init::Gaussian => gaussian::draw(rng, sizes),
        Init::BothZero => both_zero::draw(sizes),
        Init::BothRandom => both_random::draw(rng, sizes),
    }
}

/// FNV-1a, 32 bits.
pub(crate) fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// `len` values uniform in ±1/√fan_in: Kaiming's uniform init with a = √5, as torch's linear layers start.
fn kaiming(rng: &mut Rng, len: usize, fan_in: usize) -> Vec<f64> {
    let bound = 1.0 / (fan_in.max(1) as f64).sqrt();
    (0..len).map(|_| (2.0 * rng.uniform() - 1.0) * bound).collect()
}

fn normal(rng: &mut Rng, len: usize, deviation: f64) -> Vec<f64> {
    (0..len).map(|_| rng.normal() * deviation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(x: &[f64]) -> (f64, f64) {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        (mean, x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64)
    }

    const LINEAR: Sizes = Sizes { kind: Kind::Linear, k: 400, n: 30, r: 16 };
    const EMBEDDING: Sizes = Sizes { kind: Kind::Embedding, k: 50, n: 400, r: 16 };

    #[test]
    fn default_has_variance_1_over_3k() {
        let (a, b) = draw(Init::Default, "x", 0, &LINEAR);
        let (mean, var) = moments(&a);
        assert_eq!((a.len(), b.len()), (16 * 400, 30 * 16));
        assert!(a.iter().all(|v| v.abs() <= 0.05) && b.iter().all(|&v| v == 0.0));
        assert!(mean.abs() < 0.002 && (var * 3.0 * 400.0 - 1.0).abs() < 0.05, "{mean} {var}");
    }

    #[test]
    fn gaussian_has_deviation_1_over_r() {
        let (a, b) = draw(Init::Gaussian, "x", 0, &LINEAR);
        let (mean, var) = moments(&a);
        assert!(b.iter().all(|&v| v == 0.0) && mean.abs() < 0.005 && (var * 256.0 - 1.0).abs() < 0.1, "{mean} {var}");
    }

    #[test]
    fn embeddings_start_with_a_zero_and_b_normal() {
        for init in [Init::Default, Init::Gaussian] {
            let (a, b) = draw(init, "e", 0, &EMBEDDING);
            let (mean, var) = moments(&b);
            assert!(a.iter().all(|&v| v == 0.0) && mean.abs() < 0.05 && (var - 1.0).abs() < 0.1, "{mean} {var}");
        }
    }

    #[test]
    fn the_contrasts() {
        let (a, b) = draw(Init::BothZero, "x", 0, &LINEAR);
        assert!(a.iter().chain(&b).all(|&v| v == 0.0));
        let (a, b) = draw(Init::BothRandom, "x", 0, &LINEAR);
        assert!(a.iter().chain(&b).all(|&v| v != 0.0));
    }

    #[test]
    fn streams_depend_on_seed_and_name_only() {
        let one = draw(Init::Default, "x", 0, &LINEAR);
        assert_eq!(one, draw(Init::Default, "x", 0, &LINEAR));
        assert_ne!(one, draw(Init::Default, "y", 0, &LINEAR));
        assert_ne!(one, draw(Init::Default, "x", 1, &LINEAR));
        // The published test vector of FNV-1a for "foobar".
        assert_eq!(fnv1a("foobar"), 0xbf9c_f968);
    }
}
