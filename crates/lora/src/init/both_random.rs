//! A and B both random, as torch's own layers start. It exists to be contrasted: it trains, but the adapted model does
//! not start as the base, so the first steps go into undoing the noise.

use lowrank_core::philox::Rng;

use super::{Sizes, kaiming, normal};
use crate::Kind;

pub(super) fn draw(rng: &mut Rng, s: &Sizes) -> (Vec<f64>, Vec<f64>) {
    match s.kind {
        Kind::Embedding => (normal(rng, s.r * s.k, 1.0), normal(rng, s.n * s.r, 1.0)),
        _ => (kaiming(rng, s.r * s.k, s.k), kaiming(rng, s.n * s.r, s.r)),
    }
}
