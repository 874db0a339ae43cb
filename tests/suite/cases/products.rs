//! embedding, linear, lora_embedding, lora_linear, matmul: sums of products.

use lowrank_core::ops::RowAdapter;
use lowrank_core::{DType, Tensor};

use crate::case::Bound::{Largest, Moved, Product};
use crate::case::{Case, Input, Kind, float, ids, stored};
use crate::oracle;

/// (m, n, k): one, primes, and one off either side of what a kernel would tile by.
const SIZES: [[usize; 3]; 10] = [
    [1, 1, 1],
    [2, 3, 5],
    [1, 129, 127],
    [17, 31, 7],
    [16, 64, 32],
    [127, 63, 65],
    [128, 128, 128],
    [129, 127, 130],
    [65, 257, 300],
    [260, 515, 1100],
];

/// (m, n, k, r), some with r above min(n, k).
const LOW_RANK: [[usize; 4]; 11] = [
    [1, 1, 1, 1],
    [2, 3, 5, 3],
    [5, 3, 7, 16],
    [1, 129, 127, 8],
    [16, 31, 64, 8],
    [17, 64, 31, 64],
    [64, 127, 128, 1],
    [127, 129, 65, 3],
    [129, 128, 127, 16],
    [130, 257, 300, 8],
    [260, 515, 1100, 16],
];

/// The base weight of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Base {
    Trainable,
    Frozen,
    Stored(DType),
}

impl Base {
    fn input(self, shape: &[usize]) -> Input {
        match self {
            Base::Trainable => float(shape),
            Base::Frozen => float(shape).frozen(),
            Base::Stored(dtype) => stored(shape, dtype),
        }
    }
}

fn linear([m, n, k]: [usize; 3], base: Base, bias: bool) -> Case {
    let mut inputs = vec![float(&[m, k]), base.input(&[n, k])];
    if bias {
        inputs.push(float(&[n]));
    }
    let oracle = move |v: &[Vec<f64>]| {
        let mut y = oracle::nt(&v[0], &v[1], [m, n, k]);
        if let Some(bias) = v.get(2) {
            oracle::add_row(&mut y, bias);
        }
        y
    };
    let name = format!("m{m} n{n} k{k} {base:?}{}", if bias { " bias" } else { "" });
    Case::new("linear", name, inputs, |t| t[0].linear(&t[1], t.get(2)), oracle)
        .bound(Product(k + 1))
        .grad_bound(Product(m.max(n)))
        .multilinear()
}

fn lora_linear([m, n, k, r]: [usize; 4], base: Base, bias: bool, p: f64) -> Case {
    const SCALE: f64 = 2.0;
    let mut inputs = vec![float(&[m, k]), base.input(&[n, k]), float(&[r, k]), float(&[n, r])];
    if bias {
        inputs.push(float(&[n]));
    }
    let oracle = move |v: &[Vec<f64>]| {
        let mask = if p == 0.0 { vec![1.0; m * k] } else { oracle::dropout_mask(m * k, p, 0, 0, 1) };
        let mut y = oracle::lora(&v[0], &v[1], &v[2], &v[3], SCALE, &mask, [m, n, k, r]);
        if let Some(bias) = v.get(4) {
            oracle::add_row(&mut y, bias);
        }
        y
    };
    let name = format!("m{m} n{n} k{k} r{r} {base:?}{} p{p}", if bias { " bias" } else { "" });
    let call = move |t: &[Tensor]| t[0].lora_linear(&t[1], t.get(4), &t[2], &t[3], SCALE, p);
    let case = Case::new("lora_linear", name, inputs, call, oracle)
        .bound(Product(k + r + 4))
        // u sums over n, dA over m, dx over n and r.
        .grad_bound(Product(m.max(r) + n.max(k) + 4));
    // 1/(1−p) is exact for a half only.
    if p == 0.0 || p == 0.5 { case.multilinear() } else { case }
}

/// x as `[2, 3, k]`, and only some inputs trainable: a slot that is not wanted must be left alone.
fn lora_linear_parts() -> Vec<Case> {
    let [m, n, k, r] = [6, 19, 23, 5];
    (0..3)
        .map(|only| {
            let pick = |i: usize, input: Input| if i == only { input } else { input.frozen() };
            let inputs = vec![
                pick(0, float(&[2, 3, k])),
                float(&[n, k]).frozen(),
                pick(1, float(&[r, k])),
                pick(2, float(&[n, r])),
            ];
            let oracle =
                move |v: &[Vec<f64>]| oracle::lora(&v[0], &v[1], &v[2], &v[3], 0.5, &vec![1.0; m * k], [m, n, k, r]);
            let name = format!("only {} trainable", ["x", "A", "B"][only]);
            Case::new("lora_linear", name, inputs, |t| t[0].lora_linear(&t[1], None, &t[2], &t[3], 0.5, 0.0), oracle)
                .bound(Product(k + r + 4))
                .grad_bound(Product(m + n + k + r))
                .multilinear()
        })
        .collect()
}

/// By rows, ‖W + sBA‖.
fn dora_norm(w: &[f64], a: &[f64], b: &[f64], s: f64, [n, k, r]: [usize; 3]) -> Vec<f64> {
    let delta = oracle::nn(b, a, [n, k, r]);
    let row = |i: usize| (0..k).map(|j| (w[i * k + j] + s * delta[i * k + j]).powi(2)).sum::<f64>().sqrt();
    (0..n).map(row).collect()
}

/// `x Wᵀ + (g − 1) ⊙ x̂ Wᵀ + g ⊙ s (x̂ Aᵀ) Bᵀ + bias`, term by term.
fn dora(v: &[Vec<f64>], g: &[f64], s: f64, p: f64, [m, n, k, r]: [usize; 4]) -> Vec<f64> {
    let mask = if p == 0.0 { vec![1.0; m * k] } else { oracle::dropout_mask(m * k, p, 0, 0, 1) };
    let seen: Vec<f64> = v[0].iter().zip(mask).map(|(x, m)| x * m).collect();
    let (whole, left) = (oracle::nt(&v[0], &v[1], [m, n, k]), oracle::nt(&seen, &v[1], [m, n, k]));
    let branch = oracle::nt(&oracle::nt(&seen, &v[2], [m, r, k]), &v[3], [m, n, r]);
    let bias = |j: usize| v.get(5).map_or(0.0, |b| b[j]);
    let y = |i: usize| whole[i] + (g[i % n] - 1.0) * left[i] + g[i % n] * s * branch[i] + bias(i % n);
    (0..m * n).map(y).collect()
}

/// Backward holds the norm constant, which a difference quotient of the whole would not. So either x, m and the bias are
/// differentiated, or (`fixed`) the input is g itself, from which the call makes the magnitude that has this g.
fn dora_linear(sizes: [usize; 4], base: Base, bias: bool, p: f64, fixed: bool) -> Case {
    const SCALE: f64 = 0.5;
    let [m, n, k, r] = sizes;
    let pick = |on: bool, input: Input| if on { input } else { input.frozen() };
    let mut inputs = vec![
        float(&[m, k]),
        base.input(&[n, k]),
        pick(fixed, float(&[r, k])),
        pick(fixed, float(&[n, r])),
        pick(!fixed, float(&[n]).of(Kind::Positive)),
    ];
    if bias {
        inputs.push(float(&[n]));
    }
    let oracle = move |v: &[Vec<f64>]| {
        let norm = dora_norm(&v[1], &v[2], &v[3], SCALE, [n, k, r]);
        let g: Vec<f64> = v[4].iter().zip(norm).map(|(m, norm)| if fixed { *m } else { m / norm }).collect();
        dora(v, &g, SCALE, p, sizes)
    };
    let call = move |t: &[Tensor]| {
        let squares = t[1].row_squares(t[0].dtype().wide())?;
        if !fixed {
            return t[0].dora_linear(&t[1], &squares, t.get(5), &t[2], &t[3], &t[4], SCALE, p);
        }
        let (w, a, b, g) = (t[1].to_f64()?, t[2].to_f64()?, t[3].to_f64()?, t[4].to_f64()?);
        let norm = dora_norm(&w, &a, &b, SCALE, [n, k, r]);
        let magnitude: Vec<f64> = norm.iter().zip(g).map(|(norm, g)| norm * g).collect();
        let magnitude = Tensor::from_f64(&magnitude, &[n], t[0].dtype().wide(), t[0].device())?;
        t[0].dora_linear(&t[1], &squares, t.get(5), &t[2], &t[3], &magnitude, SCALE, p)
    };
    let given = if fixed { "g" } else { "m" };
    let name = format!("m{m} n{n} k{k} r{r} {base:?}{} p{p} {given} given", if bias { " bias" } else { "" });
    Case::new("dora_linear", name, inputs, call, oracle)
        .bound(Largest(2.0 * (k + r + 16) as f64))
        .grad_bound(Largest(2.0 * (m + n + k + r) as f64))
}

/// Row i of x has adapter `rows[i·len/m]`.
fn lora_linear_multi([m, n, k]: [usize; 3], ranks: &'static [usize], rows: Vec<Option<usize>>, bias: bool) -> Case {
    // Positive, so that the oracle of absolute values bounds every term.
    let scale = |i: usize| [0.5, 2.0, 1.5][i % 3];
    let mut inputs = vec![float(&[m, k]), float(&[n, k]).frozen()];
    inputs.extend(ranks.iter().flat_map(|&r| [float(&[r, k]), float(&[n, r])]));
    if bias {
        inputs.push(float(&[n]).frozen());
    }
    let name = format!("m{m} n{n} k{k} ranks {ranks:?} rows {rows:?}{}", if bias { " bias" } else { "" });
    let (by_row, block) = (rows.clone(), m / rows.len());
    let oracle = move |v: &[Vec<f64>]| {
        let mut y = oracle::nt(&v[0], &v[1], [m, n, k]);
        for i in 0..m {
            let Some(l) = by_row[i / block] else { continue };
            let h = oracle::nt(&v[0][i * k..(i + 1) * k], &v[2 + 2 * l], [1, ranks[l], k]);
            let branch = oracle::nt(&h, &v[3 + 2 * l], [1, n, ranks[l]]);
            y[i * n..(i + 1) * n].iter_mut().zip(branch).for_each(|(y, b)| *y += scale(l) * b);
        }
        if bias {
            oracle::add_row(&mut y, &v[v.len() - 1]);
        }
        y
    };
    let call = move |t: &[Tensor]| {
        let adapter = |i: usize| RowAdapter { a: t[2 + 2 * i].clone(), b: t[3 + 2 * i].clone(), scale: scale(i) };
        let adapters: Vec<RowAdapter> = (0..ranks.len()).map(adapter).collect();
        t[0].lora_linear_multi(&t[1], bias.then(|| &t[t.len() - 1]), &adapters, &rows)
    };
    let most = ranks.iter().max().unwrap_or(&0);
    Case::new("lora_linear_multi", name, inputs, call, oracle)
        .bound(Product(k + most + 4))
        .grad_bound(Product(m + n.max(k) + most + 4))
        .multilinear()
}

fn matmul(batch: usize, [m, n, k]: [usize; 3], shared: bool, transposed: bool) -> Case {
    let matrix = if transposed { [n, k] } else { [k, n] };
    let b = if shared { matrix.to_vec() } else { vec![batch, matrix[0], matrix[1]] };
    let oracle = move |v: &[Vec<f64>]| {
        let product = if transposed { oracle::nt } else { oracle::nn };
        let second = |i: usize| if shared { &v[1][..] } else { &v[1][i * n * k..(i + 1) * n * k] };
        (0..batch).flat_map(|i| product(&v[0][i * m * k..(i + 1) * m * k], second(i), [m, n, k])).collect()
    };
    let name = format!(
        "{batch}x m{m} n{n} k{k}{}{}",
        if shared { " shared" } else { "" },
        if transposed { " bT" } else { "" }
    );
    let call = move |t: &[Tensor]| if transposed { t[0].matmul_t(&t[1]) } else { t[0].matmul(&t[1]) };
    Case::new("matmul", name, vec![float(&[batch, m, k]), float(&b)], call, oracle)
        .bound(Product(k))
        .grad_bound(Product(batch * m.max(n)))
        .multilinear()
}

fn embedding(vocab: usize, dim: usize, count: usize, table: Input) -> Case {
    let name = format!("{vocab}x{dim} of {count} {:?}", table.kind);
    let oracle = move |v: &[Vec<f64>]| oracle::rows(&v[0], &v[1], dim);
    Case::new("embedding", name, vec![table, ids(&[count], vocab as u32)], |t| t[0].embedding(&t[1]), oracle)
        .bound(Moved)
        .grad_bound(Product(count))
        .multilinear()
}

fn lora_embedding([vocab, dim, count, r]: [usize; 4], base: Base) -> Case {
    const SCALE: f64 = 0.5;
    let inputs = vec![base.input(&[vocab, dim]), ids(&[count], vocab as u32), float(&[r, vocab]), float(&[dim, r])];
    let oracle = move |v: &[Vec<f64>]| {
        let h = oracle::rows(&oracle::transpose(&v[2], r, vocab), &v[1], r);
        let branch = oracle::nt(&h, &v[3], [count, dim, r]);
        oracle::rows(&v[0], &v[1], dim).iter().zip(branch).map(|(w, b)| w + SCALE * b).collect()
    };
    let name = format!("{vocab}x{dim} of {count} r{r} {base:?}");
    Case::new("lora_embedding", name, inputs, |t| t[0].lora_embedding(&t[1], &t[2], &t[3], SCALE), oracle)
        .bound(Product(r + 2))
        .grad_bound(Product(dim + count))
        .multilinear()
}

pub fn rows() -> Vec<Case> {
    let mut rows = Vec::new();
    for (i, sizes) in SIZES.into_iter().enumerate() {
        rows.push(linear(sizes, Base::Trainable, i % 2 == 0));
        rows.push(linear(sizes, Base::Frozen, i % 2 == 1));
        rows.push(matmul(1, sizes, false, i % 2 == 0));
    }
    rows.push(linear([17, 31, 64], Base::Stored(DType::BF16), true));
    rows.push(linear([129, 65, 127], Base::Stored(DType::BF16), false));
    rows.push(linear([5, 33, 20], Base::Stored(DType::F16), false));
    // Weights as a GPU's bulk copies can read them, and one number off.
    rows.push(linear([130, 259, 72], Base::Stored(DType::BF16), true));
    rows.push(linear([33, 300, 76], Base::Stored(DType::BF16), false));
    // Few rows, and sums longer than what a kernel converts or keeps in cache at a time.
    rows.push(linear([16, 300, 1100], Base::Frozen, true));
    rows.push(linear([9, 300, 1100], Base::Stored(DType::BF16), false));
    rows.push(linear([40, 1030, 1040], Base::Stored(DType::BF16), true));
    rows.push(matmul(3, [5, 7, 11], false, false));
    rows.push(matmul(4, [16, 9, 33], false, true));
    rows.push(matmul(3, [5, 7, 11], true, false));
    rows.push(matmul(2, [6, 65, 17], true, true));
    for (i, sizes) in LOW_RANK.into_iter().enumerate() {
        rows.push(lora_linear(sizes, Base::Frozen, i % 2 == 1, 0.0));
    }
    rows.push(lora_linear([9, 20, 24, 4], Base::Trainable, true, 0.0));
    rows.push(lora_linear([65, 33, 40, 8], Base::Frozen, false, 0.5));
    rows.push(lora_linear([19, 33, 40, 8], Base::Frozen, true, 0.3));
    // Masks that start in the middle: of rows, of columns, of long sums.
    rows.push(lora_linear([300, 40, 530, 8], Base::Frozen, false, 0.5));
    rows.push(lora_linear([1030, 5, 1040, 3], Base::Frozen, false, 0.5));
    rows.push(lora_linear([17, 64, 96, 8], Base::Stored(DType::BF16), false, 0.0));
    rows.push(lora_linear([129, 65, 127, 16], Base::Stored(DType::BF16), true, 0.0));
    rows.push(lora_linear([5, 33, 20, 3], Base::Stored(DType::F16), false, 0.0));
    // As above; ranks below and above what a step takes, masks.
    rows.push(lora_linear([130, 259, 72, 3], Base::Stored(DType::BF16), true, 0.0));
    rows.push(lora_linear([140, 66, 264, 8], Base::Stored(DType::BF16), false, 0.5));
    rows.push(lora_linear([35, 77, 136, 40], Base::Stored(DType::BF16), true, 0.3));
    rows.push(lora_linear([20, 264, 64, 128], Base::Stored(DType::BF16), false, 0.0));
    rows.push(lora_linear([18, 40, 24, 130], Base::Stored(DType::BF16), true, 0.5));
    rows.extend(lora_linear_parts());
    let mixed = |m: usize| (0..m).map(|i| [None, Some(1), Some(0), Some(1)][(i * i + i / 3) % 4]).collect::<Vec<_>>();
    rows.push(lora_linear_multi([1, 1, 1], &[1], vec![Some(0)], true));
    rows.push(lora_linear_multi([5, 3, 7], &[2, 16], vec![Some(1), None, Some(0), Some(1), None], false));
    rows.push(lora_linear_multi([12, 9, 8], &[3, 1, 4], vec![Some(2), Some(0), None], true));
    rows.push(lora_linear_multi([40, 31, 33], &[3, 8], mixed(40), true));
    rows.push(lora_linear_multi([130, 65, 70], &[8, 4], mixed(130), false));
    rows.push(lora_linear_multi([20, 12, 14], &[], vec![None], true));
    for (i, sizes) in
        [[1, 1, 1, 1], [2, 3, 5, 3], [5, 3, 7, 16], [17, 31, 64, 8], [65, 129, 127, 4], [130, 257, 300, 8]]
            .into_iter()
            .enumerate()
    {
        rows.push(dora_linear(sizes, Base::Frozen, i % 2 == 1, 0.0, false));
        rows.push(dora_linear(sizes, Base::Frozen, i % 2 == 0, 0.0, true));
    }
    for fixed in [false, true] {
        rows.push(dora_linear([9, 12, 14, 4], Base::Frozen, true, 0.5, fixed));
        rows.push(dora_linear([19, 33, 40, 8], Base::Frozen, false, 0.3, fixed));
        rows.push(dora_linear([17, 64, 96, 8], Base::Stored(DType::BF16), true, 0.0, fixed));
        rows.push(dora_linear([5, 33, 20, 3], Base::Stored(DType::F16), false, 0.0, fixed));
    }
    for (vocab, dim, count) in [(1, 1, 1), (13, 7, 40), (129, 128, 127)] {
        rows.push(embedding(vocab, dim, count, float(&[vocab, dim])));
        rows.push(embedding(vocab, dim, count, stored(&[vocab, dim], DType::BF16)));
    }
    for sizes in [[1, 1, 1, 1], [13, 7, 40, 3], [7, 5, 20, 16], [129, 128, 127, 8]] {
        rows.push(lora_embedding(sizes, Base::Frozen));
    }
    rows.push(lora_embedding([11, 13, 30, 4], Base::Trainable));
    rows.push(lora_embedding([11, 13, 30, 4], Base::Stored(DType::BF16)));
    rows
}
