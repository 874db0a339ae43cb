//! The adapter that a run starts with, for inits that look at data too.

use std::sync::atomic::{AtomicBool, Ordering};

use lowrank_lora::{Adapter, Error as LoraError, Host, Init, InitReport, LoraConfig};
use lowrank_models::Llama;

use crate::sampler::Sampler;
use crate::{Batch, Dataset, Error, Example, Result};

/// A fresh adapter, called `default`. For LoRA-GA and EVA the model goes through micro-batches of the training examples,
/// the ones that training starts with; their losses have one denominator, so that the gradient is that of their mean.
///
/// When `stop` becomes true, the run ends as interrupted.
pub fn start_adapter(
    model: &mut Llama,
    config: LoraConfig,
    data: &Dataset,
    seed: u64,
    stop: &AtomicBool,
) -> Result<(Adapter, Option<InitReport>)> {
    let (batches, batch) = match config.init {
        Init::LoraGa(o) => (o.batches, o.batch),
        Init::Eva { batches } => (batches, 1),
        _ => return Ok((Adapter::create(model, "default", config, seed)?, None)),
    };
    let wanted = batches.saturating_mul(batch);
    if wanted > data.train.len() {
        let detail = format!(
            "{} looks at {batches} micro-batches of {batch}, but there are only {} training examples",
            config.init,
            data.train.len()
        );
        return Err(Error::option("--init", detail));
    }
    let mut sampler = Sampler::new(data.train.len(), seed);
    let examples: Vec<&Example> = sampler.take(wanted).iter().map(|&i| &data.train[i]).collect();
    let counted: usize = examples.iter().map(|e| e.counted()).sum();
    let mut run = |model: &Llama, i: usize| {
        if stop.load(Ordering::Relaxed) {
            return Err(LoraError::adapter("interrupted"));
        }
        let part = examples[i * batch..(i + 1) * batch].iter().copied();
        let batch = Batch::new(part, model.device()).map_err(|e| LoraError::adapter(e.to_string()))?;
        model.loss(&batch.ids, &batch.targets, counted.max(1) as f64)
    };
    let outcome = Adapter::create_with_data(model, "default", config, seed, &mut run);
    if outcome.is_err() && stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    let (adapter, report) = outcome?;
    Ok((adapter, Some(report)))
}
