//! How a run is done.

use lowrank_core::optim::Schedule;

use crate::{Error, Result};

/// When training ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// After this many optimiser steps.
    Steps(usize),
    /// When every training example has been seen this many times.
    Epochs(usize),
}

/// Options of [`train`](crate::train()).
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Examples of a micro-batch: what is in memory at one time.
    pub batch: usize,
    /// Micro-batches of a step. The gradient is that of one large batch, whatever their lengths.
    pub grad_accum: usize,
    /// When training ends.
    pub length: Length,
    /// Peak learning rate.
    pub lr: f64,
    /// B's learning rate is this times `lr` (Hayou et al. 2024, "LoRA+"); 1 is plain LoRA. Embeddings' pairs keep `lr`.
    pub lora_plus: f64,
    /// What follows the warm-up.
    pub schedule: Schedule,
    /// Steps over which the learning rate rises to its peak.
    pub warmup: usize,
    /// Decoupled weight decay of AdamW.
    pub weight_decay: f64,
    /// Largest 2-norm of all gradients together; larger ones are scaled down to it.
    pub clip: Option<f64>,
    /// Seed of data order and dropout.
    pub seed: u64,
    /// Examples of a batch in evaluations.
    pub eval_batch: usize,
    /// Whether a rank above min(out, in) of its layer, which can do nothing more than min(out, in), is let pass.
    pub allow_rank_above_min: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            batch: 16,
            grad_accum: 1,
            length: Length::Steps(30),
            lr: 3e-3,
            lora_plus: 1.0,
            schedule: Schedule::Constant,
            warmup: 0,
            weight_decay: 0.0,
            clip: Some(1.0),
            seed: 0,
            eval_batch: 16,
            allow_rank_above_min: false,
        }
    }
}

impl Options {
    /// Fails with the name of the first option outside its range.
    pub fn check(&self) -> Result<()> {
        let length = match self.length {
            Length::Steps(n) => ("--steps", n),
            Length::Epochs(n) => ("--epochs", n),
        };
        let sizes =
            [("--batch", self.batch), ("--grad-accum", self.grad_accum), ("--eval-batch", self.eval_batch), length];
        if let Some((field, _)) = sizes.iter().find(|(_, n)| *n == 0) {
            return Err(Error::option(field, "is 0; at least 1"));
        }
        if !(self.lr.is_finite() && self.lr > 0.0) {
            return Err(Error::option("--lr", format!("{} is not a positive number", self.lr)));
        }
        if !(self.lora_plus.is_finite() && self.lora_plus > 0.0) {
            return Err(Error::option("--lora-plus", format!("{} is not a positive number", self.lora_plus)));
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return Err(Error::option("--weight-decay", format!("{} is not a number ≥ 0", self.weight_decay)));
        }
        if let Some(clip) = self.clip
            && !(clip.is_finite() && clip > 0.0)
        {
            return Err(Error::option("--clip", format!("{clip} is not a positive number")));
        }
        Ok(())
    }

    /// Optimiser steps in one pass over `examples`.
    pub fn steps_per_epoch(&self, examples: usize) -> usize {
        examples.div_ceil(self.batch.saturating_mul(self.grad_accum).max(1))
    }

    /// Optimiser steps altogether.
    pub fn steps(&self, examples: usize) -> usize {
        match self.length {
            Length::Steps(n) => n,
            Length::Epochs(n) => n.saturating_mul(self.steps_per_epoch(examples)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_epochs() {
        let options = Options { batch: 4, grad_accum: 2, length: Length::Epochs(3), ..Options::default() };
        assert_eq!(options.steps_per_epoch(17), 3);
        assert_eq!(options.steps(17), 9);
        assert_eq!(options.steps(8), 3);
    }

    #[test]
    fn bad_options_are_named() {
        let error = |options: Options| options.check().unwrap_err().to_string();
        let default = Options::default;
        assert!(default().check().is_ok());
        assert_eq!(error(Options { batch: 0, ..default() }), "--batch: is 0; at least 1");
        assert_eq!(error(Options { length: Length::Epochs(0), ..default() }), "--epochs: is 0; at least 1");
        assert_eq!(error(Options { lr: f64::NAN, ..default() }), "--lr: NaN is not a positive number");
        assert_eq!(error(Options { lora_plus: -1.0, ..default() }), "--lora-plus: -1 is not a positive number");
        assert_eq!(error(Options { clip: Some(0.0), ..default() }), "--clip: 0 is not a positive number");
    }
}
