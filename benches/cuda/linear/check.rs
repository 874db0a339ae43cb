//! Sampled elements of a low-rank linear's results against sums in f64.
//!
//! Operands are random and so are their roundings: the error of a sum of products grows like the root of the sum of their
//! squares. What is allowed is four times the unit of rounding (several standard deviations for each operand), what the
//! sum's own f32 arithmetic adds, and half a unit of what the result is stored in.

use lowrank_core::{DType, Precision, Tensor, no_grad, philox};

use super::{Host, Kind, Operands, SCALE};
use crate::Outcome;

/// Elements of y, dx, da and db each.
const SAMPLES: usize = 64;
/// Columns of h and u that da and db are looked at in.
const RANKS: usize = 2;

/// A value, and the sum of squares of what it is made of.
#[derive(Clone, Copy, Default)]
struct Sum {
    value: f64,
    squares: f64,
}

impl Sum {
    /// Of products.
    fn of(products: impl Iterator<Item = f64>) -> Sum {
        products.fold(Sum::default(), |s, p| Sum { value: s.value + p, squares: s.squares + p * p })
    }

    /// Of sums, each rounded itself, times a factor.
    fn of_sums(terms: impl Iterator<Item = (Sum, f64)>) -> Sum {
        terms.fold(Sum::default(), |s, (t, f)| Sum {
            value: s.value + t.value * f,
            squares: s.squares + (t.squares + t.value * t.value) * f * f,
        })
    }

    fn and(self, other: Sum) -> Sum {
        Sum { value: self.value + other.value, squares: self.squares + other.squares }
    }
}

/// What is expected: places in a result, of the frozen layer alone and of the branch.
pub struct Sampled {
    y: Vec<(usize, Sum, Sum)>,
    dx: Vec<(usize, Sum, Sum)>,
    da: Vec<(usize, Sum)>,
    db: Vec<(usize, Sum)>,
    unit: f64,
    /// Half a unit in the last place of activations.
    stored: f64,
}

impl Sampled {
    pub fn new(host: &Host) -> Self {
        let [m, k, n, r] = host.sizes;
        let Host { x, w, a, b, gy, mode, .. } = host;
        let at = |v: &[f32], i: usize, j: usize, width: usize| f64::from(v[i * width + j]);
        let h = |i: usize, q: usize| Sum::of((0..k).map(|l| at(x, i, l, k) * at(a, q, l, k)));
        let u = |i: usize, q: usize| Sum::of((0..n).map(|j| SCALE * at(gy, i, j, n) * at(b, j, q, r)));
        let mut rng = philox::Rng::new(2, 0);
        let mut below = |n: usize| rng.below(n as u32) as usize;
        let (mut y, mut dx, mut da, mut db) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..SAMPLES {
            let (i, j, l) = (below(m), below(n), below(k));
            let base = Sum::of((0..k).map(|l| at(x, i, l, k) * at(w, j, l, k)));
            let branch = Sum::of_sums((0..r).map(|q| (h(i, q), SCALE * at(b, j, q, r))));
            y.push((i * n + j, base, branch));
            let base = Sum::of((0..n).map(|j| at(gy, i, j, n) * at(w, j, l, k)));
            let branch = Sum::of_sums((0..r).map(|q| (u(i, q), at(a, q, l, k))));
            dx.push((i * k + l, base, branch));
        }
        for _ in 0..RANKS {
            let q = below(r);
            let (h, u): (Vec<Sum>, Vec<Sum>) = (0..m).map(|i| (h(i, q), u(i, q))).unzip();
            for _ in 0..SAMPLES / RANKS {
                let (j, l) = (below(n), below(k));
                da.push((q * k + l, Sum::of_sums((0..m).map(|i| (u[i], at(x, i, l, k))))));
                db.push((j * r + q, Sum::of_sums((0..m).map(|i| (h[i], SCALE * at(gy, i, j, n))))));
            }
        }
        // The longest sum, in f32: at random where each addition is rounded, in one direction where tensor cores cut off.
        let longest = m.max(k).max(n) as f64;
        let (operand, sum) = match mode.precision {
            Precision::Full if mode.weight == DType::F32 => (0.0, longest.sqrt() * 2f64.powi(-24)),
            Precision::Full => (2f64.powi(-21), longest * 2f64.powi(-26)),
            Precision::Bf16x3 => (2f64.powi(-16), longest * 2f64.powi(-26)),
            Precision::Tf32 => (2f64.powi(-11), longest * 2f64.powi(-26)),
            Precision::Bf16 => (2f64.powi(-8), longest * 2f64.powi(-26)),
        };
        let stored = if mode.activations == DType::F32 { 2f64.powi(-24) } else { 2f64.powi(-8) };
        Sampled { y, dx, da, db, unit: operand + sum, stored }
    }

    /// The largest error of sampled elements in units of what is allowed; infinite if anything is not finite.
    pub fn worst(&self, c: &Operands, kind: Kind) -> Outcome<f64> {
        c.pass(kind, true)?;
        let mut worst = 0.0f64;
        let mut see = |got: &[f64], place: usize, want: Sum, stored: f64| {
            let allowed = 4.0 * self.unit * want.squares.sqrt() + stored * want.value.abs() + 1e-30;
            worst = worst.max((got[place] - want.value).abs() / allowed);
        };
        let mut finite = true;
        let mut read = |t: &Tensor| -> Outcome<Vec<f64>> {
            let values = t.to_f64()?;
            finite &= values.iter().all(|v| v.is_finite());
            Ok(values)
        };
        let of = |base: Sum, branch: Sum| if kind == Kind::Frozen { base } else { base.and(branch) };
        let grad = |t: &Tensor| t.grad().ok_or("a gradient is missing");
        let got = read(&no_grad(|| c.forward(kind))?)?;
        self.y.iter().for_each(|&(place, base, branch)| see(&got, place, of(base, branch), self.stored));
        let got = read(&grad(&c.x)?)?;
        self.dx.iter().for_each(|&(place, base, branch)| see(&got, place, of(base, branch), self.stored));
        if kind != Kind::Frozen {
            let got = read(&grad(&c.a)?)?;
            self.da.iter().for_each(|&(place, want)| see(&got, place, want, 0.0));
            let got = read(&grad(&c.b)?)?;
            self.db.iter().for_each(|&(place, want)| see(&got, place, want, 0.0));
        }
        [&c.x, &c.a, &c.b].into_iter().for_each(Tensor::zero_grad);
        Ok(if finite { worst } else { f64::INFINITY })
    }
}
