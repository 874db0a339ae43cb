//! Held-out losses over a grid of settings, trained beside each other over one base.

mod table;

pub(crate) use table::markdown;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use lowrank_lora::{Adapter, files};
use lowrank_models::Llama;
use serde::Serialize;

use crate::{Dataset, Error, Member, Observer, Options, Result, StepRecord, train_many};

/// One combination: a fresh adapter and how it is trained.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Changed in place.
    pub adapter: Adapter,
    /// The learning rate, the seed and the rest.
    pub options: Options,
}

/// What became of one combination.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CellResult {
    /// Peak learning rate.
    pub lr: f64,
    /// Rank.
    pub rank: usize,
    /// α
    pub alpha: f64,
    /// Init.
    pub init: String,
    /// Seed.
    pub seed: u64,
    /// Numbers trained.
    pub trainable_params: usize,
    /// Held-out loss before the first step; `null` if that already failed.
    #[serde(serialize_with = "finite")]
    pub loss_before: f64,
    /// Held-out loss after the last step; NaN (`null` in JSON) if it diverged.
    #[serde(serialize_with = "finite")]
    pub loss: f64,
    /// Hash of the trained adapter in the form that `train` would save.
    pub hash: String,
    /// Training loss by step.
    pub curve: Vec<f64>,
    /// Why there is no loss.
    pub error: Option<String>,
}

/// A whole sweep.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sweep {
    /// Held-out loss of the base without any adapter.
    #[serde(serialize_with = "finite")]
    pub base_loss: f64,
    /// Wall time.
    pub seconds: f64,
    /// Optimiser steps of all adapters together.
    pub steps: usize,
    /// In the order given.
    pub cells: Vec<CellResult>,
}

/// Trains every cell beside the others, at most `together` in one batch; see [`train_many`](crate::train_many). `ticked` is called after every step of
/// any adapter. A cell that diverges is told of in its result and stops nothing; an interrupt is an error.
pub fn sweep(
    model: &mut Llama,
    data: &Dataset,
    cells: Vec<Cell>,
    together: usize,
    ticked: &dyn Fn(),
    stop: &AtomicBool,
) -> Result<Sweep> {
    let start = Instant::now();
    lowrank_lora::detach(model);
    let eval_batch = cells.first().map_or(1, |c| c.options.eval_batch);
    let base_loss = crate::evaluate(model, &data.valid, eval_batch)?.loss;
    let members: Vec<Member<'_>> =
        cells.iter().map(|c| Member { adapter: &c.adapter, data, options: &c.options }).collect();
    let mut curves: Vec<Curve<'_>> = cells.iter().map(|_| Curve { losses: Vec::new(), ticked }).collect();
    let mut observers: Vec<&mut dyn Observer> = curves.iter_mut().map(|c| c as &mut dyn Observer).collect();
    let summaries = train_many(model, &members, &mut observers, together, stop)?;
    lowrank_lora::detach(model);
    let mut results = Vec::new();
    for ((cell, curve), summary) in cells.iter().zip(curves).zip(summaries) {
        let (before, loss, error) = match summary {
            Ok(s) => match s.val_loss_after {
                Some(after) => (s.val_loss_before, after, None),
                None => return Err(Error::Interrupted),
            },
            Err(e @ Error::Interrupted) => return Err(e),
            Err(e @ Error::Diverged { .. }) => (f64::NAN, f64::NAN, Some(e.to_string())),
            Err(e) => return Err(e),
        };
        let config = &cell.adapter.config;
        results.push(CellResult {
            lr: cell.options.lr,
            rank: config.r,
            alpha: config.alpha,
            init: config.init.to_string(),
            seed: cell.options.seed,
            trainable_params: cell.adapter.parameters().iter().map(|(_, t)| t.len()).sum(),
            loss_before: before,
            loss,
            hash: format!("{:016x}", cell.adapter.hash()?),
            curve: curve.losses,
            error,
        });
    }
    let steps = results.iter().map(|c| c.curve.len()).sum();
    Ok(Sweep { base_loss, seconds: start.elapsed().as_secs_f64(), steps, cells: results })
}

impl Sweep {
    /// The cell with the lowest held-out loss; the first of equals.
    pub fn best(&self) -> Option<&CellResult> {
        let finite = self.cells.iter().filter(|c| c.loss.is_finite());
        finite.reduce(|best, c| if c.loss < best.loss { c } else { best })
    }

    /// Writes `sweep.json`, `sweep.md` and `sweep.svg` into a directory. `model` is the base's name.
    pub fn write(&self, dir: &Path, model: &str) -> Result<()> {
        let json = serde_json::json!({ "model": model, "sweep": self });
        let mut text = serde_json::to_vec_pretty(&json).map_err(|e| Error::output(dir, e))?;
        text.push(b'\n');
        files::write_atomically(&dir.join("sweep.json"), &text)?;
        files::write_atomically(&dir.join("sweep.md"), self.markdown().as_bytes())?;
        files::write_atomically(&dir.join("sweep.svg"), self.chart().svg()?.as_bytes())?;
        Ok(())
    }
}

struct Curve<'a> {
    losses: Vec<f64>,
    ticked: &'a dyn Fn(),
}

impl Observer for Curve<'_> {
    fn step(&mut self, record: &StepRecord) -> Result<()> {
        self.losses.push(record.loss);
        (self.ticked)();
        Ok(())
    }
}

/// JSON has no NaN.
fn finite<S: serde::Serializer>(x: &f64, s: S) -> Result<S::Ok, S::Error> {
    if x.is_finite() { s.serialize_f64(*x) } else { s.serialize_none() }
}
