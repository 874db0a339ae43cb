//! Training on wgpu: the CPU's losses, no waits, nothing uploaded but the batch, a known number of kernels a step.
//!
//! Without an adapter this says so and passes; `LOWRANK_REQUIRE=wgpu` makes that a failure.

mod training;

use lowrank_core::Device;
use lowrank_lora::{LoraConfig, Method};
use training::*;

const LENGTH: usize = 33;

/// Kernels of one training step of glass-en with LoRA on all linears, as recorded. A change that adds some shows here.
const LAUNCHES: u64 = 207;

#[test]
fn twenty_steps_have_the_losses_of_the_cpu() -> Outcome {
    let Some(device) = device("wgpu") else { return Ok(()) };
    let losses = losses_of_the_cpu(device, LENGTH, 20)?;
    assert!(losses[19] < losses[3] - 0.1, "nothing was learned: {losses:?}");
    Ok(())
}

#[test]
fn a_step_waits_for_nothing_and_uploads_only_the_batch() -> Outcome {
    let Some(device) = device("wgpu") else { return Ok(()) };
    waits_for_nothing(device, LENGTH, 4, LAUNCHES)
}

#[test]
fn the_same_bits_on_every_run() -> Outcome {
    let Some(device) = device("wgpu") else { return Ok(()) };
    same_bits(&device, LENGTH, 3)
}

/// Singular vectors of close singular values are not unique to rounding, so few leading ones of a real model are taken.
#[test]
fn inits_and_methods_have_the_losses_of_the_cpu() -> Outcome {
    let Some(device) = device("wgpu") else { return Ok(()) };
    let base = || LoraConfig { r: 2, targets: "q_proj,down_proj".parse().expect("targets"), ..LoraConfig::default() };
    let mut configs: Vec<LoraConfig> = Vec::new();
    for init in ["pissa:niter=4", "olora", "eva:batches=2", "lora-ga:batches=2", "lora-ga:batches=2,estimator=streamed"]
    {
        configs.push(LoraConfig { init: init.parse()?, ..base() });
    }
    configs.extend([Method::Full, Method::Bottleneck].map(|method| LoraConfig { method, ..base() }));
    for config in configs {
        let name = format!("{} {}", config.method, config.init);
        let here = Run::with(device.clone(), LENGTH, config.clone())?;
        compare(here, Run::with(Device::cpu()?, LENGTH, config)?, 3, &name)?;
    }
    Ok(())
}

#[test]
fn adapters_in_one_batch_have_the_bits_of_each_alone() -> Outcome {
    let Some(device) = device("wgpu") else { return Ok(()) };
    adapters_share_a_batch(device, LENGTH)
}
