//! What stands ready before the first step: everything that can be refused has been by then.

use std::time::Instant;

use lowrank_core::Device;
use lowrank_lora::{Adapter, Host, InitReport};
use lowrank_models::{Llama, Tokenizer};
use lowrank_train::{Dataset, check_ranks, start_adapter};

use super::{Args, stopped};
use crate::args::load;
use crate::base::Base;
use crate::failure::Result;
use crate::interrupt;
use crate::show::thousands;

/// Model, data and a fresh adapter.
pub struct Prepared {
    pub base: Base,
    pub model: Llama,
    pub tokenizer: Tokenizer,
    pub data: Dataset,
    /// The data's name in messages.
    pub file: String,
    pub adapter: Adapter,
    /// What an init that looks at data found, and how long the init took.
    pub init: Option<InitReport>,
    pub init_seconds: f64,
}

/// Reads and checks all that the options name.
pub fn prepare(args: &Args, device: &Device) -> Result<Prepared> {
    let (options, config) = (args.options(), args.config());
    options.check()?;
    config.validate()?;
    let source = args.data.read()?;
    let (base, mut model, tokenizer) = load(&args.model, None, device)?;
    let data = args.data.examples(&source, (&model, &tokenizer), options.seed, false)?;
    let begun = Instant::now();
    let (adapter, init) = start_adapter(&mut model, config, &data, options.seed, &interrupt::STOP).map_err(stopped)?;
    let init_seconds = begun.elapsed().as_secs_f64();
    if !options.allow_rank_above_min {
        check_ranks(&adapter)?;
    }
    Ok(Prepared { base, model, tokenizer, data, file: source.file, adapter, init, init_seconds })
}

impl Prepared {
    /// What a run shows first.
    pub fn head(&self, args: &Args, device: &Device) -> Vec<(&'static str, String)> {
        let Prepared { base, model, .. } = self;
        let model =
            format!("{} ({}, {} parameters)", base.name(), model.model_type(), thousands(model.parameter_count()));
        vec![
            ("model", model),
            ("data", self.file.clone()),
            ("adapter", args.describe()),
            ("device", args.device.label(device)),
            ("batch", args.describe_batch()),
        ]
    }
}
