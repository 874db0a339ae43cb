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
        let device = model.device();
        let (counted, loss) = device.repeated(|| -> Result<_> {
            let b = Batch::new(chunk, device)?;
            if b.counted == 0 {
                return Ok((0, None));
            }
            Ok((b.counted, Some(no_grad(|| model.loss(&b.ids, &b.targets, b.counted as f64))?)))
        })?;
        if let Some(loss) = loss {
            sum += loss.item()? * counted as f64;
            tokens += counted;
        }
        done += chunk.len();
        if !progress(done, examples.len()) {
            return Ok(None);
        }
    }
    let loss = if tokens == 0 { f64::NAN } else { sum / tokens as f64 };
    Ok(Some(Evaluation { loss, tokens }))
}
