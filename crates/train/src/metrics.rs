//! Numbers of a run: a line a step, and a summary.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{Error, Evaluation, Observer, Result, When};

/// One optimiser step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepRecord {
    /// Number of the step, from 1.
    pub step: usize,
    /// Mean loss over the step's counted targets before the step, in nats.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// 2-norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Tokens (without padding) a second.
    pub tokens_per_s: f64,
}

/// A whole run; the content of `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Held-out loss before the first step.
    pub val_loss_before: f64,
    /// Held-out loss after the last one; none if the run was interrupted.
    pub val_loss_after: Option<f64>,
    /// Numbers that were trained.
    pub trainable_params: usize,
    /// Numbers of the model and the adapter together.
    pub total_params: usize,
    /// Wall time of everything, evaluations included.
    pub seconds: f64,
    /// Training tokens (without padding) a second, evaluations not included.
    pub tokens_per_s: f64,
    /// Most device memory in use at one time.
    pub peak_bytes: u64,
    /// Name of the device.
    pub device: String,
    /// Seed of data order, inits and dropout.
    pub seed: u64,
    /// Optimiser steps done.
    pub steps: usize,
    /// Whether the user stopped it before its last step.
    pub interrupted: bool,
}

/// Points of a curve: step and loss.
pub(crate) type Points = Vec<(usize, f64)>;

/// Writes `metrics.jsonl` while a run goes on, and keeps the points of its picture.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    file: File,
    train: Points,
    valid: Points,
}

impl Recorder {
    /// Starts `metrics.jsonl` in a directory.
    pub fn create(dir: &Path) -> Result<Self> {
        let path = dir.join("metrics.jsonl");
        let file = File::create(&path).map_err(|e| Error::output(&path, e))?;
        Ok(Recorder { path, file, train: Vec::new(), valid: Vec::new() })
    }

    /// Makes sure that the file is on the disk; gives the points of training and of held-out loss.
    pub(crate) fn finish(self) -> Result<(Points, Points)> {
        self.file.sync_all().map_err(|e| Error::output(&self.path, e))?;
        Ok((self.train, self.valid))
    }
}

impl Observer for Recorder {
    fn evaluated(&mut self, _: When, steps: usize, evaluation: &Evaluation) -> Result<()> {
        self.valid.push((steps, evaluation.loss));
        Ok(())
    }

    fn step(&mut self, record: &StepRecord) -> Result<()> {
        self.train.push((record.step, record.loss));
        let mut line = serde_json::to_vec(record).map_err(|e| Error::output(&self.path, e))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|e| Error::output(&self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_step() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::create(dir.path()).unwrap();
        for step in 1..=2 {
            recorder.step(&StepRecord { step, loss: 4.5, lr: 1e-3, grad_norm: 0.5, tokens_per_s: 10.0 }).unwrap();
        }
        assert_eq!(recorder.finish().unwrap().0, [(1, 4.5), (2, 4.5)]);
        let text = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
        assert_eq!(
            text.lines().next().unwrap(),
            r#"{"step":1,"loss":4.5,"lr":0.001,"grad_norm":0.5,"tokens_per_s":10.0}"#
        );
        assert_eq!(text.lines().count(), 2);
    }
}
