//! layer_norm, rms_norm, softmax: rows are treated alone.

use crate::case::Bound::{Each, Largest};
use crate::case::{Case, Kind, float};
use crate::oracle;

const SIZES: [(usize, usize); 6] = [(1, 1), (2, 7), (17, 128), (5, 129), (3, 1031), (130, 16)];
const EPS: f64 = 1e-5;

fn softmax(rows: usize, cols: usize, kind: Kind) -> Case {
    let oracle = move |v: &[Vec<f64>]| oracle::softmax(&v[0], cols);
    let name = format!("{rows}x{cols} {kind:?}");
    // Of a row with one element nothing is left to differentiate, but 0 must come out.
    Case::new("softmax", name, vec![float(&[rows, cols]).of(kind)], |t| t[0].softmax(), oracle)
        .bound(Each(48.0))
        .grad_bound(Largest(48.0))
}

fn rms_norm(rows: usize, cols: usize) -> Case {
    // Half the error of a sum of squares reaches 1/√; sums are in parts.
    let units = 8.0 + cols as f64 / 8.0;
    let x = float(&[rows, cols]);
    // x / √(x² + eps) hardly depends on x: rounding is all that its gradient has.
    let x = if cols == 1 { x.frozen() } else { x };
    let inputs = vec![x, float(&[cols])];
    let oracle = |v: &[Vec<f64>]| oracle::rms_norm(&v[0], &v[1], EPS);
    Case::new("rms_norm", format!("{rows}x{cols}"), inputs, |t| t[0].rms_norm(&t[1], EPS), oracle)
        .bound(Each(units))
        .grad_bound(Largest(4.0 * units + rows as f64))
}

fn layer_norm(rows: usize, cols: usize, kind: Kind) -> Case {
    // Around a mean of 100 the inputs themselves have a hundred times fewer digits.
    let units = (8.0 + cols as f64 / 8.0) * if kind == Kind::Shifted { 200.0 } else { 1.0 };
    let inputs = vec![float(&[rows, cols]).of(kind), float(&[cols]), float(&[cols])];
    let oracle = |v: &[Vec<f64>]| oracle::layer_norm(&v[0], &v[1], &v[2], EPS);
    let name = format!("{rows}x{cols} {kind:?}");
    Case::new("layer_norm", name, inputs, |t| t[0].layer_norm(&t[1], &t[2], EPS), oracle)
        .bound(Largest(units))
        .grad_bound(Largest(4.0 * units + rows as f64))
}

pub fn rows() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, cols) in SIZES {
        if cols > 1 {
            all.push(softmax(rows, cols, Kind::Wide));
            all.push(layer_norm(rows, cols, Kind::Unit));
        }
        all.push(rms_norm(rows, cols));
    }
    all.push(softmax(7, 33, Kind::Shifted));
    all.push(layer_norm(9, 64, Kind::Shifted));
    all
}
