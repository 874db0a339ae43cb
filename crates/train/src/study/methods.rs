//! Studies that compare ways to train: the members of the LoRA family with each other, and LoRA with the bottleneck
//! adapter and with training the layers themselves.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use lowrank_core::no_grad;
use lowrank_core::optim::{AdamW, AdamWOptions, Schedule};
use lowrank_lora::{Adapter, LoraConfig, Method, Targets, attach, detach, merge, unmerge};
use lowrank_models::Llama;

use super::language::{Effort, base_of_method};
use super::{Report, mean, spread};
use crate::groups::groups;
use crate::{
    Batch, Cell, CellResult, Chart, Dataset, Error, Length, Options, Result, Series, Sweep, TOGETHER, start_adapter,
    sweep,
};

/// Learning rates of which each way gets its best.
const LRS: [f64; 6] = [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1];
const RANK: usize = 8;
/// Training losses are averaged over so many steps before they are compared.
const WINDOW: usize = 5;
/// Runs of which the fastest counts.
const RUNS: usize = 50;

/// Ways of [`family`].
const FAMILY: [&str; 8] = ["LoRA", "LoRA+", "rsLoRA", "DoRA", "LoRA-FA", "PiSSA", "OLoRA", "LoRA-GA"];
/// Ways of [`methods`].
const METHODS: [&str; 4] = ["LoRA, all linears", "LoRA, o and down", "bottleneck, o and down", "full, all linears"];

/// A way to train, with the results of its learning rates and seeds.
struct Way {
    name: &'static str,
    config: LoraConfig,
    lora_plus: f64,
    results: Vec<CellResult>,
}

impl Way {
    fn new(name: &'static str, config: LoraConfig) -> Self {
        Way { name, config, lora_plus: 1.0, results: Vec::new() }
    }

    fn at(&self, lr: f64) -> Vec<&CellResult> {
        self.results.iter().filter(|c| c.lr == lr).collect()
    }

    fn losses(&self, lr: f64) -> Vec<f64> {
        self.at(lr).iter().map(|c| c.loss).collect()
    }

    /// The learning rate with the lowest mean; none if all diverged.
    fn best(&self) -> Option<f64> {
        let finite = LRS.into_iter().filter(|&lr| self.losses(lr).iter().all(|l| l.is_finite()));
        finite.min_by(|&a, &b| mean(&self.losses(a)).total_cmp(&mean(&self.losses(b))))
    }

    /// Training loss by step at the best learning rate: mean of the seeds and of the last few steps.
    fn curve(&self) -> Vec<f64> {
        let Some(lr) = self.best() else { return Vec::new() };
        let runs = self.at(lr);
        let steps = runs.iter().map(|c| c.curve.len()).min().unwrap_or(0);
        let of = |i: usize| mean(&runs.iter().map(|c| c.curve[i]).collect::<Vec<_>>());
        let all: Vec<f64> = (0..steps).map(of).collect();
        (0..steps).map(|i| mean(&all[i.saturating_sub(WINDOW - 1)..=i])).collect()
    }

    fn parameters(&self) -> usize {
        self.results.first().map_or(0, |c| c.trainable_params)
    }

    fn best_columns(&self) -> [String; 2] {
        match self.best() {
            None => ["diverged".into(), "-".into()],
            Some(lr) => {
                let edge = if lr == LRS[0] || lr == LRS[LRS.len() - 1] { ", the last tried" } else { "" };
                [spread(&self.losses(lr)), format!("{lr}{edge}")]
            }
        }
    }
}

/// Trains all ways with all learning rates and seeds over one base.
fn run(
    model: &mut Llama,
    data: &Dataset,
    ways: &mut [Way],
    effort: Effort,
    ticked: &dyn Fn(),
    stop: &AtomicBool,
) -> Result<Sweep> {
    let mut cells = Vec::new();
    for way in &*ways {
        for lr in LRS {
            for seed in 0..effort.seeds {
                let (adapter, _) = start_adapter(model, way.config.clone(), data, seed, stop)?;
                let options = Options { lr, seed, lora_plus: way.lora_plus, ..options(effort) };
                cells.push(Cell { adapter, options });
            }
        }
    }
    let result = sweep(model, data, cells, TOGETHER, ticked, stop)?;
    let each = LRS.len() * effort.seeds as usize;
    for (way, cells) in ways.iter_mut().zip(result.cells.chunks(each)) {
        way.results = cells.to_vec();
    }
    Ok(result)
}

fn options(effort: Effort) -> Options {
    Options {
        batch: effort.batch,
        length: Length::Steps(effort.steps),
        schedule: Schedule::Linear,
        ..Options::default()
    }
}

/// Held-out losses by learning rate.
fn by_rate(ways: &[Way]) -> Vec<Vec<String>> {
    let mut rows = vec![vec![String::new()]];
    rows[0].extend(LRS.map(|lr| format!("lr {lr}")));
    for way in ways {
        let mut row = vec![way.name.to_string()];
        row.extend(LRS.map(|lr| spread(&way.losses(lr))));
        rows.push(row);
    }
    rows
}

fn chart(title: &str, ways: &[Way]) -> Chart {
    let line = |w: &Way| {
        let points = w.curve().into_iter().enumerate().map(|(i, y)| ((i + 1) as f64, y)).collect();
        Series { name: w.name.to_string(), points }
    };
    Chart {
        title: title.into(),
        x: "step".into(),
        y: format!("training loss, mean of {WINDOW} steps and the seeds"),
        log_x: false,
        series: ways.iter().map(line).collect(),
    }
}

/// LoRA, LoRA+, rsLoRA, DoRA, LoRA-FA, PiSSA, OLoRA and LoRA-GA, each at its best learning rate: held-out loss, and steps
/// to where plain LoRA ends.
pub fn family(
    model: &mut Llama,
    data: &Dataset,
    effort: Effort,
    ticked: &dyn Fn(),
    stop: &AtomicBool,
) -> Result<Report> {
    let plain = || LoraConfig { r: RANK, alpha: 2.0 * RANK as f64, ..LoraConfig::default() };
    let mut ways: Vec<Way> = FAMILY.iter().map(|name| Way::new(name, plain())).collect();
    for way in &mut ways {
        match way.name {
            "LoRA+" => way.lora_plus = 16.0,
            "rsLoRA" => way.config.use_rslora = true,
            "DoRA" => way.config.use_dora = true,
            "LoRA-FA" => way.config.freeze_a = true,
            "PiSSA" => way.config.init = "pissa".parse()?,
            "OLoRA" => way.config.init = "olora".parse()?,
            // The authors' stable scale is for α/√r.
            "LoRA-GA" => (way.config.init, way.config.use_rslora) = ("lora-ga".parse()?, true),
            _ => {}
        }
    }
    let result = run(model, data, &mut ways, effort, ticked, stop)?;
    let goal = ways[0].curve().last().copied().unwrap_or(f64::NAN);
    let mut rows = vec![
        ["", "parameters", "best held-out loss", "at lr", "steps to plain LoRA's final training loss"]
            .map(String::from)
            .to_vec(),
    ];
    for way in &ways {
        let reached = way.curve().iter().position(|&loss| loss <= goal);
        let [best, lr] = way.best_columns();
        let steps = reached.map_or("not reached".into(), |i| (i + 1).to_string());
        rows.push(vec![way.name.into(), way.parameters().to_string(), best, lr, steps]);
    }
    let rest = format!(
        "Rank {RANK} on all linears; LoRA+ has B at 16 times the rate, LoRA-GA starts from 8 examples' gradient (ArB2r, \
         stable, γ = 16, scale α/√r as its authors have it). Training losses are means of {WINDOW} steps and of the seeds."
    );
    Ok(Report {
        name: "family",
        question: "Which member of the LoRA family learns fastest?".into(),
        method: base_of_method(data, effort, result.base_loss, &rest),
        tables: vec![
            ("Each at its best learning rate:".into(), rows),
            ("Held-out loss by learning rate:".into(), by_rate(&ways)),
        ],
        chart: chart("training loss, each at its best learning rate", &ways),
    })
}

/// LoRA against the bottleneck adapter against the layers themselves: parameters, loss, time of a step, and time of
/// inference beside the weights and merged into them.
pub fn methods(
    model: &mut Llama,
    data: &Dataset,
    effort: Effort,
    ticked: &dyn Fn(),
    stop: &AtomicBool,
) -> Result<Report> {
    let lora = |targets: Targets| LoraConfig { r: RANK, alpha: 2.0 * RANK as f64, targets, ..LoraConfig::default() };
    let behind: Targets = "o_proj,down_proj".parse()?;
    let count = |config: &LoraConfig| -> Result<usize> {
        let adapter = Adapter::create(&*model, "default", config.clone(), 0)?;
        Ok(adapter.parameters().iter().map(|(_, t)| t.len()).sum())
    };
    // As wide as LoRA's parameters on all linears allow.
    let bottleneck =
        |r: usize| LoraConfig { method: Method::Bottleneck, r, targets: behind.clone(), ..LoraConfig::default() };
    let (one, two) = (count(&bottleneck(1))?, count(&bottleneck(2))?);
    let budget = count(&lora(Targets::AllLinear))?;
    let width = ((budget + two - 2 * one) as f64 / (two - one) as f64).round().max(1.0) as usize;
    let configs = [
        lora(Targets::AllLinear),
        lora(behind.clone()),
        bottleneck(width),
        LoraConfig { method: Method::Full, ..LoraConfig::default() },
    ];
    let mut ways: Vec<Way> = METHODS.into_iter().zip(configs).map(|(name, config)| Way::new(name, config)).collect();
    let result = run(model, data, &mut ways, effort, ticked, stop)?;
    let mut rows = vec![
        ["", "parameters", "best held-out loss", "at lr", "step (ms)", "64 tokens, unmerged (ms)", "merged (ms)"]
            .map(String::from)
            .to_vec(),
    ];
    for way in &ways {
        let [best, lr] = way.best_columns();
        let times = times(model, data, way, effort);
        detach(model);
        let times = times?;
        let mut row = vec![way.name.into(), way.parameters().to_string(), best, lr];
        row.extend(times.map(|t| t.map_or("cannot be merged".into(), |ms| format!("{ms:.2}"))));
        rows.push(row);
    }
    let rest = format!(
        "LoRA has rank {RANK}; the bottleneck is {width} wide, which comes closest to LoRA's parameters on all linears. \
         Times are the fastest of {RUNS} runs on the machine at hand, and no more than that: a training step of {} × {} \
         tokens, and the logits of one example. The base alone: {:.2} ms.",
        effort.batch,
        data.longest(),
        latency(model, data)?
    );
    Ok(Report {
        name: "methods",
        question: "LoRA, a bottleneck adapter, or the layers themselves?".into(),
        method: base_of_method(data, effort, result.base_loss, &rest),
        tables: vec![
            ("Each at its best learning rate:".into(), rows),
            ("Held-out loss by learning rate:".into(), by_rate(&ways)),
        ],
        chart: chart("training loss, each at its best learning rate", &ways),
    })
}

/// Milliseconds of a step, of inference, and of inference merged.
fn times(model: &mut Llama, data: &Dataset, way: &Way, effort: Effort) -> Result<[Option<f64>; 3]> {
    let adapter = Adapter::create(model, "default", way.config.clone(), 0)?;
    attach(model, &adapter)?;
    let mut optimiser = AdamW::new(groups(&adapter, &options(effort))?, AdamWOptions::default())?;
    let batch = Batch::new(data.train.iter().take(effort.batch), lowrank_lora::Host::device(model))?;
    let step = fastest(|| {
        optimiser.zero_grad();
        let loss = model.loss(&batch.ids, &batch.targets, batch.counted.max(1) as f64)?;
        loss.backward()?;
        optimiser.step(1.0, Some(1.0))?;
        loss.item()?;
        Ok(())
    })?;
    let unmerged = latency(model, data)?;
    // A bottleneck is refused, which is the answer.
    let merged = match merge(model) {
        Ok(()) => {
            let ms = latency(model, data)?;
            unmerge(model)?;
            Some(ms)
        }
        Err(_) if way.config.method == Method::Bottleneck => None,
        Err(e) => return Err(e.into()),
    };
    Ok([Some(step), Some(unmerged), merged])
}

/// Milliseconds of all logits of the first held-out example.
fn latency(model: &Llama, data: &Dataset) -> Result<f64> {
    let Some(example) = data.valid.first() else { return Err(Error::option("--data", "has nothing held out")) };
    let batch = Batch::new([example], lowrank_lora::Host::device(model))?;
    fastest(|| {
        no_grad(|| model.forward(&batch.ids)?.to_f64().map_err(lowrank_lora::Error::from))?;
        Ok(())
    })
}

fn fastest(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..=RUNS {
        let start = Instant::now();
        run()?;
        least = least.min(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(least)
}

/// Steps that [`family`] and [`methods`] take altogether.
pub(super) fn steps(name: &str, effort: Effort) -> usize {
    let ways = if name == "family" { FAMILY.len() } else { METHODS.len() };
    ways * LRS.len() * effort.seeds as usize * effort.steps
}
