//! Linear: A normal with deviation 1/r, B zero. An embedding starts as by default, which is what PEFT does.

use lowrank_core::philox::Rng;

use super::{Sizes, default, normal};
use crate::Kind;

pub(super) fn draw(rng: &mut Rng, s: &Sizes) -> (Vec<f64>, Vec<f64>) {
    match s.kind {
        Kind::Embedding => default::draw(rng, s),
        _ => (normal(rng, s.r * s.k, 1.0 / s.r as f64), vec![0.0; s.n * s.r]),
    }
}
