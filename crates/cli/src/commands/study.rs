//! `lowrank study`.

use std::path::PathBuf;

use clap::ValueEnum;
use lowrank_train::study::{self, Effort, Report};

use crate::args::{DataArgs, DeviceArgs, ModelArgs, load};
use crate::failure::{Failure, Result};
use crate::interrupt::STOP;
use crate::show::{quote_path, say, table};
use crate::terminal::Progress;

/// The studies.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Why B may start at zero, and the base not: five starts on a two-layer network
    Starts,
    /// What the rank buys: 1 to 64 on every linear of the built-in model
    Rank,
    /// Which of q, k, v, o and the MLP deserve a given number of parameters
    Targets,
    /// LoRA, LoRA+, rsLoRA, DoRA, LoRA-FA, PiSSA, OLoRA and LoRA-GA, each at its best learning rate
    Family,
    /// LoRA against a bottleneck adapter against training the layers themselves: loss, parameters, time
    Methods,
}

impl Name {
    fn text(self) -> &'static str {
        match self {
            Name::Starts => "starts",
            Name::Rank => "rank",
            Name::Targets => "targets",
            Name::Family => "family",
            Name::Methods => "methods",
        }
    }

    /// Steps of each adapter.
    fn steps(self) -> usize {
        if self == Name::Starts { 200 } else { 40 }
    }
}

/// Seeds of every study.
const SEEDS: u64 = 5;

/// Options of `study`.
#[derive(clap::Args)]
#[command(after_help = "\
A few minutes each; writes NAME.md and NAME.svg, in place of older ones.

Examples:
  lowrank study starts
  lowrank study rank --out my-studies
  lowrank study targets --steps 100 --seeds 3")]
pub struct Args {
    /// Which one
    name: Name,
    /// Directory for table and picture
    #[arg(long, value_name = "DIR", default_value = "docs/studies")]
    out: PathBuf,
    /// Optimiser steps of each adapter [default: starts 200, others 40]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Number of seeds; learning rates are tried with two of them, the best one with all
    #[arg(long, value_name = "N", default_value_t = SEEDS)]
    seeds: u64,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs one, shows and writes it.
pub fn run(args: &Args) -> Result<()> {
    let (name, steps) = (args.name.text(), args.steps.unwrap_or(args.name.steps()));
    let seeds = args.seeds;
    for (option, value, most) in [("--steps", steps as u64, 100_000), ("--seeds", seeds, 1000)] {
        if value == 0 || value > most {
            return Err(Failure::new(format!("{option}: {value} is not in 1 ..= {most}")));
        }
    }
    let device = args.device.open()?;
    let effort = Effort { steps, batch: 8, seeds };
    let report = match args.name {
        Name::Starts => study::starts(&device, steps, seeds, &|| ())?,
        Name::Rank | Name::Targets | Name::Family | Name::Methods => {
            let model = ModelArgs { model: None, dtype: None };
            let data = DataArgs { data: None, seq_len: 64 };
            let (_, mut model, tokenizer) = load(&model, None, &device)?;
            let data = data.examples(&data.read()?, (&model, &tokenizer), 0, false)?;
            let progress = Progress::new(false, study::language_steps(name, effort));
            let ticked = || progress.tick();
            let study = match args.name {
                Name::Rank => study::rank,
                Name::Family => study::family,
                Name::Methods => study::methods,
                _ => study::targets,
            };
            let report = study(&mut model, &data, effort, &ticked, &STOP);
            progress.clear();
            report?
        }
    };
    show(&report);
    let mut command = format!("lowrank study {name}");
    let seeds = (seeds != SEEDS).then_some(seeds);
    for (option, given) in [("--steps", args.steps.map(|n| n as u64)), ("--seeds", seeds)] {
        if let Some(value) = given {
            command += &format!(" {option} {value}");
        }
    }
    report.write(&args.out, &command)?;
    say(&format!("wrote {}/{name}.md and {name}.svg", quote_path(&args.out)));
    Ok(())
}

fn show(report: &Report) {
    say(&format!("{}\n\n{}\n", report.question, report.method));
    for (above, rows) in &report.tables {
        say(above);
        table(rows, 1).iter().for_each(|line| say(line));
        say("");
    }
}
