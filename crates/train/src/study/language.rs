//! Studies on a language model: what the rank buys, and which layers deserve the parameters.

use std::sync::atomic::AtomicBool;

use lowrank_core::optim::Schedule;
use lowrank_lora::{Adapter, LoraConfig, Targets};
use lowrank_models::Llama;

use super::{Report, mean, spread};
use crate::{Cell, CellResult, Chart, Dataset, Length, Options, Result, Series, Sweep, TOGETHER, start_adapter, sweep};

/// Learning rates of which each setting gets its best.
const LRS: [f64; 3] = [3e-3, 1e-2, 3e-2];
const RANKS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// The budget of [`targets`]: that of every linear at this rank.
const BUDGET_RANK: usize = 4;
const SETS: [&str; 8] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "q_proj,v_proj",
    "q_proj,k_proj,v_proj,o_proj",
    "gate_proj,up_proj,down_proj",
    "all-linear",
];

/// How long each adapter is trained, with how many seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Optimiser steps.
    pub steps: usize,
    /// Examples a step.
    pub batch: usize,
    /// Seeds 0 .. n.
    pub seeds: u64,
}

/// A setting with the results of its learning rates and seeds.
struct Setting {
    name: String,
    config: LoraConfig,
    results: Vec<CellResult>,
}

impl Setting {
    fn new(name: String, config: LoraConfig) -> Self {
        Setting { name, config, results: Vec::new() }
    }

    fn losses(&self, lr: f64) -> Vec<f64> {
        self.results.iter().filter(|c| c.lr == lr).map(|c| c.loss).collect()
    }

    /// The learning rate with the lowest mean.
    fn best(&self) -> (f64, Vec<f64>) {
        let all = LRS.map(|lr| (lr, self.losses(lr)));
        let finite = all.into_iter().filter(|(_, l)| l.iter().all(|l| l.is_finite()));
        finite.min_by(|a, b| mean(&a.1).total_cmp(&mean(&b.1))).unwrap_or((f64::NAN, vec![f64::NAN]))
    }

    fn row(&self, first: &[String]) -> Vec<String> {
        let (lr, losses) = self.best();
        let mut row = first.to_vec();
        row.push(self.results.first().map_or(0, |c| c.trainable_params).to_string());
        row.extend(LRS.map(|lr| spread(&self.losses(lr))));
        row.extend([spread(&losses), lr.to_string()]);
        row
    }
}

fn head(first: &[&str]) -> Vec<String> {
    let mut head: Vec<String> = first.iter().map(|s| s.to_string()).collect();
    head.push("parameters".into());
    head.extend(LRS.map(|lr| format!("lr {lr}")));
    head.extend(["best".to_string(), "at lr".into()]);
    head
}

/// Trains all settings with all learning rates and seeds over one base.
fn run(
    model: &mut Llama,
    data: &Dataset,
    settings: &mut [Setting],
    effort: Effort,
    ticked: &dyn Fn(),
    stop: &AtomicBool,
) -> Result<Sweep> {
    let mut cells = Vec::new();
    for setting in &*settings {
        for lr in LRS {
            for seed in 0..effort.seeds {
                let (adapter, _) = start_adapter(model, setting.config.clone(), data, seed, stop)?;
                let options = Options {
                    batch: effort.batch,
                    length: Length::Steps(effort.steps),
                    lr,
                    schedule: Schedule::Linear,
                    seed,
                    ..Options::default()
                };
                cells.push(Cell { adapter, options });
            }
        }
    }
    let result = sweep(model, data, cells, TOGETHER, ticked, stop)?;
    let each = LRS.len() * effort.seeds as usize;
    for (setting, cells) in settings.iter_mut().zip(result.cells.chunks(each)) {
        setting.results = cells.to_vec();
    }
    Ok(result)
}

pub(super) fn base_of_method(data: &Dataset, effort: Effort, base_loss: f64, rest: &str) -> String {
    format!(
        "The built-in model glass-en (Lewis Carroll) is adapted to the built-in Hamlet: {} steps of {} × {} tokens, \
         AdamW, linear schedule, α = 2r. {rest} Every learning rate was tried with {} seeds (init and data order); \
         losses are nats a token on the held-out tenth, means with half the distance between the extremes. The base \
         without an adapter: {base_loss:.4}.",
        effort.steps,
        effort.batch,
        data.longest(),
        effort.seeds
    )
}

/// Runs that ended worse than the base would squeeze the others together in a picture; the table has them.
fn below(points: impl Iterator<Item = (f64, f64)>, base_loss: f64) -> Vec<(f64, f64)> {
    points.filter(|p| p.1 < base_loss).collect()
}

/// What the rank buys: 1 to 64 on every linear.
pub fn rank(model: &mut Llama, data: &Dataset, effort: Effort, ticked: &dyn Fn(), stop: &AtomicBool) -> Result<Report> {
    let config = |r: usize| LoraConfig { r, alpha: 2.0 * r as f64, ..LoraConfig::default() };
    let mut settings: Vec<Setting> = RANKS.iter().map(|&r| Setting::new(format!("{r}"), config(r))).collect();
    let result = run(model, data, &mut settings, effort, ticked, stop)?;
    let mut rows = vec![head(&["rank"])];
    rows.extend(settings.iter().map(|s| s.row(std::slice::from_ref(&s.name))));
    let line = |name: String, of: &dyn Fn(&Setting) -> f64| {
        let points = settings.iter().map(|s| (s.config.r as f64, of(s)));
        Series { name, points: below(points, result.base_loss) }
    };
    let mut series = vec![line("best".into(), &|s| mean(&s.best().1))];
    series.extend(LRS.map(|lr| line(format!("lr {lr}"), &|s| mean(&s.losses(lr)))));
    Ok(Report {
        name: "rank",
        question: "What does the rank buy?".into(),
        method: base_of_method(data, effort, result.base_loss, "All linears but the head carry a pair."),
        tables: vec![("Held-out loss after training:".into(), rows)],
        chart: Chart {
            title: "held-out loss by rank, where it is below the base's".into(),
            x: "rank".into(),
            y: "held-out loss (nats a token)".into(),
            log_x: true,
            series,
        },
    })
}

/// Which layers deserve the parameters: the same number of them on q, k, v, o, the MLP and combinations.
pub fn targets(
    model: &mut Llama,
    data: &Dataset,
    effort: Effort,
    ticked: &dyn Fn(),
    stop: &AtomicBool,
) -> Result<Report> {
    let with = |targets: &Targets, r: usize| LoraConfig {
        r,
        alpha: 2.0 * r as f64,
        targets: targets.clone(),
        ..LoraConfig::default()
    };
    let parameters = |config: LoraConfig| -> Result<usize> {
        let adapter = Adapter::create(&*model, "default", config, 0)?;
        Ok(adapter.parameters().iter().map(|(_, t)| t.len()).sum())
    };
    let budget = parameters(with(&Targets::AllLinear, BUDGET_RANK))?;
    let mut settings = Vec::new();
    for name in SETS {
        let targets: Targets = name.parse()?;
        // The count is proportional to the rank.
        let each = parameters(with(&targets, 1))?;
        let r = ((budget as f64 / each as f64).round() as usize).max(1);
        settings.push(Setting::new(name.replace("_proj", "").replace(',', ", "), with(&targets, r)));
    }
    let result = run(model, data, &mut settings, effort, ticked, stop)?;
    let mut rows = vec![head(&["layers", "rank"])];
    rows.extend(settings.iter().map(|s| s.row(&[s.name.clone(), s.config.r.to_string()])));
    let line = |s: &Setting| {
        let points = LRS.iter().map(|&lr| (lr, mean(&s.losses(lr))));
        Series { name: s.name.clone(), points: below(points, result.base_loss) }
    };
    let rest = format!("Every set of layers gets the rank that comes closest to {budget} parameters.");
    Ok(Report {
        name: "targets",
        question: "Which layers deserve the parameters?".into(),
        method: base_of_method(data, effort, result.base_loss, &rest),
        tables: vec![("Held-out loss after training:".into(), rows)],
        chart: Chart {
            title: format!("held-out loss with about {budget} parameters, where it is below the base's"),
            x: "learning rate".into(),
            y: "held-out loss (nats a token)".into(),
            log_x: true,
            series: settings.iter().map(line).collect(),
        },
    })
}

/// Steps that the studies on a language model take altogether.
pub fn language_steps(name: &str, effort: Effort) -> usize {
    if ["family", "methods"].contains(&name) {
        return super::methods::steps(name, effort);
    }
    let settings = if name == "rank" { RANKS.len() } else { SETS.len() };
    settings * LRS.len() * effort.seeds as usize * effort.steps
}
