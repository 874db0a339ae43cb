//! Linear: A uniform in ±1/√k, B zero. Embedding: A zero, B standard normal. Either way the adapted model starts as the
//! base, and one factor has a gradient from the first step on (Hu et al. 2021, section 4.1).

use lowrank_core::philox::Rng;

use super::{Sizes, kaiming, normal};
use crate::Kind;

pub(super) fn draw(rng: &mut Rng, s: &Sizes) -> (Vec<f64>, Vec<f64>) {
    match s.kind {
        Kind::Embedding => (vec![0.0; s.r * s.k], normal(rng, s.n * s.r, 1.0)),
        _ => (kaiming(rng, s.r * s.k, s.k), vec![0.0; s.n * s.r]),
    }
}
