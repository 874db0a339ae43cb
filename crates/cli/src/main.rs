//! The `lowrank` command. This crate knows the terminal and the command line, and nothing of how training works.

mod args;
mod base;
mod commands;
mod failure;
mod interrupt;
mod show;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Low-rank adapters for language models: fine-tune, evaluate, generate, merge, inspect.
#[derive(Parser)]
#[command(
    name = "lowrank",
    version,
    arg_required_else_help = true,
    args_override_self = true,
    after_help = "\
Example, with nothing to download:
  lowrank train
  lowrank generate --adapter lowrank-out --prompt \"To be, or not to be\""
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fine-tune a model on a text with a low-rank adapter
    Train(Box<commands::train::Args>),
    /// What a training run would do and need, without doing it
    #[command(after_help = commands::plan::EXAMPLES)]
    Plan(Box<commands::plan::Args>),
    /// A small experiment with its table and picture
    Study(commands::study::Args),
    /// What is wrong with an adapter, or would be with a fresh one
    #[command(after_help = commands::doctor::EXAMPLES)]
    Doctor(Box<commands::doctor::Args>),
    /// Held-out losses over a grid of learning rates, ranks and inits
    #[command(after_help = commands::sweep::EXAMPLES)]
    Sweep(Box<commands::sweep::Args>),
    /// Loss and perplexity of a model, with or without an adapter, on a text
    Eval(commands::eval::Args),
    /// Several adapters of one model in turn: losses, merged and not, and that the model's bits stay
    Swap(commands::swap::Args),
    /// Continue a prompt
    Generate(commands::generate::Args),
    /// Write an adapter into the model's weights: a plain model
    Merge(commands::merge::Args),
    /// A weighted sum of adapters as one adapter
    Combine(commands::combine::Args),
    /// The same adapter at another rank
    Rerank(commands::combine::RerankArgs),
    /// Carry an adapter of a residual base (PEFT's pissa, olora, corda, lora_ga) over to the original
    Convert(commands::convert::Args),
    /// Write an adapter as a file for another program
    Export(commands::export::Args),
    /// What an adapter or a model consists of
    Inspect(commands::inspect::Args),
    /// The devices of this build
    #[command(after_help = "Example:\n  lowrank devices")]
    Devices,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Train(args) => commands::train::run(&args),
        Command::Plan(args) => commands::plan::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Study(args) => commands::study::run(&args),
        Command::Sweep(args) => commands::sweep::run(&args),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Swap(args) => commands::swap::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
        Command::Merge(args) => commands::merge::run(&args),
        Command::Combine(args) => commands::combine::run(&args),
        Command::Rerank(args) => commands::combine::run_rerank(&args),
        Command::Convert(args) => commands::convert::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Devices => commands::devices::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
