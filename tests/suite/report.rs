//! Comparisons, and the worst error/bound ratio of every operation, printed when the suite ends.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use libtest_mimic::Failed;

/// What a trial returns.
pub type Outcome = Result<(), Failed>;

/// Kind, operation and device.
type Key = (String, String, String);

/// The worst ratio and the row it was in.
static WORST: Mutex<BTreeMap<Key, (f64, String)>> = Mutex::new(BTreeMap::new());

/// Fails with a line.
pub fn fail<T>(message: impl Into<String>) -> Result<T, Failed> {
    Err(Failed::from(message.into()))
}

/// Fails unless `condition`.
pub fn ensure(condition: bool, message: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { fail(message()) }
}

/// Every element within what is allowed. Returns the worst error/allowed ratio.
pub fn within(what: &str, got: &[f64], truth: &[f64], allowed: &[f64]) -> Result<f64, Failed> {
    ensure(got.len() == truth.len() && truth.len() == allowed.len(), || {
        format!("{what}: {} elements, expected {}", got.len(), truth.len())
    })?;
    let mut worst = 0.0f64;
    for (i, ((&g, &t), &a)) in got.iter().zip(truth).zip(allowed).enumerate() {
        let error = if g == t { 0.0 } else { (g - t).abs() };
        // Written so that a NaN fails.
        let fine = error <= a;
        ensure(fine, || format!("{what}: element {i} is {g:e}, expected {t:e} ± {a:.1e} (off by {error:.1e})"))?;
        if error > 0.0 {
            worst = worst.max(error / a);
        }
    }
    Ok(worst)
}

/// Every element the same bits (0 and -0 are told apart, NaN equals itself).
pub fn same_bits(what: &str, got: &[f64], want: &[f64]) -> Outcome {
    ensure(got.len() == want.len(), || format!("{what}: {} elements, expected {}", got.len(), want.len()))?;
    match got.iter().zip(want).position(|(g, w)| g.to_bits() != w.to_bits()) {
        Some(i) => fail(format!("{what}: element {i} is {:e}, expected exactly {:e}", got[i], want[i])),
        None => Ok(()),
    }
}

/// Every element equal as a number (0 equals -0).
pub fn equal(what: &str, got: &[f64], want: &[f64]) -> Outcome {
    within(what, got, want, &vec![0.0; want.len()]).map(|_| ())
}

/// Remembers the worst ratio of an operation.
pub fn remember(kind: &str, op: &str, device: &str, row: &str, ratio: f64) {
    let mut worst = WORST.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = worst.entry((kind.into(), op.into(), device.into())).or_insert((-1.0, String::new()));
    if ratio > entry.0 {
        *entry = (ratio, row.into());
    }
}

/// Prints what was remembered: one line an operation, the worst device of each kind.
pub fn print() {
    let worst = WORST.lock().unwrap_or_else(PoisonError::into_inner);
    let mut lines: BTreeMap<(&str, &str), (f64, &str, &str)> = BTreeMap::new();
    for ((kind, op, device), (ratio, row)) in worst.iter() {
        let line = lines.entry((kind, op)).or_insert((-1.0, device, row));
        if *ratio > line.0 {
            *line = (*ratio, device, row);
        }
    }
    if !lines.is_empty() {
        println!("\nworst error / allowed error (1 would fail)");
    }
    for ((kind, op), (ratio, device, row)) in lines {
        println!("  {kind:<9} {op:<16} {ratio:8.4}  {device}, {row}");
    }
}
