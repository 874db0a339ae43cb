//! `lowrank train`.

use std::path::PathBuf;

use lowrank_core::IGNORE;
use lowrank_core::optim::Schedule;
use lowrank_lora::{Adapter, Bias, Host, Init, LoraConfig, Targets};
use lowrank_models::{Llama, Sampling, Tokenizer, generate};
use lowrank_train::{Error, Example, Length, Options, OutDir, Recorder, Summary, check_ranks, save, train};

use crate::args::{DataArgs, DeviceArgs, ModelArgs, load};
use crate::failure::{Failure, Result};
use crate::interrupt;
use crate::show::{block, bytes, program, quote, quote_path, thousands};
use crate::terminal::Terminal;

/// Tokens of a sample, and of its prompt where the data does not set one.
const SAMPLE: usize = 48;
const PROMPT: usize = 24;

/// Options of `train`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lowrank train
      fine-tunes the built-in model on the built-in text
  lowrank train --model ./SmolLM2-135M --data notes.txt --rank 16 --epochs 3 --out notes-lora
  lowrank train --data answers.jsonl --targets q_proj,v_proj --lr 1e-3 --schedule cosine --warmup 10
  lowrank train --targets 're:.*\\.(up|down)_proj' --batch 4 --grad-accum 4 --seq-len 64 --threads 2")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    #[command(flatten)]
    training: TrainingArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Directory for adapter, metrics, summary and picture; an existing one is not overwritten
    #[arg(long, value_name = "DIR", default_value = "lowrank-out", help_heading = "Output")]
    out: PathBuf,
    /// Print nothing but errors
    #[arg(long, help_heading = "Output")]
    quiet: bool,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Adapter")]
struct AdapterArgs {
    /// Rank r
    #[arg(long, value_name = "R", default_value_t = 8)]
    rank: usize,
    /// α; the branch is scaled by α/r
    #[arg(long, value_name = "X", default_value_t = 16.0)]
    alpha: f64,
    /// Which layers: all-linear, a list as q_proj,v_proj, or re:REGEX
    #[arg(long, value_name = "T", default_value = "all-linear")]
    targets: Targets,
    /// Which of them not: a list or re:REGEX
    #[arg(long, value_name = "T")]
    exclude: Option<Targets>,
    /// Numbers of the blocks whose layers are targeted, as 0,2,4-7 [default: all]
    #[arg(long, value_name = "LIST", value_parser = numbers)]
    layers: Option<Numbers>,
    /// Let targets match some layers of a block family and not others
    #[arg(long)]
    allow_partial: bool,
    /// Dropout on the branch's input
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    dropout: f64,
    /// Scale by α/√r
    #[arg(long)]
    rslora: bool,
    /// Train every row's magnitude beside its direction (DoRA)
    #[arg(long)]
    dora: bool,
    /// Leave A as it starts and train B alone (LoRA-FA)
    #[arg(long)]
    freeze_a: bool,
    /// How A and B start: default, gaussian, both-zero or both-random
    #[arg(long, value_name = "NAME", default_value = "default")]
    init: Init,
    /// Which biases are trained: none, all or lora_only
    #[arg(long, value_name = "NAME", default_value = "none")]
    bias: Bias,
    /// Modules that are trained whole, as lm_head,norm
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    modules_to_save: Vec<String>,
    /// Train ranks above the smaller side of a layer, which can do no more
    #[arg(long)]
    allow_rank_above_min: bool,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Training")]
struct TrainingArgs {
    /// Peak learning rate of AdamW
    #[arg(long, value_name = "X", default_value_t = 3e-3)]
    lr: f64,
    /// B learns at this many times the rate (LoRA+; its paper: 16)
    #[arg(long, value_name = "RATIO", default_value_t = 1.0)]
    lora_plus: f64,
    /// constant, linear or cosine (both to 0 at the end)
    #[arg(long, value_name = "NAME", default_value = "constant")]
    schedule: Schedule,
    /// Steps over which the learning rate rises
    #[arg(long, value_name = "N", default_value_t = 0)]
    warmup: usize,
    /// Decoupled weight decay
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    weight_decay: f64,
    /// Largest norm of the gradient; 0 switches clipping off
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    clip: f64,
    /// Optimiser steps [default: 30]
    #[arg(long, value_name = "N", conflicts_with = "epochs")]
    steps: Option<usize>,
    /// Passes over the data, instead of --steps
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Examples of a micro-batch
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch: usize,
    /// Micro-batches of a step; the gradient is that of one large batch
    #[arg(long, value_name = "N", default_value_t = 1)]
    grad_accum: usize,
    /// Examples of a batch when measuring [default: --batch]
    #[arg(long, value_name = "N")]
    eval_batch: Option<usize>,
    /// Seed of inits, data order, dropout and the split of JSONL files
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Trains, saves and shows.
pub fn run(args: &Args) -> Result<()> {
    let options = args.options();
    options.check()?;
    let config = args.config();
    config.validate()?;
    let device = args.device.open()?;
    let out = OutDir::reserve(&args.out)?;
    interrupt::install(out.path(), true)?;

    let source = args.data.read()?;
    let (base, mut model, tokenizer) = load(&args.model, None, &device)?;
    let data = args.data.examples(&source, (&model, &tokenizer), options.seed, false)?;
    let adapter = Adapter::create(&model, "default", config, options.seed)?;
    if !options.allow_rank_above_min {
        check_ranks(&adapter)?;
    }

    let head = vec![
        (
            "model",
            format!("{} ({}, {} parameters)", base.name(), model.model_type(), thousands(model.parameter_count())),
        ),
        ("data", source.file.clone()),
        ("adapter", args.describe()),
        ("device", args.device.label(&device)),
        ("batch", args.describe_batch()),
    ];
    let mut terminal = Terminal::new(args.quiet, head);
    let prompt = prompt(&data.valid, model.config().max_position_embeddings);
    let before = if args.quiet { String::new() } else { sample(&model, &tokenizer, prompt)? };

    let mut recorder = Recorder::create(out.path())?;
    let mut observer = (&mut recorder, &mut terminal);
    let result = train(&mut model, &adapter, &data, &options, &mut observer, &interrupt::STOP);
    terminal.clear();
    let summary = match result {
        Err(e @ Error::Interrupted) => return Err(Failure::interrupted(Some(e.to_string()))),
        other => other?,
    };
    save(out, &adapter, Some(&base.name()), recorder, &summary)?;
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
    terminal.say(&args.next(&tokenizer, prompt, &summary)?);
    if summary.interrupted {
        return Err(Failure::interrupted(Some(format!(
            "interrupted after step {}; what there was is saved in {}",
            summary.steps,
            args.out.display()
        ))));
    }
    Ok(())
}

impl Args {
    fn options(&self) -> Options {
        let t = &self.training;
        Options {
            batch: t.batch,
            grad_accum: t.grad_accum,
            length: match (t.steps, t.epochs) {
                (Some(n), _) => Length::Steps(n),
                (None, Some(n)) => Length::Epochs(n),
                (None, None) => Options::default().length,
            },
            lr: t.lr,
            lora_plus: t.lora_plus,
            schedule: t.schedule,
            warmup: t.warmup,
            weight_decay: t.weight_decay,
            clip: if t.clip == 0.0 { None } else { Some(t.clip) },
            seed: t.seed,
            eval_batch: t.eval_batch.unwrap_or(t.batch),
            allow_rank_above_min: self.adapter.allow_rank_above_min,
        }
    }

    fn config(&self) -> LoraConfig {
        let a = &self.adapter;
        LoraConfig {
            r: a.rank,
            alpha: a.alpha,
            dropout: a.dropout,
            use_rslora: a.rslora,
            use_dora: a.dora,
            freeze_a: a.freeze_a,
            targets: a.targets.clone(),
            exclude: a.exclude.clone(),
            layers_to_transform: a.layers.as_ref().map(|n| n.0.clone()),
            bias: a.bias,
            modules_to_save: a.modules_to_save.clone(),
            init: a.init,
            allow_partial: a.allow_partial,
            ..LoraConfig::default()
        }
    }

    fn describe(&self) -> String {
        let a = &self.adapter;
        let scale = match (a.dora, a.rslora) {
            (false, false) => "LoRA",
            (false, true) => "rsLoRA",
            (true, false) => "DoRA",
            (true, true) => "DoRA with α/√r",
        };
        let mut text = format!("{scale}, r {}, α {}, init {}, on {}", a.rank, a.alpha, a.init, a.targets);
        if a.freeze_a {
            text += ", A frozen";
        }
        if a.dropout > 0.0 {
            text += &format!(", dropout {}", a.dropout);
        }
        text
    }

    fn describe_batch(&self) -> String {
        let t = &self.training;
        let times = if t.grad_accum > 1 { format!(" × {} micro-batches", t.grad_accum) } else { String::new() };
        let plus = if t.lora_plus == 1.0 { String::new() } else { format!(" (B {} times that)", t.lora_plus) };
        format!("{} × {} tokens{times}, lr {}{plus} {}, seed {}", t.batch, self.data.seq_len, t.lr, t.schedule, t.seed)
    }

    /// What to try next, as commands that can be pasted.
    fn next(&self, tokenizer: &Tokenizer, prompt: &[u32], summary: &Summary) -> Result<String> {
        let (program, out) = (program(), quote_path(&self.out));
        // One line of the prompt is enough; the first and the last may be fragments.
        let text = tokenizer.decode(prompt)?;
        let line = text.lines().map(str::trim).max_by_key(|l| l.len()).filter(|l| !l.is_empty()).unwrap_or("Once");
        let mut data = match &self.data.data {
            Some(path) => format!(" --data {}", quote_path(path)),
            None => String::new(),
        };
        if self.data.seq_len != 128 {
            data += &format!(" --seq-len {}", self.data.seq_len);
        }
        if summary.seed != 0 {
            data += &format!(" --seed {}", summary.seed);
        }
        let mut merged = self.out.clone().into_os_string();
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
}

/// The start of a held-out example: up to the first counted target, or a line or two of a text.
fn prompt(valid: &[Example], positions: usize) -> &[u32] {
    let Some(example) = valid.first() else { return &[] };
    let given = 1 + example.targets.iter().position(|&t| t != IGNORE).unwrap_or(0);
    let length = if given > 1 { given } else { PROMPT.min(example.ids.len().div_ceil(2)) };
    // The end of a prompt that would leave no room.
    let start = (length + SAMPLE).saturating_sub(positions).min(length - 1);
    &example.ids[start..length]
}

fn sample(model: &Llama, tokenizer: &Tokenizer, prompt: &[u32]) -> Result<String> {
    let sampling = Sampling { temperature: 0.8, top_p: 0.95, seed: 0 };
    let tokens = generate(model, prompt, SAMPLE, &sampling, &mut |_| true)?.tokens;
    let all: Vec<u32> = prompt.iter().chain(&tokens).copied().collect();
    // Decoded together, as a token's text can depend on what stands before it.
    let (all, prompt) = (tokenizer.decode(&all)?, tokenizer.decode(prompt)?);
    Ok(all.get(prompt.len()..).unwrap_or("").to_string())
}

/// A list of numbers as clap carries it.
#[derive(Clone, Debug, PartialEq)]
struct Numbers(Vec<usize>);

/// `0,2,4-7`.
fn numbers(text: &str) -> Result<Numbers, String> {
    let number =
        |s: &str| s.trim().parse::<usize>().map_err(|_| format!("`{s}` is no number; write a list as 0,2,4-7"));
    let mut list = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            None => list.push(number(part)?),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last || last - first > 10_000 {
                    return Err(format!("`{part}` is no range of blocks"));
                }
                list.extend(first..=last);
            }
        }
    }
    Ok(Numbers(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_blocks() {
        assert_eq!(numbers("0,2,4-6").unwrap().0, [0, 2, 4, 5, 6]);
        assert!(numbers("3-1").is_err() && numbers("a").is_err() && numbers("1,").is_err());
    }

    #[test]
    fn prompts_end_where_targets_start() {
        let text = Example { ids: (0..100).collect(), targets: (1..101).collect() };
        assert_eq!(prompt(&[text.clone()], 128).len(), PROMPT);
        assert_eq!(prompt(&[text], 60), (12..24).collect::<Vec<u32>>());
        let pair = Example { ids: vec![5, 6, 7, 8], targets: vec![IGNORE, IGNORE, 8, 9] };
        assert_eq!(prompt(&[pair], 128), [5, 6, 7]);
    }
}
