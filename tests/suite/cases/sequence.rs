//! attention, rope: what knows positions.

use lowrank_core::ops::{Llama3Scaling, RopeTables};
use lowrank_core::{DType, Tensor};

use crate::case::Bound::{Attention, Largest};
use crate::case::{Case, Input, float};
use crate::oracle::{self, Heads};

fn attention(s: Heads, causal: bool, scale: Option<f64>, trainable: [bool; 3]) -> Case {
    let Heads { batch, q_len, kv_len, heads, kv_heads, dim } = s;
    let pick = |on: bool, input: Input| if on { input } else { input.frozen() };
    let keys = [batch, kv_len, kv_heads, dim];
    let inputs = vec![
        pick(trainable[0], float(&[batch, q_len, heads, dim])),
        pick(trainable[1], float(&keys)),
        pick(trainable[2], float(&keys)),
    ];
    let factor = scale.unwrap_or(1.0 / (dim as f64).sqrt());
    let oracle = move |v: &[Vec<f64>]| oracle::attention(&v[0], &v[1], &v[2], s, factor, causal);
    let name = format!(
        "b{batch} q{q_len} kv{kv_len} h{heads}/{kv_heads} d{dim}{} scale {scale:?} trainable {}",
        if causal { " causal" } else { "" },
        ["q", "k", "v"].into_iter().zip(trainable).filter(|(_, on)| *on).map(|(n, _)| n).collect::<String>()
    );
    // A score is a sum of dim products and shifts its probability by as many units at worst; then kv_len of them are
    // summed. Both in parts: an eighth is ample.
    let units = 8.0 + (dim + kv_len) as f64 / 8.0;
    Case::new("attention", name, inputs, move |t| t[0].attention(&t[1], &t[2], causal, scale), oracle)
        .bound(Attention(units))
        .grad_bound(Attention(4.0 * units))
}

/// Tables of any numbers: the operation must not care that they are cosines.
fn rope_any(batch: usize, seq: usize, heads: usize, dim: usize, start: usize) -> Case {
    let positions = start + seq + 2;
    let tables = float(&[positions, dim / 2]).frozen();
    let inputs = vec![float(&[batch, seq, heads, dim]), tables.clone(), tables];
    let oracle = move |v: &[Vec<f64>]| oracle::rope(&v[0], &v[1], &v[2], [seq, heads, dim], start);
    let call = move |t: &[Tensor]| t[0].rope(&RopeTables { cos: t[1].clone(), sin: t[2].clone() }, start);
    Case::new("rope", format!("b{batch} t{seq} h{heads} d{dim} from {start}"), inputs, call, oracle)
        .bound(Largest(4.0))
        .multilinear()
}

/// The tables of Llama 3.
fn rope_llama3(scaling: Option<Llama3Scaling>) -> Case {
    let (seq, heads, dim, start, theta) = (7, 2, 16, 3, 500_000.0f64);
    let angle = move |position: usize, i: usize| {
        let f = theta.powf(-2.0 * i as f64 / dim as f64);
        let Some(s) = scaling else { return position as f64 * f };
        let (old, length) = (s.original_max_position_embeddings as f64, std::f64::consts::TAU / f);
        let smooth = ((old / length - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)).clamp(0.0, 1.0);
        position as f64 * ((1.0 - smooth) * f / s.factor + smooth * f)
    };
    let oracle = move |v: &[Vec<f64>]| {
        let table = |f: fn(f64) -> f64| -> Vec<f64> {
            (0..start + seq).flat_map(|t| (0..dim / 2).map(move |i| f(angle(t, i)))).collect()
        };
        oracle::rope(&v[0], &table(f64::cos), &table(f64::sin), [seq, heads, dim], start)
    };
    let call = move |t: &[Tensor]| {
        let dtype = if t[0].dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        t[0].rope(&RopeTables::new(start + seq, dim, theta, scaling.as_ref(), dtype, t[0].device())?, start)
    };
    let name = if scaling.is_some() { "llama-3 scaling" } else { "plain tables" };
    Case::new("rope", name, vec![float(&[2, seq, heads, dim])], call, oracle).bound(Largest(8.0))
}

pub fn rows() -> Vec<Case> {
    let all = [true; 3];
    let sizes = |batch, q_len, kv_len, heads, kv_heads, dim| Heads { batch, q_len, kv_len, heads, kv_heads, dim };
    let scaling = Llama3Scaling {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
    };
    vec![
        attention(sizes(1, 1, 1, 1, 1, 1), true, None, all),
        attention(sizes(2, 5, 5, 2, 2, 4), true, None, all),
        attention(sizes(2, 5, 5, 4, 2, 8), true, None, all),
        attention(sizes(1, 3, 7, 3, 1, 5), true, None, all),
        attention(sizes(2, 4, 9, 2, 1, 6), false, Some(0.3), all),
        attention(sizes(1, 1, 33, 4, 2, 16), true, None, all),
        attention(sizes(1, 65, 65, 2, 1, 32), true, None, all),
        attention(sizes(1, 129, 129, 2, 2, 16), true, None, all),
        attention(sizes(2, 200, 200, 4, 2, 24), true, None, all),
        attention(sizes(1, 31, 64, 1, 1, 64), false, None, all),
        attention(sizes(1, 140, 140, 2, 1, 72), true, None, all),
        attention(sizes(1, 6, 6, 2, 1, 4), true, None, [true, false, false]),
        attention(sizes(1, 6, 6, 2, 1, 4), true, None, [false, true, false]),
        attention(sizes(1, 6, 6, 2, 1, 4), true, None, [false, false, true]),
        rope_any(1, 1, 1, 2, 0),
        rope_any(2, 5, 3, 8, 0),
        rope_any(1, 7, 2, 6, 4),
        rope_any(2, 33, 4, 64, 1),
        rope_llama3(None),
        rope_llama3(Some(scaling)),
    ]
}
