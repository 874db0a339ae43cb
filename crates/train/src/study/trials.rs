//! Ways to train that are compared with each other, each at the best of several learning rates.
//!
//! Learning rates are tried with [`SEARCH`] seeds; the best one is then run with the other seeds too, so that the figures
//! that are compared have a spread of several seeds at the cost of a few.

use std::sync::atomic::AtomicBool;

use lowrank_core::optim::Schedule;
use lowrank_lora::LoraConfig;
use lowrank_models::Llama;

use super::{mean, spread};
use crate::{Cell, CellResult, Dataset, Length, Options, Result, Series, TOGETHER, start_adapter, sweep};

/// Seeds with which every learning rate is tried.
const SEARCH: u64 = 2;
/// Training losses are averaged over so many steps before they are compared.
pub(super) const WINDOW: usize = 5;

/// How long each adapter is trained, with how many seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Optimiser steps.
    pub steps: usize,
    /// Examples a step.
    pub batch: usize,
    /// Seeds 0 .. n at the best learning rate; the others are tried with two of them.
    pub seeds: u64,
}

impl Effort {
    fn search(&self) -> u64 {
        self.seeds.min(SEARCH)
    }

    /// Steps of so many trials with so many learning rates.
    pub(super) fn total(&self, trials: usize, lrs: usize) -> usize {
        let runs = lrs * self.search() as usize + (self.seeds - self.search()) as usize;
        trials * runs * self.steps
    }

    /// How the figures came about, for a report.
    pub(super) fn describe(&self, data: &Dataset, base_loss: f64, rest: &str) -> String {
        let more = match self.seeds - self.search() {
            0 => String::new(),
            _ => format!(", the best one with {}", self.seeds),
        };
        format!(
            "The built-in model glass-en (Lewis Carroll) is adapted to the built-in Hamlet: {} steps of {} × {} tokens, \
             AdamW, linear schedule, α = 2r. {rest} Every learning rate was tried with {} seeds (init and data order){more}; \
             losses are nats a token on the held-out tenth, means with half the distance between the extremes, which bars \
             and bands in the picture show. The base without an adapter: {base_loss:.4}.",
            self.steps,
            self.batch,
            data.longest(),
            self.search(),
        )
    }

    pub(super) fn options(&self) -> Options {
        Options {
            batch: self.batch,
            length: Length::Steps(self.steps),
            schedule: Schedule::Linear,
            ..Options::default()
        }
    }
}

/// A way to train, with what came of its learning rates and seeds.
pub(super) struct Trial {
    pub name: String,
    pub config: LoraConfig,
    pub lora_plus: f64,
    results: Vec<CellResult>,
}

impl Trial {
    pub fn new(name: impl Into<String>, config: LoraConfig) -> Self {
        Trial { name: name.into(), config, lora_plus: 1.0, results: Vec::new() }
    }

    /// By seed.
    fn at(&self, lr: f64) -> Vec<&CellResult> {
        let mut list: Vec<&CellResult> = self.results.iter().filter(|c| c.lr == lr).collect();
        list.sort_by_key(|c| c.seed);
        list
    }

    /// Held-out losses of the seeds.
    pub fn losses(&self, lr: f64) -> Vec<f64> {
        self.at(lr).iter().map(|c| c.loss).collect()
    }

    /// The learning rate with the lowest mean over the seeds that all of them had; none if all diverged.
    pub fn best(&self) -> Option<f64> {
        let mut lrs: Vec<f64> = self.results.iter().map(|c| c.lr).collect();
        lrs.sort_by(f64::total_cmp);
        lrs.dedup();
        let tried = |lr: f64| -> Vec<f64> { self.at(lr).iter().filter(|c| c.seed < SEARCH).map(|c| c.loss).collect() };
        let finite = lrs.into_iter().filter(|&lr| tried(lr).iter().all(|l| l.is_finite()));
        finite.min_by(|&a, &b| mean(&tried(a)).total_cmp(&mean(&tried(b))))
    }

    /// Losses of all seeds at the best learning rate.
    pub fn best_losses(&self) -> Vec<f64> {
        self.best().map_or(Vec::new(), |lr| self.losses(lr))
    }

    pub fn parameters(&self) -> usize {
        self.results.first().map_or(0, |c| c.trainable_params)
    }

    /// The loss at the best learning rate, and that; said if it is the first or last of those tried.
    pub fn best_columns(&self, lrs: &[f64]) -> [String; 2] {
        match self.best() {
            None => ["diverged".into(), "-".into()],
            Some(lr) => {
                let edge = if Some(&lr) == lrs.first() || Some(&lr) == lrs.last() { ", the last tried" } else { "" };
                [spread(&self.best_losses()), format!("{lr}{edge}")]
            }
        }
    }

    /// Training losses by step at the best learning rate, means of the last few steps, of every seed.
    pub fn curves(&self) -> Vec<Vec<f64>> {
        let Some(lr) = self.best() else { return Vec::new() };
        let smooth = |c: &CellResult| -> Vec<f64> {
            (0..c.curve.len()).map(|i| mean(&c.curve[i.saturating_sub(WINDOW - 1)..=i])).collect()
        };
        self.at(lr).into_iter().map(smooth).collect()
    }

    /// The curves' mean, with their extremes.
    pub fn series(&self) -> Series {
        let curves = self.curves();
        let steps = curves.iter().map(Vec::len).min().unwrap_or(0);
        let at = |i: usize| curves.iter().map(|c| c[i]).collect::<Vec<f64>>();
        Series::with_spread(&self.name, (0..steps).map(|i| ((i + 1) as f64, at(i))))
    }
}

/// What all trials of a study share.
pub(super) struct Bench<'a> {
    pub data: &'a Dataset,
    pub effort: Effort,
    pub ticked: &'a dyn Fn(),
    pub stop: &'a AtomicBool,
}

impl Bench<'_> {
    /// Trains everything over one base; the base's own loss.
    pub fn run(&self, model: &mut Llama, trials: &mut [Trial], lrs: &[f64]) -> Result<f64> {
        let (search, all) = (self.effort.search(), self.effort.seeds);
        let base_loss = self.stage(model, trials, &|_| lrs.to_vec(), 0..search)?;
        if search < all {
            self.stage(model, trials, &|trial| trial.best().into_iter().collect(), search..all)?;
        }
        Ok(base_loss)
    }

    fn stage(
        &self,
        model: &mut Llama,
        trials: &mut [Trial],
        lrs: &dyn Fn(&Trial) -> Vec<f64>,
        seeds: std::ops::Range<u64>,
    ) -> Result<f64> {
        let (mut cells, mut of) = (Vec::new(), Vec::new());
        for (i, trial) in trials.iter().enumerate() {
            for lr in lrs(trial) {
                for seed in seeds.clone() {
                    let (adapter, _) = start_adapter(model, trial.config.clone(), self.data, seed, self.stop)?;
                    let options = Options { lr, seed, lora_plus: trial.lora_plus, ..self.effort.options() };
                    cells.push(Cell { adapter, options });
                    of.push(i);
                }
            }
        }
        let result = sweep(model, self.data, cells, TOGETHER, self.ticked, self.stop)?;
        for (i, cell) in of.into_iter().zip(result.cells) {
            trials[i].results.push(cell);
        }
        Ok(result.base_loss)
    }
}
