//! Training on CUDA: the CPU's losses, no waits, nothing uploaded but the batch, a known number of kernels a step.
//!
//! Without a driver this says so and passes; `LOWRANK_REQUIRE=cuda` makes that a failure. `scripts/with-ptxsim` puts the
//! interpreter in the driver's place, where a step takes seconds: hence few of them.

mod training;

#[path = "training/tiny.rs"]
mod tiny;

use std::sync::atomic::AtomicBool;

use lowrank_core::{DType, Device, Precision, Tensor};
use lowrank_lora::{Adapter, Init, LoraConfig, Method};
use lowrank_models::Llama;
use lowrank_train::{
    Batch, Cell, Dataset, DoctorOptions, Examination, Example, Length, Observer, Options, Plan, StepRecord, Summary,
    Sweep, examine, sweep, train,
};
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

/// Ten examples of one length to train on, and one held out.
fn data() -> Dataset {
    let example = |i: u32| Example::next_tokens(&(0..8).map(|j| (i * 131 + j * 17) % 1000).collect::<Vec<_>>());
    Dataset { train: (0..10).map(example).collect(), valid: vec![example(99)], cut: 0, dropped: 0 }
}

/// What `lowrank train` runs: five steps, two micro-batches in each.
fn trained(device: &Device) -> Outcome<(Vec<f64>, Summary)> {
    let mut model = tiny::model(device)?;
    let adapter = Adapter::create(&model, "default", LoraConfig { r: 2, ..LoraConfig::default() }, 1)?;
    let options = Options { batch: 1, grad_accum: 2, length: Length::Steps(5), ..Options::default() };
    let mut losses = Losses::default();
    let summary = train(&mut model, &adapter, &data(), &options, &mut losses, &AtomicBool::new(false))?;
    let plan = Plan::new(&model, &adapter, &data(), &options);
    assert_eq!((plan.trainable, plan.total, plan.steps), (summary.trainable_params, summary.total_params, 5));
    assert_eq!(plan.device, device.name());
    Ok((losses.0, summary))
}

#[test]
fn the_training_loop_starts_a_step_as_one() -> Outcome {
    let Some(device) = device("cuda") else { return Ok(()) };
    let (losses, summary) = trained(&device)?;
    let stats = device.stats();
    // The first step shows what the others are; evaluations before and after are one batch each.
    assert_eq!((stats.graph_launches, stats.graphs_recorded), (4 + 1, 2 + 1));
    for (step, (got, want)) in losses.iter().zip(trained(&Device::cpu()?)?.0).enumerate() {
        assert!((got - want).abs() <= 1e-3, "step {step}: {got}, on the CPU {want}");
    }
    assert!(losses.len() == 5 && summary.peak_bytes > 0 && !summary.interrupted);
    Ok(())
}

/// Activations and base in bf16: the CPU's losses but for what rounds the other way, by as many kernels as in f32 and in less
/// memory; and the same bits in one launch.
#[test]
fn activations_in_bf16_have_the_losses_of_the_cpu() -> Outcome {
    let config = || LoraConfig { r: 8, init: Init::BothRandom, ..LoraConfig::default() };
    for precision in [Precision::Full, Precision::Bf16] {
        let start = |name: &str, activations: DType| -> Outcome<Option<(Device, Run)>> {
            let Some(device) = device(name) else { return Ok(None) };
            device.set_precision(precision)?;
            device.set_activations(activations)?;
            let run = Run::on(tiny::model_in(DType::BF16, &device)?, LENGTH, config())?;
            device.backend().reset_peak();
            Ok(Some((device, run)))
        };
        let Some((device, mut here)) = start("cuda", DType::BF16)? else { return Ok(()) };
        let Some((wide_device, mut wide)) = start("cuda", DType::F32)? else { return Ok(()) };
        let (Some((_, mut again)), Some((_, mut there))) = (start("cuda", DType::BF16)?, start("cpu", DType::BF16)?)
        else {
            return Ok(());
        };
        again.repeated = true;
        let mut apart = 0.0f64;
        for step in 0..4 {
            let before = [device.stats().launches, wide_device.stats().launches];
            let losses = [here.step(step)?, wide.step(step)?];
            let kernels = [device.stats().launches - before[0], wide_device.stats().launches - before[1]];
            // On Hopper the output head's x and gy need no copies.
            let fewer = kernels[1] - kernels[0];
            assert!(
                fewer == 0 || fewer == 2 && precision == Precision::Bf16,
                "{precision:?}, step {step}: {kernels:?}"
            );
            let [got, f32s] = [losses[0].item()?, losses[1].item()?];
            let want = there.step(step)?.item()?;
            again.step(step)?;
            // Forward alone differs where sums lie near the middle of two bf16; later steps start from other adapters.
            let allowed = match (precision, step) {
                (Precision::Full, 0) => 1e-4,
                (Precision::Full, _) => 2e-3,
                _ => 8e-3,
            };
            assert!((got - want).abs() <= allowed, "{precision:?}, step {step}: {got}, on the CPU {want}");
            apart = apart.max((got - f32s).abs());
        }
        assert!(apart > 0.0, "nothing was rounded");
        assert!(device.stats().bytes_peak < wide_device.stats().bytes_peak);
        assert!(here.bits()? == again.bits()?, "other bits in one launch");
    }
    Ok(())
}

/// Every way to start and to adapt, as `lowrank train --init … --method …` has them.
#[test]
fn inits_and_methods_have_the_losses_of_the_cpu() -> Outcome {
    let Some(device) = device("cuda") else { return Ok(()) };
    let base = || LoraConfig { r: 2, targets: "q_proj,down_proj".parse().expect("targets"), ..LoraConfig::default() };
    let inits = ["both-random", "orthogonal", "pissa", "pissa:niter=4", "olora", "eva:batches=2", "lora-ga:batches=2"];
    let mut configs: Vec<LoraConfig> = Vec::new();
    for init in inits.into_iter().chain(["lora-ga:batches=2,estimator=streamed"]) {
        configs.push(LoraConfig { init: init.parse()?, ..base() });
    }
    configs.push(LoraConfig { use_dora: true, ..base() });
    configs.extend([Method::Full, Method::Bottleneck].map(|method| LoraConfig { method, ..base() }));
    for config in configs {
        let name = format!("{} {} dora {}", config.method, config.init, config.use_dora);
        let run = |device: &Device| Run::on(tiny::model(device)?, 9, config.clone());
        compare(run(&device)?, run(&Device::cpu()?)?, 3, &name)?;
    }
    Ok(())
}

#[test]
fn the_doctor_finds_what_it_finds_on_the_cpu() -> Outcome {
    let Some(device) = device("cuda") else { return Ok(()) };
    let examined = |device: &Device| -> Outcome<Examination> {
        let mut model = tiny::model(device)?;
        let config = LoraConfig { r: 2, init: "both-random".parse()?, ..LoraConfig::default() };
        let adapter = Adapter::create(&model, "default", config, 1)?;
        let batch = Batch::new(&data().train[..2], device)?;
        let loss = |model: &Llama| model.loss(&batch.ids, &batch.targets, batch.counted as f64);
        let options = DoctorOptions { lr: 1e-2, clip: Some(1.0), fresh: true, energy: Some(0.5) };
        Ok(examine(&mut model, &adapter, &|m| Ok(loss(m)?), &options)?)
    };
    let (here, there) = (examined(&device)?, examined(&Device::cpu()?)?);
    let near = |what: &str, a: Option<f64>, b: Option<f64>| {
        let (Some(a), Some(b)) = (a, b) else { return assert_eq!(a, b, "{what}") };
        assert!((a - b).abs() <= 1e-3 * b.abs().max(1e-3), "{what}: {a}, on the CPU {b}");
    };
    near("base", here.base_loss, there.base_loss);
    near("loss", here.loss, there.loss);
    near("loss after a step", here.loss_after, there.loss_after);
    assert_eq!(here.layers.len(), there.layers.len());
    for (a, b) in here.layers.iter().zip(&there.layers) {
        near("ratio", a.ratio, b.ratio);
        near("update", a.update_ratio, b.update_ratio);
        assert_eq!((a.suggested_rank, a.both_zero), (b.suggested_rank, b.both_zero));
    }
    let faults = |e: &Examination| e.findings.iter().map(|f| (f.fault, f.layer.clone())).collect::<Vec<_>>();
    assert_eq!(faults(&here), faults(&there));
    Ok(())
}

#[test]
fn a_sweep_has_the_losses_of_the_cpu() -> Outcome {
    let Some(device) = device("cuda") else { return Ok(()) };
    let swept = |device: &Device| -> Outcome<Sweep> {
        let mut model = tiny::model(device)?;
        let mut cells = Vec::new();
        for (r, lr) in [(2, 1e-2), (3, 1e-2), (2, 1e-3)] {
            let adapter = Adapter::create(&model, "default", LoraConfig { r, ..LoraConfig::default() }, 1)?;
            let options = Options { batch: 2, length: Length::Steps(3), lr, ..Options::default() };
            cells.push(Cell { adapter, options });
        }
        Ok(sweep(&mut model, &data(), cells, 2, &|| {}, &AtomicBool::new(false))?)
    };
    let (here, there) = (swept(&device)?, swept(&Device::cpu()?)?);
    for (i, (a, b)) in here.cells.iter().zip(&there.cells).enumerate() {
        assert!((a.loss - b.loss).abs() <= 1e-3, "cell {i}: {}, on the CPU {}", a.loss, b.loss);
        assert_eq!((a.curve.len(), a.error.is_none()), (3, true));
    }
    Ok(())
}

#[test]
fn adapters_in_one_batch_have_the_bits_of_each_alone() -> Outcome {
    let Some(device) = device("cuda") else { return Ok(()) };
    adapters_share_a_batch(device, LENGTH)
}

#[test]
fn so_they_have_with_activations_in_bf16() -> Outcome {
    let Some(device) = device("cuda") else { return Ok(()) };
    device.set_activations(DType::BF16)?;
    adapters_share_a_batch(device, LENGTH)
}
