//! Training a small real model on a device: what every GPU backend has to show.

use std::error::Error;
use std::path::PathBuf;

use lowrank_core::optim::{AdamW, AdamWOptions, Group};
use lowrank_core::{DType, Device, Tensor, philox};
use lowrank_lora::{Adapter, Host, Init, LoraConfig, attach, attach_rows};
use lowrank_models::Llama;

pub type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const BATCH: usize = 2;

/// The device, if it is here; `LOWRANK_REQUIRE` makes its absence a failure.
pub fn device(name: &str) -> Option<Device> {
    let required = std::env::var("LOWRANK_REQUIRE").is_ok_and(|names| names.split(',').any(|n| n.trim() == name));
    match Device::from_name(name) {
        Ok(device) => Some(device),
        Err(e) if required => panic!("{e}"),
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
    }
}

/// The built-in model with an adapter, its optimiser, and random tokens.
pub struct Run {
    /// Tokens of a sequence.
    pub length: usize,
    device: Device,
    model: Llama,
    adapter: Adapter,
    optimiser: AdamW,
    /// Whether steps are put to the device as ones that come again.
    pub repeated: bool,
}

impl Run {
    pub fn new(device: Device, length: usize) -> Outcome<Self> {
        Run::with(device, length, LoraConfig { r: 8, dropout: 0.1, init: Init::Default, ..LoraConfig::default() })
    }

    pub fn with(device: Device, length: usize, config: LoraConfig) -> Outcome<Self> {
        // On another machine than this repository's, the variable says where a copy of the data is.
        let data = std::env::var_os("LOWRANK_TEST_DATA").map(PathBuf::from);
        let dir = data.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).join("crates/cli/data/glass-en");
        let json = std::fs::read_to_string(dir.join("config.json"))?;
        let weights = std::fs::read(dir.join("model.safetensors"))?;
        let files = [("model.safetensors".to_string(), &weights[..])];
        let model = Llama::from_files("config.json", &json, &files, &device, DType::F32)?;
        Run::on(model, length, config)
    }

    /// With a model whose vocabulary has 1000 tokens or more.
    pub fn on(mut model: Llama, length: usize, config: LoraConfig) -> Outcome<Self> {
        let device = model.device().clone();
        let adapter = match config.init {
            Init::LoraGa(_) | Init::Eva { .. } => {
                let mut loss = |model: &Llama, batch: usize| {
                    let mut random = philox::Rng::new(9, batch as u32);
                    let ids: Vec<u32> = (0..length).map(|_| random.below(1000)).collect();
                    let targets = Tensor::from_slice(&ids, &[length], model.device())?;
                    model.loss(&model.ids(&ids, 1, length)?, &targets, length as f64)
                };
                Adapter::create_with_data(&mut model, "default", config, 1, &mut loss)?.0
            }
            _ => Adapter::create(&model, "default", config, 1)?,
        };
        attach(&mut model, &adapter)?;
        let group = Group { params: adapter.parameters(), lr: 5e-3, weight_decay: 0.01 };
        let optimiser = AdamW::new(vec![group], AdamWOptions::default())?;
        Ok(Run { length, device, model, adapter, optimiser, repeated: false })
    }

    /// One step; the loss stays on the device.
    pub fn step(&mut self, step: u32) -> Outcome<Tensor> {
        if !self.repeated {
            return self.work(step);
        }
        let device = self.device.clone();
        device.repeated(|| self.work(step))
    }

    fn work(&mut self, step: u32) -> Outcome<Tensor> {
        let length = self.length;
        let mut random = philox::Rng::new(7, step % 4);
        let tokens: Vec<u32> = (0..BATCH * (length + 1)).map(|_| random.below(1000)).collect();
        let rows = |from: usize| -> Vec<u32> {
            tokens.chunks(length + 1).flat_map(|row| row[from..from + length].to_vec()).collect()
        };
        self.device.begin_step(step)?;
        self.optimiser.zero_grad();
        let ids = Tensor::from_slice(&rows(0), &[BATCH, length], &self.device)?;
        let targets = Tensor::from_slice(&rows(1), &[BATCH * length], &self.device)?;
        let loss = self.model.loss(&ids, &targets, (BATCH * length) as f64)?;
        let kept = loss.detach();
        loss.backward()?;
        self.optimiser.step(1.0, Some(1.0))?;
        Ok(kept)
    }
}

impl Run {
    /// The adapter.
    pub fn bits(&self) -> Outcome<Vec<u32>> {
        let mut values = Vec::new();
        for (_, parameter) in self.adapter.parameters() {
            values.extend(parameter.to_vec::<f32>()?.into_iter().map(f32::to_bits));
        }
        Ok(values)
    }
}

/// The losses of the steps, each of them the CPU's within 1e-3.
pub fn losses_of_the_cpu(device: Device, length: usize, steps: u32) -> Outcome<Vec<f64>> {
    compare(Run::new(device, length)?, Run::new(Device::cpu()?, length)?, steps, "default")
}

/// The same for two runs that were set up alike.
pub fn compare(mut here: Run, mut there: Run, steps: u32, name: &str) -> Outcome<Vec<f64>> {
    let mut losses = Vec::new();
    for step in 0..steps {
        let (got, want) = (here.step(step)?.item()?, there.step(step)?.item()?);
        assert!((got - want).abs() <= 1e-3, "{name}, step {step}: {got}, on the CPU {want}");
        losses.push(got);
    }
    Ok(losses)
}

/// No waits, nothing uploaded but the batch and the scalars, nothing read back but loss and gradient norm of the step
/// before, and `launches` kernels a step.
pub fn waits_for_nothing(device: Device, length: usize, steps: u32, launches: u64) -> Outcome {
    let mut run = Run::new(device, length)?;
    let mut late: Option<[Tensor; 2]> = None;
    for step in 0..steps {
        let before = run.device.stats();
        let told = [run.step(step)?, run.optimiser.norm_tensor()?];
        let after = run.device.stats();
        assert_eq!(after.waits, before.waits, "step {step} waited");
        assert_eq!(after.bytes_downloaded, before.bytes_downloaded, "step {step} read something back");
        // Ids and targets; the 64 scalars of the step, and again those of the optimiser.
        let batch = 2 * 4 * BATCH * length + 2 * 256;
        assert_eq!(after.bytes_uploaded - before.bytes_uploaded, batch as u64, "bytes uploaded in step {step}");
        assert_eq!(after.launches - before.launches, launches, "kernels in step {step}");
        // What the step before left is read while this one is under way.
        if let Some([loss, norm]) = late.replace(told) {
            assert!(loss.item()?.is_finite() && norm.item()? > 0.0);
            let read = run.device.stats();
            assert_eq!(read.bytes_downloaded - after.bytes_downloaded, 8);
        }
    }
    Ok(())
}

/// Two runs end with the same adapter.
pub fn same_bits(device: &Device, length: usize, steps: u32) -> Outcome {
    let mut all = Vec::new();
    for _ in 0..2 {
        let mut run = Run::new(device.clone(), length)?;
        for step in 0..steps {
            run.step(step)?;
        }
        all.push(run.bits()?);
    }
    assert!(all[0] == all[1], "two runs gave different adapters");
    Ok(())
}

/// Two adapters go through the base in one batch, of two sequences and of one: losses and gradients have the bits that each
/// has alone.
pub fn adapters_share_a_batch(device: Device, length: usize) -> Outcome {
    let config = |r, targets: &str| -> Outcome<LoraConfig> {
        Ok(LoraConfig { r, targets: targets.parse()?, init: Init::BothRandom, ..LoraConfig::default() })
    };
    let Run { mut model, adapter, .. } = Run::with(device.clone(), length, config(4, "all-linear")?)?;
    let adapters = [adapter, Adapter::create(&model, "second", config(7, "q_proj,down_proj")?, 2)?];
    let mut random = philox::Rng::new(5, 0);
    let tokens: Vec<u32> = (0..3 * length).map(|_| random.below(1000)).collect();
    let inputs = |first: usize, count: usize| -> Outcome<[Tensor; 2]> {
        let own = &tokens[first * length..(first + count) * length];
        Ok([Tensor::from_slice(own, &[count, length], &device)?, Tensor::from_slice(own, &[count * length], &device)?])
    };
    let bits = |t: &Tensor| -> Outcome<Vec<u32>> { Ok(t.to_vec::<f32>()?.iter().map(|x| x.to_bits()).collect()) };
    let gradients = |adapter: &Adapter| -> Outcome<Vec<Vec<u32>>> {
        let own = adapter.parameters();
        let all =
            own.iter().map(|(name, t)| bits(&t.grad().ok_or_else(|| format!("no gradient of {name}"))?)).collect();
        own.iter().for_each(|(_, t)| t.zero_grad());
        all
    };
    let mut alone = Vec::new();
    for (adapter, (first, count)) in adapters.iter().zip([(0, 2), (2, 1)]) {
        attach(&mut model, adapter)?;
        device.begin_step(0)?;
        let [ids, targets] = inputs(first, count)?;
        let loss = model.loss(&ids, &targets, (3 * count) as f64)?;
        let value = bits(&loss)?;
        loss.backward()?;
        alone.push((value, gradients(adapter)?));
    }
    attach_rows(&mut model, &adapters.each_ref(), &[Some(0), Some(0), Some(1)])?;
    device.begin_step(0)?;
    let [ids, targets] = inputs(0, 3)?;
    let losses = model.losses(&ids, &targets, &[(2, 6.0), (1, 3.0)])?;
    let values = bits(&losses)?;
    losses.sum()?.backward()?;
    for (i, (value, wanted)) in alone.iter().enumerate() {
        assert_eq!(values[i], value[0], "loss of adapter {i}");
        assert!(gradients(&adapters[i])? == *wanted, "gradients of adapter {i} have other bits than alone");
    }
    Ok(())
}
