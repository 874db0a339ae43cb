//! `cu/attention.cu` against plain loops in f64: grouped heads, causal masks with earlier keys, tails, all head sizes.

mod common;
use common::{Gpu, close, mutate, one_more};
use lowrank_kernels::attention::{Attention, Gradient, Saved};
use lowrank_kernels::launch::{Operand, Type};
use ptxsim::Report;

/// y, lse and the gradients by the definition.
struct Oracle {
    y: Vec<f64>,
    lse: Vec<f64>,
    grads: [Vec<f64>; 3],
}

fn oracle(a: &Attention, q: &[f64], k: &[f64], v: &[f64], gy: &[f64]) -> Oracle {
    let (group, d) = (a.heads / a.kv_heads, a.dim);
    let qa = |b: usize, t: usize, h: usize| ((b * a.q_len + t) * a.heads + h) * d;
    let ka = |b: usize, t: usize, h: usize| ((b * a.kv_len + t) * a.kv_heads + h) * d;
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let mut o = Oracle {
        y: vec![0.0; q.len()],
        lse: vec![0.0; a.batch * a.heads * a.q_len],
        grads: [vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]],
    };
    let scale = f64::from(a.scale);
    for b in 0..a.batch {
        for h in 0..a.heads {
            for t in 0..a.q_len {
                let qi = qa(b, t, h);
                let seen = if a.causal { t + a.kv_len - a.q_len + 1 } else { a.kv_len };
                let key = |j: usize| ka(b, j, h / group);
                let s: Vec<f64> = (0..seen).map(|j| scale * dot(&q[qi..qi + d], &k[key(j)..key(j) + d])).collect();
                let top = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let lse = top + s.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
                o.lse[(b * a.heads + h) * a.q_len + t] = lse;
                let p: Vec<f64> = s.iter().map(|x| (x - lse).exp()).collect();
                for (j, p) in p.iter().enumerate() {
                    for e in 0..d {
                        o.y[qi + e] += p * v[key(j) + e];
                        o.grads[2][key(j) + e] += p * gy[qi + e];
                    }
                }
                let delta = dot(&gy[qi..qi + d], &o.y[qi..qi + d]);
                for (j, p) in p.iter().enumerate() {
                    let ds = p * (dot(&gy[qi..qi + d], &v[key(j)..key(j) + d]) - delta);
                    for e in 0..d {
                        o.grads[0][qi + e] += scale * ds * k[key(j) + e];
                        o.grads[1][key(j) + e] += scale * ds * q[qi + e];
                    }
                }
            }
        }
    }
    o
}

const SMALL: Attention =
    Attention { batch: 1, q_len: 5, kv_len: 5, heads: 2, kv_heads: 1, dim: 16, scale: 0.25, causal: true };

/// Name, result, expectation.
type Results = Vec<(&'static str, Vec<f64>, Vec<f64>)>;

/// Results with what they should be, and the findings.
fn run(a: Attention, shift: usize, mutant: Option<String>) -> (Vec<Report>, Results) {
    let mut gpu = Gpu::new(a.q_len as u64 + 100 * a.dim as u64);
    gpu.mutant = mutant;
    let (nq, nk) = (a.batch * a.q_len * a.heads * a.dim, a.batch * a.kv_len * a.kv_heads * a.dim);
    let rows = a.batch * a.heads * a.q_len;
    let (q, vq) = gpu.shifted(nq, Type::F32, shift);
    let (k, vk) = gpu.shifted(nk, Type::F32, shift);
    let (v, vv) = gpu.shifted(nk, Type::F32, shift);
    let (gy, vg) = gpu.shifted(nq, Type::F32, shift);
    let (y, lse) = (gpu.alloc(nq, Type::F32), gpu.alloc(rows, Type::F32));
    let o = oracle(&a, &vq, &vk, &vv, &vg);
    let mut reports = Vec::new();
    reports.push(gpu.run(&a.forward([q.at, k.at, v.at], y.at, lse.at).unwrap().unwrap()));
    let mut results = vec![("y", gpu.read(y, nq), o.y.clone()), ("lse", gpu.read(lse, rows), o.lse.clone())];

    // Backward takes the exact y and lse, so that it is judged alone.
    let (y, lse) = (gpu.upload(&mut o.y.clone(), Type::F32), gpu.upload(&mut o.lse.clone(), Type::F32));
    let saved = Saved { q: q.at, k: k.at, v: v.at, y: y.at, lse: lse.at, gy: gy.at };
    let (dq, mut want_q) = gpu.random(nq, Type::F32);
    let (dv, mut want_v) = gpu.random(nk, Type::F32);
    let dk = gpu.alloc(nk, Type::F32);
    let scratch = gpu.mem.alloc(a.scratch());
    let grads = [(dq, true), (dk, false), (dv, true)].map(|(x, add): (Operand, bool)| Some(Gradient { at: x.at, add }));
    reports.extend(a.backward(&saved, grads, scratch).unwrap().iter().map(|l| gpu.run(l)));
    want_q.iter_mut().zip(&o.grads[0]).for_each(|(x, g)| *x += g);
    want_v.iter_mut().zip(&o.grads[2]).for_each(|(x, g)| *x += g);
    results.push(("dq", gpu.read(dq, nq), want_q));
    results.push(("dk", gpu.read(dk, nk), o.grads[1].clone()));
    results.push(("dv", gpu.read(dv, nk), want_v));
    (reports, results)
}

fn check(a: Attention, shift: usize) {
    let (reports, results) = run(a, shift, None);
    for r in &reports {
        assert!(r.is_clean(), "{a:?}: {r}");
        assert_eq!(r.counters.bank_conflicts, 0, "{a:?}");
    }
    // Scores of |q·k| ≤ dim lose dim·2⁻²⁴; sums of up to group·q_len terms below 1 in size.
    let bound = (a.dim + a.kv_len + a.q_len * a.heads / a.kv_heads) as f64 * 2f64.powi(-22);
    for (what, got, want) in results {
        close(&format!("{what} {a:?}"), &got, &want, |i| bound * (1.0 + want[i].abs()));
    }
}

#[test]
fn grouped_heads_and_causal_masks() {
    check(SMALL, 0);
    check(Attention { batch: 2, heads: 4, kv_heads: 2, q_len: 7, kv_len: 7, causal: false, ..SMALL }, 0);
    check(Attention { q_len: 1, kv_len: 1, heads: 1, ..SMALL }, 0);
    check(Attention { q_len: 1, kv_len: 70, heads: 3, ..SMALL }, 0);
    check(Attention { q_len: 3, kv_len: 80, batch: 2, ..SMALL }, 0);
}

#[test]
fn several_tiles() {
    check(Attention { q_len: 70, kv_len: 70, heads: 1, ..SMALL }, 0);
    check(Attention { q_len: 65, kv_len: 130, heads: 1, dim: 20, ..SMALL }, 0);
    check(Attention { q_len: 66, kv_len: 67, causal: false, dim: 64, scale: 0.125, ..SMALL }, 0);
}

#[test]
fn every_head_size() {
    for dim in [1, 3, 16, 30, 64, 65, 80, 128, 130, 256] {
        let scale = 1.0 / (dim as f32).sqrt();
        check(Attention { q_len: 18, kv_len: 35, dim, scale, ..SMALL }, 0);
    }
}

#[test]
fn operands_that_are_not_aligned() {
    check(Attention { q_len: 9, kv_len: 12, ..SMALL }, 1);
}

/// Scores of hundreds: the running maximum keeps exp in range.
#[test]
fn large_scores() {
    let a = Attention { q_len: 40, kv_len: 100, heads: 1, scale: 100.0, dim: 8, ..SMALL };
    let (reports, results) = run(a, 0, None);
    reports.iter().for_each(|r| assert!(r.is_clean(), "{r}"));
    for (what, got, want) in &results[..2] {
        close(what, got, want, |i| 2e-3 * (1.0 + want[i].abs()));
    }
}

#[test]
fn gradients_that_nobody_wants_are_not_computed() {
    let saved = Saved { q: 0, k: 0, v: 0, y: 0, lse: 0, gy: 0 };
    let some = Some(Gradient { at: 256, add: false });
    let names = |g| -> Vec<String> { SMALL.backward(&saved, g, 0).unwrap().into_iter().map(|l| l.entry).collect() };
    assert_eq!(names([None; 3]), [""; 0]);
    assert_eq!(names([some, None, None]), ["attention_delta", "attention_dq_64"]);
    assert_eq!(names([None, None, some]), ["attention_delta", "attention_dkv_64"]);
}

#[test]
fn faults_are_caught() {
    let text = lowrank_kernels::ATTENTION.ptx;
    let a = Attention { q_len: 70, kv_len: 70, heads: 1, dim: 12, ..SMALL };
    let caught = |mutant: String| {
        let (reports, results) = run(a, 0, Some(mutant));
        let off = |(_, got, want): &(_, Vec<f64>, Vec<f64>)| {
            !got.iter().zip(want).all(|(g, w): (&f64, &f64)| (g - w).abs() <= 1e-3 * (1.0 + w.abs()))
        };
        results.iter().any(off) || reports.iter().any(|r| !r.is_clean())
    };
    assert!(!caught(text.to_string()));
    // q_len one too large.
    assert!(caught(mutate(text, "attention_forward_64", "_param_0+108]", 0, one_more)));
    for (entry, barriers) in [("attention_forward_64", 4), ("attention_dq_64", 2), ("attention_dkv_64", 2)] {
        for i in 0..barriers {
            assert!(caught(mutate(text, entry, "bar.sync", i, |_| String::new())), "{entry} barrier {i}");
        }
        // Between P in shared memory and its readers.
        assert!(caught(mutate(text, entry, "bar.warp.sync", 1, |_| String::new())), "{entry}");
    }
}
