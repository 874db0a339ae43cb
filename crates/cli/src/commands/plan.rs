//! `lowrank plan`.

use lowrank_train::{Family, OutDir, Plan};

use super::train::{self, prepare};
use crate::failure::Result;
use crate::show::{say, table, thousands};
use crate::terminal;

/// Options of `plan`: those of `train`.
#[derive(clap::Args)]
#[group(skip)]
pub struct Args {
    #[command(flatten)]
    train: train::Args,
    /// One line of JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// Shown below the options.
pub const EXAMPLES: &str = "\
Takes the options of train, refuses what train would refuse, trains nothing and writes nothing.

Examples:
  lowrank plan
  lowrank plan --model ./SmolLM2-135M --data notes.txt --rank 16 --targets q_proj,v_proj --batch 4
  lowrank plan --rank 64 --json";

/// Shows modules, parameters, FLOPs and memory.
pub fn run(args: &Args) -> Result<()> {
    let options = args.train.options();
    options.check()?;
    args.train.config().validate()?;
    let device = args.train.device.open()?;
    let prepared = prepare(&args.train, &device)?;
    let plan = Plan::new(&prepared.model, &prepared.adapter, &prepared.data, &options);
    // Reserved and given back: train would need it, a plan does not.
    let refused = OutDir::reserve(&args.train.out).err().map(|e| e.to_string());
    if args.json {
        say(&json(&plan, &prepared.base.name(), refused).to_string());
        return Ok(());
    }
    let mut rows = terminal::rows(prepared.head(&args.train, &device), &plan);
    let (forward, backward) = (flops(plan.flops.forward), flops(plan.flops.backward));
    let necessary = format!("{} a step: forward {forward}, backward {backward}", flops(plan.flops.total()));
    rows.push(("work", necessary));
    for line in table(&rows.into_iter().map(|(k, v)| vec![k.to_string(), v]).collect::<Vec<_>>(), 2) {
        say(&line);
    }
    for (title, matched) in [("\nadapted", true), ("\nnot adapted", false)] {
        let chosen: Vec<&Family> = plan.families.iter().filter(|f| f.matched() == matched).collect();
        if !chosen.is_empty() {
            say(title);
            families(&chosen);
        }
    }
    if let Some(refused) = refused {
        say(&format!("\ntrain would refuse its --out: {refused}"));
    }
    Ok(())
}

fn families(list: &[&Family]) {
    let row = |f: &&Family| {
        let how = match (f.rank, f.whole) {
            (Some(rank), _) => format!("rank {rank}"),
            (None, true) => "whole".into(),
            (None, false) if f.matched() => "bias".into(),
            (None, false) => String::new(),
        };
        let trained = if f.trainable > 0 { thousands(f.trainable) } else { String::new() };
        vec![format!("  {}", f.name), f.kind.clone(), format!("{:?}", f.shape), how, format!("×{}", f.count), trained]
    };
    table(&list.iter().map(row).collect::<Vec<_>>(), 4).iter().for_each(|line| say(line));
}

fn json(plan: &Plan, model: &str, refused: Option<String>) -> serde_json::Value {
    serde_json::json!({
        "model": model,
        "device": plan.device,
        "trainable_params": plan.trainable,
        "total_params": plan.total,
        "steps": plan.steps,
        "epochs": plan.epochs,
        "train_examples": plan.train_examples,
        "valid_examples": plan.valid_examples,
        "longest": plan.longest,
        "peak_bytes": plan.memory.total(),
        "memory": plan.memory,
        "flops_per_step": plan.flops,
        "adapted": plan.families.iter().filter(|f| f.matched()).collect::<Vec<_>>(),
        "not_adapted": plan.families.iter().filter(|f| !f.matched()).collect::<Vec<_>>(),
        "out_refused": refused,
    })
}

/// `1.23 GFLOP`.
fn flops(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"] {
        if value < 1000.0 {
            return format!("{value:.2} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.2} PFLOP")
}
