//! cross_entropy, max, mean, sum.

use crate::case::Bound::{Each, Largest, Moved, Product};
use crate::case::{Case, Kind, float, targets};
use crate::oracle;

/// A shape and the axis that is reduced, as `[outer, len, inner]`.
const SIZES: [([usize; 3], usize); 5] =
    [([1, 1, 1], 1), ([5, 127, 3], 1), ([5, 129, 1], 1), ([1, 257, 131], 1), ([3, 16, 2], 1)];

/// The sum of everything or of an axis.
fn sum() -> Vec<Case> {
    let add = |a: f64, b: f64| a + b;
    let mut rows: Vec<Case> = SIZES
        .into_iter()
        .flat_map(|(s, axis)| {
            [true, false].map(|keep| {
                let oracle = move |v: &[Vec<f64>]| oracle::reduce(&v[0], s, 0.0, add);
                Case::new(
                    "sum",
                    format!("{s:?} keep {keep}"),
                    vec![float(&s)],
                    move |t| t[0].sum_axis(axis, keep),
                    oracle,
                )
                .bound(Product(s[1]))
                .grad_bound(Moved)
                .multilinear()
            })
        })
        .collect();
    for shape in [vec![], vec![1], vec![7, 13], vec![257, 129]] {
        let n = shape.iter().product();
        let oracle = move |v: &[Vec<f64>]| oracle::reduce(&v[0], [1, v[0].len(), 1], 0.0, add);
        rows.push(
            Case::new("sum", format!("all of {shape:?}"), vec![float(&shape)], |t| t[0].sum(), oracle)
                .bound(Product(n))
                .grad_bound(Moved)
                .multilinear(),
        );
    }
    rows
}

/// Lengths that are powers of two have an exact mean.
fn mean() -> Vec<Case> {
    let mean = |v: &[f64], s: [usize; 3]| -> Vec<f64> {
        oracle::reduce(v, s, 0.0, |a, b| a + b).iter().map(|y| y / s[1] as f64).collect()
    };
    let mut rows: Vec<Case> = SIZES
        .into_iter()
        .map(|(s, axis)| {
            let case = Case::new(
                "mean",
                format!("{s:?}"),
                vec![float(&s)],
                move |t| t[0].mean_axis(axis, false),
                move |v| mean(&v[0], s),
            );
            let case = case.bound(Product(s[1] + 2)).grad_bound(Each(2.0));
            if s[1].is_power_of_two() { case.multilinear() } else { case }
        })
        .collect();
    let all = Case::new("mean", "all", vec![float(&[16, 64])], |t| t[0].mean(), move |v| mean(&v[0], [1, 1024, 1]));
    rows.push(all.bound(Product(1026)).grad_bound(Each(2.0)).multilinear());
    rows
}

fn max() -> Vec<Case> {
    SIZES
        .into_iter()
        .map(|(s, axis)| {
            let oracle = move |v: &[Vec<f64>]| oracle::reduce(&v[0], s, f64::NEG_INFINITY, f64::max);
            Case::new("max", format!("{s:?}"), vec![float(&s)], move |t| t[0].max_axis(axis, true), oracle)
                .grad_bound(Largest(2.0))
        })
        .collect()
}

/// Mean over the rows that count; every third one does not.
fn cross_entropy() -> Vec<Case> {
    [(1, 2), (7, 13), (11, 1024), (130, 17), (4, 5003)]
        .into_iter()
        .map(|(rows, vocab)| {
            let denominator = (rows - rows / 3) as f64;
            Case::new(
                "cross_entropy",
                format!("{rows}x{vocab}"),
                vec![float(&[rows, vocab]).of(Kind::Wide), targets(rows, vocab as u32)],
                move |t| t[0].clone().cross_entropy(&t[1], denominator),
                move |v| vec![oracle::cross_entropy(&v[0], &v[1], vocab, denominator)],
            )
            .bound(Each(8.0))
            .grad_bound(Largest(16.0))
        })
        .collect()
}

/// Three parts of a batch, one of them a single row.
fn cross_entropy_parts() -> Vec<Case> {
    [(9, 13), (40, 1024)]
        .into_iter()
        .map(|(rows, vocab)| {
            let parts = [(1, 2.0), (rows - 4, (rows / 2) as f64), (3, 0.5)];
            let oracle = move |v: &[Vec<f64>]| {
                let (mut logits, mut targets) = (&v[0][..], &v[1][..]);
                let loss = |(rows, denominator): (usize, f64)| {
                    let (own, rest) = logits.split_at(rows * vocab);
                    let (ids, others) = targets.split_at(rows);
                    (logits, targets) = (rest, others);
                    oracle::cross_entropy(own, ids, vocab, denominator)
                };
                parts.into_iter().map(loss).collect()
            };
            Case::new(
                "cross_entropy",
                format!("parts-{rows}x{vocab}"),
                vec![float(&[rows, vocab]).of(Kind::Wide), targets(rows, vocab as u32)],
                move |t| t[0].clone().cross_entropy_parts(&t[1], &parts),
                oracle,
            )
            .bound(Each(8.0))
            .grad_bound(Largest(16.0))
        })
        .collect()
}

pub fn rows() -> Vec<Case> {
    [cross_entropy(), cross_entropy_parts(), max(), mean(), sum()].into_iter().flatten().collect()
}
