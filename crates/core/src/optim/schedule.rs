//! How the learning rate changes over the steps, as transformers' `get_scheduler` has it.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use lowrank_backend::{Error, Result};

/// The course of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// The full rate.
    #[default]
    Constant,
    /// Down to 0 in a straight line.
    Linear,
    /// Down to 0 along half a cosine.
    Cosine,
}

impl Schedule {
    /// All of them.
    pub const ALL: [Schedule; 3] = [Schedule::Constant, Schedule::Linear, Schedule::Cosine];

    /// What the learning rate of step number `step` (from 0, of `total`) is multiplied with.
    ///
    /// While `step < warmup`: `step / warmup`, so the first step of a warm-up moves nothing. After it, with
    /// `t = (step − warmup) / (total − warmup)`, at most 1: constant 1, linear `1 − t`, cosine `½(1 + cos πt)`.
    pub fn factor(self, step: u32, total: u32, warmup: u32) -> f64 {
        if step < warmup {
            return f64::from(step) / f64::from(warmup);
        }
        let t = (f64::from(step - warmup) / f64::from(total.saturating_sub(warmup).max(1))).min(1.0);
        match self {
            Schedule::Constant => 1.0,
            Schedule::Linear => 1.0 - t,
            Schedule::Cosine => 0.5 * (1.0 + (PI * t).cos()),
        }
    }

    /// The name used in configuration and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Schedule::Constant => "constant",
            Schedule::Linear => "linear",
            Schedule::Cosine => "cosine",
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let known = Schedule::ALL.into_iter().find(|k| k.name() == s);
        known.ok_or_else(|| Error::invalid("schedule", format!("`{s}` is none of constant, linear, cosine")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let all = |s: Schedule| [0, 1, 2, 4, 6, 10, 12].map(|step| s.factor(step, 10, 2));
        assert_eq!(all(Schedule::Constant), [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(all(Schedule::Linear), [0.0, 0.5, 1.0, 0.75, 0.5, 0.0, 0.0]);
        let cosine = [0.0, 0.5, 1.0, 0.5 + 0.5f64.sqrt() / 2.0, 0.5, 0.0, 0.0];
        for (got, want) in all(Schedule::Cosine).into_iter().zip(cosine) {
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
        assert_eq!(Schedule::Linear.factor(0, 4, 0), 1.0);
        assert_eq!(Schedule::Linear.factor(3, 3, 3), 1.0);
    }

    #[test]
    fn names() {
        for s in Schedule::ALL {
            assert_eq!(s.to_string().parse(), Ok(s));
        }
        assert!("step".parse::<Schedule>().unwrap_err().to_string().contains("constant, linear, cosine"));
    }
}
