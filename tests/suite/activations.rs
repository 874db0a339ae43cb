//! Activations in bf16 (`Device::set_activations`): every operation on every device that has them, and products on every path
//! of CPU kernels.
//!
//! What holds: values are widened when they are read, computed as in f32, and each result is rounded once. So integers come
//! out as the true value rounded to bf16, to the bit, also where a gradient is added to one that is there; random numbers are
//! as near as in f32, and half a unit of bf16. Parameters and their gradients stay f32.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use half::bf16;
use libtest_mimic::{Failed, Trial};
use lowrank_core::{DType, Device, Precision, Result, Tensor};
use lowrank_cpu::{Cpu, Path};

use crate::case::{Bound, Case, Ran, Values, absolute};
use crate::devices::{self, Target};
use crate::random::Random;
use crate::report::{self, Outcome, ensure, equal, remember, within};
use crate::{cases, message};

/// Half a unit in the last place of bf16, relative.
const ROUNDING: f64 = 1.0 / 256.0;

/// Operations on CPU kernels of which there are several.
const PRODUCTS: [&str; 5] = ["attention", "linear", "lora_linear", "lora_linear_multi", "matmul"];

/// Compositions that round in between, in activations of their own.
const COMPOSED: [&str; 8] = ["cast", "div", "exp", "log", "max", "mean", "sqrt", "tanh"];

/// Whether input `i` is an activation, not a parameter or table beside it.
fn is_activation(op: &str, i: usize) -> bool {
    match op {
        "linear" | "lora_linear" | "lora_linear_multi" | "dora_linear" | "rms_norm" | "layer_norm" | "rope" => i == 0,
        "embedding" | "lora_embedding" => false,
        _ => true,
    }
}

/// How many roundings of the largest element a result and a gradient may be off beside their own: what was rounded before it
/// was kept for backward (y of attention and softmax), or on the way (DoRA's product, and gy ⊙ g).
fn rounded_before(op: &str) -> [f64; 2] {
    match op {
        "attention" => [0.0, 4.0],
        "softmax" => [0.0, 4.0],
        "dora_linear" => [1.0, 4.0],
        _ => [0.0, 0.0],
    }
}

fn round(values: &[f64]) -> Vec<f64> {
    values.iter().map(|&x| bf16::from_f64(x).to_f64()).collect()
}

/// The values of a row as they are stored.
fn stored(case: &Case, integers: bool) -> Values {
    let mut values = case.values(integers);
    for (i, values) in values.iter_mut().enumerate().filter(|(i, _)| is_activation(case.op, *i)) {
        // Numbers of tokens are not rounded.
        if case.inputs[i].is_float() {
            *values = round(values);
        }
    }
    values
}

fn tensors(case: &Case, values: &[Vec<f64>], device: &Device) -> Result<Vec<Tensor>> {
    case.tensors_of(values, |i| if is_activation(case.op, i) { DType::BF16 } else { DType::F32 }, device)
}

/// The truth, from the reference in f64 on what is stored: computed once for all devices and paths.
fn truth(case: &Case, kind: &'static str, values: &[Vec<f64>], gy: &[f64]) -> std::result::Result<Arc<Ran>, Failed> {
    static KNOWN: Mutex<BTreeMap<(String, &str), Arc<Ran>>> = Mutex::new(BTreeMap::new());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (case.name(), kind);
    if let Some(ran) = known().get(&key) {
        return Ok(ran.clone());
    }
    let reference = &devices::all()[0];
    let ran = Arc::new(case.run(reference, &reference.open()?, values, Some(gy))?);
    known().insert(key, ran.clone());
    Ok(ran)
}

/// Trials for a device; none if it does not have such activations. Where products round their operands, of products alone.
pub fn trials(target: &Target) -> Vec<Trial> {
    let [_, operands] = target.units();
    if !target.present() || !target.open().is_ok_and(|d| d.backend().supports_activations(DType::BF16)) {
        return Vec::new();
    }
    let rounding = target.rounds_products();
    let wanted = |op: &str| if rounding { PRODUCTS.contains(&op) } else { !COMPOSED.contains(&op) };
    let ops = cases::by_op().iter().filter(|(op, _)| wanted(op));
    ops.map(|(op, rows)| {
        let target = target.clone();
        let name = format!("activations/{}/{op}", target.name);
        // Plain loops take their time.
        let rows = rows.iter().filter(|case| !target.is_reference() || case.is_small()).collect();
        trial(name, rows, operands, move || target.open())
    })
    .collect()
}

/// Trials for every path of CPU kernels, in full precision and with operands of bf16.
pub fn on_paths() -> Vec<Trial> {
    let mut trials = Vec::new();
    for path in Path::ALL {
        if !path.available() {
            trials.push(Trial::test(format!("activations/{path}"), || Ok(())).with_ignored_flag(true));
            continue;
        }
        for (op, rows) in cases::by_op().iter().filter(|(op, _)| PRODUCTS.contains(op)) {
            for precision in [Precision::Full, Precision::Bf16] {
                if precision == Precision::Bf16 && *op == "attention" {
                    continue; // it has f32 products in either mode
                }
                let open = move || {
                    let device = Device::new(Arc::new(Cpu::with_path(path)?))?;
                    device.set_precision(precision)?;
                    Ok(device)
                };
                let operands = if precision == Precision::Bf16 { ROUNDING } else { 0.0 };
                let name = format!("activations/{path}-{}/{op}", precision.name());
                trials.push(trial(name, rows.iter().collect(), operands, open));
            }
        }
    }
    trials
}

fn trial(
    name: String,
    rows: Vec<&'static Case>,
    operands: f64,
    open: impl Fn() -> Result<Device> + Send + 'static,
) -> Trial {
    Trial::test(name, move || {
        let failures: Vec<String> = rows
            .iter()
            .filter_map(|case| {
                let checked = open().map_err(Failed::from).and_then(|device| {
                    device.set_activations(DType::BF16)?;
                    // Sums of ranks are rounded to operands too: no longer integers.
                    if operands == 0.0 && case.exact {
                        exact(case, &device)?;
                    }
                    near(case, &device, operands)
                });
                checked.err().map(|e| message(&case.name(), &e))
            })
            .collect();
        if failures.is_empty() { Ok(()) } else { report::fail(failures.join("\n")) }
    })
}

/// Integers: the truth, rounded once where it is an activation; twice through backward, the first gradient and the sum.
fn exact(case: &Case, device: &Device) -> Outcome {
    let values = stored(case, true);
    let gy = Random::of(&case.name()).small_integers(case.output_len());
    let want = truth(case, "integers", &values, &gy)?;
    let inputs = tensors(case, &values, device)?;
    device.begin_step(1)?;
    let y = (case.build)(&inputs)?;
    let expected = if y.dtype() == DType::BF16 { round(&want.y) } else { want.y.clone() };
    equal("result on integers", &y.to_f64()?, &expected)?;
    if !case.has_grad() {
        return Ok(());
    }
    drop(y);
    for times in 1..=2 {
        let ran = case.run_on(&inputs, Some(&gy))?;
        for (i, want) in want.grads.iter().enumerate() {
            let (Some(got), Some(want)) = (&ran.grads[i], want) else {
                ensure(ran.grads[i].is_some() == want.is_some(), || format!("gradient {i} on one device only"))?;
                continue;
            };
            let narrow = inputs[i].dtype() == DType::BF16;
            let mut sum = if narrow { round(want) } else { want.clone() };
            if times == 2 {
                sum.iter_mut().zip(want).for_each(|(sum, want)| *sum += want);
                sum = if narrow { round(&sum) } else { sum };
            }
            equal(&format!("gradient of input {i} on integers, {times} times"), got, &sum)?;
        }
    }
    Ok(())
}

/// Random numbers.
fn near(case: &Case, device: &Device, operands: f64) -> Outcome {
    let values = stored(case, false);
    let gy = round(&Random::of(&case.name()).vec(case.output_len()));
    let want = truth(case, "random", &values, &gy)?;
    let ran = case.run_on(&tensors(case, &values, device)?, Some(&gy))?;
    let absolutes = absolute(&values);
    let units = [2f64.powi(-24), operands];
    let [y_before, grad_before] = rounded_before(case.op);
    let allowed = |bound: Bound, truth: &[f64], magnitudes: &dyn Fn() -> Vec<f64>, before: f64| -> Vec<f64> {
        let largest = truth.iter().fold(0.0f64, |m, y| m.max(y.abs()));
        let own = bound.allowed(truth, magnitudes, units);
        own.iter().zip(truth).map(|(own, t)| (1.0 + ROUNDING) * own + ROUNDING * (t.abs() + before * largest)).collect()
    };
    let limits = allowed(case.bound, &want.y, &|| (case.oracle)(&absolutes), y_before);
    let mut ratio = within("result", &ran.y, &want.y, &limits)?;
    let bound = case.grad_bound.unwrap_or(case.bound);
    let sums = match bound {
        Bound::Product(_) if case.has_grad() => {
            let gy: Vec<f64> = gy.iter().map(|g| g.abs()).collect();
            truth(case, "magnitudes", &absolutes, &gy)?.grads.clone()
        }
        _ => vec![None; want.grads.len()],
    };
    for (i, (got, want)) in ran.grads.iter().zip(&want.grads).enumerate() {
        ensure(got.is_some() == want.is_some(), || format!("gradient {i} on one device only"))?;
        let (Some(got), Some(want)) = (got, want) else { continue };
        let limits = allowed(bound, want, &|| sums[i].clone().unwrap_or_default(), grad_before);
        ratio = ratio.max(within(&format!("gradient of input {i}"), got, want, &limits)?);
    }
    remember("bf16 act.", case.op, &device.name(), &case.variant, ratio);
    Ok(())
}
