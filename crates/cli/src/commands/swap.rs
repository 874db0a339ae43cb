//! `lowrank swap`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use lowrank_lora::{Adapters, hash, merge, unmerge};
use lowrank_models::Llama;
use lowrank_train::{Dataset, evaluate};
use serde_json::{Value, json};

use crate::args::{DataArgs, DeviceArgs, ModelArgs, load, read_adapter};
use crate::failure::{Failure, Result};
use crate::show::{say, table};

/// Options of `swap`.
#[derive(clap::Args)]
#[command(after_help = "\
Loads the model and all adapters once, makes each the active one in turn, twice, merges and unmerges it, and takes it off
again. Exit code 1 if any hash or loss is not what it was before, to the bit.

Example:
  lowrank swap --adapter tragedy --adapter comedy --data text.txt")]
pub struct Args {
    /// Adapter directory or GGUF file; once for each adapter
    #[arg(long = "adapter", value_name = "DIR", required = true)]
    adapters: Vec<PathBuf>,
    /// Examples of a batch
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch: usize,
    /// One line of JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// What one adapter showed.
struct Shown {
    hash: u64,
    loss: f64,
    merged: Option<f64>,
    microseconds: f64,
}

/// Swaps, merges, unmerges, and compares.
pub fn run(args: &Args) -> Result<()> {
    if args.batch == 0 {
        return Err(Failure::new("--batch: is 0; at least 1"));
    }
    let device = args.device.open()?;
    let source = args.data.read()?;
    // The model is the first adapter's; none is attached yet.
    let (base, mut model, tokenizer) = load(&args.model, args.adapters.first().map(PathBuf::as_path), &device)?;
    lowrank_lora::detach(&mut model);
    let data = args.data.examples(&source, (&model, &tokenizer), 0, false)?;
    let mut all = Adapters::new();
    for (i, dir) in args.adapters.iter().enumerate() {
        let mut adapter = read_adapter(dir, &model)?;
        adapter.name = name(i);
        all.insert(adapter)?;
    }
    let before = hash::weights(&model)?;
    let base_loss = loss(&model, &data, args)?;
    let mut shown: Vec<Shown> = Vec::new();
    for round in 0..2 {
        for (i, dir) in args.adapters.iter().enumerate() {
            let (adapter, now) = one(&mut all, &mut model, (&data, args), i, before)?;
            same(dir, "the adapter's hash", hex(adapter), shown.get(i).map_or(hex(adapter), |s| hex(s.hash)))?;
            match shown.get(i) {
                Some(first) if round > 0 => same(dir, "the loss", now.loss, first.loss)?,
                _ => shown.push(now),
            }
        }
    }
    all.disable(&mut model);
    let dir = Path::new("the base");
    same(dir, "the hash of the weights", hex(hash::weights(&model)?), hex(before))?;
    same(dir, "the loss", loss(&model, &data, args)?, base_loss)?;
    if args.json {
        let each = args.adapters.iter().zip(&shown).map(|(dir, s)| {
            json!({ "adapter": dir.display().to_string(), "hash": hex(s.hash), "loss": s.loss, "loss_merged": s.merged })
        });
        let line = json!({
            "model": base.name(), "weights": hex(before), "loss": base_loss, "adapters": each.collect::<Vec<Value>>(),
        });
        say(&line.to_string());
        return Ok(());
    }
    let head = ["", "hash", "loss", "merged", "swap (µs)"].map(String::from).to_vec();
    let mut rows = vec![head, vec![base.name(), hex(before), format!("{base_loss:.6}"), "–".into(), "–".into()]];
    rows.extend(args.adapters.iter().zip(&shown).map(|(dir, s)| {
        let merged = s.merged.map_or("cannot be merged".into(), |l| format!("{l:.6}"));
        vec![dir.display().to_string(), hex(s.hash), format!("{:.6}", s.loss), merged, format!("{:.0}", s.microseconds)]
    }));
    table(&rows, 1).iter().for_each(|line| say(line));
    say(&format!(
        "\nafter {} swaps, merges and unmerges: weights {}, the same bits and losses as before",
        2 * args.adapters.len(),
        hex(before)
    ));
    Ok(())
}

fn name(i: usize) -> String {
    format!("adapter{i}")
}

/// Activates an adapter, looks at it beside the weights, merged into them and taken out again.
fn one(
    all: &mut Adapters,
    model: &mut Llama,
    (data, args): (&Dataset, &Args),
    i: usize,
    before: u64,
) -> Result<(u64, Shown)> {
    let dir = &args.adapters[i];
    let start = Instant::now();
    all.activate(model, &name(i))?;
    let microseconds = start.elapsed().as_secs_f64() * 1e6;
    let Some(adapter) = all.get(&name(i)) else { return Err(Failure::new("an adapter is gone")) };
    let hash = adapter.hash()?;
    let at = |model: &Llama| loss(model, data, args);
    let beside = at(model)?;
    let mut merged = None;
    if adapter.bottlenecks.is_empty() {
        // Copies of whole layers stand in for the base's weights while they are attached.
        let attached = hash::weights(model)?;
        merge(model)?;
        merged = Some(at(model)?);
        unmerge(model)?;
        same(dir, "unmerged, the hash of the weights", hex(hash::weights(model)?), hex(attached))?;
        same(dir, "unmerged, the loss", at(model)?, beside)?;
    }
    if adapter.saved.is_empty() && adapter.biases.is_empty() {
        same(dir, "the hash of the weights", hex(hash::weights(model)?), hex(before))?;
    }
    Ok((hash, Shown { hash, loss: beside, merged, microseconds }))
}

fn loss(model: &Llama, data: &Dataset, args: &Args) -> Result<f64> {
    Ok(evaluate(model, &data.valid, args.batch)?.loss)
}

fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

/// Refuses what has changed; as the swap promises bits, numbers are compared as they are.
fn same<T: PartialEq + std::fmt::Display>(what: &Path, which: &str, now: T, before: T) -> Result<()> {
    if now == before {
        return Ok(());
    }
    Err(Failure::new(format!("{}: {which} is {now}, but was {before} before", what.display())))
}
