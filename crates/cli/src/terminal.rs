//! What a training run shows: a plan, bars on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lowrank_train::{Evaluation, Observer, Plan, Result, StepRecord, When};

use crate::show::{bytes, duration, say, table, thousands};

/// Off a terminal, about this many lines tell of the steps.
const LINES: usize = 10;

/// Shows a run on stdout; its bars are on stderr, and only if both are terminals.
pub struct Terminal {
    quiet: bool,
    bars: bool,
    /// What the plan says before the facts that the library knows.
    head: Vec<(&'static str, String)>,
    steps: usize,
    started: Option<Instant>,
    bar: Option<ProgressBar>,
}

impl Terminal {
    /// `head` is shown at the top of the plan; `quiet` shows nothing.
    pub fn new(quiet: bool, head: Vec<(&'static str, String)>) -> Self {
        let bars = !quiet && std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        Terminal { quiet, bars, head, steps: 0, started: None, bar: None }
    }

    /// A line, unless quiet.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            say(line);
        }
    }

    /// Takes a bar away.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn bar(&mut self, length: usize, template: &str) -> Option<&ProgressBar> {
        if !self.bars {
            return None;
        }
        Some(self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(length as u64), ProgressDrawTarget::stderr());
            // A template that is wrong would show the default bar.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        }))
    }

    /// Time for the steps that are left, at the pace so far.
    fn left(&self, done: usize) -> Duration {
        let elapsed = self.started.map(|s| s.elapsed()).unwrap_or_default();
        elapsed.mul_f64((self.steps.saturating_sub(done)) as f64 / done.max(1) as f64)
    }
}

/// What a plan says, line by line, after `rows`.
pub fn rows<'a>(mut rows: Vec<(&'a str, String)>, plan: &Plan) -> Vec<(&'a str, String)> {
    let targets: Vec<String> = plan.targets.iter().map(|(name, n)| format!("{name} ×{n}")).collect();
    let m = &plan.memory;
    rows.push(("targets", targets.join(", ")));
    let percent = 100.0 * plan.trainable as f64 / plan.total.max(1) as f64;
    let (trainable, total) = (thousands(plan.trainable), thousands(plan.total));
    rows.push(("trainable", format!("{trainable} of {total} parameters ({percent:.2} %)")));
    let mut examples = format!(
        "{} to train on, {} held out, up to {} tokens each",
        thousands(plan.train_examples),
        thousands(plan.valid_examples),
        plan.longest
    );
    if plan.cut + plan.dropped > 0 {
        examples += &format!("; {} documents cut, {} left out (nothing to predict)", plan.cut, plan.dropped);
    }
    rows.push(("examples", examples));
    rows.push(("steps", format!("{} ({:.2} epochs)", plan.steps, plan.epochs)));
    let parts = [
        ("weights", m.weights),
        ("adapter", m.adapter),
        ("gradients", m.gradients),
        ("AdamW", m.optimiser),
        ("activations", m.activations),
    ];
    let there = parts.iter().filter(|(_, n)| *n > 0);
    let parts: Vec<String> = there.map(|(name, n)| format!("{name} {}", bytes(*n))).collect();
    rows.push(("memory", format!("{} at the peak: {}", bytes(m.total()), parts.join(", "))));
    rows
}

impl Observer for Terminal {
    fn plan(&mut self, plan: &Plan) -> Result<()> {
        self.steps = plan.steps;
        let rows = rows(std::mem::take(&mut self.head), plan);
        let rows: Vec<Vec<String>> = rows.into_iter().map(|(k, v)| vec![k.to_string(), v]).collect();
        for line in table(&rows, 2) {
            self.say(&line);
        }
        self.say("");
        Ok(())
    }

    fn evaluating(&mut self, _: When, done: usize, all: usize) -> Result<()> {
        if let Some(bar) = self.bar(all, "measuring held-out loss [{bar:30}] {pos}/{len}") {
            bar.set_position(done as u64);
        }
        if done == all {
            self.clear();
        }
        Ok(())
    }

    fn evaluated(&mut self, when: When, _: usize, evaluation: &Evaluation) -> Result<()> {
        self.clear();
        let (when, loss, perplexity) = match when {
            When::Before => ("before", evaluation.loss, evaluation.perplexity()),
            When::After => ("after ", evaluation.loss, evaluation.perplexity()),
        };
        let tokens = thousands(evaluation.tokens);
        self.say(&format!("held-out loss {when}  {loss:.4}  (perplexity {perplexity:.1}, {tokens} tokens)"));
        self.started = Some(Instant::now());
        Ok(())
    }

    fn step(&mut self, r: &StepRecord) -> Result<()> {
        let left = duration(self.left(r.step));
        let facts = format!("loss {:.4}  {} tokens/s", r.loss, thousands(r.tokens_per_s as usize));
        if let Some(bar) = self.bar(self.steps, "step {pos}/{len} [{bar:30}] {msg}") {
            bar.set_position(r.step as u64);
            bar.set_message(format!("{facts}  {left} left"));
        } else if r.step == 1 || r.step == self.steps || r.step.is_multiple_of(self.steps.div_ceil(LINES)) {
            let width = self.steps.to_string().len();
            self.say(&format!("step {:>width$}/{}  {facts}  {left} left", r.step, self.steps));
        }
        if r.step == self.steps {
            self.clear();
        }
        Ok(())
    }
}

/// One bar over the steps of many adapters, if both outputs are terminals.
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// `quiet` shows nothing.
    pub fn new(quiet: bool, steps: usize) -> Self {
        if quiet || !std::io::stdout().is_terminal() || !std::io::stderr().is_terminal() {
            return Progress(None);
        }
        let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("step {pos}/{len} [{bar:30}] {eta} left") {
            bar.set_style(style.progress_chars("=> "));
        }
        Progress(Some(bar))
    }

    /// A step is done.
    pub fn tick(&self) {
        if let Some(bar) = &self.0 {
            bar.inc(1);
        }
    }

    /// Takes it away.
    pub fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
