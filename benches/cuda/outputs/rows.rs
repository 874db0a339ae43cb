//! What works on rows and elements, and what moves them.

use lowrank_core::ops::RopeTables;
use lowrank_core::{DType, Tensor};

use super::{Outcome, Results};

/// f32 arithmetic with approximations of exp and the like.
const MOST: f32 = 1e-5;

/// Norms, softmax, gates, rotations, the loss. Activations in `dtype`, parameters in f32.
pub fn rows(all: &mut Results, dtype: DType) -> Outcome {
    let of = |what: &str| format!("{what} {}", dtype.name());
    // 200 and 77: with 16-byte vectors and without.
    for (rows, cols) in [(13, 200), (9, 77), (3, 2056)] {
        let (w, b) = (all.leaf(&[cols], 10, DType::F32)?, all.leaf(&[cols], 11, DType::F32)?);
        let x = all.leaf(&[rows, cols], 9, dtype)?;
        let name = |what: &str| of(&format!("{what} {rows} {cols}"));
        all.both(&name("rms_norm"), MOST, &x.rms_norm(&w, 1e-5)?, &[("dx", &x), ("dw", &w)])?;
        [&x, &w].into_iter().for_each(Tensor::zero_grad);
        let y = x.layer_norm(&w, &b, 1e-5)?;
        all.both(&name("layer_norm"), MOST, &y, &[("dx", &x), ("dw", &w), ("db", &b)])?;
        x.zero_grad();
        all.both(&name("softmax"), MOST, &x.softmax()?, &[("dx", &x)])?;
        let up = all.leaf(&[rows, cols], 12, dtype)?;
        x.zero_grad();
        all.both(&name("swiglu"), MOST, &x.swiglu(&up)?, &[("dgate", &x), ("dup", &up)])?;
        type Map = fn(&Tensor) -> lowrank_core::Result<Tensor>;
        let maps: [(&str, Map); 5] = [
            ("gelu", Tensor::gelu),
            ("gelu_tanh", Tensor::gelu_tanh),
            ("silu", Tensor::silu),
            ("relu", Tensor::relu),
            ("dropout", |x| x.dropout(0.3)),
        ];
        for (what, f) in maps {
            x.zero_grad();
            all.both(&name(what), MOST, &f(&x)?, &[("dx", &x)])?;
        }
    }
    let tables = RopeTables::new(20, 24, 10_000.0, None, DType::F32, all.device)?;
    let x = all.leaf(&[2, 11, 3, 24], 13, dtype)?;
    all.both(&of("rope"), MOST, &x.rope(&tables, 5)?, &[("dx", &x)])?;
    for vocabulary in [304, 301] {
        let x = all.leaf(&[11, vocabulary], 15, dtype)?;
        let targets: Vec<u32> = (0..11).map(|i| i * 27).collect();
        let targets = Tensor::targets(&targets, &[11], vocabulary, all.device)?;
        let loss = x.scale(3.0)?.cross_entropy(&targets, 11.0)?;
        all.both(&of(&format!("cross_entropy {vocabulary}")), MOST, &loss, &[("dx", &x)])?;
    }
    Ok(())
}

/// Gathered and scattered rows, sums, parts, and other orders.
pub fn moving(all: &mut Results, dtype: DType) -> Outcome {
    let of = |what: &str| format!("{what} {}", dtype.name());
    let ids: Vec<u32> = (0..21).map(|i| i * i % 17).collect();
    let ids = Tensor::ids(&ids, &[3, 7], 17, all.device)?;
    let w = all.leaf(&[17, 40], 20, DType::F32)?;
    all.both(&of("embedding"), MOST, &w.embedding(&ids)?, &[("dw", &w)])?;
    let (table, a, b) = (w.detach(), all.leaf(&[4, 17], 21, DType::F32)?, all.leaf(&[40, 4], 22, DType::F32)?);
    all.both(&of("lora_embedding"), MOST, &table.lora_embedding(&ids, &a, &b, 2.0)?, &[("da", &a), ("db", &b)])?;
    let (x, y) = (all.leaf(&[5, 12, 24], 23, dtype)?, all.leaf(&[5, 12, 24], 24, dtype)?);
    type Two = fn(&Tensor, &Tensor) -> lowrank_core::Result<Tensor>;
    let ops: [(&str, Two); 8] = [
        ("add", Tensor::add),
        ("mul", Tensor::mul),
        ("sum", |x, y| x.sum_axis(1, false)?.add(&y.sum_axis(1, false)?)),
        ("max", |x, y| x.max_axis(2, false)?.add(&y.max_axis(2, false)?)),
        ("slice", |x, y| x.slice(1, 3, 5)?.add(&y.slice(1, 1, 5)?)),
        ("permute", |x, y| x.permute(&[2, 0, 1])?.add(&y.permute(&[2, 0, 1])?)),
        ("concat", |x, y| Tensor::concat(&[x, y], 1)),
        ("products", |x, y| x.matmul_t(y)),
    ];
    for (what, f) in ops {
        [&x, &y].into_iter().for_each(Tensor::zero_grad);
        all.both(&of(what), MOST, &f(&x, &y)?, &[("dx", &x), ("dy", &y)])?;
    }
    Ok(())
}
