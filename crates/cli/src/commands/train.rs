//! `lowrank train`.

mod args;
mod init;
mod prepare;
mod sample;

use std::path::PathBuf;

use lowrank_lora::Host;
use lowrank_models::Tokenizer;
use lowrank_train::{Error, OutDir, Recorder, Summary, save, train};

pub use args::Args;
use init::describe_init;
pub use init::{SaveAs, describe_loss};
pub use prepare::{Prepared, prepare};
use sample::{prompt, sample};

use crate::failure::{Failure, Result};
use crate::interrupt;
use crate::show::{block, bytes, program, quote, quote_path, thousands};
use crate::terminal::Terminal;

/// Trains, saves and shows.
pub fn run(args: &Args) -> Result<()> {
    let options = args.options();
    options.check()?;
    let config = args.config();
    config.validate()?;
    if args.save_as != SaveAs::Plain && !config.init.splits() {
        return Err(Failure::new("--save-as: is for inits that split the base: pissa, olora, lora-ga"));
    }
    let device = args.device.open()?;
    let out = OutDir::reserve(&args.out)?;
    interrupt::install(out.path(), true)?;

    let prepared = prepare(args, &device)?;
    let mut terminal = Terminal::new(args.quiet, prepared.head(args, &device));
    let Prepared { base, mut model, tokenizer, data, adapter, init, init_seconds, .. } = prepared;
    if let Some(report) = &init {
        for line in describe_init(report, init_seconds) {
            terminal.say(&line);
        }
    }
    let prompt = prompt(&data.valid, model.config().max_position_embeddings);
    let before = if args.quiet { String::new() } else { sample(&model, &tokenizer, prompt)? };

    let mut recorder = Recorder::create(out.path())?;
    let mut observer = (&mut recorder, &mut terminal);
    let result = train(&mut model, &adapter, &data, &options, &mut observer, &interrupt::STOP);
    terminal.clear();
    let summary = result.map_err(stopped)?;
    let pair = if args.save_as == SaveAs::Pair { Some(&model as &dyn Host) } else { None };
    let saved = match args.save_as {
        SaveAs::Recompressed => {
            let (saved, lost) = adapter.recompressed()?;
            terminal.say(&describe_loss(&lost));
            saved
        }
        _ => adapter.clone(),
    };
    save(out, &saved, Some(&base.name()), pair, recorder, &summary)?;
    terminal.say(&format!(
        "{} tokens/s, {:.1} s, {} of memory at the peak",
        thousands(summary.tokens_per_s as usize),
        summary.seconds,
        bytes(summary.peak_bytes as usize)
    ));
    if !args.quiet && !summary.interrupted {
        let after = sample(&model, &tokenizer, prompt)?;
        terminal.say(&format!("\nprompt, from the held-out part\n{}", block(&tokenizer.decode(prompt)?)));
        terminal.say(&format!("continued before training\n{}", block(&before)));
        terminal.say(&format!("continued after training\n{}", block(&after)));
    }
    terminal.say(&next(args, &tokenizer, prompt, &summary)?);
    if summary.interrupted {
        return Err(Failure::interrupted(Some(format!(
            "interrupted after step {}; what there was is saved in {}",
            summary.steps,
            args.out.display()
        ))));
    }
    Ok(())
}

/// An error, or the user's wish.
pub fn stopped(e: Error) -> Failure {
    match e {
        Error::Interrupted => Failure::interrupted(Some(e.to_string())),
        other => other.into(),
    }
}

/// What to try next, as commands that can be pasted.
fn next(args: &Args, tokenizer: &Tokenizer, prompt: &[u32], summary: &Summary) -> Result<String> {
    let (program, out) = (program(), quote_path(&args.out));
    // One line of the prompt is enough; the first and the last may be fragments.
    let text = tokenizer.decode(prompt)?;
    let line = text.lines().map(str::trim).max_by_key(|l| l.len()).filter(|l| !l.is_empty()).unwrap_or("Once");
    let mut data = match &args.data.data {
        Some(path) => format!(" --data {}", quote_path(path)),
        None => String::new(),
    };
    if args.data.seq_len != 128 {
        data += &format!(" --seq-len {}", args.data.seq_len);
    }
    if summary.seed != 0 {
        data += &format!(" --seed {}", summary.seed);
    }
    // Without a slash at the end.
    let mut merged = args.out.components().collect::<PathBuf>().into_os_string();
    merged.push("-merged");
    Ok(format!(
        "\nsaved {out} (adapter_config.json, adapter_model.safetensors, metrics.jsonl, summary.json, loss.svg)\n\n\
         next:\n\
         \x20 {program} generate --adapter {out} --prompt {}\n\
         \x20 {program} eval --adapter {out}{data}\n\
         \x20 {program} inspect {out}\n\
         \x20 {program} merge --adapter {out} --out {}",
        quote(line),
        quote_path(merged.as_ref()),
    ))
}
