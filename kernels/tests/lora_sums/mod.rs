//! The rank-r sums on the simulated device and by plain loops.
#![allow(dead_code)]

use crate::common::Gpu;
use lowrank_backend::philox;
use lowrank_kernels::launch::{Dropout, Type};
use lowrank_kernels::lora::{Plan, Slot};
use ptxsim::Report;

/// Launches one after the other; the findings and the counts of all.
fn all(gpu: &mut Gpu, launches: &[lowrank_kernels::launch::Launch]) -> Vec<Report> {
    launches.iter().map(|l| gpu.run(l)).collect()
}

/// A mask over `[m,c]` and how a kernel is told.
fn mask(gpu: &mut Gpu, len: usize, p: f64) -> (Option<Dropout>, Vec<f64>) {
    if p == 0.0 {
        return (None, vec![1.0; len]);
    }
    let d = lowrank_backend::Dropout { p, seed: 0xfeed_0000_0001, stream: 3 };
    let scalars = gpu.mem.upload(&[9.0f32; 64]);
    let keep = |i: usize| philox::word(d.seed, d.stream, 9, i as u64) >= d.threshold();
    let values = (0..len).map(|i| if keep(i) { d.keep_scale() } else { 0.0 }).collect();
    let keep = d.keep_scale() as f32;
    (Some(Dropout { scalars, seed: d.seed, stream: d.stream, threshold: d.threshold(), keep }), values)
}

/// What is compared: name, result, expectation, sizes of the sums' terms.
pub type Results = Vec<(&'static str, Vec<f64>, Vec<f64>, Vec<f64>)>;

/// out[i,j] = old + s Σ_t f(i, j, t)
fn sums(
    i: usize,
    j: usize,
    t: usize,
    s: f64,
    old: &[f64],
    f: impl Fn(usize, usize, usize) -> f64,
) -> (Vec<f64>, Vec<f64>) {
    let (mut want, mut abs) = (old.to_vec(), old.iter().map(|v| v.abs()).collect::<Vec<_>>());
    for a in 0..i {
        for b in 0..j {
            for c in 0..t {
                want[a * j + b] += s * f(a, b, c);
                abs[a * j + b] += (s * f(a, b, c)).abs();
            }
        }
    }
    (want, abs)
}

/// All three first passes over one set of operands.
pub fn run(
    tensor: bool,
    [m, n, k, r]: [usize; 4],
    ty: Type,
    p: f64,
    shift: usize,
    exact: bool,
    mutant: Option<String>,
) -> (Vec<Report>, Results) {
    let cut = |plan: Option<Plan>| if tensor { plan.unwrap().cut(2).tensor() } else { plan.unwrap().cut(2) };
    let mut gpu = Gpu::new((m * 31 + n * 7 + k + r) as u64);
    (gpu.exact, gpu.mutant) = (exact, mutant);
    let mut reports = Vec::new();
    let mut results: Results = Vec::new();
    let (x, vx) = gpu.shifted(m * k, ty, shift);
    let (a, va) = gpu.shifted(r * k, Type::F32, shift);
    let (b, vb) = gpu.shifted(n * r, Type::F32, shift);
    let (gy, vg) = gpu.shifted(m * n, ty, shift);
    let (dropout, mask) = mask(&mut gpu, m * k, p);
    let xd: Vec<f64> = vx.iter().zip(&mask).map(|(x, f)| x * f).collect();

    let plan = cut(Plan::new(m, k, r));
    let scratch = gpu.mem.alloc(plan.scratch());
    let h = gpu.alloc(m * r, Type::F32);
    reports.extend(all(&mut gpu, &plan.h(x, a, h, dropout, scratch).unwrap()));
    let zero = vec![0.0; m * r];
    let (want, abs) = sums(m, r, k, 1.0, &zero, |i, j, t| xd[i * k + t] * va[j * k + t]);
    results.push(("h", gpu.read(h, m * r), want, abs));

    let plan = cut(Plan::new(m, n, r));
    let scratch = gpu.mem.alloc(plan.scratch());
    let (h, vh) = gpu.shifted(m * r, ty, shift);
    let u = gpu.alloc(m * r, Type::F32);
    let (db, old) = gpu.random(n * r, Type::F32);
    let slot = Slot { out: db, add: true };
    reports.extend(all(&mut gpu, &plan.u_db(gy, Some((b, u)), Some((h, slot)), 2.0, scratch).unwrap()));
    let (want, abs) = sums(m, r, n, 2.0, &zero, |i, j, t| vg[i * n + t] * vb[t * r + j]);
    results.push(("u", gpu.read(u, m * r), want, abs));
    let (want, abs) = sums(n, r, m, 2.0, &old, |i, j, t| vg[t * n + i] * vh[t * r + j]);
    results.push(("db", gpu.read(db, n * r), want, abs));

    let plan = cut(Plan::new(m, k, r));
    let scratch = gpu.mem.alloc(plan.scratch());
    let (u, vu) = gpu.random(m * r, Type::F32);
    let da = gpu.alloc(r * k, Type::F32);
    reports.extend(all(&mut gpu, &plan.da(x, u, Slot { out: da, add: false }, dropout, scratch).unwrap()));
    let (want, abs) = sums(r, k, m, 1.0, &vec![0.0; r * k], |i, j, t| vu[t * r + i] * xd[t * k + j]);
    results.push(("da", gpu.read(da, r * k), want, abs));
    (reports, results)
}
