//! Products of split operands (`--precision bf16x3`) on every path of CPU kernels: exact on integers, and within their bound.
//!
//! Tiles of AMX run on an emulator where the processor has none, so that the same machine code is tested everywhere; where
//! there is no emulator either, the path shows as ignored.

use std::sync::Arc;

use libtest_mimic::Trial;
use lowrank_core::{Device, Precision, Result};
use lowrank_cpu::{Cpu, Path};

use crate::case::{Bound, Case, absolute};
use crate::cases;
use crate::devices;
use crate::message;
use crate::random::Random;
use crate::report::{self, Outcome, ensure, equal, remember, within};

/// Operations that narrow their operands.
const PRODUCTS: [&str; 4] = ["matmul", "linear", "lora_linear", "lora_linear_multi"];

/// What a product of two operands, each a sum of two bf16, may lose.
const LOSS: f64 = 1.0 / 32768.0;

/// Puts an emulator behind AMX. To be called before any device is opened, since it adds a path.
pub fn emulate() {
    #[cfg(target_arch = "x86_64")]
    if !Path::Amx.available() && Path::Avx512Bf16.available() && amxsim::install() {
        // SAFETY: the emulator executes them on every thread.
        unsafe { lowrank_cpu::assume_amx() };
    }
}

/// One trial for each path and operation that is a product.
pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for path in Path::ALL {
        if !path.available() {
            trials.push(Trial::test(format!("bf16x3/{path}"), || Ok(())).with_ignored_flag(true));
            continue;
        }
        for (op, rows) in cases::by_op().iter().filter(|(op, _)| PRODUCTS.contains(op)) {
            let rows: Vec<&'static Case> = rows.iter().filter(|case| matches!(case.bound, Bound::Product(_))).collect();
            trials.push(Trial::test(format!("bf16x3/{path}/{op}"), move || {
                let failures: Vec<String> =
                    rows.iter().filter_map(|case| check(case, path).err().map(|e| message(&case.name(), &e))).collect();
                if failures.is_empty() { Ok(()) } else { report::fail(failures.join("\n")) }
            }));
        }
    }
    trials
}

fn open(path: Path) -> Result<Device> {
    let device = Device::new(Arc::new(Cpu::with_path(path)?))?;
    device.set_precision(Precision::Bf16x3)?;
    Ok(device)
}

fn check(case: &Case, path: Path) -> Outcome {
    let targets = devices::all();
    let (reference, cpu) = (&targets[0], &targets[1]);
    if case.exact {
        let values = case.values(true);
        let truth = (case.oracle)(&values);
        let gy = Random::of(&case.name()).small_integers(truth.len());
        let ran = case.run(cpu, &open(path)?, &values, Some(&gy))?;
        equal("result on integers", &ran.y, &truth)?;
        let want = case.run(reference, &reference.open()?, &values, Some(&gy))?;
        for (i, pair) in ran.grads.iter().zip(&want.grads).enumerate() {
            match pair {
                (Some(got), Some(want)) => equal(&format!("gradient of input {i} on integers"), got, want)?,
                (got, want) => ensure(got.is_some() == want.is_some(), || format!("gradient {i} on one device only"))?,
            }
        }
    }
    let values = case.values(false);
    let truth = (case.oracle)(&values);
    let ran = case.run(cpu, &open(path)?, &values, None)?;
    let magnitudes = (case.oracle)(&absolute(&values));
    let full = case.bound.allowed(&truth, || magnitudes.clone(), cpu.units());
    // The loss of W's product, and in a low-rank one that of h's.
    let allowed: Vec<f64> = full.iter().zip(&magnitudes).map(|(a, m)| a + LOSS * m.abs()).collect();
    let ratio = within("result", &ran.y, &truth, &allowed)?;
    remember("bf16x3", case.op, path.name(), &case.variant, ratio);
    Ok(())
}
