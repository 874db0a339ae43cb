//! Linear layers and attention, in every storage and precision that has kernels of its own.

use lowrank_core::ops::RowAdapter;
use lowrank_core::{DType, Precision};

use super::{Outcome, Results, most};

/// (m, n, k, r): tails in every direction, the decode kernels, whole tiles whose sums leave copies, and several tiles.
const SHAPES: [[usize; 4]; 4] = [[40, 48, 56, 5], [3, 70, 33, 4], [64, 64, 64, 16], [150, 264, 136, 8]];

/// Activations, W, precision.
const MODES: [(DType, DType, Precision); 13] = [
    (DType::F32, DType::F32, Precision::Full),
    (DType::F32, DType::F32, Precision::Bf16x3),
    (DType::F32, DType::F32, Precision::Tf32),
    (DType::F32, DType::F32, Precision::Bf16),
    (DType::F32, DType::BF16, Precision::Full),
    (DType::F32, DType::BF16, Precision::Tf32),
    (DType::F32, DType::BF16, Precision::Bf16),
    (DType::F32, DType::F16, Precision::Full),
    (DType::BF16, DType::F32, Precision::Bf16),
    (DType::BF16, DType::F16, Precision::Bf16),
    (DType::BF16, DType::BF16, Precision::Full),
    (DType::BF16, DType::BF16, Precision::Tf32),
    (DType::BF16, DType::BF16, Precision::Bf16),
];

/// The frozen linear, the low-rank one with and without dropout, and adapters by rows.
pub fn linears(all: &mut Results) -> Outcome {
    for [m, n, k, r] in SHAPES {
        for (dtype, weight, precision) in MODES {
            all.device.set_precision(precision)?;
            let most = most(precision);
            let of =
                |what: &str| format!("{what} {m} {n} {k} {r} {} {} {}", dtype.name(), weight.name(), precision.name());
            let w = all.on(&[n, k], 1, weight)?;
            let x = all.leaf(&[m, k], 0, dtype)?;
            all.both(&of("linear"), most, &x.linear(&w, None)?, &[("dx", &x)])?;
            let (a, b) = (all.leaf(&[r, k], 2, DType::F32)?, all.leaf(&[n, r], 3, DType::F32)?);
            for dropout in [0.0, 0.1] {
                let leaves = [&x, &a, &b];
                leaves.into_iter().for_each(lowrank_core::Tensor::zero_grad);
                let y = x.lora_linear(&w, None, &a, &b, 2.0, dropout)?;
                let what = if dropout == 0.0 { "low-rank" } else { "low-rank, dropout" };
                all.both(&of(what), most, &y, &[("dx", &x), ("da", &a), ("db", &b)])?;
            }
            if dtype == weight {
                let x = all.leaf(&[m, k], 4, dtype)?;
                let adapter = RowAdapter { a: a.clone(), b: b.clone(), scale: 0.5 };
                let (c, d) = (all.leaf(&[3, k], 5, DType::F32)?, all.leaf(&[n, 3], 6, DType::F32)?);
                let other = RowAdapter { a: c.clone(), b: d.clone(), scale: 1.5 };
                let rows: Vec<Option<usize>> = (0..m).map(|i| [Some(0), None, Some(1)][i % 3]).collect();
                [&a, &b].into_iter().for_each(lowrank_core::Tensor::zero_grad);
                let y = x.lora_linear_multi(&w, None, &[adapter, other], &rows)?;
                let inputs = [("dx", &x), ("da", &a), ("db", &b), ("dc", &c), ("dd", &d)];
                all.both(&of("adapters by rows"), most, &y, &inputs)?;
            }
        }
    }
    dora(all)?;
    Ok(all.device.set_precision(Precision::Full)?)
}

fn dora(all: &mut Results) -> Outcome {
    let [m, n, k, r] = [40, 48, 56, 5];
    for (dtype, precision) in [(DType::F32, Precision::Full), (DType::BF16, Precision::Bf16)] {
        all.device.set_precision(precision)?;
        let (x, w) = (all.leaf(&[m, k], 0, dtype)?, all.on(&[n, k], 1, dtype)?);
        let (a, b) = (all.leaf(&[r, k], 2, DType::F32)?, all.leaf(&[n, r], 3, DType::F32)?);
        let (squares, magnitude) = (w.row_squares(DType::F32)?, all.leaf(&[n], 4, DType::F32)?);
        let y = x.dora_linear(&w, &squares, None, &a, &b, &magnitude, 2.0, 0.0)?;
        let name = format!("dora {} {}", dtype.name(), precision.name());
        let inputs = [("dx", &x), ("da", &a), ("db", &b), ("dmagnitude", &magnitude)];
        all.both(&name, most(precision), &y, &inputs)?;
    }
    Ok(())
}

/// (tokens, heads, heads of keys and values, elements of a head)
const HEADS: [[usize; 4]; 4] = [[19, 4, 4, 16], [70, 4, 2, 64], [37, 2, 1, 72], [37, 2, 2, 128]];

/// Causal and whole attention, on FMA units and on tensor cores.
pub fn attention(all: &mut Results) -> Outcome {
    let mut one = |[tokens, heads, kv_heads, dim]: [usize; 4], causal: bool, dtype: DType, precision: Precision| {
        all.device.set_precision(precision)?;
        let [q, k, v] = [(heads, 5), (kv_heads, 6), (kv_heads, 7)]
            .map(|(heads, stream)| all.leaf(&[2, tokens, heads, dim], stream, dtype));
        let (q, k, v) = (q?, k?, v?);
        let y = q.attention(&k, &v, causal, None)?;
        let what = if causal { "attention" } else { "attention to all" };
        let name = format!("{what} {tokens} {heads}/{kv_heads} {dim} {} {}", dtype.name(), precision.name());
        all.both(&name, most(precision).max(2e-5), &y, &[("dq", &q), ("dk", &k), ("dv", &v)])
    };
    for sizes in HEADS {
        for dtype in [DType::F32, DType::BF16] {
            for precision in [Precision::Full, Precision::Bf16] {
                one(sizes, true, dtype, precision)?;
            }
        }
        one(sizes, false, DType::BF16, Precision::Bf16)?;
    }
    for dtype in [DType::F32, DType::BF16] {
        one([19, 2, 1, 136], true, dtype, Precision::Bf16)?;
    }
    Ok(all.device.set_precision(Precision::Full)?)
}
