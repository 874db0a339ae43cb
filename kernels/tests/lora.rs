//! The rank-r sums of `cu/lora.cu` against plain loops: ranks, tails in every dimension, types, masks, both modes.

mod common;
use common::{Gpu, close, mutate, one_more};
use lowrank_backend::philox;
use lowrank_kernels::launch::{Dropout, Operand, Type};
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
type Results = Vec<(&'static str, Vec<f64>, Vec<f64>, Vec<f64>)>;

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
fn run(
    [m, n, k, r]: [usize; 4],
    ty: Type,
    p: f64,
    shift: usize,
    exact: bool,
    mutant: Option<String>,
) -> (Vec<Report>, Results) {
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

    let plan = Plan::new(m, k, r).unwrap().cut(2);
    let scratch = gpu.mem.alloc(plan.scratch());
    let h = gpu.alloc(m * r, Type::F32);
    reports.extend(all(&mut gpu, &plan.h(x, a, h, dropout, scratch).unwrap()));
    let zero = vec![0.0; m * r];
    let (want, abs) = sums(m, r, k, 1.0, &zero, |i, j, t| xd[i * k + t] * va[j * k + t]);
    results.push(("h", gpu.read(h, m * r), want, abs));

    let plan = Plan::new(m, n, r).unwrap().cut(2);
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

    let plan = Plan::new(m, k, r).unwrap().cut(2);
    let scratch = gpu.mem.alloc(plan.scratch());
    let (u, vu) = gpu.random(m * r, Type::F32);
    let da = gpu.alloc(r * k, Type::F32);
    reports.extend(all(&mut gpu, &plan.da(x, u, Slot { out: da, add: false }, dropout, scratch).unwrap()));
    let (want, abs) = sums(r, k, m, 1.0, &vec![0.0; r * k], |i, j, t| vu[t * r + i] * xd[t * k + j]);
    results.push(("da", gpu.read(da, r * k), want, abs));
    (reports, results)
}

fn check(sizes: [usize; 4], ty: Type, p: f64, shift: usize) {
    for exact in [true, false] {
        let (reports, results) = run(sizes, ty, p, shift, exact, None);
        for r in reports {
            assert!(r.is_clean(), "{sizes:?} {ty:?} p {p}: {r}");
        }
        let terms = (sizes[0].max(sizes[1]).max(sizes[2]) + 4) as f64;
        for (what, got, want, abs) in results {
            let name = format!("{what} {sizes:?} {ty:?} p {p} shift {shift}");
            // 1/(1−½) is exact.
            let exact = exact && (p == 0.0 || p == 0.5);
            close(&name, &got, &want, |i| if exact { 0.0 } else { terms * 2f64.powi(-24) * abs[i] + 1e-30 });
        }
    }
}

#[test]
fn every_rank() {
    for sizes in
        [[1, 1, 1, 1], [17, 9, 13, 3], [33, 40, 70, 16], [20, 300, 36, 20], [16, 64, 68, 64], [18, 70, 130, 100]]
    {
        check(sizes, Type::F32, 0.0, 0);
    }
}

/// More columns than a slice has, more rows than a block.
#[test]
fn several_slices_and_row_blocks() {
    check([70, 520, 1030, 4], Type::F32, 0.0, 0);
    check([40, 131, 260, 65], Type::F32, 0.0, 0);
}

#[test]
fn masks() {
    check([19, 20, 37, 5], Type::F32, 0.5, 0);
    check([35, 8, 520, 16], Type::F32, 0.1, 0);
}

#[test]
fn storage_types_and_unaligned_operands() {
    check([19, 24, 40, 8], Type::Bf16, 0.0, 0);
    check([18, 24, 40, 8], Type::F16, 0.5, 0);
    check([17, 24, 40, 8], Type::F32, 0.0, 1);
    check([17, 24, 40, 8], Type::Bf16, 0.5, 1);
}

/// One result without the other, and each alone equal to both together.
#[test]
fn u_and_db_alone_have_the_same_bits() {
    let [m, n, r] = [50, 600, 12];
    let mut gpu = Gpu::new(3);
    let (gy, _) = gpu.random(m * n, Type::F32);
    let (b, _) = gpu.random(n * r, Type::F32);
    let (h, _) = gpu.random(m * r, Type::F32);
    let plan = Plan::new(m, n, r).unwrap();
    let scratch = gpu.mem.alloc(plan.scratch());
    let mut go = |with_u: bool, with_db: bool| {
        let (u, db) = (gpu.alloc(m * r, Type::F32), gpu.alloc(n * r, Type::F32));
        let slot = Slot { out: db, add: false };
        let l = plan.u_db(gy, with_u.then_some((b, u)), with_db.then_some((h, slot)), 0.3, scratch).unwrap();
        l.iter().for_each(|l| drop(gpu.clean(l)));
        (if with_u { gpu.read(u, m * r) } else { vec![] }, if with_db { gpu.read(db, n * r) } else { vec![] })
    };
    let both = go(true, true);
    assert_eq!(go(true, false).0, both.0);
    assert_eq!(go(false, true).1, both.1);
}

/// A row has the same bits alone and in a batch.
#[test]
fn rows_do_not_depend_on_their_neighbours() {
    let [k, r] = [700, 16];
    let mut gpu = Gpu::new(4);
    let (x, _) = gpu.random(90 * k, Type::F32);
    let (a, _) = gpu.random(r * k, Type::F32);
    let mut go = |first: usize, m: usize| {
        let plan = Plan::new(m, k, r).unwrap();
        let scratch = gpu.mem.alloc(plan.scratch());
        let h = gpu.alloc(m * r, Type::F32);
        let x = Operand::new(x.at + (first * k * 4) as u64, Type::F32);
        plan.h(x, a, h, None, scratch).unwrap().iter().for_each(|l| drop(gpu.clean(l)));
        gpu.read(h, m * r)
    };
    let all = go(0, 90);
    assert_eq!(go(37, 1), all[37 * r..38 * r]);
    assert_eq!(go(20, 33), all[20 * r..53 * r]);
}

#[test]
fn gy_is_read_once_and_main_loops_meet_no_bank_twice() {
    for r in [16, 32, 64, 128] {
        let [m, n] = [64, 8192 / r];
        let mut gpu = Gpu::new(1);
        gpu.exact = true;
        let (gy, _) = gpu.random(m * n, Type::F32);
        let (b, _) = gpu.random(n * r, Type::F32);
        let (h, _) = gpu.random(m * r, Type::F32);
        let (u, db) = (gpu.alloc(m * r, Type::F32), gpu.alloc(n * r, Type::F32));
        let plan = Plan::new(m, n, r).unwrap().cut(2);
        let scratch = gpu.mem.alloc(plan.scratch());
        let slot = Slot { out: db, add: false };
        let l = plan.u_db(gy, Some((b, u)), Some((h, slot)), 1.0, scratch).unwrap();
        let c = gpu.clean(&l[0]).counters;
        assert_eq!(c.bank_conflicts, 0, "r {r}");
        // gy, h, partial u; b and partial db once for each of two blocks.
        let floor = (m * n + 2 * m * r + 2 * 2 * n * r) * 4 / 32;
        assert_eq!(c.global_sectors as usize, floor, "r {r}");
    }
}

#[test]
fn faults_are_caught() {
    let text = lowrank_kernels::LORA.ptx;
    let caught = |mutant: String| {
        let (reports, results) = run([70, 30, 36, 5], Type::F32, 0.0, 0, false, Some(mutant));
        let off = |(_, got, want, abs): &(_, Vec<f64>, Vec<f64>, Vec<f64>)| {
            !(0..got.len()).all(|i| (got[i] - want[i]).abs() <= 1e-4 * (abs[i] + 1e-3))
        };
        results.iter().any(off) || reports.iter().any(|r| !r.is_clean())
    };
    assert!(!caught(text.to_string()));
    // m one too large.
    assert!(caught(mutate(text, "lora_uv_16", "_param_0+48]", 0, one_more)));
    for entry in ["lora_u_16", "lora_v_16", "lora_uv_16"] {
        for i in 0..2 {
            assert!(caught(mutate(text, entry, "bar.sync", i, |_| String::new())), "{entry} barrier {i}");
        }
    }
}
