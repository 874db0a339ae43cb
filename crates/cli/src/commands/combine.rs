//! `lowrank combine` and `lowrank rerank`.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use lowrank_lora::algebra::{Derived, Method, combine, rerank};
use lowrank_lora::{Adapter, peft};
use lowrank_train::OutDir;

use crate::args::{DeviceArgs, read_adapter};
use crate::base::Base;
use crate::failure::{Failure, Result};
use crate::interrupt;
use crate::show::say;

/// Options of `combine`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lowrank combine --adapter tragedy:0.7 --adapter comedy:0.3 --method svd --rank 8 --out both
  lowrank combine --adapter lowrank-out:-1 --method cat --out unlearned")]
pub struct Args {
    /// Adapter directory and its coefficient (1 if left out); once for each adapter
    #[arg(long = "adapter", value_name = "DIR[:X]", required = true)]
    adapters: Vec<String>,
    /// How
    #[arg(long, value_enum, default_value = "cat")]
    method: Name,
    /// Rank of the result, for svd [default: the largest rank of the adapters]
    #[arg(long, value_name = "R")]
    rank: Option<usize>,
    /// Share of elements that are kept, for ties, dare and dare-ties
    #[arg(long, value_name = "X", default_value_t = 0.5)]
    density: f64,
    /// Seed of what dare and dare-ties drop
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Directory for the new adapter; an existing one is not overwritten
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Model directory [default: the first adapter's base model, or the built-in glass-en]
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    model: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Name {
    /// Factors side by side: exact, of the sum of the ranks
    Cat,
    /// The best adapter of a rank
    Svd,
    /// Trim, elect signs, merge
    Ties,
    /// Drop and rescale
    Dare,
    /// Drop and rescale, elect signs, merge
    DareTies,
}

/// Options of `rerank`.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  lowrank rerank --adapter lowrank-out --rank 4 --out smaller")]
pub struct RerankArgs {
    /// Adapter directory
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// New rank: a lower one is cut to the best approximation, a higher one changes nothing until it is trained
    #[arg(long, value_name = "R")]
    rank: usize,
    /// Seed of the new rows of A
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Directory for the new adapter; an existing one is not overwritten
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Model directory [default: the adapter's base model, or the built-in glass-en]
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    model: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Combines.
pub fn run(args: &Args) -> Result<()> {
    let parts = args.adapters.iter().map(|text| part(text)).collect::<Result<Vec<_>>>()?;
    if args.rank.is_some() && args.method != Name::Svd {
        return Err(Failure::new("--rank: is for --method svd; the other methods decide the rank themselves"));
    }
    let device = args.device.open()?;
    let out = OutDir::reserve(&args.out)?;
    interrupt::install(out.path(), false)?;
    let base = Base::of(args.model.as_deref(), parts.first().map(|(dir, _)| dir.as_path()))?;
    let model = base.load(&device, None)?;
    let mut adapters = Vec::with_capacity(parts.len());
    for (dir, _) in &parts {
        adapters.push(read_adapter(dir, &model)?);
    }
    let largest = adapters.iter().flat_map(|a| a.layers.values()).map(|l| l.rank).max().unwrap_or(1);
    let method = match args.method {
        Name::Cat => Method::Cat,
        Name::Svd => Method::Svd { rank: args.rank.unwrap_or(largest) },
        Name::Ties => Method::Ties { density: args.density },
        Name::Dare => Method::Dare { density: args.density, seed: args.seed },
        Name::DareTies => Method::DareTies { density: args.density, seed: args.seed },
    };
    let weighted: Vec<(&Adapter, f64)> = adapters.iter().zip(&parts).map(|(a, (_, x))| (a, *x)).collect();
    finish(&combine("default", &weighted, method)?, out, &base, &args.out)
}

/// Changes the rank.
pub fn run_rerank(args: &RerankArgs) -> Result<()> {
    let device = args.device.open()?;
    let out = OutDir::reserve(&args.out)?;
    interrupt::install(out.path(), false)?;
    let base = Base::of(args.model.as_deref(), Some(&args.adapter))?;
    let adapter = read_adapter(&args.adapter, &base.load(&device, None)?)?;
    finish(&rerank(&adapter, args.rank, args.seed)?, out, &base, &args.out)
}

fn finish(derived: &Derived, out: OutDir, base: &Base, path: &Path) -> Result<()> {
    peft::save(&derived.adapter, out.path(), Some(&base.name()))?;
    out.commit()?;
    let ranks: Vec<usize> = derived.adapter.layers.values().map(|l| l.rank).collect();
    let (least, most) = (ranks.iter().min().unwrap_or(&0), ranks.iter().max().unwrap_or(&0));
    let rank = if least == most { format!("rank {most}") } else { format!("ranks {least} to {most}") };
    say(&format!("saved {}: {} layers of {rank}", path.display(), ranks.len()));
    if !derived.truncations.is_empty() {
        let worst = derived.truncations.iter().max_by(|a, b| (a.error * b.norm).total_cmp(&(b.error * a.norm)));
        let worst = worst.map_or(String::new(), |w| {
            format!(" (most in {}: {:.2} %)", w.layer, 100.0 * w.error / w.norm.max(f64::MIN_POSITIVE))
        });
        say(&format!("truncation error {:.2} % of the change of the weights{worst}", 100.0 * derived.relative_error()));
    }
    Ok(())
}

/// `DIR` or `DIR:X`.
fn part(text: &str) -> Result<(PathBuf, f64)> {
    match text.rsplit_once(':') {
        // A path may have a colon, as on Windows; a directory that exists is one.
        Some((dir, x)) if !Path::new(text).is_dir() => match x.parse::<f64>() {
            Ok(x) if x.is_finite() => Ok((dir.into(), x)),
            _ => Err(Failure::new(format!("--adapter: `{text}`: {x} is no number; write DIR:0.7"))),
        },
        _ => Ok((text.into(), 1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_with_coefficients() {
        let good = |text| part(text).unwrap_or_else(|_| panic!("{text}"));
        assert_eq!(good("a/b:0.7"), (PathBuf::from("a/b"), 0.7));
        assert_eq!(good("a:-1"), (PathBuf::from("a"), -1.0));
        assert_eq!(good("a"), (PathBuf::from("a"), 1.0));
        assert!(part("a:x").is_err() && part("a:inf").is_err() && part("a:").is_err());
    }
}
