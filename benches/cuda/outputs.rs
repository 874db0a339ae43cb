//! What operations give on a device, bit by bit, to be compared with another device: the interpreter computes every
//! instruction as the PTX manual defines it, so a GPU differs from it only where the manual leaves room (approximations,
//! the sums inside a tensor core).

use std::fmt::Write as _;

use lowrank_core::{DType, Device, Precision, Tensor};

use crate::{Outcome, values};

/// (m, n, k, r): tails in every direction, the decode kernel, and whole tiles.
const SHAPES: [[usize; 4]; 3] = [[40, 48, 56, 5], [3, 70, 33, 4], [64, 64, 64, 16]];

/// Name and elements of every result.
type Results = Vec<(String, Vec<f32>)>;

fn results(device: &Device) -> Outcome<Results> {
    let mut all = Results::new();
    device.set_seed(3);
    device.begin_step(7)?;
    for [m, n, k, r] in SHAPES {
        for precision in [Precision::Full, Precision::Bf16x3, Precision::Tf32, Precision::Bf16] {
            device.set_precision(precision)?;
            let on =
                |shape: [usize; 2], stream| Tensor::from_slice(&values(&shape, stream, DType::F32), &shape, device);
            let (x, w, gy) = (on([m, k], 0)?.trainable()?, on([n, k], 1)?, on([m, n], 4)?);
            let (a, b) = (on([r, k], 2)?.trainable()?, on([n, r], 3)?.trainable()?);
            let y = x.lora_linear(&w, None, &a, &b, 2.0, 0.1)?;
            y.backward_with(gy)?;
            let name = format!("low-rank linear {m} {n} {k} {r} {}", precision.name());
            push(&mut all, &name, &y, &[("dx", &x), ("da", &a), ("db", &b)])?;
        }
        device.set_precision(Precision::Full)?;
    }
    let on = |shape: &[usize], stream| Tensor::from_slice(&values(shape, stream, DType::F32), shape, device);
    for (dim, precision) in [(16, Precision::Full), (16, Precision::Bf16), (72, Precision::Bf16)] {
        device.set_precision(precision)?;
        let [q, k, v] = [5, 6, 7].map(|stream| on(&[2, 19, 4, dim], stream).and_then(|t| t.trainable()));
        let (q, k, v) = (q?, k?, v?);
        let y = q.attention(&k, &v, true, None)?;
        y.backward_with(on(&[2, 19, 4, dim], 8)?)?;
        push(&mut all, &format!("attention {dim} {}", precision.name()), &y, &[("dq", &q), ("dk", &k), ("dv", &v)])?;
    }
    device.set_precision(Precision::Full)?;
    let (x, w) = (on(&[13, 200], 9)?.trainable()?, on(&[200], 10)?.trainable()?);
    let y = x.rms_norm(&w, 1e-5)?;
    y.backward_with(on(&[13, 200], 11)?)?;
    push(&mut all, "rms_norm", &y, &[("dx", &x), ("dw", &w)])?;
    let (gate, up) = (on(&[9, 77], 12)?.trainable()?, on(&[9, 77], 13)?.trainable()?);
    let y = gate.swiglu(&up)?;
    y.backward_with(on(&[9, 77], 14)?)?;
    push(&mut all, "swiglu", &y, &[("dgate", &gate), ("dup", &up)])?;
    let x = on(&[11, 301], 15)?.trainable()?;
    let targets: Vec<u32> = (0..11).map(|i| i * 27).collect();
    let loss = x.scale(3.0)?.cross_entropy(&Tensor::targets(&targets, &[11], 301, device)?, 11.0)?;
    loss.backward()?;
    push(&mut all, "cross_entropy", &loss, &[("dx", &x)])?;
    Ok(all)
}

fn push(all: &mut Results, name: &str, y: &Tensor, inputs: &[(&str, &Tensor)]) -> Outcome {
    all.push((format!("{name}: y"), y.to_vec::<f32>()?));
    for (what, input) in inputs {
        let grad = input.grad().ok_or_else(|| format!("{name}: no {what}"))?;
        all.push((format!("{name}: {what}"), grad.to_vec::<f32>()?));
    }
    Ok(())
}

/// One line a result: its name, a tab, and its elements' bits in hexadecimal.
pub fn text(device: &Device) -> Outcome<String> {
    let mut text = String::new();
    for (name, values) in results(device)? {
        let bits: Vec<String> = values.iter().map(|v| format!("{:x}", v.to_bits())).collect();
        writeln!(text, "{name}\t{}", bits.join(" "))?;
    }
    Ok(text)
}

/// Prints, for every recorded result, how many elements have its bits here and how far the others are from it. An error
/// if one is further away than its precision explains.
pub fn compare(device: &Device, recorded: &str) -> Outcome {
    println!("{:<44} {:>9} {:>12} {:>14}", "against what was recorded", "elements", "same bits", "off by at most");
    let (mut lines, mut wrong) = (recorded.lines(), Vec::new());
    for (name, got) in results(device)? {
        let line = lines.next().and_then(|line| line.split_once('\t')).filter(|(n, _)| *n == name);
        let Some((_, bits)) = line else { return Err(format!("the recording has no {name}").into()) };
        let want: Vec<f32> =
            bits.split(' ').map(|word| u32::from_str_radix(word, 16).map(f32::from_bits)).collect::<Result<_, _>>()?;
        if want.len() != got.len() {
            return Err(format!("{name}: {} elements, recorded {}", got.len(), want.len()).into());
        }
        let same = got.iter().zip(&want).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
        let largest = want.iter().fold(1e-30f32, |m, v| m.max(v.abs()));
        let worst =
            got.iter().zip(&want).fold(0f32, |m, (a, b)| if a.is_nan() { f32::NAN } else { m.max((a - b).abs()) });
        let off = worst / largest;
        // An intermediate of 16 bits may round the other way.
        let most = if name.contains("bf16:") {
            1e-2
        } else if name.contains("tf32") {
            2e-3
        } else {
            1e-5
        };
        println!("{name:<44} {:>9} {:>11.1}% {off:>14.1e}", got.len(), 100.0 * same as f64 / got.len() as f64);
        if off.is_nan() || off > most {
            wrong.push(name);
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("other results than recorded: {}", wrong.join(", ")).into()) }
}
