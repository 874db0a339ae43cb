//! `lowrank sweep`.

use lowrank_lora::Init;
use lowrank_train::{Cell, OutDir, Sweep, TOGETHER, check_ranks, start_adapter, sweep};

use super::train::{self, Prepared, prepare};
use crate::failure::{Failure, Result};
use crate::interrupt;
use crate::show::{quote_path, say, table, thousands};
use crate::terminal::Progress;

/// Options of `sweep`: lists, and those of `train` for everything else.
#[derive(clap::Args)]
#[group(skip)]
#[command(mut_arg("out", |a| a.default_value("lowrank-sweep")
    .help("Directory for table, sweep.json and picture; an existing one is not overwritten")))]
pub struct Args {
    #[command(flatten)]
    train: train::Args,
    /// Learning rates [default: --lr alone]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Grid")]
    lrs: Vec<f64>,
    /// Ranks [default: --rank alone]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Grid")]
    ranks: Vec<usize>,
    /// Inits [default: --init alone]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Grid")]
    inits: Vec<Init>,
    /// Keep α/r at this value over all ranks, in place of --alpha
    #[arg(long, value_name = "X", help_heading = "Grid")]
    alpha_over_r: Option<f64>,
    /// Adapters whose batches go through the base as one; each needs memory for its activations
    #[arg(long, value_name = "N", default_value_t = TOGETHER, help_heading = "Grid")]
    together: usize,
}

/// Shown below the options.
pub const EXAMPLES: &str = "\
Every combination is trained beside the others over one base in memory, each as train would train it alone.

Examples:
  lowrank sweep --lrs 1e-3,3e-3,1e-2
  lowrank sweep --lrs 1e-3,3e-3 --ranks 4,16 --inits default,gaussian --alpha-over-r 2 --steps 50 --out grid";

/// Most adapters of one sweep.
const MOST: usize = 256;

/// Trains the grid, shows and writes the table.
pub fn run(args: &Args) -> Result<()> {
    let (lrs, ranks, inits) = grid(args)?;
    args.train.options().check()?;
    args.train.config().validate()?;
    let device = args.train.device.open()?;
    let out = OutDir::reserve(&args.train.out)?;
    interrupt::install(out.path(), false)?;
    let prepared = prepare(&args.train, &device)?;
    let head = prepared.head(&args.train, &device);
    let Prepared { base, mut model, data, .. } = prepared;

    let mut cells = Vec::new();
    for &init in &inits {
        for &r in &ranks {
            for &lr in &lrs {
                let alpha = args.alpha_over_r.map_or(args.train.adapter.alpha, |x| x * r as f64);
                let config = lowrank_lora::LoraConfig { r, init, alpha, ..args.train.config() };
                let options = lowrank_train::Options { lr, ..args.train.options() };
                options.check()?;
                let (adapter, _) =
                    start_adapter(&mut model, config, &data, options.seed, &interrupt::STOP).map_err(train::stopped)?;
                if !options.allow_rank_above_min {
                    check_ranks(&adapter)?;
                }
                cells.push(Cell { adapter, options });
            }
        }
    }
    if !args.train.quiet {
        let rows: Vec<Vec<String>> = head.into_iter().map(|(k, v)| vec![k.to_string(), v]).collect();
        table(&rows, 2).iter().for_each(|line| say(line));
        say(&format!(
            "grid     {} lr × {} ranks × {} inits = {} adapters\n",
            lrs.len(),
            ranks.len(),
            inits.len(),
            cells.len()
        ));
    }
    let steps = cells.iter().map(|c| c.options.steps(data.train.len())).sum();
    let progress = Progress::new(args.train.quiet, steps);
    let result = sweep(&mut model, &data, cells, args.together, &|| progress.tick(), &interrupt::STOP)?;
    progress.clear();
    result.write(out.path(), &base.name())?;
    out.commit()?;
    if !args.train.quiet {
        report(args, &result);
    }
    if result.best().is_none() {
        return Err(Failure::new("every adapter of the grid diverged; try lower --lrs"));
    }
    Ok(())
}

fn report(args: &Args, result: &Sweep) {
    table(&result.table(), 1).iter().for_each(|line| say(line));
    say(&format!(
        "\nheld-out loss of the base {:.4}, {:.1} s, {} steps a second",
        result.base_loss,
        result.seconds,
        thousands((result.steps as f64 / result.seconds.max(1e-9)) as usize)
    ));
    if let Some(best) = result.best() {
        say(&format!(
            "best {:.4}: --lr {} --rank {} --alpha {} --init {}",
            best.loss, best.lr, best.rank, best.alpha, best.init
        ));
    }
    say(&format!("wrote {} (sweep.json, sweep.md, sweep.svg)", quote_path(&args.train.out)));
}

/// The three lists, each with one entry at least and none twice.
fn grid(args: &Args) -> Result<(Vec<f64>, Vec<usize>, Vec<Init>)> {
    fn list<T: Clone + PartialEq + std::fmt::Display>(name: &str, list: &[T], single: T) -> Result<Vec<T>> {
        for (i, x) in list.iter().enumerate() {
            if list[..i].contains(x) {
                return Err(Failure::new(format!("--{name}: {x} is there twice")));
            }
        }
        Ok(if list.is_empty() { vec![single] } else { list.to_vec() })
    }
    let lrs = list("lrs", &args.lrs, args.train.training.lr)?;
    let ranks = list("ranks", &args.ranks, args.train.adapter.rank)?;
    let inits = list("inits", &args.inits, args.train.adapter.init)?;
    let count = lrs.len() * ranks.len() * inits.len();
    if count > MOST {
        return Err(Failure::new(format!("--lrs, --ranks, --inits: {count} combinations, at most {MOST}")));
    }
    Ok((lrs, ranks, inits))
}
