//! How a run tells what happens.

use crate::{Evaluation, Plan, Result, StepRecord};

/// Which evaluation on the held-out part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before the first step.
    Before,
    /// After the last one.
    After,
}

/// Hears about a run. An error from any method ends the run.
pub trait Observer {
    /// Before anything is computed.
    fn plan(&mut self, plan: &Plan) -> Result<()> {
        let _ = plan;
        Ok(())
    }

    /// `done` of `all` held-out examples have been evaluated.
    fn evaluating(&mut self, when: When, done: usize, all: usize) -> Result<()> {
        let _ = (when, done, all);
        Ok(())
    }

    /// The held-out part has been evaluated, after `steps` steps.
    fn evaluated(&mut self, when: When, steps: usize, evaluation: &Evaluation) -> Result<()> {
        let _ = (when, steps, evaluation);
        Ok(())
    }

    /// A step is done; told while the next one is under way.
    fn step(&mut self, record: &StepRecord) -> Result<()> {
        let _ = record;
        Ok(())
    }
}

/// Tells nobody.
impl Observer for () {}

/// Tells both, the first one first.
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn plan(&mut self, plan: &Plan) -> Result<()> {
        self.0.plan(plan)?;
        self.1.plan(plan)
    }

    fn evaluating(&mut self, when: When, done: usize, all: usize) -> Result<()> {
        self.0.evaluating(when, done, all)?;
        self.1.evaluating(when, done, all)
    }

    fn evaluated(&mut self, when: When, steps: usize, evaluation: &Evaluation) -> Result<()> {
        self.0.evaluated(when, steps, evaluation)?;
        self.1.evaluated(when, steps, evaluation)
    }

    fn step(&mut self, record: &StepRecord) -> Result<()> {
        self.0.step(record)?;
        self.1.step(record)
    }
}

impl<O: Observer + ?Sized> Observer for &mut O {
    fn plan(&mut self, plan: &Plan) -> Result<()> {
        (**self).plan(plan)
    }

    fn evaluating(&mut self, when: When, done: usize, all: usize) -> Result<()> {
        (**self).evaluating(when, done, all)
    }

    fn evaluated(&mut self, when: When, steps: usize, evaluation: &Evaluation) -> Result<()> {
        (**self).evaluated(when, steps, evaluation)
    }

    fn step(&mut self, record: &StepRecord) -> Result<()> {
        (**self).step(record)
    }
}
