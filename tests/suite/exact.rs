//! Integer inputs whose sums are exact in f32: results equal the oracle, and gradients the reference, bit for bit.

use crate::case::Case;
use crate::devices::{self, Target};
use crate::random::Random;
use crate::report::{Outcome, ensure, equal};

/// One row on one device.
pub fn check(case: &Case, target: &Target) -> Outcome {
    let values = case.values(true);
    let truth = (case.oracle)(&values);
    let gy = Random::of(&case.name()).small_integers(truth.len());
    let ran = case.run(target, &target.open()?, &values, Some(&gy))?;
    equal("result", &ran.y, &truth)?;
    if target.is_reference() {
        return Ok(());
    }
    let reference = &devices::all()[0];
    let want = case.run(reference, &reference.open()?, &values, Some(&gy))?;
    for (i, (got, want)) in ran.grads.iter().zip(&want.grads).enumerate() {
        ensure(got.is_some() == want.is_some(), || format!("gradient {i} is there on one device only"))?;
        if let (Some(got), Some(want)) = (got, want) {
            equal(&format!("gradient of input {i}"), got, want)?;
        }
    }
    Ok(())
}
