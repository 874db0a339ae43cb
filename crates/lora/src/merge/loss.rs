//! What rounding to the weight's dtype does to an update, and rounding by chance, which keeps its mean.

use lowrank_core::philox::Rng;

use crate::init::fnv1a;
use crate::scalar::Scalar;

/// How merged weights are rounded to the dtype of the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    #[default]
    Nearest,
    /// To one of the two neighbours, the nearer one with the higher chance, so that the expected value is exact (Croci et
    /// al. 2022, "Stochastic rounding", eq. 1). Draws from this seed and the layer's name.
    Stochastic(u64),
}

/// What a merge did to the updates it rounded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MergeReport {
    /// Layers with a low-rank pair, in the host's order.
    pub layers: Vec<LayerLoss>,
}

/// The same of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerLoss {
    /// The layer's name.
    pub layer: String,
    /// Entries of the weight.
    pub entries: usize,
    /// Those that have the value they had before.
    pub unchanged: usize,
    /// ‖ΔW‖² of what was to be added.
    pub update: f64,
    /// ‖ΔW − (W′ − W)‖² of what was not.
    pub lost: f64,
}

impl MergeReport {
    /// Share of all entries that have the value they had before; 0 of nothing.
    pub fn unchanged(&self) -> f64 {
        let (n, of) = self.layers.iter().fold((0, 0), |(n, of), l| (n + l.unchanged, of + l.entries));
        if of == 0 { 0.0 } else { n as f64 / of as f64 }
    }

    /// ‖lost‖ / ‖ΔW‖ over all layers; 0 without an update.
    pub fn lost(&self) -> f64 {
        let (lost, update) = self.layers.iter().fold((0.0, 0.0), |(l, u), x| (l + x.lost, u + x.update));
        if update == 0.0 { 0.0 } else { (lost / update).sqrt() }
    }

    /// The layer that lost the largest share of its update.
    pub fn worst(&self) -> Option<&LayerLoss> {
        self.layers.iter().max_by(|a, b| a.share_lost().total_cmp(&b.share_lost()))
    }
}

impl LayerLoss {
    pub(super) fn new(layer: &str) -> Self {
        LayerLoss { layer: layer.to_string(), entries: 0, unchanged: 0, update: 0.0, lost: 0.0 }
    }

    pub(super) fn count(&mut self, before: f64, wanted: f64, after: f64) {
        self.entries += 1;
        self.unchanged += usize::from(before == after);
        self.update += (wanted - before).powi(2);
        self.lost += (wanted - after).powi(2);
    }

    /// ‖lost‖ / ‖ΔW‖; 0 without an update.
    pub fn share_lost(&self) -> f64 {
        if self.update == 0.0 { 0.0 } else { (self.lost / self.update).sqrt() }
    }
}

/// Rounds one layer's entries, in order.
pub(super) struct Rounder(Option<Rng>);

impl Rounder {
    pub(super) fn new(rounding: Rounding, layer: &str) -> Self {
        Rounder(match rounding {
            Rounding::Nearest => None,
            Rounding::Stochastic(seed) => Some(Rng::new(seed, fnv1a(layer))),
        })
    }

    pub(super) fn round<T: Scalar>(&mut self, x: f64) -> T {
        let near = T::narrow(x);
        let Some(rng) = &mut self.0 else { return near };
        let chance = rng.uniform();
        if near.wide() == x || !near.wide().is_finite() {
            return near;
        }
        let far = near.next(x > near.wide());
        let step = (far.wide() - near.wide()).abs();
        if far.wide().is_finite() && chance < (x - near.wide()).abs() / step { far } else { near }
    }
}
