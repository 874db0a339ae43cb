//! One product on the simulated device and by plain loops.
#![allow(dead_code)]

use crate::common::Gpu;
use lowrank_backend::philox;
use lowrank_kernels::gemm::{Gemm, Layout, Math, Tail};
use lowrank_kernels::launch::{Dropout, Operand, Type};
use ptxsim::Report;

#[derive(Clone, Copy)]
pub struct Case {
    pub layout: Layout,
    pub batch: usize,
    pub mnk: [usize; 3],
    /// a, b, c
    pub types: [Type; 3],
    /// Elements by which operands start beside an aligned address.
    pub shift: usize,
    pub add: bool,
    pub bias: Option<Type>,
    /// Rank of the tail and probability of its dropout.
    pub tail: Option<(usize, f64)>,
    /// What both operands of the tail are stored as.
    pub low: Type,
    pub tile: usize,
    /// Tensor cores instead of FMA units.
    pub math: Option<Math>,
}

pub const PLAIN: Case = Case {
    layout: Layout::NT,
    batch: 1,
    mnk: [64, 64, 32],
    types: [Type::F32; 3],
    shift: 0,
    add: false,
    bias: None,
    tail: None,
    low: Type::F32,
    tile: 64,
    math: None,
};

fn at(layout: Layout, which: char, i: usize, t: usize, rows: usize, k: usize) -> usize {
    let along = match which {
        'a' => layout != Layout::TN,
        _ => layout == Layout::NT,
    };
    if along { i * k + t } else { t * rows + i }
}

pub fn run(c: Case, exact: bool, mutant: Option<String>) -> (Vec<Report>, Vec<f64>, Vec<f64>, Vec<f64>) {
    let Case { layout, batch, mnk: [m, n, k], types, shift, add, .. } = c;
    let mut gpu = Gpu::new((m * 31 + n * 7 + k) as u64);
    gpu.exact = exact;
    gpu.mutant = mutant;
    let (a, va) = gpu.shifted(batch * m * k, types[0], shift);
    let (b, vb) = gpu.shifted(batch * k * n, types[1], shift);
    let (out, old) = if add {
        gpu.shifted(batch * m * n, types[2], shift)
    } else {
        let o = gpu.alloc(batch * m * n + shift, types[2]);
        (Operand::new(o.at + (shift * o.ty.size()) as u64, o.ty), vec![0.0; batch * m * n])
    };
    let bias = c.bias.map(|ty| gpu.shifted(n, ty, shift));
    let alpha = if exact { 2.0 } else { 0.37 };
    let mut g = Gemm { layout, batch, m, n, k, alpha, add, a, b, c: out, bias: bias.as_ref().map(|x| x.0), tail: None };
    let mut low = (vec![], vec![], vec![1.0; m * n]);
    if let Some((r, p)) = c.tail {
        let (h, vh) = gpu.random(m * r, c.low);
        let (w, vw) = gpu.random(n * r, c.low);
        let d = lowrank_backend::Dropout { p, seed: 0x1234_5678_9abc, stream: 7 };
        let scalars = gpu.mem.upload(&[5.0f32; 64]);
        let dropout = (p > 0.0).then_some(Dropout {
            scalars,
            seed: d.seed,
            stream: d.stream,
            threshold: d.threshold(),
            keep: d.keep_scale() as f32,
        });
        if p > 0.0 {
            let keep = |i: usize| philox::word(d.seed, d.stream, 5, i as u64) >= d.threshold();
            low.2 = (0..m * n).map(|i| if keep(i) { d.keep_scale() } else { 0.0 }).collect();
        }
        (low.0, low.1) = (vh, vw);
        g.tail = Some(Tail { a: h, b: w, r, s: 2.0, dropout });
    }
    let reports =
        c.math.map_or_else(|| g.tiled(c.tile), |math| g.tensor(math)).unwrap().iter().map(|l| gpu.run(l)).collect();
    let got = gpu.read(out, batch * m * n);
    let (mut want, mut size) = (old.clone(), vec![0.0; batch * m * n]);
    for z in 0..batch {
        for i in 0..m {
            for j in 0..n {
                let (mut s, mut abs) = (0.0, 0.0);
                for t in 0..k {
                    let p = va[z * m * k + at(layout, 'a', i, t, m, k)] * vb[z * k * n + at(layout, 'b', j, t, n, k)];
                    s += p;
                    abs += p.abs();
                }
                if let Some((r, _)) = c.tail {
                    for t in 0..r {
                        let p = 2.0 * low.0[i * r + t] * low.1[at(layout, 'b', j, t, n, r)] * low.2[i * n + j];
                        s += p;
                        abs += p.abs();
                    }
                }
                let bias = bias.as_ref().map_or(0.0, |x| x.1[j]);
                let at = (z * m + i) * n + j;
                want[at] += f64::from(alpha) * s + bias;
                size[at] = f64::from(alpha) * abs + bias.abs() + old[at].abs();
            }
        }
    }
    (reports, got, want, size)
}

/// Half a unit in the last place of the result's type, relative.
pub fn unit(ty: Type) -> f64 {
    match ty {
        Type::F32 => 2f64.powi(-24),
        Type::Bf16 => 2f64.powi(-8),
        Type::F16 => 2f64.powi(-11),
    }
}
