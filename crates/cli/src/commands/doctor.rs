//! `lowrank doctor`.

use std::path::PathBuf;

use lowrank_lora::{Adapter, Host, files, peft};
use lowrank_models::Llama;
use lowrank_train::{Batch, DoctorOptions, Examination, OutDir, Severity, examine};

use super::train::{self, Prepared, prepare};
use crate::args::load;
use crate::failure::{Failure, Result};
use crate::interrupt;
use crate::show::{quote_path, say, table};

/// Options of `doctor`: those of `train` for a fresh adapter, or an adapter from a directory.
#[derive(clap::Args)]
#[group(skip)]
#[command(mut_arg("out", |a| a.default_value(NOWHERE)
    .help("Directory for doctor.json and doctor.svg; an existing one is not overwritten; - writes none")))]
pub struct Args {
    /// Examine this adapter, taken for a trained one, instead of a fresh one
    #[arg(long, value_name = "DIR", help_heading = "Doctor")]
    adapter: Option<PathBuf>,
    /// Share of a layer's gradient energy that its suggested rank holds; 0 suggests none and is faster
    #[arg(long, value_name = "X", default_value_t = 0.9, help_heading = "Doctor")]
    energy: f64,
    /// One line of JSON instead of tables
    #[arg(long, help_heading = "Doctor")]
    json: bool,
    #[command(flatten)]
    train: train::Args,
}

/// The `--out` that writes nothing.
const NOWHERE: &str = "-";

/// Shown below the options.
pub const EXAMPLES: &str = "\
Looks at one batch: gradients before and after one step, norms, ranks; trains and changes nothing. Exit code 1 if
something is wrong.

Examples:
  lowrank doctor
  lowrank doctor --adapter lowrank-out
  lowrank doctor --rank 64 --alpha 512 --lr 1e-2 --batch 8 --out report";

/// Examines, shows, and fails if something is wrong.
pub fn run(args: &Args) -> Result<()> {
    let options = args.train.options();
    options.check()?;
    let device = args.train.device.open()?;
    let out = if writes(args) { Some(OutDir::reserve(&args.train.out)?) } else { None };
    if let Some(out) = &out {
        interrupt::install(out.path(), false)?;
    }
    let (mut model, data, adapter, file) = match &args.adapter {
        None => {
            let Prepared { model, data, adapter, file, .. } = prepare(&args.train, &device)?;
            (model, data, adapter, file)
        }
        Some(dir) => {
            let source = args.train.data.read()?;
            let (_, model, tokenizer) = load(&args.train.model, Some(dir), &device)?;
            let data = args.train.data.examples(&source, (&model, &tokenizer), options.seed, false)?;
            let adapter: Adapter = peft::load(dir, &model)?;
            (model, data, adapter, source.file)
        }
    };
    let examples = &data.train[..options.batch.min(data.train.len())];
    device.set_seed(options.seed);
    let loss = |model: &Llama| {
        let batch = Batch::new(examples, model.device())?;
        model.device().begin_step(0)?;
        Ok(model.loss(&batch.ids, &batch.targets, batch.counted.max(1) as f64)?)
    };
    let energy = if args.energy == 0.0 { None } else { Some(args.energy) };
    let doctor = DoctorOptions { lr: options.lr, clip: options.clip, fresh: args.adapter.is_none(), energy };
    let examination = examine(&mut model, &adapter, &loss, &doctor)?;

    if let Some(out) = out {
        let mut json = serde_json::to_vec_pretty(&examination)?;
        json.push(b'\n');
        files::write_atomically(&out.path().join("doctor.json"), &json)?;
        files::write_atomically(&out.path().join("doctor.svg"), examination.svg().as_bytes())?;
        out.commit()?;
    }
    if args.json {
        say(&serde_json::to_string(&examination)?);
    } else if !args.train.quiet {
        show(args, &examination, &file);
    }
    if examination.has_errors() { Err(Failure::told()) } else { Ok(()) }
}

fn writes(args: &Args) -> bool {
    args.train.out.as_os_str() != NOWHERE
}

fn show(args: &Args, e: &Examination, file: &str) {
    let which = match &args.adapter {
        Some(dir) => format!("the adapter {}", dir.display()),
        None => format!("a fresh adapter ({})", args.train.describe()),
    };
    let loss = |l: Option<f64>| l.map_or("not finite".into(), |l| format!("{l:.4}"));
    say(&format!("{which} on a batch of {file}"));
    say(&format!(
        "loss: base {}, with the adapter {}, after a step of lr {} {}\n",
        loss(e.base_loss),
        loss(e.loss),
        args.train.training.lr,
        loss(e.loss_after)
    ));
    for rows in e.tables() {
        table(&rows, 1).iter().for_each(|line| say(line));
        say("");
    }
    e.not_applicable.iter().for_each(|line| say(&format!("note: {line}")));
    for finding in &e.findings {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let layer = finding.layer.as_ref().map(|l| format!("{l}: ")).unwrap_or_default();
        say(&format!("{severity}: {layer}{}", finding.message));
    }
    if e.findings.is_empty() {
        say("nothing wrong");
    }
    if writes(args) {
        say(&format!("wrote {} (doctor.json, doctor.svg)", quote_path(&args.train.out)));
    }
}
