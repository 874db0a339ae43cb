//! The devices every case runs on: each processor with its fused operations and without them.

use lowrank_core::{DType, Device, Precision, Result};

use crate::report::Outcome;

/// Trials that are a function of a device, by name.
pub type Checks = &'static [(&'static str, fn(&Target) -> Outcome)];

/// A device under test. Every trial opens its own, so that counters, seeds and steps are not shared.
#[derive(Clone, Debug)]
pub struct Target {
    /// As it shows in the names of trials: `cpu`, `cpu-unfused`.
    pub name: String,
    /// As `Device::from_name` takes it.
    base: &'static str,
    /// Without its fused operations.
    pub unfused: bool,
    /// How it computes products.
    precision: Precision,
}

/// Processors in the order of trials.
const BASES: [&str; 4] = ["reference", "cpu", "cuda", "wgpu"];

/// All devices, absent ones included.
pub fn all() -> Vec<Target> {
    let mut targets = Vec::new();
    for base in BASES {
        let precision = Precision::Full;
        targets.push(Target { name: base.into(), base, unfused: false, precision });
        // The reference has nothing but the definitions: Unfused over it is the same code.
        if base != "reference" {
            targets.push(Target { name: format!("{base}-unfused"), base, unfused: true, precision });
        }
    }
    let (name, precision) = ("cuda-bf16".into(), Precision::Bf16);
    targets.push(Target { name, base: "cuda", unfused: false, precision });
    targets
}

/// Names in `LOWRANK_REQUIRE` that are no device: a misspelt one would require nothing.
pub fn unknown_required() -> Vec<String> {
    required().into_iter().filter(|name| !BASES.contains(&name.as_str())).collect()
}

fn required() -> Vec<String> {
    let list = std::env::var("LOWRANK_REQUIRE").unwrap_or_default();
    list.split(',').map(|name| name.trim().to_string()).filter(|name| !name.is_empty()).collect()
}

impl Target {
    /// A fresh device.
    pub fn open(&self) -> Result<Device> {
        let device = Device::from_name(self.base)?;
        if self.rounds_products() {
            device.set_precision(self.precision)?;
        }
        if self.unfused { device.unfused() } else { Ok(device) }
    }

    /// Whether the device is here; an absent one that `LOWRANK_REQUIRE=cpu,cuda` names is no excuse.
    pub fn present(&self) -> bool {
        required().iter().any(|name| name == self.base) || self.open().is_ok()
    }

    /// Whether it is an NVIDIA GPU, or the interpreter in its place, where everything takes long.
    pub fn is_cuda(&self) -> bool {
        self.base == "cuda"
    }

    /// Whether products round their operands: only operations that are nothing but products can be held to a bound then.
    pub fn rounds_products(&self) -> bool {
        self.precision != Precision::Full
    }

    /// Largest relative error of one rounding, and of what is rounded before it is multiplied.
    pub fn units(&self) -> [f64; 2] {
        [self.unit(), if self.rounds_products() { 2f64.powi(-8) } else { 0.0 }]
    }

    /// Whether it is the f64 oracle.
    pub fn is_reference(&self) -> bool {
        self.base == "reference"
    }

    /// Dtype of activations, adapters and gradients.
    pub fn dtype(&self) -> DType {
        if self.is_reference() { DType::F64 } else { DType::F32 }
    }

    /// Largest relative error of one rounding in that dtype.
    pub fn unit(&self) -> f64 {
        if self.is_reference() { 2f64.powi(-53) } else { 2f64.powi(-24) }
    }
}
