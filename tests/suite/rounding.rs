//! Random inputs against plain f64 loops, with a bound derived from the operation, not set by feel.

use crate::case::{Case, absolute};
use crate::devices::Target;
use crate::report::{Outcome, remember, within};

/// One row on one device.
pub fn check(case: &Case, target: &Target) -> Outcome {
    let values = case.values(false);
    let truth = (case.oracle)(&values);
    let ran = case.run(target, &target.open()?, &values, None)?;
    let allowed = case.bound.allowed(&truth, || (case.oracle)(&absolute(&values)), target.units());
    let ratio = within("result", &ran.y, &truth, &allowed)?;
    remember("rounding", case.op, &target.name, &case.variant, ratio);
    Ok(())
}
