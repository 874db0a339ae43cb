//! Training on CUDA: the CPU's losses, no waits, nothing uploaded but the batch, a known number of kernels a step.
//!
//! Without a driver this says so and passes; `LOWRANK_REQUIRE=cuda` makes that a failure. `scripts/with-ptxsim` puts the
//! interpreter in the driver's place, where a step takes seconds: hence few of them.

mod training;

use training::*;

const LENGTH: usize = 17;

/// Kernels of one training step of glass-en with LoRA on all linears, as recorded. A change that adds some shows here.
const LAUNCHES: u64 = 304;

#[test]
fn steps_have_the_losses_of_the_cpu() -> Outcome {
    let Some(device) = device("cuda") else { return Ok(()) };
    let losses = losses_of_the_cpu(device, LENGTH, 6)?;
    assert!(losses[5] < losses[1] - 0.05, "nothing was learned: {losses:?}");
    Ok(())
}

#[test]
fn a_step_waits_for_nothing_and_uploads_only_the_batch() -> Outcome {
    let Some(device) = device("cuda") else { return Ok(()) };
    waits_for_nothing(device, LENGTH, 2, LAUNCHES)
}

#[test]
fn the_same_bits_on_every_run() -> Outcome {
    let Some(device) = device("cuda") else { return Ok(()) };
    same_bits(&device, LENGTH, 2)
}

#[test]
fn adapters_in_one_batch_have_the_bits_of_each_alone() -> Outcome {
    let Some(device) = device("cuda") else { return Ok(()) };
    adapters_share_a_batch(device, LENGTH)
}
