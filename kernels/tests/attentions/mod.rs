//! Attention and its gradients by plain f64 loops, and runs of the kernels beside them.

use half::bf16;
use lowrank_kernels::attention::{Attention, Gradient, Saved};
use lowrank_kernels::launch::{Operand, Type};
use ptxsim::Report;

use crate::common::{Gpu, close};

pub const SMALL: Attention = Attention {
    batch: 1,
    q_len: 5,
    kv_len: 5,
    heads: 2,
    kv_heads: 1,
    dim: 16,
    scale: 0.25,
    causal: true,
    ty: Type::F32,
    rounded: false,
};

/// A result, what it should be, and by how much rounding its terms to bf16 may move it: 2⁻⁸ of the sum of their sizes.
pub struct Output {
    pub what: &'static str,
    pub got: Vec<f64>,
    pub want: Vec<f64>,
    pub rounding: Vec<f64>,
}

/// Half a unit in the last place of a bf16, relative.
const BF16: f64 = 1.0 / 256.0;

/// A sum of products and the sum of their sizes, for each element.
struct Sums(Vec<f64>, Vec<f64>);

impl Sums {
    fn new(len: usize) -> Self {
        Sums(vec![0.0; len], vec![0.0; len])
    }

    fn add(&mut self, i: usize, x: f64) {
        self.0[i] += x;
        self.1[i] += x.abs();
    }
}

/// The operands as products see them.
struct Operands {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    gy: Vec<f64>,
}

impl Operands {
    fn new(a: &Attention, all: [&[f64]; 4]) -> Self {
        let round = |v: &[f64]| -> Vec<f64> {
            // By way of f32, which these are: `from_f64` looks at too few bits to tell a tie.
            v.iter().map(|&v| if a.tensor() { bf16::from_f32(v as f32).to_f64() } else { v }).collect()
        };
        let [q, k, v, gy] = all.map(round);
        Operands { q, k, v, gy }
    }

    /// Calls `f` for every query of every head with its place, its row in lse, the places of the keys it sees, and the
    /// probabilities and log-sum-exp of its scores.
    fn rows(&self, a: &Attention, mut f: impl FnMut(usize, usize, &[usize], &[f64], f64)) {
        let (group, d) = (a.heads / a.kv_heads, a.dim);
        for b in 0..a.batch {
            for h in 0..a.heads {
                for t in 0..a.q_len {
                    let at = ((b * a.q_len + t) * a.heads + h) * d;
                    let seen = if a.causal { t + a.kv_len - a.q_len + 1 } else { a.kv_len };
                    let keys: Vec<usize> =
                        (0..seen).map(|j| ((b * a.kv_len + j) * a.kv_heads + h / group) * d).collect();
                    let score = |&k: &usize| f64::from(a.scale) * dot(&self.q[at..at + d], &self.k[k..k + d]);
                    let s: Vec<f64> = keys.iter().map(score).collect();
                    let top = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let lse = top + s.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
                    let p: Vec<f64> = s.iter().map(|x| (x - lse).exp()).collect();
                    f(at, (b * a.heads + h) * a.q_len + t, &keys, &p, lse);
                }
            }
        }
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// y and lse.
fn forward(a: &Attention, o: &Operands) -> (Sums, Vec<f64>) {
    let mut y = Sums::new(o.q.len());
    let mut lse = vec![0.0; a.batch * a.heads * a.q_len];
    o.rows(a, |at, row, keys, p, l| {
        lse[row] = l;
        for (&key, p) in keys.iter().zip(p) {
            (0..a.dim).for_each(|e| y.add(at + e, p * o.v[key + e]));
        }
    });
    (y, lse)
}

/// dq, dk and dv, with delta of the y that is given.
fn backward(a: &Attention, o: &Operands, y: &[f64]) -> [Sums; 3] {
    let scale = f64::from(a.scale);
    let [mut dq, mut dk, mut dv] = [o.q.len(), o.k.len(), o.v.len()].map(Sums::new);
    o.rows(a, |at, _, keys, p, _| {
        let gy = &o.gy[at..at + a.dim];
        let delta = dot(gy, &y[at..at + a.dim]);
        for (&key, p) in keys.iter().zip(p) {
            let ds = p * (dot(gy, &o.v[key..key + a.dim]) - delta);
            for (e, gy) in gy.iter().enumerate() {
                dv.add(key + e, p * gy);
                dq.add(at + e, scale * ds * o.k[key + e]);
                dk.add(key + e, scale * ds * o.q[at + e]);
            }
        }
    });
    [dq, dk, dv]
}

/// Forward, and backward from the exact y and lse, so that it is judged alone: findings and results.
pub fn run(a: Attention, shift: usize, mutant: Option<String>) -> (Vec<Report>, Vec<Output>) {
    let mut gpu = Gpu::new(a.q_len as u64 + 100 * a.dim as u64);
    gpu.mutant = mutant;
    let (nq, nk) = (a.batch * a.q_len * a.heads * a.dim, a.batch * a.kv_len * a.kv_heads * a.dim);
    let rows = a.batch * a.heads * a.q_len;
    let (q, vq) = gpu.shifted(nq, a.ty, shift);
    let (k, vk) = gpu.shifted(nk, a.ty, shift);
    let (v, vv) = gpu.shifted(nk, a.ty, shift);
    let (gy, vg) = gpu.shifted(nq, a.ty, shift);
    let (y, lse) = (gpu.alloc(nq, a.ty), gpu.alloc(rows, Type::F32));
    let o = Operands::new(&a, [&vq, &vk, &vv, &vg]);
    let (want_y, want_lse) = forward(&a, &o);
    let (products, stored) =
        (if a.tensor() && a.rounded { BF16 } else { 0.0 }, if a.ty == Type::Bf16 { BF16 } else { 0.0 });
    let output = |what, got: Vec<f64>, want: Vec<f64>, sizes: &[f64]| {
        let rounding = want.iter().zip(sizes).map(|(w, s)| 1.01 * (products * s + stored * (w.abs() + products * s)));
        Output { what, got, rounding: rounding.collect(), want }
    };
    let mut reports = Vec::new();
    reports.push(gpu.run(&a.forward([q.at, k.at, v.at], y.at, lse.at).unwrap().unwrap()));
    let exact = Output { what: "lse", got: gpu.read(lse, rows), want: want_lse.clone(), rounding: vec![0.0; rows] };
    let mut results = vec![output("y", gpu.read(y, nq), want_y.0.clone(), &want_y.1), exact];

    let (mut y, mut lse) = (want_y.0, want_lse);
    let (y_at, lse_at) = (gpu.upload(&mut y, a.ty), gpu.upload(&mut lse, Type::F32));
    let grads = backward(&a, &o, &y);
    let saved = Saved { q: q.at, k: k.at, v: v.at, y: y_at.at, lse: lse_at.at, gy: gy.at };
    let (dq, old_q) = gpu.random(nq, a.ty);
    let (dv, old_v) = gpu.random(nk, a.ty);
    let dk = gpu.alloc(nk, a.ty);
    let scratch = gpu.mem.alloc(a.scratch());
    let slots = [(dq, true), (dk, false), (dv, true)].map(|(x, add): (Operand, bool)| Some(Gradient { at: x.at, add }));
    reports.extend(a.backward(&saved, slots, scratch).unwrap().iter().map(|l| gpu.run(l)));
    for ((what, at, old), Sums(sum, sizes)) in
        [("dq", dq, old_q), ("dk", dk, vec![0.0; nk]), ("dv", dv, old_v)].into_iter().zip(grads)
    {
        let want: Vec<f64> = sum.iter().zip(&old).map(|(x, old)| x + old).collect();
        results.push(output(what, gpu.read(at, want.len()), want, &sizes));
    }
    (reports, results)
}

/// No finding, no bank conflict, and results within their bounds.
pub fn check(a: Attention, shift: usize) {
    let (reports, results) = run(a, shift, None);
    for r in &reports {
        assert!(r.is_clean(), "{a:?}: {r}");
        assert_eq!(r.counters.bank_conflicts, 0, "{a:?}");
    }
    // Scores of |q·k| ≤ dim lose dim·2⁻²⁴; sums of up to group·q_len terms below 1 in size.
    let bound = (a.dim + a.kv_len + a.q_len * a.heads / a.kv_heads) as f64 * 2f64.powi(-22);
    for Output { what, got, want, rounding } in results {
        close(&format!("{what} {a:?}"), &got, &want, |i| bound * (1.0 + want[i].abs()) + rounding[i]);
    }
}

/// Whether a broken kernel shows: by its results, or by what the interpreter finds.
pub fn caught(a: Attention, mutant: String) -> bool {
    let (reports, results) = run(a, 0, Some(mutant));
    let off = |o: &Output| {
        !(0..o.got.len()).all(|i| (o.got[i] - o.want[i]).abs() <= 1e-3 * (1.0 + o.want[i].abs()) + o.rounding[i])
    };
    results.iter().any(off) || reports.iter().any(|r| !r.is_clean())
}
