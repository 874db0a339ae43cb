//! concat, permute, reshape, slice, tap: elements are moved, so results are exact.

use lowrank_core::Tensor;

use crate::case::{Case, float};
use crate::oracle;

fn permute() -> Vec<Case> {
    const ORDERS: [(&[usize], &[usize]); 6] = [
        (&[1], &[0]),
        (&[129, 127], &[1, 0]),
        (&[2, 5, 3, 7], &[0, 2, 1, 3]),
        (&[2, 5, 3, 7], &[3, 1, 0, 2]),
        (&[3, 1, 4], &[2, 0, 1]),
        (&[2, 3, 2, 2, 3, 2], &[5, 3, 1, 0, 2, 4]),
    ];
    let mut rows: Vec<Case> = ORDERS
        .into_iter()
        .map(|(dims, order)| {
            let oracle = move |v: &[Vec<f64>]| oracle::permute(&v[0], dims, order);
            Case::new("permute", format!("{dims:?} {order:?}"), vec![float(dims)], move |t| t[0].permute(order), oracle)
        })
        .collect();
    let oracle = |v: &[Vec<f64>]| oracle::permute(&v[0], &[3, 5, 4], &[0, 2, 1]);
    rows.push(Case::new("permute", "transpose", vec![float(&[3, 5, 4])], |t| t[0].transpose(1, 2), oracle));
    rows
}

/// Nothing changes, neither values nor gradients.
fn tap() -> Vec<Case> {
    let oracle = |v: &[Vec<f64>]| v[0].clone();
    let run = |t: &[Tensor]| Ok(t[0].clone().tap(|_| Ok(())));
    vec![Case::new("tap", "[5, 7]", vec![float(&[5, 7])], run, oracle)]
}

fn reshape() -> Vec<Case> {
    let shapes: [(&[usize], &[usize]); 3] = [(&[7, 6], &[2, 3, 7]), (&[1], &[]), (&[127, 129], &[127 * 129])];
    shapes
        .into_iter()
        .map(|(from, to)| {
            let oracle = |v: &[Vec<f64>]| v[0].clone();
            Case::new("reshape", format!("{from:?} {to:?}"), vec![float(from)], move |t| t[0].reshape(to), oracle)
        })
        .collect()
}

fn slice() -> Vec<Case> {
    [([1, 7, 1], 0, 7), ([5, 9, 3], 2, 4), ([1, 128, 65], 127, 1), ([33, 17, 1], 16, 1), ([3, 4, 2], 1, 0)]
        .into_iter()
        .map(|(s, start, len)| {
            let oracle = move |v: &[Vec<f64>]| oracle::slice(&v[0], s, start, len);
            let name = format!("{s:?} {start}+{len}");
            Case::new("slice", name, vec![float(&s)], move |t| t[0].slice(1, start, len), oracle)
        })
        .collect()
}

/// Parts of these lengths along the middle of `[outer, _, inner]`.
fn concat() -> Vec<Case> {
    let sizes: [(usize, &[usize], usize); 5] =
        [(1, &[1], 1), (1, &[3, 0, 5], 7), (5, &[2, 3], 4), (129, &[1, 1, 1], 1), (3, &[16, 17, 1], 2)];
    sizes
        .into_iter()
        .map(|(outer, parts, inner)| {
            let inputs = parts.iter().map(|&len| float(&[outer, len, inner])).collect();
            let oracle = move |v: &[Vec<f64>]| {
                let mut y = Vec::new();
                for o in 0..outer {
                    for (part, &len) in v.iter().zip(parts) {
                        y.extend_from_slice(&part[o * len * inner..(o + 1) * len * inner]);
                    }
                }
                y
            };
            let call = |t: &[Tensor]| Tensor::concat(&t.iter().collect::<Vec<_>>(), 1);
            Case::new("concat", format!("{outer} {parts:?} {inner}"), inputs, call, oracle)
        })
        .collect()
}

pub fn rows() -> Vec<Case> {
    [concat(), permute(), reshape(), slice(), tap()].into_iter().flatten().map(Case::multilinear).collect()
}
