//! Waves of units over all cores, or units in turn.
//!
//! Units (CTAs, or clusters) run in waves of a fixed number, each against the memory as the wave found it, and are
//! merged in order. Kernels with global atomics run their units in turn instead, in one memory. Neither depends on
//! the number of threads.

use std::sync::atomic::Ordering;

use rayon::prelude::*;

use crate::exec;
use crate::mem::device::Memory;
use crate::mem::inter::Inter;
use crate::mem::view::{Base, Page, Shared, View};
use crate::merge::{Touched, write_back};
use crate::report::{Counters, Finding, Report};

/// Units of one wave; fixed, so that results do not depend on the machine.
const WAVE: u32 = 64;
/// Units that take turns at the same time.
const RESIDENT: usize = 256;
/// Rounds without any progress of any unit before it counts as a deadlock.
const STUCK: u32 = 600;

/// What a finished unit leaves behind.
struct Done {
    number: u32,
    findings: Vec<Finding>,
    counters: Counters,
    pages: Vec<Page>,
}

fn fatal(f: &[Finding]) -> bool {
    f.iter().any(|f| f.kind.is_fatal())
}

pub(crate) fn in_waves(l: &exec::Launch, mem: &mut Memory, units: u32) -> Report {
    let mut report = Report::default();
    let mut touched = Touched::default();
    let mut first = 0;
    while first < units {
        let last = first.saturating_add(WAVE).min(units);
        let frozen: &Memory = mem;
        let done: Vec<Done> = (first..last)
            .into_par_iter()
            .map(|number| {
                let mut u = exec::Unit::new(l, number, View::new(Base::Frozen(frozen), l.races));
                let _ = u.run();
                u.conclude();
                if fatal(&u.findings) {
                    l.stopped.fetch_min(number, Ordering::Relaxed);
                }
                let counters = u.finish_counters();
                Done { number, findings: u.findings, counters, pages: u.view.into_pages() }
            })
            .collect();
        let mut stop = false;
        for d in done {
            stop = fatal(&d.findings);
            report.counters.add(&d.counters);
            report.findings.extend(d.findings);
            if l.races {
                touched.merge(l, d.number, &d.pages, mem, &mut report.findings);
            }
            write_back(mem, &d.pages);
            // Later units may have been cut short.
            if stop {
                break;
            }
        }
        if stop {
            break;
        }
        first = last;
    }
    tidy(&mut report);
    report
}

pub(crate) fn in_turn(l: &exec::Launch, mem: &mut Memory, units: u32) -> Report {
    let mut report = Report::default();
    let mut shared = Box::new(Shared { mem: std::mem::take(mem), inter: Inter::default() });
    let mut running: Vec<exec::Unit> = Vec::new();
    let (mut next, mut idle, mut stopped) = (0, 0, false);
    while !stopped && (next < units || !running.is_empty()) {
        // A new unit starts only when all that run wait for something.
        let fresh = next < units && running.len() < RESIDENT;
        if fresh {
            running.push(exec::Unit::new(l, next, View::new(Base::Through(Box::default()), l.races)));
            next += 1;
        }
        let order: Vec<usize> = if fresh { vec![running.len() - 1] } else { (0..running.len()).collect() };
        let mut moved = fresh;
        for i in order {
            let u = &mut running[i];
            let before = (u.progress, u.steps);
            u.view.give(shared);
            let r = u.run();
            shared = u.view.take().unwrap_or_default();
            moved |= u.progress != before.0 || u.done;
            if r.is_err() {
                stopped = true;
                u.done = true;
            }
        }
        idle = if moved { 0 } else { idle + 1 };
        if idle > STUCK
            && let Some(u) = running.first_mut()
        {
            u.deadlock();
            stopped = true;
            u.done = true;
        }
        let mut i = 0;
        while i < running.len() {
            if running[i].done {
                let mut u = running.remove(i);
                u.conclude();
                report.counters.add(&u.finish_counters());
                report.findings.append(&mut u.findings);
            } else {
                i += 1;
            }
        }
    }
    for mut u in running {
        u.conclude();
        report.counters.add(&u.finish_counters());
        report.findings.append(&mut u.findings);
    }
    *mem = shared.mem;
    tidy(&mut report);
    report
}

/// Repeats of one fault by other CTAs add nothing.
fn tidy(report: &mut Report) {
    let mut seen = std::collections::HashSet::new();
    report.findings.retain(|f| seen.insert((f.kind, f.line)));
}
