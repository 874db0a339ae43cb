//! Eight adapters in one batch: forward and backward of one layer, all gradients, milliseconds of processor time.

use lowrank_core::ops::RowAdapter;
use lowrank_core::{Device, Result, Tensor};

use crate::{random, turns};

const ADAPTERS: usize = 8;
/// Rows of each, k, n, r.
const SHAPES: [[usize; 4]; 3] = [[64, 768, 768, 8], [64, 2048, 2048, 16], [128, 4096, 4096, 16]];

/// Prints one line a shape.
pub fn run() -> Result<()> {
    println!(
        "ms of processor time: {ADAPTERS} adapters together, one operation each, one adapter for all rows, frozen"
    );
    SHAPES.into_iter().try_for_each(line)
}

fn line([m, k, n, r]: [usize; 4]) -> Result<()> {
    let device = Device::from_name("cpu")?;
    let tensor = |shape: [usize; 2], stream| Tensor::from_slice(&random(shape[0] * shape[1], stream), &shape, &device);
    let (x, w, gy) = (tensor([ADAPTERS * m, k], 0)?.trainable()?, tensor([n, k], 1)?, tensor([ADAPTERS * m, n], 2)?);
    let parts = (0..ADAPTERS as u32)
        .map(|i| Ok((tensor([m, k], 10 + i)?.trainable()?, tensor([m, n], 30 + i)?)))
        .collect::<Result<Vec<_>>>()?;
    let adapter = |i: u32| {
        Ok(RowAdapter { a: tensor([r, k], 50 + i)?.trainable()?, b: tensor([n, r], 70 + i)?.trainable()?, scale: 2.0 })
    };
    let adapters = (0..ADAPTERS as u32).map(adapter).collect::<Result<Vec<_>>>()?;
    let rows: Vec<Option<usize>> = (0..ADAPTERS).map(Some).collect();
    let fresh = || {
        parts.iter().map(|(x, _)| x).chain([&x]).for_each(Tensor::zero_grad);
        adapters.iter().flat_map(|l| [&l.a, &l.b]).for_each(Tensor::zero_grad);
    };
    let one = |x: &Tensor, gy: &Tensor, l: &RowAdapter| {
        let y = x.lora_linear(&w, None, &l.a, &l.b, l.scale, 0.0).expect("forward");
        y.backward_with(gy.clone()).expect("backward");
    };
    let results = turns(
        2.0,
        &mut [
            (
                "together",
                Box::new(|| {
                    fresh();
                    let y = x.lora_linear_multi(&w, None, &adapters, &rows).expect("forward");
                    y.backward_with(gy.clone()).expect("backward");
                }),
            ),
            (
                "each",
                Box::new(|| {
                    fresh();
                    parts.iter().zip(&adapters).for_each(|((x, gy), l)| one(x, gy, l));
                }),
            ),
            (
                "one",
                Box::new(|| {
                    fresh();
                    one(&x, &gy, &adapters[0]);
                }),
            ),
            (
                "frozen",
                Box::new(|| {
                    fresh();
                    x.linear(&w, None).and_then(|y| y.backward_with(gy.clone())).expect("step");
                }),
            ),
        ],
    );
    let times: Vec<String> = results.iter().map(|(time, _)| format!("{:>8.2}", time.processor * 1e3)).collect();
    println!("many {ADAPTERS}x{m} k{k} n{n} r{r}\t{}", times.join(" "));
    Ok(())
}
