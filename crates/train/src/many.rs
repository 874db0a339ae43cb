//! Several adapters over one base in one run.
//!
//! The adapters take turns, a step each: the base's weights are in memory once, activations exist for one adapter at a
//! time, and each adapter brings its own optimiser, data order, learning rate, seed and rank. A turn computes exactly
//! what a run of its own would, so every adapter ends with the bits that it would have had alone. What is not shared is
//! the pass over the weights: K adapters read them K times a step.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use lowrank_lora::{Adapter, Host, attach};
use lowrank_models::Llama;

use crate::train::{Run, check_run, measure};
use crate::{Dataset, Error, Evaluation, Observer, Options, Plan, Result, Summary, When};

/// One adapter of several, with how it is trained.
#[derive(Clone, Copy)]
pub struct Member<'a> {
    /// Its tensors are changed in place.
    pub adapter: &'a Adapter,
    /// What it is trained on.
    pub data: &'a Dataset,
    /// How.
    pub options: &'a Options,
}

/// A member under way.
struct Turn<'a> {
    member: Member<'a>,
    plan: Plan,
    before: Evaluation,
    run: Run<'a>,
}

/// Trains all members over one base; one observer hears of each. The result has one entry a member, and a member that
/// fails (its loss is no number any more, say) does not stop the others. Each ends with the same bits as in a
/// [`train`](crate::train()) of its own.
///
/// `seconds` and `peak_bytes` of the summaries are those of the whole run. The last member's adapter stays attached.
/// Refused before anything is computed: a setting of any member that `train` would refuse, and members that share a
/// tensor.
pub fn train_many(
    model: &mut Llama,
    members: &[Member<'_>],
    observers: &mut [&mut dyn Observer],
    stop: &AtomicBool,
) -> Result<Vec<Result<Summary>>> {
    let start = Instant::now();
    if observers.len() != members.len() {
        return Err(Error::option("observers", format!("{} for {} adapters", observers.len(), members.len())));
    }
    let mut tensors = BTreeSet::new();
    for member in members {
        check_run(model, member.adapter, member.data, member.options)?;
        if member.adapter.parameters().iter().any(|(_, t)| !tensors.insert(t.id())) {
            return Err(Error::option("adapters", "two of them are the same tensors"));
        }
    }
    let device = model.device().clone();
    device.backend().reset_peak();
    let stopped = || stop.load(Ordering::Relaxed);

    let mut turns = Vec::new();
    for (&member, observer) in members.iter().zip(&mut *observers) {
        turns.push(begin(model, member, &mut **observer, &stopped));
    }
    loop {
        let mut stepped = false;
        for (turn, observer) in turns.iter_mut().zip(&mut *observers) {
            let Ok(Turn { member, run, .. }) = turn else { continue };
            if run.step == run.steps || stopped() {
                continue;
            }
            stepped = true;
            device.set_seed(member.options.seed);
            let done =
                attach(model, member.adapter).map_err(Error::from).and_then(|()| run.step(model, &mut **observer));
            if let Err(e) = done {
                *turn = Err(e);
            }
        }
        if !stepped {
            break;
        }
    }
    let mut summaries = Vec::new();
    for (turn, observer) in turns.into_iter().zip(observers) {
        summaries.push(turn.and_then(|turn| finish(model, turn, &mut **observer, &stopped, start)));
    }
    Ok(summaries)
}

fn begin<'a>(
    model: &mut Llama,
    member: Member<'a>,
    observer: &mut dyn Observer,
    stopped: &dyn Fn() -> bool,
) -> Result<Turn<'a>> {
    let Member { adapter, data, options } = member;
    attach(model, adapter)?;
    let plan = Plan::new(model, adapter, data, options);
    observer.plan(&plan)?;
    let before = measure(model, data, options, observer, (When::Before, 0), stopped)?.ok_or(Error::Interrupted)?;
    let run = Run::new(adapter, data, options, plan.steps)?;
    Ok(Turn { member, plan, before, run })
}

fn finish(
    model: &mut Llama,
    turn: Turn<'_>,
    observer: &mut dyn Observer,
    stopped: &dyn Fn() -> bool,
    start: Instant,
) -> Result<Summary> {
    let Turn { member: Member { adapter, data, options }, plan, before, mut run } = turn;
    run.report(observer)?;
    if run.step == 0 {
        return Err(Error::Interrupted);
    }
    attach(model, adapter)?;
    let mut after = None;
    if run.step == plan.steps {
        after = measure(model, data, options, observer, (When::After, run.step), stopped)?;
    }
    Ok(run.summary(&plan, before, after, model.device().stats().bytes_peak, start))
}
