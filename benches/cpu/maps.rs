//! Elementwise functions: nanoseconds of processor time an element, beside a loop of scalar calls in f64 (which is what they were).

use lowrank_backend::math;
use lowrank_core::{Device, Result, Tensor, no_grad};
use rayon::prelude::*;

use crate::{random, turns};

const LEN: usize = 1 << 20;

/// A name, the operation, and its definition.
type Row = (&'static str, fn(&Tensor) -> Result<Tensor>, fn(f64) -> f64);

const ROWS: [Row; 6] = [
    ("copy", |x| x.scale(1.0), |x| x),
    ("exp", Tensor::exp, f64::exp),
    ("log", Tensor::log, f64::ln),
    ("tanh", Tensor::tanh, f64::tanh),
    ("gelu", Tensor::gelu, math::gelu_erf),
    ("gelu tanh", Tensor::gelu_tanh, math::gelu_tanh),
];

/// Prints one line a function: forward, then forward and backward.
pub fn run() -> Result<()> {
    let device = Device::from_name("cpu")?;
    let values: Vec<f32> = random(LEN, 0).iter().map(|x| 3.0 * x + 3.1).collect();
    let x = Tensor::from_slice(&values, &[LEN], &device)?.trainable()?;
    let gy = Tensor::from_slice(&random(LEN, 1), &[LEN], &device)?;
    let mut y = vec![0.0f32; LEN];
    println!("ns of processor time an element of {LEN}: forward, forward and backward, scalar calls in f64 forward");
    for (name, f, definition) in ROWS {
        let results = turns(
            0.5,
            &mut [
                ("forward", Box::new(|| drop(no_grad(|| f(&x)).expect("forward")))),
                (
                    "both",
                    Box::new(|| {
                        x.zero_grad();
                        f(&x).and_then(|y| y.backward_with(gy.clone())).expect("backward");
                    }),
                ),
                (
                    "scalar",
                    Box::new(|| {
                        let part = |(y, x): (&mut [f32], &[f32])| {
                            y.iter_mut().zip(x).for_each(|(y, x)| *y = definition(f64::from(*x)) as f32);
                        };
                        y.par_chunks_mut(4096).zip(values.par_chunks(4096)).for_each(part);
                    }),
                ),
            ],
        );
        let ns = |i: usize| results[i].0.processor / LEN as f64 * 1e9;
        println!("{name:<10} {:>6.2} {:>6.2} {:>6.2}", ns(0), ns(1), ns(2));
    }
    Ok(())
}
