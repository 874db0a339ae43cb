//! No operation without a row: the rule files in `crates/core/src/ops` against the table of cases.

use std::collections::BTreeSet;
use std::path::Path;

use libtest_mimic::Trial;

use crate::cases;
use crate::report::{Outcome, ensure, fail};

/// Files in the directory that are no operation, and what they are.
const HELPERS: [(&str, &str); 6] = [
    ("mod", "the list of operations"),
    ("check", "checks that operations share"),
    ("broadcast", "shapes that binary operations share"),
    ("unary", "what elementwise operations of one operand share"),
    ("ids", "token numbers checked on their way to a device: an upload, nothing is computed"),
    ("rows", "views and writes outside of the graph: no rule, tested beside the code"),
];

/// The trials of this module.
pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("table/every-operation-has-a-row", every_operation_has_a_row),
        Trial::test("table/every-gradient-is-checked", every_gradient_is_checked),
        Trial::test("table/names-are-unique", names_are_unique),
        Trial::test("table/required-devices-are-known", required_devices_are_known),
    ]
}

fn rule_files() -> Result<BTreeSet<String>, libtest_mimic::Failed> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/core/src/ops");
    let mut stems = BTreeSet::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_string();
        if HELPERS.iter().all(|(helper, _)| *helper != stem) {
            stems.insert(stem);
        }
    }
    Ok(stems)
}

fn every_operation_has_a_row() -> Outcome {
    let files = rule_files()?;
    let rows: BTreeSet<String> = cases::by_op().keys().map(|op| op.to_string()).collect();
    let missing: Vec<_> = files.difference(&rows).collect();
    let unknown: Vec<_> = rows.difference(&files).collect();
    ensure(missing.is_empty(), || format!("rule files without a row in tests/suite/cases: {missing:?}"))?;
    ensure(unknown.is_empty(), || format!("rows without a rule file in crates/core/src/ops: {unknown:?}"))
}

/// Every rule is differentiated in some row that is small enough for finite differences.
fn every_gradient_is_checked() -> Outcome {
    for (op, cases) in cases::by_op() {
        if !cases.iter().any(|case| case.has_grad() && case.is_small()) {
            return fail(format!("{op}: no row is differentiated by finite differences"));
        }
    }
    Ok(())
}

fn names_are_unique() -> Outcome {
    let mut seen = BTreeSet::new();
    for case in cases::by_op().values().flatten() {
        ensure(seen.insert(case.name()), || format!("two rows are called {:?}", case.name()))?;
    }
    Ok(())
}

fn required_devices_are_known() -> Outcome {
    let unknown = crate::devices::unknown_required();
    ensure(unknown.is_empty(), || format!("LOWRANK_REQUIRE names {unknown:?}, which are no devices"))
}
