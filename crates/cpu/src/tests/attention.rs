use lowrank_backend::{Attention, Precision};

use super::*;

const SMALL: Attention = Attention {
    batch: 2,
    q_len: 5,
    kv_len: 5,
    heads: 4,
    kv_heads: 2,
    dim: 8,
    scale: 0.35,
    causal: true,
    precision: Precision::Full,
};

/// y, lse, dq, dk, dv.
fn run(b: &dyn Backend, op: &Attention, add: bool) -> Vec<Vec<f32>> {
    let &Attention { batch, q_len, kv_len, heads, kv_heads, dim, .. } = op;
    let (queries, keys, rows) = (batch * q_len * heads * dim, batch * kv_len * kv_heads * dim, batch * heads * q_len);
    let (q, k, v) = (put(b, &random(1, queries)), put(b, &random(2, keys)), put(b, &random(3, keys)));
    let gy = put(b, &random(4, queries));
    let (mut y, mut lse) = (empty(b, queries), empty(b, rows));
    let old = |len| if add { put(b, &random(5, len)) } else { empty(b, len) };
    let (mut dq, mut dk, mut dv) = (old(queries), old(keys), old(keys));
    b.attention_forward(op, q.view(), k.view(), v.view(), y.out(), lse.out()).unwrap();
    let (sq, sk, sv) = (dq.slot(add), dk.slot(add), dv.slot(add));
    b.attention_backward(
        op,
        q.view(),
        k.view(),
        v.view(),
        y.view(),
        lse.view(),
        gy.view(),
        Some(sq),
        Some(sk),
        Some(sv),
    )
    .unwrap();
    [y, lse, dq, dk, dv].iter().map(T::f32).collect()
}

#[test]
fn equals_its_definition() {
    let sizes = [(1, 1), (1, 70), (3, 3), (5, 9), (17, 17), (64, 64), (65, 65), (70, 131)];
    for (q_len, kv_len) in sizes {
        for causal in [true, false] {
            for add in [false, true] {
                let op = Attention { q_len, kv_len, causal, ..SMALL };
                against_reference(&format!("{op:?}"), 2e-6, |b| run(b, &op, add));
            }
        }
    }
    let op = Attention { heads: 3, kv_heads: 3, dim: 1, batch: 1, ..SMALL };
    against_reference("dim 1", 2e-6, |b| run(b, &op, false));
    let op = Attention { heads: 6, kv_heads: 1, scale: -2.0, ..SMALL };
    against_reference("one kv head, negative scale", 2e-6, |b| run(b, &op, false));
}

/// Blocks of queries of two key/value heads in more than one wave; with one and two threads whole heads are shared out.
#[test]
fn backward_in_waves() {
    for (causal, add) in [(true, false), (false, true)] {
        let op = Attention { batch: 1, q_len: 300, kv_len: 320, heads: 6, causal, ..SMALL };
        against_reference(&format!("{op:?}"), 2e-6, |b| run(b, &op, add));
    }
}

/// Two keys with scores 0 and ln 3: weights ¼ and ¾.
#[test]
fn by_hand() {
    let cpu = Cpu::new();
    let op = Attention { batch: 1, q_len: 1, kv_len: 2, heads: 1, kv_heads: 1, dim: 1, scale: 1.0, ..SMALL };
    let (q, k, v) = (put(&cpu, &[1.0f32]), put(&cpu, &[0.0, 3.0f32.ln()]), put(&cpu, &[4.0f32, 8.0]));
    let (mut y, mut lse) = (empty(&cpu, 1), empty(&cpu, 1));
    cpu.attention_forward(&op, q.view(), k.view(), v.view(), y.out(), lse.out()).unwrap();
    assert_close("y", &y.f32(), &[7.0], 1e-6);
    assert_close("lse", &lse.f32(), &[4.0f32.ln()], 1e-6);
}

/// Later positions change nothing, bit for bit; a NaN there stays in its block of queries, one here reaches its row.
#[test]
fn causal_means_causal() {
    let cpu = Cpu::new();
    let op = Attention { batch: 1, q_len: 100, kv_len: 100, heads: 2, kv_heads: 1, ..SMALL };
    let y = |change: &dyn Fn(&mut Vec<f32>, &mut Vec<f32>)| {
        let (mut k, mut v) = (random(2, 800), random(3, 800));
        change(&mut k, &mut v);
        let (q, k, v) = (put(&cpu, &random(1, 1600)), put(&cpu, &k), put(&cpu, &v));
        let (mut y, mut lse) = (empty(&cpu, 1600), empty(&cpu, 200));
        cpu.attention_forward(&op, q.view(), k.view(), v.view(), y.out(), lse.out()).unwrap();
        y.f32()
    };
    let plain = y(&|_, _| {});
    let later = y(&|k, v| {
        k[50 * 8..].fill(9.0);
        v[50 * 8..].fill(-100.0);
    });
    assert_eq!(bits(&plain[..50 * 16]), bits(&later[..50 * 16]));
    assert_ne!(bits(&plain[50 * 16..]), bits(&later[50 * 16..]));
    let nan = y(&|k, _| k[30 * 8] = f32::NAN);
    assert_eq!(bits(&plain[..30 * 16]), bits(&nan[..30 * 16]));
    assert!(nan[30 * 16..].iter().all(|x| x.is_nan()));
}

/// No queries: nothing to write forward, zeros for keys and values backward, with any number of threads.
#[test]
fn no_queries() {
    let op = Attention { batch: 2, q_len: 0, kv_len: 5, causal: false, ..SMALL };
    for threads in [1, 2, 3] {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let cpu = Cpu::new();
            let outputs = run(&cpu, &op, false);
            assert!(outputs.iter().flatten().all(|&x| x == 0.0), "{outputs:?}");
        });
    }
}

#[test]
fn impossible_sizes_are_errors() {
    let cpu = Cpu::new();
    let x = put(&cpu, &[0.0f32; 320]);
    let (mut y, mut lse) = (empty(&cpu, 320), empty(&cpu, 40));
    let mut error = |op: Attention| {
        let result = cpu.attention_forward(&op, x.view(), x.view(), x.view(), y.out(), lse.out());
        result.unwrap_err().to_string()
    };
    assert!(error(Attention { kv_heads: 3, ..SMALL }).contains("4 query heads are no multiple of 3"));
    assert!(error(Attention { kv_len: 4, ..SMALL }).contains("5 queries have only 4 keys"));
    assert!(error(Attention { kv_len: 0, causal: false, ..SMALL }).contains("only 0 keys"));
    assert!(error(Attention { precision: Precision::Tf32, ..SMALL }).contains("tf32"));
}
