//! The loss on examples, without gradients.

use lowrank_core::no_grad;
use lowrank_lora::Host;
use lowrank_models::Llama;

use crate::{Batch, Example, Result};

/// A mean loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross entropy over the counted targets, in nats.
    pub loss: f64,
    /// Number of counted targets.
    pub tokens: usize,
}

impl Evaluation {
    /// `e^loss`.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Mean loss over the counted targets of `examples`, `batch` of them at a time.
pub fn evaluate(model: &Llama, examples: &[Example], batch: usize) -> Result<Evaluation> {
    let done = evaluate_with(model, examples, batch, &mut |_, _| true)?;
    Ok(done.unwrap_or(Evaluation { loss: f64::NAN, tokens: 0 }))
}

/// The same; after each batch `progress(done, all)` says whether to go on. `None` if it said no.
pub fn evaluate_with(
    model: &Llama,
    examples: &[Example],
    batch: usize,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Option<Evaluation>> {
    let (mut sum, mut tokens, mut done) = (0.0, 0, 0);
    for chunk in examples.chunks(batch.max(1)) {
        let b = Batch::new(chunk, model.device())?;
        if b.counted > 0 {
            let loss = no_grad(|| model.loss(&b.ids, &b.targets, b.counted as f64))?;
            sum += loss.item()? * b.counted as f64;
            tokens += b.counted;
        }
        done += chunk.len();
        if !progress(done, examples.len()) {
            return Ok(None);
        }
    }
    let loss = if tokens == 0 { f64::NAN } else { sum / tokens as f64 };
    Ok(Some(Evaluation { loss, tokens }))
}
