//! The table: at least one row for every rule file in `crates/core/src/ops`, sorted as its `mod.rs` is.
//!
//! A row says what an operation takes and how far it may be off, calls it, and defines it by plain loops (the shared
//! ones are in `oracle`). Everything else follows from the row: every kind of test runs it on every device.

mod elementwise;
mod moving;
mod products;
mod reductions;
mod rowwise;
mod sequence;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::case::Case;

/// Every row.
fn all() -> Vec<Case> {
    let mut rows = elementwise::rows();
    rows.extend(reductions::rows());
    rows.extend(moving::rows());
    rows.extend(rowwise::rows());
    rows.extend(products::rows());
    rows.extend(sequence::rows());
    rows
}

/// Every row, by operation.
pub fn by_op() -> &'static BTreeMap<&'static str, Vec<Case>> {
    static ROWS: LazyLock<BTreeMap<&'static str, Vec<Case>>> = LazyLock::new(|| {
        let mut by_op: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for case in all() {
            by_op.entry(case.op).or_default().push(case);
        }
        by_op
    });
    &ROWS
}
