//! `lowrank eval`.

use std::path::PathBuf;

use lowrank_train::evaluate;

use crate::args::{DataArgs, DeviceArgs, ModelArgs, load};
use crate::failure::{Failure, Result};
use crate::show::{say, thousands};

/// Options of `eval`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lowrank eval
  lowrank eval --adapter lowrank-out
  lowrank eval --model ./SmolLM2-135M --data notes.txt --all --json")]
pub struct Args {
    /// Adapter directory
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// The whole text instead of the held-out tenth
    #[arg(long)]
    all: bool,
    /// Examples of a batch
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch: usize,
    /// Seed of the split of a JSONL file, as in training
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// One line of JSON instead of a sentence
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Prints tokens, loss and perplexity.
pub fn run(args: &Args) -> Result<()> {
    if args.batch == 0 {
        return Err(Failure::new("--batch: is 0; at least 1"));
    }
    let device = args.device.open()?;
    let source = args.data.read()?;
    let (base, model, tokenizer) = load(&args.model, args.adapter.as_deref(), &device)?;
    let data = args.data.examples(&source, (&model, &tokenizer), args.seed, args.all)?;
    let evaluation = evaluate(&model, &data.valid, args.batch)?;
    let (loss, perplexity) = (evaluation.loss, evaluation.perplexity());
    if !loss.is_finite() {
        return Err(Failure::new(format!("{}: the loss is {loss}", source.file)));
    }
    if args.json {
        let adapter = args.adapter.as_ref().map(|a| a.display().to_string());
        let line = serde_json::json!({
            "model": base.name(), "adapter": adapter, "data": source.file, "all": args.all,
            "tokens": evaluation.tokens, "loss": loss, "perplexity": perplexity,
        });
        say(&line.to_string());
        return Ok(());
    }
    let adapter = args.adapter.as_ref().map(|a| format!(" + {}", a.display())).unwrap_or_default();
    let part = if args.all { "all of" } else { "held-out part of" };
    say(&format!("{}{adapter} on {part} {}", base.name(), source.file));
    if data.cut + data.dropped > 0 {
        say(&format!("{} documents cut to {} tokens, {} left out", data.cut, args.data.seq_len, data.dropped));
    }
    say(&format!("{} tokens, loss {loss:.6}, perplexity {perplexity:.3}", thousands(evaluation.tokens)));
    Ok(())
}
