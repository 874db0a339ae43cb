//! `lowrank convert`.

use std::path::PathBuf;

use lowrank_core::DType;
use lowrank_lora::peft::{self, Split, Start};
use lowrank_train::OutDir;

use super::train::{SaveAs, describe_loss};
use crate::args::DeviceArgs;
use crate::base::Base;
use crate::failure::{Failure, Result};
use crate::interrupt;
use crate::show::{program, quote_path, say};

/// Options of `convert`.
#[derive(clap::Args)]
#[command(after_help = "\
PEFT's pissa, olora, corda and lora_ga take the adapter's start off the base; the saved adapter belongs to what is left.
The result is a plain adapter of the original base, of rank 2r (exact) or r.

Examples:
  lowrank convert --adapter pissa-adapter --model ./original --residual ./pissa-residual --out plain
  lowrank convert --adapter pissa-adapter --model ./original --start pissa-at-step-0 --out plain --save-as recompressed")]
pub struct Args {
    /// Directory of PEFT's adapter
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// The residual base, saved as a model
    #[arg(long, value_name = "DIR", conflicts_with = "start", required_unless_present = "start")]
    residual: Option<PathBuf>,
    /// The adapter as it was saved before the first step
    #[arg(long, value_name = "DIR")]
    start: Option<PathBuf>,
    /// Directory of the original model [default: the adapter's base model, or the built-in glass-en]
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    model: Option<PathBuf>,
    /// Directory for the plain adapter; an existing one is not overwritten
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// plain (rank 2r, exact) or recompressed (the best of rank r)
    #[arg(long, value_name = "FORM", default_value = "plain")]
    save_as: SaveAs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Writes the plain adapter and says what the bases differed by.
pub fn run(args: &Args) -> Result<()> {
    if args.save_as == SaveAs::Pair {
        return Err(Failure::new("--save-as: write plain or recompressed; a pair is for training on"));
    }
    let device = args.device.open()?;
    let out = OutDir::reserve(&args.out)?;
    interrupt::install(out.path(), false)?;
    let base = Base::of(args.model.as_deref(), Some(&args.adapter))?;
    // Without rounding on the way: a difference of weights that were rounded is no product of rank r.
    let residual = args.residual.clone().map(Base::Dir);
    let stored = base.stored_dtype()?;
    let dtype = match residual.as_ref().map(Base::stored_dtype).transpose()? {
        Some(other) if other != stored => DType::F32,
        _ => stored,
    };
    let load = |base: &Base| base.load(&device, Some(dtype));
    let model = load(&base)?;
    let (adapter, splits) = match (&residual, &args.start) {
        (Some(residual), _) => {
            let residual = load(residual)?;
            peft::load_residual(&args.adapter, Start::Base(&residual), &model)?
        }
        (None, Some(start)) => peft::load_residual(&args.adapter, Start::Adapter(start), &model)?,
        (None, None) => {
            return Err(Failure::new("give the residual base (--residual) or the adapter's start (--start)"));
        }
    };
    let saved = match args.save_as {
        SaveAs::Recompressed => {
            let (saved, lost) = adapter.recompressed()?;
            say(&describe_loss(&lost));
            saved
        }
        _ => adapter.plain()?,
    };
    peft::save(&saved, out.path(), Some(&base.name()))?;
    out.commit()?;
    let worst = splits.iter().max_by(|a, b| (a.rest / a.norm).total_cmp(&(b.rest / b.norm)));
    if let Some(Split { layer, norm, rest }) = worst {
        say(&format!(
            "the bases differ by products of rank r up to rounding: at most {:.1e} of the difference ({layer})",
            rest / norm
        ));
    }
    let out = quote_path(&args.out);
    say(&format!("saved {out}: {} layers of rank {}", saved.layers.len(), saved.config.r));
    say(&format!("\nnext:\n  {} eval --adapter {out}", program()));
    Ok(())
}
