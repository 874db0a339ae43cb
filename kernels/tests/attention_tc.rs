//! `cu/attention_tc.cuh` against plain loops in f64 over operands rounded to bf16: what is left is the rounding of P and dS,
//! and in full precision, with operands that are bf16, nothing but that of f32 sums.

mod attentions;
mod common;
use attentions::{SMALL, caught, check, run};
use common::{Gpu, close, mutate, one_more};
use lowrank_kernels::attention::{Attention, Gradient, Saved};
use lowrank_kernels::launch::{Operand, Type};

const TENSOR: Attention = Attention { rounded: true, ..SMALL };
const BF16: Attention = Attention { ty: Type::Bf16, ..TENSOR };
const FULL: Attention = Attention { rounded: false, ..BF16 };

#[test]
fn grouped_heads_and_causal_masks() {
    check(TENSOR, 0);
    check(Attention { batch: 2, heads: 4, kv_heads: 2, q_len: 7, kv_len: 7, causal: false, ..BF16 }, 0);
    check(Attention { q_len: 1, kv_len: 1, heads: 1, ..TENSOR }, 0);
    check(Attention { q_len: 1, kv_len: 70, heads: 3, ..TENSOR }, 0);
    check(Attention { q_len: 3, kv_len: 80, batch: 2, ..BF16 }, 0);
    check(Attention { batch: 2, heads: 4, kv_heads: 2, q_len: 7, kv_len: 9, ..FULL }, 0);
}

/// Tiles have 128 rows of the result; the other side has 32 or 64.
#[test]
fn several_tiles() {
    check(Attention { q_len: 150, kv_len: 150, heads: 1, ..TENSOR }, 0);
    check(Attention { q_len: 65, kv_len: 260, dim: 20, ..BF16 }, 0);
    check(Attention { q_len: 131, kv_len: 67, causal: false, dim: 64, scale: 0.125, ..BF16 }, 0);
    check(Attention { q_len: 135, kv_len: 140, dim: 72, scale: 0.1, ..BF16 }, 0);
    check(Attention { q_len: 33, kv_len: 129, causal: false, dim: 100, scale: 0.1, ..TENSOR }, 0);
    check(Attention { q_len: 150, kv_len: 170, ..FULL }, 0);
    check(Attention { q_len: 135, kv_len: 140, causal: false, dim: 72, scale: 0.1, ..FULL }, 0);
}

/// Rows of bf16 of 8, of 4 and of other numbers of elements, and of f32 of 4 and others, take different ways.
#[test]
fn every_head_size() {
    for dim in [1, 3, 8, 12, 16, 30, 64, 65, 80, 96, 128] {
        let (scale, sizes) = (1.0 / (dim as f32).sqrt(), Attention { q_len: 18, kv_len: 35, dim, ..TENSOR });
        check(Attention { scale, ..sizes }, 0);
        check(Attention { scale, ty: Type::Bf16, ..sizes }, 0);
        check(Attention { scale, ty: Type::Bf16, rounded: false, ..sizes }, 0);
    }
}

#[test]
fn operands_that_are_not_aligned() {
    for (a, shift) in [(TENSOR, 1), (BF16, 1), (BF16, 4), (FULL, 1)] {
        check(Attention { q_len: 9, kv_len: 40, ..a }, shift);
        check(Attention { q_len: 20, kv_len: 20, dim: 104, scale: 0.1, ..a }, shift);
    }
}

/// Scores of hundreds: the running maximum keeps exp in range. A negative scale turns their order.
#[test]
fn large_scores() {
    for scale in [100.0, -100.0] {
        let a = Attention { q_len: 40, kv_len: 100, heads: 1, scale, dim: 8, ..TENSOR };
        let (reports, results) = run(a, 0, None);
        reports.iter().for_each(|r| assert!(r.is_clean(), "{r}"));
        for o in &results[..2] {
            close(o.what, &o.got, &o.want, |i| 2e-3 * (1.0 + o.want[i].abs()) + o.rounding[i]);
        }
    }
}

/// A device with operands of the sizes of `a`: q, k, v, gy, y (as a result or an operand) and lse.
struct Held {
    gpu: Gpu,
    q: Operand,
    k: Operand,
    v: Operand,
    gy: Operand,
    y: Operand,
    lse: Operand,
    queries: usize,
    keys: usize,
}

impl Held {
    fn new(a: &Attention) -> Self {
        let mut gpu = Gpu::new(5);
        let (queries, keys) = (a.batch * a.q_len * a.heads * a.dim, a.batch * a.kv_len * a.kv_heads * a.dim);
        let [q, gy] = [queries; 2].map(|n| gpu.random(n, a.ty).0);
        let [k, v] = [keys; 2].map(|n| gpu.random(n, a.ty).0);
        let (y, lse) = (gpu.alloc(queries, a.ty), gpu.alloc(a.batch * a.heads * a.q_len, Type::F32));
        Held { gpu, q, k, v, gy, y, lse, queries, keys }
    }

    /// y, dq, dk, dv, and the sectors that forward, delta, dq and dkv moved.
    fn both(&mut self, a: &Attention) -> ([Vec<f64>; 4], Vec<u64>) {
        let forward = a.forward([self.q.at, self.k.at, self.v.at], self.y.at, self.lse.at).unwrap().unwrap();
        let mut counted = vec![self.gpu.clean(&forward).counters.global_sectors];
        let outs = [self.queries, self.keys, self.keys].map(|n| self.gpu.alloc(n, a.ty));
        let scratch = self.gpu.mem.alloc(a.scratch());
        let [q, k, v, y, lse, gy] = [self.q, self.k, self.v, self.y, self.lse, self.gy].map(|o| o.at);
        let grads = outs.map(|o| Some(Gradient { at: o.at, add: false }));
        for l in a.backward(&Saved { q, k, v, y, lse, gy }, grads, scratch).unwrap() {
            counted.push(self.gpu.clean(&l).counters.global_sectors);
        }
        let read = |o, n| self.gpu.read(o, n);
        let values = [
            read(self.y, self.queries),
            read(outs[0], self.queries),
            read(outs[1], self.keys),
            read(outs[2], self.keys),
        ];
        (values, counted)
    }
}

/// The same bits again, and for a sequence alone or among others.
#[test]
fn bits_do_not_depend_on_neighbours() {
    for (dim, a) in [(64, BF16), (80, FULL)] {
        let all = Attention { batch: 3, q_len: 40, kv_len: 70, heads: 4, kv_heads: 2, dim, ..a };
        let first = Held::new(&all).both(&all).0;
        let mut held = Held::new(&all);
        assert_eq!(held.both(&all).0, first);
        let alone = Attention { batch: 1, ..all };
        let (nq, nk) = (held.queries / 3, held.keys / 3);
        for o in [&mut held.q, &mut held.gy, &mut held.y] {
            o.at += 2 * (nq * 2) as u64;
        }
        for o in [&mut held.k, &mut held.v] {
            o.at += 2 * (nk * 2) as u64;
        }
        (held.queries, held.keys) = (nq, nk);
        let one = held.both(&alone).0;
        for ((what, n), (one, all)) in
            [("y", nq), ("dq", nq), ("dk", nk), ("dv", nk)].iter().zip(one.iter().zip(&first))
        {
            assert_eq!(one[..], all[2 * n..], "{what} {dim}");
        }
    }
}

/// NaN in a key reaches whatever sees it, no other head and no tile that is hidden; the gradient of queries of the same tile
/// that do not see it may become NaN too, since 0 times NaN is.
#[test]
fn nan_goes_through() {
    let a = Attention { q_len: 140, kv_len: 140, heads: 2, kv_heads: 2, ..TENSOR };
    let mut held = Held::new(&a);
    // Key 134 of head 1.
    held.gpu.mem.write(held.k.at + ((134 * 2 + 1) * 16 + 3) * 4, &f32::NAN.to_le_bytes()).unwrap();
    let [y, dq, ..] = held.both(&a).0;
    for (i, (y, dq)) in y.chunks(16).zip(dq.chunks(16)).enumerate() {
        let (query, seen) = (i / 2, i / 2 >= 134 && i % 2 == 1);
        assert!(y.iter().all(|v| v.is_nan() == seen), "y {query} {}", i % 2);
        assert!(!seen || dq.iter().all(|v| v.is_nan()), "dq {query}");
        assert!((i % 2 == 1 && query >= 128) || dq.iter().all(|v| !v.is_nan()), "dq {query} {}", i % 2);
    }
}

/// q and y once, k and v for each tile of queries; the same for the gradients, where lse and delta are read beside them.
#[test]
fn transactions_are_the_fewest_possible() {
    for (dim, a) in [(64, BF16), (64, TENSOR), (64, FULL), (128, BF16), (128, TENSOR), (128, FULL)] {
        let a = Attention { q_len: 256, kv_len: 256, heads: 2, dim, causal: false, ..a };
        let ty = a.ty;
        let mut held = Held::new(&a);
        let counted = held.both(&a).1;
        let (q, k, row) = (held.queries * ty.size(), held.keys * ty.size(), 2 * 256 * 4);
        // Two tiles of queries for each head, two of keys; 16-bit results of a warp are whole rows as well.
        let forward = 2 * q + 2 * 2 * 2 * k + row;
        let delta = 2 * q + row;
        let dq = 3 * q + 2 * 2 * 2 * k + 2 * row;
        let dkv = 4 * k + 2 * 2 * q + 2 * 2 * row;
        for (what, counted, floor) in [
            ("forward", counted[0], forward),
            ("delta", counted[1], delta),
            ("dq", counted[2], dq),
            ("dkv", counted[3], dkv),
        ] {
            assert_eq!(counted as usize, floor / 32, "{what} {dim} {ty:?}");
        }
    }
}

/// Each family of kernels with a wait too short, without a barrier, and with one row too many.
#[test]
fn faults_are_caught() {
    use lowrank_kernels::{
        ATTENTION_TC_64, ATTENTION_TC_128, ATTENTION_TC_F32_64, ATTENTION_TC_F32_128, ATTENTION_TC_FULL_64,
        ATTENTION_TC_FULL_128,
    };
    for (file, dim, a) in [
        (ATTENTION_TC_64, 64, BF16),
        (ATTENTION_TC_128, 128, BF16),
        (ATTENTION_TC_F32_64, 64, TENSOR),
        (ATTENTION_TC_F32_128, 128, TENSOR),
        (ATTENTION_TC_FULL_64, 64, FULL),
        (ATTENTION_TC_FULL_128, 128, FULL),
    ] {
        let (text, narrow) = (file.ptx, a.ty == Type::Bf16);
        let a = Attention { q_len: 140, kv_len: 140, heads: 2, kv_heads: 1, dim, scale: 0.1, ..a };
        assert!(!caught(a, text.to_string()));
        // f32 comes by way of registers, but for lse and delta.
        let tiles = usize::from(narrow);
        for (name, waits) in [("forward", 2 * tiles), ("dq", tiles), ("dkv", 1)] {
            let (prefix, _) = file.name.rsplit_once('_').unwrap();
            let entry = format!("{prefix}_{name}_{dim}");
            // Behind the last tile of backward there is one more, when all has arrived.
            for i in 0..waits {
                let late = |l: &str| l.replace("wait_group 0", "wait_group 1");
                assert!(caught(a, mutate(text, &entry, "cp.async.wait_group 0", i, late)), "{entry} wait {i}");
            }
            for i in 0..2 {
                assert!(caught(a, mutate(text, &entry, "bar.sync", i, |_| String::new())), "{entry} barrier {i}");
            }
            // Between the warp's part of the result in shared memory and those who write it out.
            assert!(caught(a, mutate(text, &entry, "bar.warp.sync", 1, |_| String::new())), "{entry}");
            // q_len one too large.
            assert!(caught(a, mutate(text, &entry, "_param_0+108]", 0, one_more)), "{entry}");
        }
    }
}
