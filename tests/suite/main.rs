//! Every operation on every device, and the flows above them.
//!
//! `cases` is the one table of operations. The kinds of test run its rows on each of `devices`:
//!
//! * `exact`: integers come out bit for bit. * `rounding`: random numbers against plain f64 loops.
//! * `gradient`: finite differences, and each device against the reference. * `determinism`: threads and runs.
//! * `activations`: those stored as bf16. * `narrow`: operands split into bf16, on every path of CPU kernels.
//! * `hand`: values worked out by hand. * `flow`, `golden`: whole models. * `table`: no operation without a row.
//!
//! `cargo test --test suite -- exact/cpu` runs a part. A device that is not here is shown as ignored, one line a kind;
//! `LOWRANK_REQUIRE=cuda,wgpu` makes it a failure.

mod activations;
mod case;
mod cases;
mod determinism;
mod devices;
mod exact;
mod flow;
mod gguf;
mod golden;
mod gradient;
mod hand;
mod lora_ga;
mod narrow;
mod oracle;
mod random;
mod report;
mod residual;
mod rounding;
mod table;

use case::Case;
use devices::{Checks, Target};
use libtest_mimic::{Arguments, Trial};
use report::Outcome;

/// Runs one row on one device.
type Check = fn(&Case, &Target) -> Outcome;

/// Which rows a kind takes.
type Takes = fn(&Case) -> bool;

/// The kinds that run over the whole table: name, check, and which rows they take.
const KINDS: [(&str, Check, Takes); 6] = [
    ("exact", exact::check, |case| case.exact),
    ("rounding", rounding::check, |_| true),
    ("gradient", gradient::check, Case::has_grad),
    ("accumulate", gradient::accumulates, Case::has_grad),
    ("linear", gradient::large_steps, |case| case.multilinear),
    ("determinism", determinism::check, |_| true),
];

fn main() {
    let arguments = Arguments::from_args();
    narrow::emulate();
    // An absent device shows once, not again without its fused operations or in bf16.
    let again = |t: &Target| t.unfused || t.rounds_products();
    let targets: Vec<Target> = devices::all().into_iter().filter(|t| t.present() || !again(t)).collect();
    let mut trials = table::trials();
    trials.extend(gradient::finite_differences());
    for target in &targets {
        trials.extend(over_table(target));
        trials.extend(activations::trials(target));
        if target.rounds_products() {
            continue;
        }
        trials.extend(named("hand", target, hand::CHECKS));
        trials.extend(named("flow", target, flow::CHECKS));
        // The reference is the oracle of operations; for whole models PEFT is, and plain loops would take minutes.
        if !target.is_reference() {
            if target.present() {
                trials.extend(named("determinism", target, determinism::CHECKS));
            }
            trials.extend(named("golden", target, golden::CHECKS));
            trials.extend(named("residual", target, residual::CHECKS));
            trials.extend(named("lora-ga", target, lora_ga::CHECKS));
        }
    }
    trials.extend(activations::on_paths());
    trials.extend(narrow::trials());
    trials.extend(determinism::whole_step());
    trials.push(gguf::trial());
    let conclusion = libtest_mimic::run(&arguments, trials);
    report::print();
    conclusion.exit();
}

/// One trial for each kind and operation: all rows of the operation, every failure named.
fn over_table(target: &Target) -> Vec<Trial> {
    let present = target.present();
    let mut trials = Vec::new();
    for (kind, check, takes) in KINDS {
        if kind == "determinism" && target.is_reference() {
            continue; // one thread, plain loops
        }
        if !present {
            trials.push(Trial::test(format!("{kind}/{}", target.name), || Ok(())).with_ignored_flag(true));
            continue;
        }
        if target.rounds_products() && ["exact", "linear"].contains(&kind) {
            continue; // sums of ranks are rounded
        }
        for (op, cases) in cases::by_op() {
            if target.rounds_products() && !["linear", "lora_linear", "attention"].contains(op) {
                continue;
            }
            let cases: Vec<&'static Case> = cases.iter().filter(|case| takes(case)).collect();
            if cases.is_empty() {
                continue;
            }
            let target = target.clone();
            trials.push(Trial::test(format!("{kind}/{}/{op}", target.name), move || {
                let failures: Vec<String> = cases
                    .iter()
                    .filter_map(|case| check(case, &target).err().map(|e| message(&case.name(), &e)))
                    .collect();
                if failures.is_empty() { Ok(()) } else { report::fail(failures.join("\n")) }
            }));
        }
    }
    trials
}

fn message(name: &str, failed: &libtest_mimic::Failed) -> String {
    format!("{name}: {}", failed.message().unwrap_or("failed"))
}

fn named(kind: &str, target: &Target, checks: Checks) -> Vec<Trial> {
    if !target.present() {
        return vec![Trial::test(format!("{kind}/{}", target.name), || Ok(())).with_ignored_flag(true)];
    }
    checks
        .iter()
        .map(|&(name, check)| {
            let target = target.clone();
            Trial::test(format!("{kind}/{}/{name}", target.name), move || check(&target))
        })
        .collect()
}
