//! Studies that compare ways to train: the members of the LoRA family with each other, and LoRA with the bottleneck
//! adapter and with training the layers themselves.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use lowrank_core::no_grad;
use lowrank_core::optim::{AdamW, AdamWOptions};
use lowrank_lora::{Adapter, LoraConfig, Method, Targets, attach, detach, merge, unmerge};
use lowrank_models::Llama;

use super::trials::{Bench, Effort, Trial, WINDOW};
use super::{Report, mean, spread};
use crate::groups::groups;
use crate::{Batch, Chart, Dataset, Error, Result};

/// Learning rates of which each way gets its best.
const LRS: [f64; 6] = [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1];
const RANK: usize = 8;
/// Runs of which the fastest counts.
const RUNS: usize = 50;

/// Ways of [`family`].
const FAMILY: [&str; 8] = ["LoRA", "LoRA+", "rsLoRA", "DoRA", "LoRA-FA", "PiSSA", "OLoRA", "LoRA-GA"];
/// Ways of [`methods`].
const METHODS: [&str; 4] = ["LoRA, all linears", "LoRA, o and down", "bottleneck, o and down", "full, all linears"];

/// Held-out losses by learning rate.
fn by_rate(ways: &[Trial]) -> Vec<Vec<String>> {
    let mut rows = vec![vec![String::new()]];
    rows[0].extend(LRS.map(|lr| format!("lr {lr}")));
    for way in ways {
        let mut row = vec![way.name.clone()];
        row.extend(LRS.map(|lr| spread(&way.losses(lr))));
        rows.push(row);
    }
    rows
}

fn chart(title: &str, ways: &[Trial]) -> Chart {
    Chart {
        title: title.into(),
        x: "step".into(),
        y: format!("training loss, mean of {WINDOW} steps and the seeds"),
        log_x: false,
        series: ways.iter().map(Trial::series).collect(),
    }
}

/// Steps after which a way is where plain LoRA ends: of the mean of the seeds, and the fewest and most of them, each compared
/// with plain LoRA's run of the same seed, which saw the same data in the same order.
fn steps_to_goal(way: &Trial, plain: &Trial) -> String {
    let steps = |curve: &[f64], goal: f64| curve.iter().position(|&loss| loss <= goal).map(|i| i + 1);
    let ends = plain.curves();
    let goal = mean(&ends.iter().filter_map(|c| c.last().copied()).collect::<Vec<_>>());
    let of_mean: Vec<f64> = way.series().points.iter().map(|p| p.1).collect();
    let seeds: Vec<Option<usize>> =
        way.curves().iter().zip(&ends).map(|(c, end)| steps(c, end.last().copied().unwrap_or(f64::NAN))).collect();
    let text = |n: Option<usize>| n.map_or("not reached".to_string(), |n| n.to_string());
    let reached = || seeds.iter().flatten();
    let (Some(least), Some(most)) = (reached().min(), reached().max()) else { return text(None) };
    let most = if reached().count() < seeds.len() { "not reached".to_string() } else { most.to_string() };
    format!("{} ({least} to {most})", text(steps(&of_mean, goal)))
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
    let mut ways: Vec<Trial> = FAMILY.iter().map(|name| Trial::new(*name, plain())).collect();
    for way in &mut ways {
        match way.name.as_str() {
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
    let base_loss = Bench { data, effort, ticked, stop }.run(model, &mut ways, &LRS)?;
    let mut rows = vec![
        ["", "parameters", "best held-out loss", "at lr", "steps to plain LoRA's final training loss"]
            .map(String::from)
            .to_vec(),
    ];
    for way in &ways {
        let [best, lr] = way.best_columns(&LRS);
        let steps = steps_to_goal(way, &ways[0]);
        rows.push(vec![way.name.clone(), way.parameters().to_string(), best, lr, steps]);
    }
    let rest = format!(
        "Rank {RANK} on all linears; LoRA+ has B at 16 times the rate, LoRA-GA starts from 8 examples' gradient (ArB2r, \
         stable, γ = 16, scale α/√r as its authors have it). Training losses are means of {WINDOW} steps; steps are those of the \
         mean of the seeds and, in brackets, the fewest and most of a seed compared with LoRA's run of the same seed."
    );
    Ok(Report {
        name: "family",
        question: "Which member of the LoRA family learns fastest?".into(),
        method: effort.describe(data, base_loss, &rest),
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
    let mut ways: Vec<Trial> =
        METHODS.into_iter().zip(configs).map(|(name, config)| Trial::new(name, config)).collect();
    let base_loss = Bench { data, effort, ticked, stop }.run(model, &mut ways, &LRS)?;
    let mut rows = vec![
        ["", "parameters", "best held-out loss", "at lr", "step (ms)", "64 tokens, unmerged (ms)", "merged (ms)"]
            .map(String::from)
            .to_vec(),
    ];
    for way in &ways {
        let [best, lr] = way.best_columns(&LRS);
        let times = times(model, data, way, effort);
        detach(model);
        let times = times?;
        let mut row = vec![way.name.clone(), way.parameters().to_string(), best, lr];
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
        method: effort.describe(data, base_loss, &rest),
        tables: vec![
            ("Each at its best learning rate:".into(), rows),
            ("Held-out loss by learning rate:".into(), by_rate(&ways)),
        ],
        chart: chart("training loss, each at its best learning rate", &ways),
    })
}

/// Milliseconds of a step, of inference, and of inference merged.
fn times(model: &mut Llama, data: &Dataset, way: &Trial, effort: Effort) -> Result<[Option<f64>; 3]> {
    let adapter = Adapter::create(model, "default", way.config.clone(), 0)?;
    attach(model, &adapter)?;
    let mut optimiser = AdamW::new(groups(&adapter, &effort.options())?, AdamWOptions::default())?;
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
    effort.total(if name == "family" { FAMILY.len() } else { METHODS.len() }, LRS.len())
}
