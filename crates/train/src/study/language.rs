//! Studies on a language model: what the rank buys, and which layers deserve the parameters.

use std::sync::atomic::AtomicBool;

use lowrank_lora::{Adapter, LoraConfig, Targets};
use lowrank_models::Llama;

use super::trials::{Bench, Effort, Trial};
use super::{Report, spread};
use crate::{Chart, Dataset, Result, Series};

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

fn head(first: &[&str]) -> Vec<String> {
    let mut head: Vec<String> = first.iter().map(|s| s.to_string()).collect();
    head.push("parameters".into());
    head.extend(LRS.map(|lr| format!("lr {lr}")));
    head.extend(["best".to_string(), "at lr".into()]);
    head
}

fn row(trial: &Trial, first: &[String]) -> Vec<String> {
    let mut row = first.to_vec();
    row.push(trial.parameters().to_string());
    row.extend(LRS.map(|lr| spread(&trial.losses(lr))));
    row.extend(trial.best_columns(&[]));
    row
}

/// Runs that ended worse than the base would squeeze the others together in a picture; the table has them.
fn below(points: impl Iterator<Item = (f64, Vec<f64>)>, base_loss: f64) -> impl Iterator<Item = (f64, Vec<f64>)> {
    points.filter(move |(_, losses)| losses.iter().all(|&l| l < base_loss))
}

/// What the rank buys: 1 to 64 on every linear.
pub fn rank(model: &mut Llama, data: &Dataset, effort: Effort, ticked: &dyn Fn(), stop: &AtomicBool) -> Result<Report> {
    let config = |r: usize| LoraConfig { r, alpha: 2.0 * r as f64, ..LoraConfig::default() };
    let mut trials: Vec<Trial> = RANKS.iter().map(|&r| Trial::new(format!("{r}"), config(r))).collect();
    let base_loss = Bench { data, effort, ticked, stop }.run(model, &mut trials, &LRS)?;
    let mut rows = vec![head(&["rank"])];
    rows.extend(trials.iter().map(|t| row(t, std::slice::from_ref(&t.name))));
    let line = |name: &str, of: &dyn Fn(&Trial) -> Vec<f64>| {
        Series::with_spread(name, below(trials.iter().map(|t| (t.config.r as f64, of(t))), base_loss))
    };
    let mut series = vec![line("best", &Trial::best_losses)];
    series.extend(LRS.map(|lr| line(&format!("lr {lr}"), &|t| t.losses(lr))));
    Ok(Report {
        name: "rank",
        question: "What does the rank buy?".into(),
        method: effort.describe(data, base_loss, "All linears but the head carry a pair."),
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
    let mut trials = Vec::new();
    for name in SETS {
        let targets: Targets = name.parse()?;
        // The count is proportional to the rank.
        let each = parameters(with(&targets, 1))?;
        let r = ((budget as f64 / each as f64).round() as usize).max(1);
        trials.push(Trial::new(name.replace("_proj", "").replace(',', ", "), with(&targets, r)));
    }
    let base_loss = Bench { data, effort, ticked, stop }.run(model, &mut trials, &LRS)?;
    let mut rows = vec![head(&["layers", "rank"])];
    rows.extend(trials.iter().map(|t| row(t, &[t.name.clone(), t.config.r.to_string()])));
    let line = |t: &Trial| Series::with_spread(&t.name, below(LRS.iter().map(|&lr| (lr, t.losses(lr))), base_loss));
    let rest = format!("Every set of layers gets the rank that comes closest to {budget} parameters.");
    Ok(Report {
        name: "targets",
        question: "Which layers deserve the parameters?".into(),
        method: effort.describe(data, base_loss, &rest),
        tables: vec![("Held-out loss after training:".into(), rows)],
        chart: Chart {
            title: format!("held-out loss with about {budget} parameters, where it is below the base's"),
            x: "learning rate".into(),
            y: "held-out loss (nats a token)".into(),
            log_x: true,
            series: trials.iter().map(line).collect(),
        },
    })
}

/// Steps that the studies on a language model take altogether.
pub fn language_steps(name: &str, effort: Effort) -> usize {
    if ["family", "methods"].contains(&name) {
        return super::methods::steps(name, effort);
    }
    effort.total(if name == "rank" { RANKS.len() } else { SETS.len() }, LRS.len())
}
