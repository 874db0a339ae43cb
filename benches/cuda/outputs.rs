//! What operations give on a device, bit by bit, to be compared with another device: the interpreter computes every
//! instruction as the PTX manual defines it, so a GPU differs from it only where the manual leaves room (approximations,
//! the sums inside a tensor core).

mod products;
mod rows;
mod steps;

use std::fmt::Write as _;

use lowrank_core::{DType, Device, Precision, Tensor};

use crate::{Outcome, values};

/// Elements of a result that are kept. Of more, one every so many, which is a prime that divides no size here: all rows and
/// columns have some.
const KEPT: usize = 400;
const APART: usize = 7919;

/// A result: its elements, and how far another device may be from them, in units of the largest.
struct Given {
    name: String,
    values: Vec<f32>,
    most: f32,
}

/// The results so far, of this device.
struct Results<'a> {
    device: &'a Device,
    all: Vec<Given>,
}

/// How far results may differ that products of this precision had a part in: the order of their sums, or an intermediate
/// that was rounded the other way.
fn most(precision: Precision) -> f32 {
    match precision {
        Precision::Full | Precision::Bf16x3 => 1e-5,
        Precision::Tf32 => 2e-3,
        Precision::Bf16 => 1e-2,
    }
}

impl Results<'_> {
    /// Uniform numbers on the device, as it stores them.
    fn on(&self, shape: &[usize], stream: u32, dtype: DType) -> Outcome<Tensor> {
        let values: Vec<f64> = values(shape, stream, DType::F32).into_iter().map(f64::from).collect();
        Ok(Tensor::from_f64(&values, shape, dtype, self.device)?)
    }

    /// The same as a leaf that collects a gradient.
    fn leaf(&self, shape: &[usize], stream: u32, dtype: DType) -> Outcome<Tensor> {
        Ok(self.on(shape, stream, dtype)?.trainable()?)
    }

    /// Keeps y, and with a random gradient of y those of the inputs.
    fn both(&mut self, name: &str, most: f32, y: &Tensor, inputs: &[(&str, &Tensor)]) -> Outcome {
        self.push(format!("{name}: y"), y, most)?;
        y.backward_with(self.on(y.shape(), 99, y.dtype())?)?;
        for (what, input) in inputs {
            let grad = input.grad().ok_or_else(|| format!("{name}: no {what}"))?;
            self.push(format!("{name}: {what}"), &grad, most)?;
        }
        Ok(())
    }

    fn push(&mut self, name: String, t: &Tensor, most: f32) -> Outcome {
        let all: Vec<f32> = t.to_f64()?.into_iter().map(|x| x as f32).collect();
        let kept = (0..all.len().min(KEPT)).map(|i| if all.len() > KEPT { i * APART % all.len() } else { i });
        // Stored as bf16, any intermediate may make it round the other way.
        let most = if t.dtype() == DType::F32 { most } else { most.max(1e-2) };
        self.all.push(Given { name, values: kept.map(|i| all[i]).collect(), most });
        Ok(())
    }
}

fn results(device: &Device) -> Outcome<Vec<Given>> {
    device.set_seed(3);
    device.begin_step(7)?;
    let mut results = Results { device, all: Vec::new() };
    products::linears(&mut results)?;
    products::attention(&mut results)?;
    for dtype in [DType::F32, DType::BF16] {
        device.set_activations(dtype)?;
        rows::rows(&mut results, dtype)?;
        rows::moving(&mut results, dtype)?;
    }
    for dtype in [DType::F32, DType::BF16] {
        device.set_activations(dtype)?;
        steps::repeated(&mut results, dtype)?;
    }
    device.set_activations(DType::F32)?;
    steps::sgd(&mut results)?;
    Ok(results.all)
}

/// One line a result: its name, a tab, and its elements' bits in hexadecimal.
pub fn text(device: &Device) -> Outcome<String> {
    let mut text = String::new();
    for Given { name, values, .. } in results(device)? {
        let bits: Vec<String> = values.iter().map(|v| format!("{:x}", v.to_bits())).collect();
        writeln!(text, "{name}\t{}", bits.join(" "))?;
    }
    Ok(text)
}

/// Prints, for every recorded result, how many elements have its bits here and how far the others are from it. An error
/// if one is further away than its precision explains.
pub fn compare(device: &Device, recorded: &str) -> Outcome {
    println!("{:<52} {:>9} {:>12} {:>14}", "against what was recorded", "elements", "same bits", "off by at most");
    let (mut lines, mut wrong) = (recorded.lines(), Vec::new());
    for Given { name, values: got, most } in results(device)? {
        let line = lines.next().and_then(|line| line.split_once('\t')).filter(|(n, _)| *n == name);
        let Some((_, bits)) = line else { return Err(format!("the recording has no {name}").into()) };
        let want: Vec<f32> =
            bits.split(' ').map(|word| u32::from_str_radix(word, 16).map(f32::from_bits)).collect::<Result<_, _>>()?;
        if want.len() != got.len() {
            return Err(format!("{name}: {} elements, recorded {}", got.len(), want.len()).into());
        }
        let same = got.iter().zip(&want).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
        let largest = want.iter().fold(1e-30f32, |m, v| m.max(v.abs()));
        let off = got.iter().zip(&want).fold(0f32, |m, (a, b)| {
            let off = (a - b).abs() / largest;
            m.max(if off.is_nan() { f32::INFINITY } else { off })
        });
        println!("{name:<52} {:>9} {:>11.1}% {off:>14.1e}", got.len(), 100.0 * same as f64 / got.len() as f64);
        if off > most {
            wrong.push(name);
        }
    }
    if let Some((name, _)) = lines.next().and_then(|line| line.split_once('\t')) {
        return Err(format!("recorded, but not computed here: {name}").into());
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("other results than recorded: {}", wrong.join(", ")).into()) }
}
