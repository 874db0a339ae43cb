//! The loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use lowrank_core::Tensor;
use lowrank_core::optim::{AdamW, AdamWOptions};
use lowrank_lora::{Adapter, Host, attach};
use lowrank_models::Llama;

use crate::evaluate::evaluate_with;
use crate::groups::groups;
use crate::sampler::Sampler;
use crate::{
    Batch, Dataset, Error, Evaluation, Example, Observer, Options, Plan, Result, StepRecord, Summary, When, check_ranks,
};

/// Micro-batches are numbered in the device's scalar buffer, exactly only below this.
const MOST: usize = 1 << 24;

/// Trains `adapter`, attached to `model`, on `data.train`, and measures `data.valid` before and after.
///
/// A step's loss is the mean over the counted targets of all its micro-batches, so that gradient accumulation equals
/// one large batch exactly. Losses and gradient norms are read back a step late: nothing waits inside a step. When
/// `stop` becomes true, the step under way is finished and the summary says `interrupted`.
///
/// The adapter's tensors are changed in place; they stay attached.
pub fn train(
    model: &mut Llama,
    adapter: &Adapter,
    data: &Dataset,
    options: &Options,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Summary> {
    let start = Instant::now();
    check_run(model, adapter, data, options)?;
    let device = model.device().clone();
    device.set_seed(options.seed);
    device.backend().reset_peak();
    attach(model, adapter)?;
    let plan = Plan::new(model, adapter, data, options);
    observer.plan(&plan)?;

    let stopped = || stop.load(Ordering::Relaxed);
    let Some(before) = measure(model, data, options, observer, (When::Before, 0), &stopped)? else {
        return Err(Error::Interrupted);
    };

    let mut run = Run::new(adapter, data, options, plan.steps)?;
    while run.step < plan.steps && !stopped() {
        run.step(model, observer)?;
    }
    run.report(observer)?;
    if run.step == 0 {
        return Err(Error::Interrupted);
    }
    let mut after = None;
    if run.step == plan.steps {
        after = measure(model, data, options, observer, (When::After, run.step), &stopped)?;
    }
    Ok(run.summary(&plan, before, after, device.stats().bytes_peak, start))
}

/// Everything about a run that can be refused before it starts.
pub(crate) fn check_run(model: &Llama, adapter: &Adapter, data: &Dataset, options: &Options) -> Result<()> {
    options.check()?;
    if !options.allow_rank_above_min {
        check_ranks(adapter)?;
    }
    let (longest, positions) = (data.longest(), model.config().max_position_embeddings);
    if longest > positions {
        let detail = format!("{longest} tokens are more than the model's max_position_embeddings of {positions}");
        return Err(Error::option("--seq-len", detail));
    }
    if data.train.is_empty() || data.valid.is_empty() {
        return Err(Error::option("--data", "has nothing to train on or nothing held out"));
    }
    let steps = options.steps(data.train.len());
    if steps.saturating_mul(options.grad_accum) >= MOST || options.warmup >= MOST {
        return Err(Error::option(
            "--steps",
            format!("{steps} steps of {} micro-batches are too many", options.grad_accum),
        ));
    }
    Ok(())
}

/// The held-out loss; `None` if the user stopped it.
pub(crate) fn measure(
    model: &Llama,
    data: &Dataset,
    options: &Options,
    observer: &mut dyn Observer,
    (when, steps): (When, usize),
    stopped: &dyn Fn() -> bool,
) -> Result<Option<Evaluation>> {
    let mut told = Ok(());
    let evaluation = evaluate_with(model, &data.valid, options.eval_batch, &mut |done, all| {
        told = observer.evaluating(when, done, all);
        told.is_ok() && !stopped()
    })?;
    told?;
    let Some(evaluation) = evaluation else { return Ok(None) };
    if !evaluation.loss.is_finite() {
        return Err(Error::Diverged { step: steps, what: "held-out loss", value: evaluation.loss, lr: options.lr });
    }
    observer.evaluated(when, steps, &evaluation)?;
    Ok(Some(evaluation))
}

/// The state between two steps.
pub(crate) struct Run<'a> {
    data: &'a Dataset,
    options: &'a Options,
    optimiser: AdamW,
    sampler: Sampler,
    /// Steps altogether.
    pub(crate) steps: usize,
    /// Steps done.
    pub(crate) step: usize,
    /// Micro-batches done: keys dropout.
    micro_step: u32,
    /// The last step's numbers, still on the device.
    pending: Option<Pending>,
    /// Tokens and time of all steps.
    tokens: usize,
    seconds: f64,
}

/// The examples of a step.
pub(crate) struct Chosen<'a> {
    examples: Vec<&'a Example>,
    /// Of a micro-batch.
    batch: usize,
    /// Targets that count.
    pub(crate) counted: usize,
    tokens: usize,
}

impl<'a> Chosen<'a> {
    /// The examples of each forward and backward.
    pub(crate) fn micro_batches(&self) -> impl Iterator<Item = &[&'a Example]> {
        self.examples.chunks(self.batch)
    }
}

/// What a step leaves on the device until the next one is under way.
struct Pending {
    step: usize,
    /// A part of the loss from each micro-batch: the tensor's element of this number.
    losses: Vec<(Tensor, usize)>,
    grad_norm: Tensor,
    lr: f64,
    tokens_per_s: f64,
}

impl<'a> Run<'a> {
    pub(crate) fn new(adapter: &Adapter, data: &'a Dataset, options: &'a Options, steps: usize) -> Result<Self> {
        Ok(Run {
            data,
            options,
            optimiser: AdamW::new(groups(adapter, options)?, AdamWOptions::default())?,
            sampler: Sampler::new(data.train.len(), options.seed),
            steps,
            step: 0,
            micro_step: 0,
            pending: None,
            tokens: 0,
            seconds: 0.0,
        })
    }

    /// One optimiser step of the adapter, which must be the attached one; tells of the one before.
    pub(crate) fn step(&mut self, model: &Llama, observer: &mut dyn Observer) -> Result<()> {
        let chosen = self.choose();
        self.step_on(&chosen, model, observer)
    }

    /// [`Run::step`] on examples that were chosen before.
    pub(crate) fn step_on(&mut self, chosen: &Chosen<'_>, model: &Llama, observer: &mut dyn Observer) -> Result<()> {
        let start = Instant::now();
        let device = model.device();
        let losses = device.repeated(|| -> Result<_> {
            let mut losses = Vec::new();
            for examples in chosen.micro_batches() {
                let batch = Batch::new(examples.iter().copied(), device)?;
                device.begin_step(self.micro_step)?;
                self.micro_step += 1;
                // The denominator is the whole step's, so the micro-batches' gradients simply add up.
                let loss = model.loss(&batch.ids, &batch.targets, chosen.counted as f64)?;
                losses.push((loss.detach(), 0));
                loss.backward()?;
            }
            self.optimise()?;
            Ok(losses)
        })?;
        self.updated(chosen, losses, observer, || start.elapsed().as_secs_f64())
    }

    /// The next step's examples.
    pub(crate) fn choose(&mut self) -> Chosen<'a> {
        let options = self.options;
        let chosen = self.sampler.take(options.batch.saturating_mul(options.grad_accum));
        let examples: Vec<&Example> = chosen.iter().map(|&i| &self.data.train[i]).collect();
        Chosen {
            counted: examples.iter().map(|e| e.counted()).sum(),
            tokens: examples.iter().map(|e| e.ids.len()).sum(),
            batch: options.batch,
            examples,
        }
    }

    /// The factor of the learning rate in the step under way.
    fn factor(&self) -> f64 {
        self.options.schedule.factor(self.step as u32, self.steps as u32, self.options.warmup as u32)
    }

    /// Moves the adapter along its gradients, which are there.
    pub(crate) fn optimise(&mut self) -> Result<()> {
        self.optimiser.step(self.factor(), self.options.clip)?;
        self.optimiser.zero_grad();
        Ok(())
    }

    /// Counts a step whose operations are on their way, and tells of the one before. `seconds` is asked for once
    /// everything else is done.
    pub(crate) fn updated(
        &mut self,
        chosen: &Chosen<'_>,
        losses: Vec<(Tensor, usize)>,
        observer: &mut dyn Observer,
        seconds: impl FnOnce() -> f64,
    ) -> Result<()> {
        let (options, tokens, factor) = (self.options, chosen.tokens, self.factor());
        self.step += 1;
        let (step, lr, grad_norm) = (self.step, options.lr * factor, self.optimiser.norm_tensor()?);
        self.report(observer)?;
        let seconds = seconds();
        self.tokens += tokens;
        self.seconds += seconds;
        let tokens_per_s = tokens as f64 / seconds.max(1e-9);
        self.pending = Some(Pending { step, losses, grad_norm, lr, tokens_per_s });
        Ok(())
    }

    /// Reads what the last step left on the device, and tells of it.
    pub(crate) fn report(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let Some(Pending { step, losses, grad_norm, lr, tokens_per_s }) = self.pending.take() else { return Ok(()) };
        let mut loss = 0.0;
        for (parts, i) in losses {
            loss += parts.to_f64()?[i];
        }
        let grad_norm = grad_norm.item()?;
        for (what, value) in [("loss", loss), ("gradient norm", grad_norm)] {
            if !value.is_finite() {
                return Err(Error::Diverged { step, what, value, lr });
            }
        }
        observer.step(&StepRecord { step, loss, lr, grad_norm, tokens_per_s })
    }

    /// What there is to say at the end.
    pub(crate) fn summary(
        &self,
        plan: &Plan,
        before: Evaluation,
        after: Option<Evaluation>,
        peak_bytes: u64,
        start: Instant,
    ) -> Summary {
        Summary {
            val_loss_before: before.loss,
            val_loss_after: after.map(|e| e.loss),
            trainable_params: plan.trainable,
            total_params: plan.total,
            seconds: start.elapsed().as_secs_f64(),
            tokens_per_s: self.tokens as f64 / self.seconds.max(1e-9),
            peak_bytes,
            device: plan.device.clone(),
            seed: self.options.seed,
            steps: self.step,
            interrupted: after.is_none(),
        }
    }
}
