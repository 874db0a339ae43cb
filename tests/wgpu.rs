//! Training on wgpu: the CPU's losses, no waits, nothing uploaded but the batch, a known number of kernels a step.
//!
//! Without an adapter this says so and passes; `LOWRANK_REQUIRE=wgpu` makes that a failure.

use std::error::Error;
use std::path::Path;

use lowrank_core::optim::{AdamW, AdamWOptions, Group};
use lowrank_core::{DType, Device, Tensor, philox};
use lowrank_lora::{Adapter, Host, Init, LoraConfig, Method, attach};
use lowrank_models::Llama;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const STEPS: u32 = 20;
const BATCH: usize = 2;
const LENGTH: usize = 33;

/// Kernels of one training step of glass-en with LoRA on q and v, as recorded. A change that adds some shows here.
const LAUNCHES: u64 = 258;

fn wgpu() -> Option<Device> {
    let required = std::env::var("LOWRANK_REQUIRE").is_ok_and(|names| names.split(',').any(|n| n.trim() == "wgpu"));
    match Device::from_name("wgpu") {
        Ok(device) => Some(device),
        Err(e) if required => panic!("{e}"),
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
    }
}

/// The built-in model with an adapter, its optimiser, and random tokens.
struct Run {
    device: Device,
    model: Llama,
    adapter: Adapter,
    optimiser: AdamW,
}

impl Run {
    fn new(device: Device) -> Outcome<Self> {
        Run::with(device, LoraConfig { r: 8, dropout: 0.1, init: Init::Default, ..LoraConfig::default() })
    }

    fn with(device: Device, config: LoraConfig) -> Outcome<Self> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/cli/data/glass-en");
        let json = std::fs::read_to_string(dir.join("config.json"))?;
        let weights = std::fs::read(dir.join("model.safetensors"))?;
        let files = [("model.safetensors".to_string(), &weights[..])];
        let mut model = Llama::from_files("config.json", &json, &files, &device, DType::F32)?;
        let adapter = match config.init {
            Init::LoraGa(_) | Init::Eva { .. } => {
                let mut loss = |model: &Llama, batch: usize| {
                    let mut random = philox::Rng::new(9, batch as u32);
                    let ids: Vec<u32> = (0..LENGTH).map(|_| random.below(1000)).collect();
                    let targets = Tensor::from_slice(&ids, &[LENGTH], model.device())?;
                    model.loss(&model.ids(&ids, 1, LENGTH)?, &targets, LENGTH as f64)
                };
                Adapter::create_with_data(&mut model, "default", config, 1, &mut loss)?.0
            }
            _ => Adapter::create(&model, "default", config, 1)?,
        };
        attach(&mut model, &adapter)?;
        let group = Group { params: adapter.parameters(), lr: 5e-3, weight_decay: 0.01 };
        let optimiser = AdamW::new(vec![group], AdamWOptions::default())?;
        Ok(Run { device, model, adapter, optimiser })
    }

    /// One step; the loss stays on the device.
    fn step(&mut self, step: u32) -> Outcome<Tensor> {
        let mut random = philox::Rng::new(7, step % 4);
        let tokens: Vec<u32> = (0..BATCH * (LENGTH + 1)).map(|_| random.below(1000)).collect();
        let rows = |from: usize| -> Vec<u32> {
            tokens.chunks(LENGTH + 1).flat_map(|row| row[from..from + LENGTH].to_vec()).collect()
        };
        self.device.begin_step(step)?;
        self.optimiser.zero_grad();
        let ids = Tensor::from_slice(&rows(0), &[BATCH, LENGTH], &self.device)?;
        let targets = Tensor::from_slice(&rows(1), &[BATCH * LENGTH], &self.device)?;
        let loss = self.model.loss(&ids, &targets, (BATCH * LENGTH) as f64)?;
        let kept = loss.detach();
        loss.backward()?;
        self.optimiser.step(1.0, Some(1.0))?;
        Ok(kept)
    }
}

#[test]
fn twenty_steps_have_the_losses_of_the_cpu() -> Outcome {
    let Some(device) = wgpu() else { return Ok(()) };
    let (mut here, mut there) = (Run::new(device)?, Run::new(Device::cpu()?)?);
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let (got, want) = (here.step(step)?.item()?, there.step(step)?.item()?);
        assert!((got - want).abs() <= 1e-3, "step {step}: {got}, on the CPU {want}");
        losses.push(got);
    }
    assert!(losses[19] < losses[3] - 0.1, "nothing was learned: {losses:?}");
    Ok(())
}

#[test]
fn a_step_waits_for_nothing_and_uploads_only_the_batch() -> Outcome {
    let Some(device) = wgpu() else { return Ok(()) };
    let mut run = Run::new(device)?;
    let mut late: Option<Tensor> = None;
    for step in 0..4 {
        let before = run.device.stats();
        let loss = run.step(step)?;
        let after = run.device.stats();
        assert_eq!(after.waits, before.waits, "step {step} waited");
        assert_eq!(after.bytes_downloaded, before.bytes_downloaded, "step {step} read something back");
        // Ids and targets; the 64 scalars of the step, and again those of the optimiser.
        let batch = 2 * 4 * BATCH * LENGTH + 2 * 256;
        assert_eq!(after.bytes_uploaded - before.bytes_uploaded, batch as u64, "bytes uploaded in step {step}");
        assert_eq!(after.launches - before.launches, LAUNCHES, "kernels in step {step}");
        // The loss of the step before is read while this one is under way.
        if let Some(loss) = late.replace(loss) {
            assert!(loss.item()?.is_finite());
            let read = run.device.stats();
            assert_eq!(read.bytes_downloaded - after.bytes_downloaded, 4);
        }
    }
    Ok(())
}

#[test]
fn the_same_bits_on_every_run() -> Outcome {
    let Some(device) = wgpu() else { return Ok(()) };
    let mut all = Vec::new();
    for _ in 0..2 {
        let mut run = Run::new(device.clone())?;
        for step in 0..3 {
            run.step(step)?;
        }
        let mut values = Vec::new();
        for (_, parameter) in run.adapter.parameters() {
            values.extend(parameter.to_vec::<f32>()?.into_iter().map(f32::to_bits));
        }
        all.push(values);
    }
    assert!(all[0] == all[1], "two runs gave different adapters");
    Ok(())
}

/// Singular vectors of close singular values are not unique to rounding, so few leading ones of a real model are taken.
#[test]
fn inits_and_methods_have_the_losses_of_the_cpu() -> Outcome {
    let Some(device) = wgpu() else { return Ok(()) };
    let base = || LoraConfig { r: 2, targets: "q_proj,down_proj".parse().expect("targets"), ..LoraConfig::default() };
    let mut configs: Vec<LoraConfig> = Vec::new();
    for init in ["pissa:niter=4", "olora", "eva:batches=2", "lora-ga:batches=2", "lora-ga:batches=2,estimator=streamed"]
    {
        configs.push(LoraConfig { init: init.parse()?, ..base() });
    }
    configs.extend([Method::Full, Method::Bottleneck].map(|method| LoraConfig { method, ..base() }));
    for config in configs {
        let name = format!("{} {}", config.method, config.init);
        let (mut here, mut there) = (Run::with(device.clone(), config.clone())?, Run::with(Device::cpu()?, config)?);
        for step in 0..3 {
            let (got, want) = (here.step(step)?.item()?, there.step(step)?.item()?);
            assert!((got - want).abs() <= 1e-3, "{name}, step {step}: {got}, on the CPU {want}");
        }
    }
    Ok(())
}
