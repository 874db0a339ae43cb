//! Attention, causal, forward and with its gradients: activations in f32 and bf16, products in full and in bf16.
//!
//! FLOPs are those of the formulas, half of them hidden by the mask: 2 products forward, 5 backward. What the kernels compute
//! twice, to have one writer for each gradient, is not counted.

use lowrank_core::{DType, Precision, Tensor, no_grad};

use crate::peaks::Peaks;
use crate::{Outcome, Setup, values};

/// (batch, tokens, heads, heads of keys and values, elements of a head)
const SHAPES: [[usize; 5]; 4] =
    [[4, 2048, 32, 8, 64], [4, 2048, 32, 8, 128], [1, 8192, 32, 8, 128], [4, 2048, 8, 8, 256]];
const TINY: [[usize; 5]; 1] = [[1, 130, 2, 1, 64]];

const MODES: [(DType, Precision); 4] = [
    (DType::F32, Precision::Full),
    (DType::F32, Precision::Bf16),
    (DType::BF16, Precision::Full),
    (DType::BF16, Precision::Bf16),
];

/// All shapes in all modes.
pub fn table(setup: &Setup, peaks: &Peaks) -> Outcome {
    println!(
        "{:<30} {:<11} {:<9} {:>12} {:>9} {:>7} {:>12} {:>9} {:>7}",
        "attention: batch tokens heads",
        "activations",
        "precision",
        "forward ms",
        "TFLOP/s",
        "peak",
        "and back ms",
        "TFLOP/s",
        "peak"
    );
    for shape in if setup.tiny { &TINY[..] } else { &SHAPES[..] } {
        for (dtype, precision) in MODES {
            setup.device.set_precision(precision)?;
            row(setup, peaks, *shape, dtype, precision)?;
        }
    }
    setup.device.set_precision(Precision::Full)?;
    Ok(())
}

fn row(setup: &Setup, peaks: &Peaks, shape: [usize; 5], dtype: DType, precision: Precision) -> Outcome {
    let [batch, tokens, heads, kv_heads, dim] = shape;
    let on = |heads: usize, stream| -> Outcome<Tensor> {
        let shape = [batch, tokens, heads, dim];
        let t = Tensor::from_slice(&values(&shape, stream, DType::F32), &shape, &setup.device)?;
        Ok(if dtype == DType::F32 { t } else { t.cast(dtype)? })
    };
    let (q, k, v) = (on(heads, 0)?.trainable()?, on(kv_heads, 1)?.trainable()?, on(kv_heads, 2)?.trainable()?);
    let gy = on(heads, 3)?;
    let forward = setup.time(|| Ok(no_grad(|| q.attention(&k, &v, true, None)).map(drop)?))?;
    let both = setup.time(|| {
        [&q, &k, &v].into_iter().for_each(Tensor::zero_grad);
        Ok(q.attention(&k, &v, true, None)?.backward_with(gy.clone())?)
    })?;
    let product = (batch * heads * tokens * tokens * dim) as f64;
    let rate = |products: f64, seconds: f64| {
        let flops = products * product / seconds;
        format!("{:>9.2} {:>6.1}%", flops / 1e12, 100.0 * flops / peaks.flops(precision))
    };
    println!(
        "{:<30} {:<11} {:<9} {:>12.4} {} {:>12.4} {}",
        format!("{batch} {tokens} {heads}/{kv_heads} of {dim}"),
        dtype.name(),
        precision.name(),
        forward * 1e3,
        rate(2.0, forward),
        both * 1e3,
        rate(7.0, both)
    );
    Ok(())
}
