//! The options of `train`, and what they mean to the library.

use std::path::PathBuf;

use lowrank_core::optim::Schedule;
use lowrank_lora::{Bias, Init, LoraConfig, Method, Targets};
use lowrank_train::{Length, Options};

use super::init::SaveAs;
use crate::args::{DataArgs, DeviceArgs, ModelArgs};

/// Options of `train`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lowrank train
      fine-tunes the built-in model on the built-in text
  lowrank train --model ./SmolLM2-135M --data notes.txt --rank 16 --epochs 3 --out notes-lora
  lowrank train --data answers.jsonl --targets q_proj,v_proj --lr 1e-3 --schedule cosine --warmup 10
  lowrank train --targets 're:.*\\.(up|down)_proj' --batch 4 --grad-accum 4 --seq-len 64 --threads 2
  lowrank train --init lora-ga --lr 3e-4
  lowrank train --method full --lr 1e-3
  lowrank train --init lora-ga:direction=ArB2r,scale=stable,gamma=16,batches=8,estimator=streamed,passes=4

Settings of --init lora-ga, with their defaults (LoRA-GA wants about a tenth of LoRA's learning rate):
  direction=ArB2r    ArB2r, A2rBr, ArBr or random: which of the gradient's singular vectors A and B get
  scale=stable       stable (n^1/4 / sqrt gamma), gd (1/s), unit (1) or weight_svd
  zeta=forward       instead of scale: forward (the same as stable), backward (k^1/4 / sqrt gamma) or a number
  gamma=16           larger starts smaller
  norm_clip=false    no element of s B A above the largest of W
  batches=8,batch=1  micro-batches that the gradient is summed over, and their examples
  estimator=full     alive=1: gradients in memory at a time; niter=4: iterations of their SVD
  estimator=streamed passes=4: over the micro-batches (1: cheapest, least exact); forms no gradient, all layers at once
--init pissa takes the exact SVD, pissa:niter=4 a randomised one; eva:batches=8 looks at so many examples")]
pub struct Args {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub adapter: AdapterArgs,
    #[command(flatten)]
    pub training: TrainingArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Directory for adapter, metrics, summary and picture; an existing one is not overwritten
    #[arg(long, value_name = "DIR", default_value = "lowrank-out", help_heading = "Output")]
    pub out: PathBuf,
    /// How an adapter whose init split the base (pissa, olora, lora-ga) is written: plain (rank 2r, exact),
    /// recompressed (the best of rank r) or pair (adapter and init, for lowrank only)
    #[arg(long, value_name = "FORM", default_value = "plain", help_heading = "Output")]
    pub save_as: SaveAs,
    /// Print nothing but errors
    #[arg(long, help_heading = "Output")]
    pub quiet: bool,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Adapter")]
pub struct AdapterArgs {
    /// What is trained of the targeted layers: lora (a low-rank pair), full (the layers themselves) or bottleneck
    /// (Houlsby's adapter behind them, --rank wide)
    #[arg(long, value_name = "M", default_value = "lora")]
    pub method: Method,
    /// Rank r
    #[arg(long, value_name = "R", default_value_t = 8)]
    pub rank: usize,
    /// α; the branch is scaled by α/r
    #[arg(long, value_name = "X", default_value_t = 16.0)]
    pub alpha: f64,
    /// Which layers: all-linear, a list as q_proj,v_proj, or re:REGEX [default: all-linear; with --method bottleneck
    /// o_proj,down_proj, the last ones of a block's two parts]
    #[arg(long, value_name = "T")]
    pub targets: Option<Targets>,
    /// Which of them not: a list or re:REGEX
    #[arg(long, value_name = "T")]
    pub exclude: Option<Targets>,
    /// Numbers of the blocks whose layers are targeted, as 0,2,4-7 [default: all]
    #[arg(long, value_name = "LIST", value_parser = numbers)]
    pub layers: Option<Numbers>,
    /// Let targets match some layers of a block family and not others
    #[arg(long)]
    pub allow_partial: bool,
    /// Dropout on the branch's input
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub dropout: f64,
    /// Scale by α/√r
    #[arg(long)]
    pub rslora: bool,
    /// Train every row's magnitude beside its direction (DoRA)
    #[arg(long)]
    pub dora: bool,
    /// Leave A as it starts and train B alone (LoRA-FA)
    #[arg(long)]
    pub freeze_a: bool,
    /// How A and B start: default, gaussian, orthogonal, pissa or pissa:niter=N, olora, eva or eva:batches=N,
    /// lora-ga or lora-ga:SETTINGS, both-zero or both-random; see below
    #[arg(long, value_name = "INIT", default_value = "default")]
    pub init: Init,
    /// Which biases are trained: none, all or lora_only
    #[arg(long, value_name = "NAME", default_value = "none")]
    pub bias: Bias,
    /// Modules that are trained whole, as lm_head,norm
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub modules_to_save: Vec<String>,
    /// Train ranks above the smaller side of a layer, which can do no more
    #[arg(long)]
    pub allow_rank_above_min: bool,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Training")]
pub struct TrainingArgs {
    /// Peak learning rate of AdamW
    #[arg(long, value_name = "X", default_value_t = 3e-3)]
    pub lr: f64,
    /// B learns at this many times the rate (LoRA+; its paper: 16)
    #[arg(long, value_name = "RATIO", default_value_t = 1.0)]
    pub lora_plus: f64,
    /// constant, linear or cosine (both to 0 at the end)
    #[arg(long, value_name = "NAME", default_value = "constant")]
    pub schedule: Schedule,
    /// Steps over which the learning rate rises
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub warmup: usize,
    /// Decoupled weight decay
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub weight_decay: f64,
    /// Largest norm of the gradient; 0 switches clipping off
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub clip: f64,
    /// Optimiser steps [default: 30]
    #[arg(long, value_name = "N", conflicts_with = "epochs")]
    pub steps: Option<usize>,
    /// Passes over the data, instead of --steps
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Examples of a micro-batch
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub batch: usize,
    /// Micro-batches of a step; the gradient is that of one large batch
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub grad_accum: usize,
    /// Examples of a batch when measuring [default: --batch]
    #[arg(long, value_name = "N")]
    pub eval_batch: Option<usize>,
    /// Seed of inits, data order, dropout and the split of JSONL files
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

impl AdapterArgs {
    /// As given, else what suits the method: Houlsby's adapter stands behind attention and behind the MLP.
    fn targets(&self) -> Targets {
        match &self.targets {
            Some(targets) => targets.clone(),
            None if self.method == Method::Bottleneck => Targets::List(vec!["o_proj".into(), "down_proj".into()]),
            None => Targets::AllLinear,
        }
    }
}

impl Args {
    pub fn options(&self) -> Options {
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

    pub fn config(&self) -> LoraConfig {
        let a = &self.adapter;
        LoraConfig {
            r: a.rank,
            alpha: a.alpha,
            dropout: a.dropout,
            use_rslora: a.rslora,
            use_dora: a.dora,
            freeze_a: a.freeze_a,
            targets: a.targets(),
            exclude: a.exclude.clone(),
            layers_to_transform: a.layers.as_ref().map(|n| n.0.clone()),
            bias: a.bias,
            modules_to_save: a.modules_to_save.clone(),
            init: a.init,
            method: a.method,
            allow_partial: a.allow_partial,
            ..LoraConfig::default()
        }
    }

    pub fn describe(&self) -> String {
        let a = &self.adapter;
        let scale = match (a.dora, a.rslora) {
            (false, false) => "LoRA",
            (false, true) => "rsLoRA",
            (true, false) => "DoRA",
            (true, true) => "DoRA with α/√r",
        };
        let targets = a.targets();
        let mut text = match a.method {
            Method::Lora => format!("{scale}, r {}, α {}, init {}, on {targets}", a.rank, a.alpha, a.init),
            Method::Full => format!("none: the layers themselves are trained, {targets}"),
            Method::Bottleneck => format!("bottlenecks of width {} behind {targets}", a.rank),
        };
        if a.freeze_a {
            text += ", A frozen";
        }
        if a.dropout > 0.0 {
            text += &format!(", dropout {}", a.dropout);
        }
        text
    }

    pub fn describe_batch(&self) -> String {
        let t = &self.training;
        let times = if t.grad_accum > 1 { format!(" × {} micro-batches", t.grad_accum) } else { String::new() };
        let plus = if t.lora_plus == 1.0 { String::new() } else { format!(" (B {} times that)", t.lora_plus) };
        format!("{} × {} tokens{times}, lr {}{plus} {}, seed {}", t.batch, self.data.seq_len, t.lr, t.schedule, t.seed)
    }
}

/// A list of numbers as clap carries it.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers(Vec<usize>);

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
}
