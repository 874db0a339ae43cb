//! Training on CUDA: the CPU's losses, no waits, nothing uploaded but the batch, a known number of kernels a step.
//!
//! Without a driver this says so and passes; `LOWRANK_REQUIRE=cuda` makes that a failure. `scripts/with-ptxsim` puts the
//! interpreter in the driver's place, where a step takes seconds: hence few of them.

mod training;

use std::sync::atomic::AtomicBool;

use lowrank_core::{DType, Device, Tensor};
use lowrank_lora::{Adapter, LoraConfig};
use lowrank_models::Llama;
use lowrank_train::{Dataset, Example, Length, Observer, Options, StepRecord, train};
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

/// Steps in one launch each have the bits of steps done kernel by kernel, also after one of another length.
#[test]
fn steps_in_one_launch_have_the_same_bits() -> Outcome {
    let (Some(plain), Some(device)) = (device("cuda"), device("cuda")) else { return Ok(()) };
    let (mut here, mut there) = (Run::new(plain.clone(), 9)?, Run::new(device.clone(), 9)?);
    there.repeated = true;
    let mut late: Option<[Tensor; 2]> = None;
    for (step, length) in [9, 9, 9, 9, 11, 9].into_iter().enumerate() {
        (here.length, there.length) = (length, length);
        let before = device.stats();
        let losses = [here.step(step as u32)?, there.step(step as u32)?];
        let after = device.stats();
        // One of its kind, then two recordings for results that have two places by turns, then no more.
        let (one, recorded) = [(0, 0), (1, 1), (1, 1), (1, 0), (0, 0), (1, 0)][step];
        assert_eq!(after.graph_launches - before.graph_launches, one, "step {step}");
        assert_eq!(after.graphs_recorded - before.graphs_recorded, recorded, "step {step}");
        assert_eq!((after.waits, after.launches - before.launches), (before.waits, LAUNCHES), "step {step}");
        if let Some([a, b]) = late.replace(losses) {
            assert_eq!(a.item()?.to_bits(), b.item()?.to_bits(), "step {}", step - 1);
        }
    }
    assert!(here.bits()? == there.bits()?, "the adapters differ");
    assert_eq!(plain.stats().graph_launches, 0);
    Ok(())
}

/// Losses of the steps.
#[derive(Default)]
struct Losses(Vec<f64>);

impl Observer for Losses {
    fn step(&mut self, record: &StepRecord) -> lowrank_train::Result<()> {
        self.0.push(record.loss);
        Ok(())
    }
}

/// What `lowrank train` runs: five steps over examples of one length, two of them accumulated in each.
fn trained(device: &Device) -> Outcome<Vec<f64>> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/cli/data/glass-en");
    let json = std::fs::read_to_string(dir.join("config.json"))?;
    let weights = std::fs::read(dir.join("model.safetensors"))?;
    let mut model = Llama::from_files(
        "config.json",
        &json,
        &[("model.safetensors".to_string(), &weights[..])],
        device,
        DType::F32,
    )?;
    let adapter = Adapter::create(&model, "default", LoraConfig { r: 2, ..LoraConfig::default() }, 1)?;
    let example = |i: u32| Example::next_tokens(&(0..8).map(|j| (i * 131 + j * 17) % 1000).collect::<Vec<_>>());
    let data = Dataset { train: (0..10).map(example).collect(), valid: vec![example(99)], cut: 0, dropped: 0 };
    let options = Options { batch: 1, grad_accum: 2, length: Length::Steps(5), ..Options::default() };
    let mut losses = Losses::default();
    train(&mut model, &adapter, &data, &options, &mut losses, &AtomicBool::new(false))?;
    Ok(losses.0)
}

#[test]
fn the_training_loop_starts_a_step_as_one() -> Outcome {
    let Some(device) = device("cuda") else { return Ok(()) };
    let losses = trained(&device)?;
    let stats = device.stats();
    // The first step shows what the others are; evaluations before and after are one batch each.
    assert_eq!((stats.graph_launches, stats.graphs_recorded), (4 + 1, 2 + 1));
    for (step, (got, want)) in losses.iter().zip(trained(&Device::cpu()?)?).enumerate() {
        assert!((got - want).abs() <= 1e-3, "step {step}: {got}, on the CPU {want}");
    }
    Ok(())
}

#[test]
fn adapters_in_one_batch_have_the_bits_of_each_alone() -> Outcome {
    let Some(device) = device("cuda") else { return Ok(()) };
    adapters_share_a_batch(device, LENGTH)
}
