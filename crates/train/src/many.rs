//! Several adapters over one base in one run.
//!
//! Each adapter brings its own optimiser, data order, learning rate, seed and rank, and ends with the bits that it would
//! have had alone. Adapters that are plain pairs without dropout take their steps together: their batches go through the
//! base as one, so that K adapters read its weights once, and activations exist for all of them. The others (DoRA,
//! dropout, whole copies, batches of other lengths) take turns, a step each: a turn is what a run of its own would do.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use lowrank_core::backend::DECODE_ROWS;
use lowrank_lora::{Adapter, Host, attach, attach_rows};
use lowrank_models::Llama;

use crate::train::{Chosen, Run, check_run, measure};
use crate::{Batch, Dataset, Error, Evaluation, Example, Observer, Options, Plan, Result, Summary, When};

/// How many adapters go through the base as one batch unless something else is asked for.
pub const TOGETHER: usize = 4;

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

/// Trains all members over one base, at most `together` of them in one batch; one observer hears of each. The result has one entry a member, and a member that
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
    together: usize,
    stop: &AtomicBool,
) -> Result<Vec<Result<Summary>>> {
    let start = Instant::now();
    if together == 0 {
        return Err(Error::option("--together", "0 adapters at a time are none"));
    }
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
        let mut under_way = Vec::new();
        for (i, turn) in turns.iter_mut().enumerate() {
            if let Ok(Turn { run, .. }) = turn
                && run.step < run.steps
                && !stopped()
            {
                under_way.push((i, run.choose()));
            }
        }
        if under_way.is_empty() {
            break;
        }
        for group in groups(under_way, members, together) {
            if let [(i, chosen)] = &group[..] {
                let Ok(Turn { member, run, .. }) = &mut turns[*i] else { continue };
                device.set_seed(member.options.seed);
                let done = attach(model, member.adapter).map_err(Error::from);
                if let Err(e) = done.and_then(|()| run.step_on(chosen, model, &mut *observers[*i])) {
                    turns[*i] = Err(e);
                }
            } else {
                step_together(model, &mut turns, observers, &group)?;
            }
        }
    }
    let mut summaries = Vec::new();
    for (turn, observer) in turns.into_iter().zip(observers) {
        summaries.push(turn.and_then(|turn| finish(model, turn, &mut **observer, &stopped, start)));
    }
    Ok(summaries)
}

/// Who steps together: members whose bits do not depend on company, with micro-batches as long as each other's.
fn groups<'a>(
    under_way: Vec<(usize, Chosen<'a>)>,
    members: &[Member<'_>],
    together: usize,
) -> Vec<Vec<(usize, Chosen<'a>)>> {
    let mut groups: Vec<(Option<Vec<usize>>, Vec<_>)> = Vec::new();
    for (i, chosen) in under_way {
        let adapter = members[i].adapter;
        let plain = adapter.is_plain() && adapter.layers.values().all(|l| l.dropout == 0.0);
        let lengths = chosen.micro_batches().map(longest).collect();
        let large = chosen.micro_batches().all(|part| part.len() * longest(part) > DECODE_ROWS);
        let key = (plain && large).then_some(lengths);
        match groups.iter_mut().find(|(other, group)| key.is_some() && *other == key && group.len() < together) {
            Some((_, group)) => group.push((i, chosen)),
            None => groups.push((key, vec![(i, chosen)])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Tokens of a row of the batch.
fn longest(examples: &[&Example]) -> usize {
    examples.iter().map(|e| e.ids.len()).max().unwrap_or(0)
}

/// One step of each of these, in one pass over the base. An error is one of the device and everybody's.
fn step_together(
    model: &mut Llama,
    turns: &mut [Result<Turn<'_>>],
    observers: &mut [&mut dyn Observer],
    group: &[(usize, Chosen<'_>)],
) -> Result<()> {
    let start = Instant::now();
    let device = model.device().clone();
    let adapters: Vec<&Adapter> =
        group.iter().filter_map(|(i, _)| turns[*i].as_ref().ok().map(|turn| turn.member.adapter)).collect();
    let mut losses = vec![Vec::new(); group.len()];
    let mut micro_batches: Vec<_> = group.iter().map(|(_, chosen)| chosen.micro_batches()).collect();
    device.repeated(|| -> Result<()> {
        loop {
            let parts: Vec<&[&Example]> = micro_batches.iter_mut().filter_map(Iterator::next).collect();
            if parts.is_empty() {
                break;
            }
            let rows: Vec<_> =
                parts.iter().enumerate().flat_map(|(g, part)| part.iter().map(move |_| Some(g))).collect();
            attach_rows(model, &adapters, &rows)?;
            let batch = Batch::new(parts.iter().copied().flatten().copied(), &device)?;
            device.begin_step(0)?;
            let sizes = parts.iter().zip(group).map(|(part, (_, chosen))| (part.len(), chosen.counted as f64));
            let all = model.losses(&batch.ids, &batch.targets, &sizes.collect::<Vec<_>>())?;
            losses.iter_mut().enumerate().for_each(|(g, own)| own.push((all.detach(), g)));
            all.sum()?.backward()?;
        }
        for (i, _) in group {
            if let Ok(Turn { run, .. }) = &mut turns[*i] {
                run.optimise()?;
            }
        }
        Ok(())
    })?;
    for ((i, chosen), losses) in group.iter().zip(losses) {
        let Ok(Turn { run, .. }) = &mut turns[*i] else { continue };
        // The time of one of them is its share.
        let seconds = || start.elapsed().as_secs_f64() / group.len() as f64;
        if let Err(e) = run.updated(chosen, losses, &mut *observers[*i], seconds) {
            turns[*i] = Err(e);
        }
    }
    Ok(())
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
