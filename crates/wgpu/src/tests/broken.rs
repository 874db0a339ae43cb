//! Kernels with one piece of their text replaced: each family's tests must see it.

use lowrank_shaders::Shader;

use super::*;

/// The kernel file with one piece of its text replaced, `nth` occurrence.
pub(super) fn broken(shader: &Shader, what: &str, nth: usize, by: &str) -> &'static Shader {
    let (at, _) = shader.text.match_indices(what).nth(nth).unwrap_or_else(|| panic!("{}: no {what}", shader.name));
    let text = format!("{}{by}{}", &shader.text[..at], &shader.text[at + what.len()..]);
    let name = format!("{} without {what} {nth}", shader.name);
    Box::leak(Box::new(Shader { name: name.leak(), text: text.leak(), entries: shader.entries }))
}

/// `run` gives `want` with the kernel as it is and something else with each mutant.
pub(super) fn shows(shader: &Shader, mutants: &[(&str, usize, &str)], want: &[f32], run: impl Fn(&Wgpu) -> Vec<f32>) {
    shows_mut(shader, mutants, want, |wgpu| run(wgpu));
}

/// The same with a device whose limits the test may lower.
fn shows_mut(shader: &Shader, mutants: &[(&str, usize, &str)], want: &[f32], run: impl Fn(&mut Wgpu) -> Vec<f32>) {
    let Some(mut wgpu) = device() else { return };
    assert!(run(&mut wgpu) == want, "{} as it is is wrong", shader.name);
    for &(what, nth, by) in mutants {
        wgpu.mutant = Some((shader.name, broken(shader, what, nth, by)));
        assert!(run(&mut wgpu) != want, "{}: {what} {nth} → {by:?} does not show", shader.name);
    }
}

#[test]
fn a_broken_product_shows() {
    let sizes @ [m, n, k] = [70, 66, 100];
    let (a, b) = (integers(1, m * k), integers(2, n * k));
    let want = product(sizes, &a, &b);
    // The first two barriers and the first loop along k are the branch's.
    let mutants = [("workgroupBarrier();", 2, ""), ("workgroupBarrier();", 3, ""), ("k0 += BK", 1, "k0 += 2u * BK")];
    shows(&lowrank_shaders::GEMM, &mutants, &want, |wgpu| {
        let (a, b) = (Held::of(wgpu, &a), Held::of(wgpu, &b));
        let mut c = Held::empty(wgpu, DType::F32, m * n);
        wgpu.gemm(&Gemm::nt(m, n, k), a.view(), b.view(), c.out().set()).unwrap();
        c.read(wgpu)
    });
    let sizes @ [m, n, k] = [20, 20, 97];
    let (a, b) = (integers(3, m * k), integers(4, n * k));
    let want = product(sizes, &a, &b);
    shows(&lowrank_shaders::GEMM, &[("if (at + 1u < length) { v.y = a_one(i + 1u); }", 0, "")], &want, |wgpu| {
        let (a, b) = (Held::of(wgpu, &a), Held::of(wgpu, &b));
        let mut c = Held::empty(wgpu, DType::F32, m * n);
        wgpu.gemm(&Gemm::nt(m, n, k), a.view(), b.view(), c.out().set()).unwrap();
        c.read(wgpu)
    });
}

#[test]
fn a_broken_reduction_shows() {
    let x = integers(5, 3 * 1000);
    let want: Vec<f32> = x.chunks(1000).map(|row| row.iter().sum()).collect();
    let mutants = [("workgroupBarrier();", 0, ""), ("half = 128u", 0, "half = 64u"), ("i += 256u", 0, "i += 512u")];
    shows(&lowrank_shaders::REDUCE, &mutants, &want, |wgpu| {
        let x = Held::of(wgpu, &x);
        let mut y = Held::empty(wgpu, DType::F32, 3);
        wgpu.reduce(Reduce::Sum, [3, 1000, 1], x.view(), y.out().set()).unwrap();
        y.read(wgpu)
    });
}

#[test]
fn a_broken_softmax_shows() {
    // Equal elements: each is one over a power of two, exactly.
    let x = vec![3.0f32; 2 * 512];
    let want = vec![1.0f32 / 512.0; 2 * 512];
    let mutants = [("workgroupBarrier();", 0, ""), ("half = 128u", 0, "half = 64u"), ("max) / sum;", 0, "max);")];
    shows(&lowrank_shaders::ROWS, &mutants, &want, |wgpu| {
        let x = Held::of(wgpu, &x);
        let mut y = Held::empty(wgpu, DType::F32, 2 * 512);
        wgpu.softmax_forward(&Matrix { rows: 2, cols: 512 }, x.view(), y.out()).unwrap();
        y.read(wgpu)
    });
}

#[test]
fn broken_norm_weights_show() {
    // x − mean in {−2 … 2} and rstd 1: dw and db are sums of small integers. 50 rows are no whole number of strips.
    let (rows, cols) = (50, 37);
    let (x, gy) = (integers(20, rows * cols), integers(21, rows * cols));
    let sum = |j: usize, f: &dyn Fn(usize) -> f32| (0..rows).map(|i| f(i * cols + j)).sum::<f32>();
    let dw = (0..cols).map(|j| sum(j, &|e| x[e] * gy[e]));
    let want: Vec<f32> = dw.chain((0..cols).map(|j| sum(j, &|e| gy[e]))).collect();
    let mutants = [
        ("row += 16u", 0, "row += 32u"),
        ("half = 8u", 0, "half = 4u"),
        // The barriers of `over_strips`: those of the two sums over rows come before.
        ("workgroupBarrier();", 6, ""),
        ("workgroupBarrier();", 7, ""),
    ];
    shows(&lowrank_shaders::ROWS, &mutants, &want, |wgpu| {
        let [x, gy, w, mean] = [&x, &gy, &vec![1.0; cols], &vec![0.0; rows]].map(|x| Held::of(wgpu, x));
        let rstd = Held::of(wgpu, &vec![1.0f32; rows]);
        let [mut dw, mut db] = [(); 2].map(|()| Held::empty(wgpu, DType::F32, cols));
        let op = Norm { rows, cols, eps: 1e-5 };
        let slots = (Some(dw.out().set()), Some(db.out().set()));
        let saved = (mean.view(), rstd.view());
        wgpu.layer_norm_backward(&op, x.view(), w.view(), saved.0, saved.1, gy.view(), None, slots.0, slots.1).unwrap();
        [dw.read::<f32>(wgpu), db.read(wgpu)].concat()
    });
}

#[test]
fn a_broken_attention_shows() {
    let (len, dim) = (40, 8);
    let quarters = |seed| -> Vec<f32> { integers(seed, len * dim).iter().map(|x| x / 4.0).collect() };
    let [q, k, v] = [quarters(7), quarters(8), integers(9, len * dim)];
    let mut want = vec![0.0f32; len * dim];
    for t in 0..len {
        let score = |s: usize| (0..dim).map(|i| f64::from(q[t * dim + i] * k[s * dim + i])).sum::<f64>().exp();
        let sum: f64 = (0..=t).map(score).sum();
        for i in 0..dim {
            let value = (0..=t).map(|s| score(s) * f64::from(v[s * dim + i])).sum::<f64>() / sum;
            want[t * dim + i] = value as f32;
        }
    }
    let mutants = [
        ("workgroupBarrier();", 0, ""),
        ("workgroupBarrier();", 1, ""),
        ("workgroupBarrier();", 2, ""),
        ("key0 += COLS", 0, "key0 += 2u * COLS"),
        ("- params.q_len + 1u", 0, "- params.q_len"),
    ];
    let op = Attention {
        batch: 1,
        q_len: len,
        kv_len: len,
        heads: 1,
        kv_heads: 1,
        dim,
        scale: 1.0,
        causal: true,
        precision: Precision::Full,
    };
    shows(&lowrank_shaders::ATTENTION, &mutants, &want, |wgpu| {
        let [q, k, v] = [&q, &k, &v].map(|x| Held::of(wgpu, x));
        let mut y = Held::empty(wgpu, DType::F32, len * dim);
        let mut lse = Held::empty(wgpu, DType::F32, len);
        wgpu.attention_forward(&op, q.view(), k.view(), v.view(), y.out(), lse.out()).unwrap();
        // What is near is equal.
        y.read::<f32>(wgpu).iter().zip(&want).map(|(y, w)| if (y - w).abs() < 1e-5 { *w } else { *y }).collect()
    });
}

#[test]
fn a_broken_bound_shows() {
    let want: Vec<f32> = (0..300).map(|i| if (10..110).contains(&i) { 7.0 } else { 1.0 }).collect();
    let mutants = [("if (i >= params.n) { return; }", 0, "")];
    shows(&lowrank_shaders::MAP, &mutants, &want, |wgpu| {
        let (x, mut y) = (Held::of(wgpu, &[7.0f32; 300]), Held::of(wgpu, &[1.0f32; 300]));
        wgpu.map(Map::Copy, x.view().narrow(0, 100), y.out().narrow(10, 100).set()).unwrap();
        y.read(wgpu)
    });
}

#[test]
fn a_broken_scatter_shows() {
    let ids = [2u32, 0, 2, 1, 2];
    let x = integers(6, 5 * 70);
    let mut want = vec![0.0f32; 3 * 70];
    for (i, &id) in ids.iter().enumerate() {
        (0..70).for_each(|j| want[id as usize * 70 + j] += x[i * 70 + j]);
    }
    let mutants = [("if (ids[params.ids_start + j] == id) { return; }", 0, ""), ("column += 64u", 0, "column += 128u")];
    shows(&lowrank_shaders::SCATTER_ADD, &mutants, &want, |wgpu| {
        let (ids, x) = (Held::of(wgpu, &ids), Held::of(wgpu, &x));
        let mut table = Held::empty(wgpu, DType::F32, 3 * 70);
        let rows = Rows { rows: 3, width: 70, count: 5 };
        wgpu.scatter_add(&rows, ids.view(), x.view(), table.out().set()).unwrap();
        table.read(wgpu)
    });
}

#[test]
fn a_broken_move_shows() {
    // A block of 5 of 9 columns, turned: copy, permute and gather have one frame and a source of their own.
    let x = integers(10, 40 * 9);
    let block: Vec<f32> = (0..40 * 5).map(|e| x[e / 5 * 9 + e % 5]).collect();
    shows(&lowrank_shaders::COPY, &[("row * params.src_stride", 0, "row * params.cols")], &block, |wgpu| {
        let (x, mut y) = (Held::of(wgpu, &x), Held::empty(wgpu, DType::F32, 40 * 5));
        let op = Block { rows: 40, cols: 5, src_stride: 9, dst_stride: 5 };
        wgpu.copy(&op, x.view().narrow(0, 39 * 9 + 5), y.out().set()).unwrap();
        y.read(wgpu)
    });
    let turned: Vec<f32> = (0..9 * 40).map(|e| x[e % 40 * 9 + e / 40]).collect();
    shows(&lowrank_shaders::PERMUTE, &[("rest % dim.x", 0, "rest")], &turned, |wgpu| {
        let (x, mut y) = (Held::of(wgpu, &x), Held::empty(wgpu, DType::F32, 9 * 40));
        wgpu.permute(&[40, 9], &[1, 0], x.view(), y.out().set()).unwrap();
        y.read(wgpu)
    });
    let ids = [39u32, 0, 7];
    let picked: Vec<f32> = ids.iter().flat_map(|&id| x[id as usize * 9..][..9].to_vec()).collect();
    let mutants = [("p / params.width", 0, "p % params.width"), ("id >= params.rows", 0, "id + 1u >= params.rows")];
    shows(&lowrank_shaders::GATHER, &mutants, &picked, |wgpu| {
        let (x, ids, mut y) = (Held::of(wgpu, &x), Held::of(wgpu, &ids), Held::empty(wgpu, DType::F32, 27));
        wgpu.gather(&Rows { rows: 40, width: 9, count: 3 }, x.view(), ids.view(), y.out().set()).unwrap();
        y.read(wgpu)
    });
    let filled: Vec<f32> = (0..300).map(|i| if (10..110).contains(&i) { 3.0 } else { 1.0 }).collect();
    shows(&lowrank_shaders::FILL, &[("p < params.n", 0, "p <= params.n")], &filled, |wgpu| {
        let mut y = Held::of(wgpu, &[1.0f32; 300]);
        wgpu.fill(3.0, y.out().narrow(10, 100)).unwrap();
        y.read(wgpu)
    });
}

#[test]
fn a_broken_broadcast_shows() {
    let (a, b) = (integers(11, 30 * 7), integers(12, 7));
    let want: Vec<f32> = a.iter().enumerate().map(|(i, a)| a - b[i % 7]).collect();
    let mutants =
        [("j += at * dim.z", 0, "j += at"), ("return u - v;", 0, "return v - u;"), ("rest / dim.x", 0, "rest")];
    shows(&lowrank_shaders::ZIP, &mutants, &want, |wgpu| {
        let (a, b, mut y) = (Held::of(wgpu, &a), Held::of(wgpu, &b), Held::empty(wgpu, DType::F32, 30 * 7));
        let dims = Broadcast::new(&[30, 7], &[1, 7]).unwrap();
        wgpu.zip(Zip::Sub, &dims, a.view(), b.view(), y.out().set()).unwrap();
        y.read(wgpu)
    });
}

#[test]
fn broken_dropout_shows() {
    let op = Dropout { p: 0.5, seed: 9, stream: 3 };
    let mut words = vec![0.0f32; Scalars::LEN];
    words[0] = 4.0;
    // The mask by the definition's own words, x = 1.
    let want: Vec<f32> =
        (0..600u64).map(|i| if philox::word(op.seed, op.stream, 4, i) >= op.threshold() { 2.0 } else { 0.0 }).collect();
    shows(
        &lowrank_shaders::DROPOUT,
        &[("scalars[params.scalars_start]", 0, "0u"), ("), p, v)", 0, "), p + 1u, v)")],
        &want,
        |wgpu| {
            let (x, words, mut y) =
                (Held::of(wgpu, &[1.0f32; 600]), Held::of(wgpu, &words), Held::empty(wgpu, DType::F32, 600));
            wgpu.dropout(&op, words.view(), x.view(), y.out().set()).unwrap();
            y.read(wgpu)
        },
    );
}

#[test]
fn a_broken_rotation_shows() {
    // Cosine 0 and sine 1: (x1, x2) becomes (−x2, x1). Position 2 is left alone by cosine 1 and sine 0.
    let (seq, heads, half) = (3, 2, 4);
    let x = integers(13, seq * heads * 2 * half);
    let (mut cos, mut sin) = (vec![0.0f32; seq * half], vec![1.0f32; seq * half]);
    cos[2 * half..].fill(1.0);
    sin[2 * half..].fill(0.0);
    let want: Vec<f32> = (0..x.len())
        .map(|e| match (e / (2 * half * heads), e % (2 * half)) {
            (2, _) => x[e],
            (_, i) if i < half => -x[e + half],
            _ => x[e - half],
        })
        .collect();
    let mutants = [("column >= params.half", 0, "column > params.half"), ("(row / params.heads)", 0, "row")];
    shows(&lowrank_shaders::ROPE, &mutants, &want, |wgpu| {
        let [x, cos, sin] = [&x, &cos, &sin].map(|x| Held::of(wgpu, x));
        let mut y = Held::empty(wgpu, DType::F32, seq * heads * 2 * half);
        let op = Rope { batch: 1, seq, heads, dim: 2 * half, start: 0, positions: seq, inverse: false };
        wgpu.rope(&op, x.view(), cos.view(), sin.view(), y.out().set()).unwrap();
        y.read(wgpu)
    });
}

#[test]
fn a_broken_swiglu_shows() {
    // silu(0) = 0 and silu'(0) = 1/2, exactly: y = 0, dgate = gy up / 2, dup = 0.
    let (up, gy, zeros) = (integers(14, 300), integers(15, 300), vec![0.0f32; 300]);
    let want: Vec<f32> = up.iter().zip(&gy).map(|(u, g)| u * g / 2.0).collect();
    let mutants = [("fma(x, 1.0 - s, 1.0)", 0, "fma(x, 1.0 - s, 0.0)"), ("up[params.up_start + i]", 0, "1.0")];
    shows(&lowrank_shaders::SWIGLU_BACKWARD, &mutants, &want, |wgpu| {
        let [gate, up, gy] = [&zeros, &up, &gy].map(|x| Held::of(wgpu, x));
        let mut dgate = Held::empty(wgpu, DType::F32, 300);
        wgpu.swiglu_backward(gate.view(), up.view(), gy.view(), Some(dgate.out().set()), None).unwrap();
        dgate.read(wgpu)
    });
    // silu(g) is g to the last bit from 32 on.
    let gate = vec![64.0f32; 300];
    let want: Vec<f32> = up.iter().map(|u| 64.0 * u).collect();
    shows(&lowrank_shaders::SWIGLU_FORWARD, &[("params.up_start + p", 0, "params.up_start")], &want, |wgpu| {
        let [gate, up] = [&gate, &up].map(|x| Held::of(wgpu, x));
        let mut y = Held::empty(wgpu, DType::F32, 300);
        wgpu.swiglu_forward(gate.view(), up.view(), y.out()).unwrap();
        y.read(wgpu)
    });
}

#[test]
fn a_broken_gradient_norm_shows() {
    // 70,000 gradients of 2 in the first tensor, none in the next, 1,000 of 3 in each of eight more.
    let mut gradients = vec![vec![2.0f32; 70_000], Vec::new()];
    gradients.resize(10, vec![3.0f32; 1000]);
    let want = [(280_000.0f32 + 72_000.0).sqrt()];
    let run = |wgpu: &mut Wgpu, buffers: u32| {
        wgpu.storage_buffers = wgpu.storage_buffers.min(buffers);
        let held: Vec<Held> = gradients.iter().map(|g| Held::of(wgpu, g)).collect();
        let views: Vec<In<'_>> = held.iter().map(Held::view).collect();
        let mut words = Held::of(wgpu, &vec![0.0f32; Scalars::LEN]);
        wgpu.grad_norm(&views, None, words.out()).unwrap();
        vec![words.read::<f32>(wgpu)[Scalars::NORM]]
    };
    let mutants = [
        ("workgroupBarrier();", 0, ""),
        ("i += 256u", 0, "i += 512u"),
        ("(chunk - first)", 0, "chunk"),
        ("min(about(which).x, begin + CHUNK)", 0, "begin + CHUNK / 2u"),
        ("case 4u: { return g4[i]; }", 0, "case 4u: { return g0[i]; }"),
    ];
    for (shader, buffers) in [(&lowrank_shaders::SQUARES, 8), (&lowrank_shaders::SQUARES_MANY, u32::MAX)] {
        shows_mut(shader, &mutants, &want, |wgpu| run(wgpu, buffers));
    }
    shows_mut(
        &lowrank_shaders::OPTIM,
        &[("half = 128u", 0, "half = 0u"), ("sqrt(total(lane, sum))", 0, "total(lane, sum)")],
        &want,
        |wgpu| run(wgpu, 8),
    );
}

/// Seven tensors of different lengths: more than one kernel's worth, one of them longer than a workgroup.
#[test]
fn a_broken_optimiser_shows() {
    // β₁ = β₂ = 0.5 and corrections of 0.5: the update is g / |g|, exactly.
    let lengths = [300, 1, 256, 257, 2, 70, 5];
    let start = |i: usize, j: usize| 8.0 + (i + j % 4) as f32;
    let want: Vec<f32> = (0..7).flat_map(|i| (0..lengths[i]).map(move |j| start(i, j) - 0.5)).collect();
    let mut words = vec![0.0f32; Scalars::LEN];
    words[Scalars::CLIP] = 1.0;
    words[Scalars::CORRECTION1] = 0.5;
    words[Scalars::CORRECTION2] = 0.5;
    words[Scalars::LR] = 0.5;
    let mut mutants = vec![
        ("first / scalar(CORRECTION1)", 0, "first"),
        ("params.rest2 * (grad * grad)", 0, "params.rest2 * grad"),
        ("i >= about.n", 0, "i + 1u >= about.n"),
        ("old - scalar(LR", 0, "old + scalar(LR"),
    ];
    // Without the buffers for many: one after the other, the same values.
    for (shader, buffers) in [(&lowrank_shaders::ADAMW, 8), (&lowrank_shaders::ADAMW_MANY, u32::MAX)] {
        if buffers > 8 {
            mutants.push(("(number - about.first)", 0, "number"));
            mutants.push(("i < TENSORS", 0, "i < 5u"));
            mutants.push(("case 3u: { p3[i] = x; }", 0, "case 3u: { p2[i] = x; }"));
        }
        let run = |wgpu: &mut Wgpu| {
            wgpu.storage_buffers = wgpu.storage_buffers.min(buffers);
            let words = Held::of(wgpu, &words);
            let g: Vec<Held> = lengths.iter().map(|&n| Held::of(wgpu, &vec![4.0f32; n])).collect();
            let values = |i: usize| (0..lengths[i]).map(|j| start(i, j)).collect::<Vec<_>>();
            let mut p: Vec<Held> = (0..7).map(|i| Held::of(wgpu, &values(i))).collect();
            let zeros = || lengths.iter().map(|&n| Held::of(wgpu, &vec![0.0f32; n])).collect::<Vec<_>>();
            let (mut m, mut v) = (zeros(), zeros());
            let op = AdamW { group: 0, beta1: 0.5, beta2: 0.5, eps: 0.0, weight_decay: 0.0 };
            let mut all: Vec<AdamWParam<'_>> = p
                .iter_mut()
                .zip(&mut m)
                .zip(&mut v)
                .zip(&g)
                .map(|(((p, m), v), g)| AdamWParam { p: p.out(), m: m.out(), v: v.out(), g: g.view() })
                .collect();
            let before = wgpu.stats().launches;
            wgpu.adamw(&op, words.view(), &mut all).unwrap();
            assert_eq!(wgpu.stats().launches - before, if wgpu.storage_buffers < 25 { 7 } else { 2 });
            p.iter().flat_map(|p| p.read::<f32>(wgpu)).collect()
        };
        shows_mut(shader, &mutants, &want, run);
    }
}

/// dq, dk and dv by the formulas: p = softmax(q kᵀ), dv = pᵀ gy, ds = p ⊙ (gy vᵀ − rowsum(p ⊙ gy vᵀ)), dq = ds k, dk = dsᵀ q.
#[test]
fn a_broken_attention_gradient_shows() {
    let (len, dim) = (64, 8);
    let op = Attention {
        batch: 1,
        q_len: len,
        kv_len: len,
        heads: 1,
        kv_heads: 1,
        dim,
        scale: 1.0,
        causal: false,
        precision: Precision::Full,
    };
    let [q, k, v, gy] = [19, 16, 17, 18].map(|seed| integers(seed, len * dim));
    let q: Vec<f32> = q.iter().map(|q| q / 4.0).collect();
    let dot = |a: &[f32], t: usize, b: &[f32], s: usize| -> f64 {
        (0..dim).map(|i| f64::from(a[t * dim + i] * b[s * dim + i])).sum()
    };
    let [mut dq, mut dk, mut dv] = [0; 3].map(|_| vec![0.0f64; len * dim]);
    for t in 0..len {
        let weights: Vec<f64> = (0..len).map(|s| dot(&q, t, &k, s).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mean: f64 = (0..len).map(|s| weights[s] / sum * dot(&gy, t, &v, s)).sum();
        for (s, weight) in weights.iter().enumerate() {
            let p = weight / sum;
            let ds = p * (dot(&gy, t, &v, s) - mean);
            for i in 0..dim {
                dv[s * dim + i] += p * f64::from(gy[t * dim + i]);
                dq[t * dim + i] += ds * f64::from(k[s * dim + i]);
                dk[s * dim + i] += ds * f64::from(q[t * dim + i]);
            }
        }
    }
    let want: Vec<f32> = [dq, dk, dv].concat().into_iter().map(|x| x as f32).collect();
    let mutants: Vec<(&str, usize, &str)> = (4..10).map(|nth| ("workgroupBarrier();", nth, "")).collect();
    shows(&lowrank_shaders::ATTENTION, &mutants, &want, |wgpu| {
        let [q, k, v, gy] = [&q, &k, &v, &gy].map(|x| Held::of(wgpu, x));
        let [mut y, mut dq, mut dk, mut dv] = [(); 4].map(|()| Held::empty(wgpu, DType::F32, len * dim));
        let mut lse = Held::empty(wgpu, DType::F32, len);
        wgpu.attention_forward(&op, q.view(), k.view(), v.view(), y.out(), lse.out()).unwrap();
        let [dq_slot, dk_slot, dv_slot] = [dq.out().set(), dk.out().set(), dv.out().set()].map(Some);
        let (q, k, v) = (q.view(), k.view(), v.view());
        wgpu.attention_backward(&op, q, k, v, y.view(), lse.view(), gy.view(), dq_slot, dk_slot, dv_slot).unwrap();
        let got = [dq.read::<f32>(wgpu), dk.read(wgpu), dv.read(wgpu)].concat();
        // What is near is equal.
        got.iter().zip(&want).map(|(y, w)| if (y - w).abs() < 1e-4 { *w } else { *y }).collect()
    });
}
