//! How A and B start. One file each.
//!
//! Every layer draws from its own Philox stream, keyed by the seed and the layer's name: which other layers are
//! targeted, and in which order, changes nothing.

mod both_random;
mod both_zero;
pub(crate) mod bottleneck;
mod default;
mod eva;
mod gaussian;
pub mod lora_ga;
mod olora;
mod orthogonal;
mod pissa;
mod probes;
mod spec;

use lowrank_core::Tensor;
use lowrank_core::philox::Rng;
pub use probes::{InitReport, Run};
pub(crate) use probes::{Target, from_data};
pub use spec::{Direction, Estimator, GaScale, Init, LoraGa};

use crate::{Error, Kind, Result};

/// Sizes of a layer's pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub kind: Kind,
    /// Columns of A: in-features, or the vocabulary.
    pub k: usize,
    /// Rows of B: out-features, or the embedding's dimension.
    pub n: usize,
    pub r: usize,
}

/// How one layer starts: A `[r,k]` and B `[n,r]`, row-major.
pub(crate) struct Pair {
    pub a: Vec<f64>,
    pub b: Vec<f64>,
    /// The layer's frozen weight is W − s B A, so that the adapted model starts as the base.
    pub offset: bool,
}

/// The start of a layer for every init that needs no data. `weight` is the base's, `scale` the s of the layer.
pub(crate) fn start(init: &Init, layer: &str, seed: u64, sizes: &Sizes, scale: f64, weight: &Tensor) -> Result<Pair> {
    linear_only(init, sizes)?;
    let rng = &mut Rng::new(seed, fnv1a(layer));
    let (a, b) = match init {
        Init::Default => default::draw(rng, sizes),
        Init::Gaussian => gaussian::draw(rng, sizes),
        Init::BothZero => both_zero::draw(sizes),
        Init::BothRandom => both_random::draw(rng, sizes),
        Init::Orthogonal => return orthogonal::draw(rng, sizes),
        Init::Pissa { niter } => return pissa::from_weight(weight, *niter, rng, sizes, scale),
        Init::Olora => return olora::from_weight(weight, sizes),
        Init::Eva { .. } | Init::LoraGa(_) => {
            return Err(Error::adapter(format!("{init} needs data: make the adapter with Adapter::create_with_data")));
        }
    };
    Ok(Pair { a, b, offset: false })
}

/// A and B of a layer as the default init draws them.
pub(crate) fn draw_default(layer: &str, seed: u64, sizes: &Sizes) -> (Vec<f64>, Vec<f64>) {
    default::draw(&mut Rng::new(seed, fnv1a(layer)), sizes)
}

/// Inits that are made of a weight matrix, its gradient or its inputs have no meaning for a table.
fn linear_only(init: &Init, sizes: &Sizes) -> Result<()> {
    match init {
        Init::Default | Init::Gaussian | Init::BothZero | Init::BothRandom => Ok(()),
        _ if sizes.kind == Kind::Linear => Ok(()),
        _ => Err(Error::adapter(format!("init {init} is for linear layers, not for an {}", sizes.kind))),
    }
}

/// A decomposition of an n×k matrix has min(n,k) parts.
fn fits(init: &str, parts: usize, s: &Sizes) -> Result<()> {
    let most = s.n.min(s.k);
    if parts <= most {
        return Ok(());
    }
    let need = if parts == s.r { format!("rank {parts}") } else { format!("2r = {parts} singular vectors") };
    Err(Error::adapter(format!("{init} needs {need}, but the layer [{}, {}] has only {most}", s.n, s.k)))
}

/// An error of one layer.
pub(crate) fn in_layer(name: &str, e: Error) -> Error {
    match e {
        Error::Adapter(detail) => Error::adapter(format!("{name}: {detail}")),
        other => other,
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

    fn draw(init: Init, layer: &str, seed: u64, sizes: &Sizes) -> (Vec<f64>, Vec<f64>) {
        let weight = Tensor::zeros(&[1, 1], lowrank_core::DType::F32, &lowrank_core::Device::reference().unwrap());
        let pair = start(&init, layer, seed, sizes, 1.0, &weight.unwrap()).unwrap();
        assert!(!pair.offset);
        (pair.a, pair.b)
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
    fn orthogonal_starts_with_a_product_of_zero() {
        let (a, b) = draw(Init::Orthogonal, "x", 0, &LINEAR);
        assert!(a.iter().chain(&b).all(|v| v.is_finite()) && moments(&a).1 > 1e-4 && moments(&b).1 > 1e-4);
        for i in 0..LINEAR.n {
            for j in 0..LINEAR.k {
                let ba: f64 = (0..LINEAR.r).map(|p| b[i * LINEAR.r + p] * a[p * LINEAR.k + j]).sum();
                assert!(ba.abs() < 1e-14, "{ba}");
            }
        }
        let weight = Tensor::zeros(&[1, 1], lowrank_core::DType::F32, &lowrank_core::Device::reference().unwrap());
        let e = |init: Init, sizes: Sizes| match start(&init, "x", 0, &sizes, 1.0, weight.as_ref().unwrap()) {
            Err(e) => e.to_string(),
            Ok(_) => panic!("{init}"),
        };
        assert!(e(Init::Orthogonal, Sizes { r: 3, ..LINEAR }).contains("even rank"));
        assert!(e(Init::Olora, EMBEDDING).contains("for linear layers"));
        assert!(e(Init::LoraGa(LoraGa::default()), LINEAR).contains("needs data"));
        assert!(e(Init::Pissa { niter: None }, Sizes { r: 31, ..LINEAR }).contains("[30, 400] has only 30"));
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
