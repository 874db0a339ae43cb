//! Causal attention, forward and backward: GFLOP/s of what a causal mask leaves, 4 and 10 FLOPs a pair of positions and
//! element of a head.

use lowrank_core::{Device, Result, Tensor, no_grad};

use crate::{random, turns};

/// Batch, positions, heads, key/value heads, elements: a training step's, few heads, long sequences, one key/value head.
const SHAPES: [[usize; 5]; 4] = [[4, 256, 8, 8, 64], [1, 1024, 4, 2, 64], [1, 2048, 8, 1, 128], [1, 512, 8, 1, 64]];

/// One line a shape; of all if none is given.
pub fn run(sizes: &[usize]) -> Result<()> {
    match *sizes {
        [] => SHAPES.into_iter().try_for_each(line),
        [b, q, heads, kv_heads, dim] => line([b, q, heads, kv_heads, dim]),
        _ => panic!("five sizes"),
    }
}

fn line([batch, len, heads, kv_heads, dim]: [usize; 5]) -> Result<()> {
    let device = Device::from_name("cpu")?;
    let tensor = |heads: usize, stream| {
        let shape = [batch, len, heads, dim];
        Tensor::from_slice(&random(shape.iter().product(), stream), &shape, &device)
    };
    let (q, k, v) =
        (tensor(heads, 0)?.trainable()?, tensor(kv_heads, 1)?.trainable()?, tensor(kv_heads, 2)?.trainable()?);
    let gy = tensor(heads, 3)?;
    let forward = || q.attention(&k, &v, true, None).expect("forward");
    let results = turns(
        1.0,
        &mut [
            ("forward", Box::new(|| drop(no_grad(forward)))),
            (
                "step",
                Box::new(|| {
                    [&q, &k, &v].into_iter().for_each(Tensor::zero_grad);
                    forward().backward_with(gy.clone()).expect("backward");
                }),
            ),
        ],
    );
    let (forward, step) = (results[0].0, results[1].0);
    let pairs = (batch * heads * dim * len * (len + 1) / 2) as f64;
    let (clock, processor) = (step.clock - forward.clock, step.processor - forward.processor);
    println!(
        "attention b{batch} q{len} h{heads}/{kv_heads} d{dim}\tforward ms {:.3} processor_ms {:.3} GFLOP/s a core {:.1}\t\
         backward ms {:.3} processor_ms {:.3} GFLOP/s a core {:.1}",
        forward.clock * 1e3,
        forward.processor * 1e3,
        4.0 * pairs / forward.processor / 1e9,
        clock * 1e3,
        processor * 1e3,
        10.0 * pairs / processor / 1e9,
    );
    Ok(())
}
