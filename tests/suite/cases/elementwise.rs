//! add, affine, cast, div, dropout, exp, gelu, log, mul, relu, silu, sqrt, square, sub, swiglu, tanh.

use half::{bf16, f16};
use lowrank_core::{DType, Result, Tensor};

use crate::case::Bound::{Absolute, Each, Largest, Moved, Product};
use crate::case::{Case, Input, Kind, float};
use crate::oracle;

/// Sizes of elementwise operands: one, a few, more than a vector register's multiple, more than one thread's share.
const SHAPES: [&[usize]; 4] = [&[1], &[7, 13], &[4099], &[3, 23456]];

/// Two operands that broadcast, and how often an element of the smaller one is used.
const PAIRS: [(&[usize], &[usize]); 6] = [
    (&[7, 13], &[7, 13]),
    (&[257, 129], &[129]),
    (&[5, 1, 6], &[4, 1]),
    (&[1], &[3, 5]),
    (&[2, 3, 4, 5], &[2, 1, 4, 1]),
    (&[], &[11]),
];

type Unary = fn(&Tensor) -> Result<Tensor>;
type Binary = fn(&Tensor, &Tensor) -> Result<Tensor>;

/// Rows of a function of one operand at every size.
fn unary(
    op: &'static str,
    name: &'static str,
    kind: Kind,
    call: Unary,
    f: fn(f64) -> f64,
    finish: fn(Case) -> Case,
) -> Vec<Case> {
    let row = |shape: &[usize]| {
        let input = float(shape).of(kind);
        let oracle = move |v: &[Vec<f64>]| v[0].iter().map(|&x| f(x)).collect();
        finish(Case::new(op, format!("{name}{shape:?}"), vec![input], move |t| call(&t[0]), oracle))
    };
    SHAPES.map(row).into()
}

/// Rows of a function of two operands with every broadcast.
fn binary(
    op: &'static str,
    kinds: [Kind; 2],
    call: Binary,
    f: fn(f64, f64) -> f64,
    finish: fn(Case) -> Case,
) -> Vec<Case> {
    let row = |a: &'static [usize], b: &'static [usize]| {
        let inputs: Vec<Input> = vec![float(a).of(kinds[0]), float(b).of(kinds[1])];
        let oracle = move |v: &[Vec<f64>]| oracle::broadcast(&v[0], a, &v[1], b, f);
        finish(Case::new(op, format!("{a:?} {b:?}"), inputs, move |t| call(&t[0], &t[1]), oracle))
    };
    PAIRS.into_iter().flat_map(|(a, b)| if a == b { vec![row(a, b)] } else { vec![row(a, b), row(b, a)] }).collect()
}

/// How often an element is used at most in `PAIRS`.
const REPEATS: usize = 257;

/// Zeros or 1/(1−p), as dropout is defined.
fn dropout(p: f64, shape: &'static [usize]) -> Case {
    let oracle = move |v: &[Vec<f64>]| {
        let mask = oracle::dropout_mask(v[0].len(), p, 0, 0, 1);
        v[0].iter().zip(mask).map(|(x, m)| x * m).collect()
    };
    Case::new("dropout", format!("{shape:?} p {p}"), vec![float(shape)], move |t| t[0].dropout(p), oracle)
        .bound(Each(3.0))
}

/// To a storage dtype and back. The rounding is invisible to integers, so that the row is linear to them.
fn cast(dtype: DType, round: fn(f64) -> f64) -> Case {
    let call = move |t: &[Tensor]| t[0].cast(dtype)?.cast(t[0].dtype());
    let oracle = move |v: &[Vec<f64>]| v[0].iter().map(|&x| round(x)).collect();
    Case::new("cast", format!("{dtype}"), vec![float(&[7, 139])], call, oracle).bound(Moved).multilinear()
}

pub fn rows() -> Vec<Case> {
    use Kind::{OffZero, Positive, Unit, Wide};
    let sums = |c: Case| c.bound(Each(1.0)).grad_bound(Product(REPEATS)).multilinear();
    let mut rows = binary("add", [Unit; 2], Tensor::add, |a, b| a + b, sums);
    rows.extend(binary("sub", [Unit; 2], Tensor::sub, |a, b| a - b, sums));
    rows.extend(binary("mul", [Unit; 2], Tensor::mul, |a, b| a * b, sums));
    rows.extend(binary(
        "div",
        [Unit, Positive],
        Tensor::div,
        |a, b| a / b,
        |c| c.bound(Each(1.5)).grad_bound(Largest(64.0)),
    ));
    rows.extend(unary(
        "affine",
        "2.5x+0.75 ",
        Unit,
        |x| x.affine(2.5, 0.75),
        |x| 2.5 * x + 0.75,
        |c| c.bound(Product(2)).exact(),
    ));
    rows.extend(unary("affine", "scale ", Unit, |x| x.scale(-0.5), |x| -0.5 * x, Case::multilinear));
    rows.extend(unary(
        "affine",
        "add ",
        Unit,
        |x| x.add_scalar(3.0),
        |x| x + 3.0,
        |c| c.bound(Each(1.0)).multilinear(),
    ));
    rows.extend(unary("affine", "neg ", Unit, Tensor::neg, |x| -x, Case::multilinear));
    rows.extend(unary("exp", "", Wide, Tensor::exp, f64::exp, |c| c.bound(Each(8.0))));
    rows.extend(unary("log", "", Positive, Tensor::log, f64::ln, |c| c.bound(Largest(8.0)).grad_bound(Each(4.0))));
    rows.extend(unary("sqrt", "", Positive, Tensor::sqrt, f64::sqrt, |c| c.bound(Each(2.0)).grad_bound(Each(6.0))));
    rows.extend(unary(
        "square",
        "",
        Wide,
        Tensor::square,
        |x| x * x,
        |c| c.bound(Each(1.0)).grad_bound(Each(3.0)).exact(),
    ));
    rows.extend(unary("tanh", "", Wide, Tensor::tanh, f64::tanh, |c| c.bound(Each(8.0)).grad_bound(Absolute(16.0))));
    rows.extend(unary("relu", "", OffZero, Tensor::relu, |x| x.max(0.0), Case::exact));
    rows.extend(unary(
        "silu",
        "",
        Wide,
        Tensor::silu,
        |x| x * oracle::sigmoid(x),
        |c| c.bound(Each(12.0)).grad_bound(Absolute(16.0)),
    ));
    rows.extend(unary("gelu", "erf ", Wide, Tensor::gelu, oracle::gelu, |c| {
        c.bound(Absolute(16.0)).grad_bound(Absolute(16.0))
    }));
    rows.extend(unary("gelu", "tanh ", Wide, Tensor::gelu_tanh, oracle::gelu_tanh, |c| {
        c.bound(Absolute(24.0)).grad_bound(Absolute(48.0))
    }));
    rows.extend(SHAPES.map(|shape| {
        let inputs = vec![float(shape).of(Wide), float(shape)];
        let oracle = |v: &[Vec<f64>]| v[0].iter().zip(&v[1]).map(|(g, u)| g * oracle::sigmoid(*g) * u).collect();
        Case::new("swiglu", format!("{shape:?}"), inputs, |t| t[0].swiglu(&t[1]), oracle)
            .bound(Each(16.0))
            .grad_bound(Largest(24.0))
    }));
    rows.extend(SHAPES.map(|shape| dropout(0.5, shape).multilinear()));
    rows.push(dropout(0.3, &[57, 31]));
    rows.push(cast(DType::BF16, |x| bf16::from_f64(x).to_f64()));
    rows.push(cast(DType::F16, |x| f16::from_f64(x).to_f64()));
    rows
}
