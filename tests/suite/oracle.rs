//! Definitions by plain loops in f64, written from the formulas and knowing nothing of lowrank.

/// `x[m,k] · w[n,k]ᵀ`
pub fn nt(x: &[f64], w: &[f64], [m, n, k]: [usize; 3]) -> Vec<f64> {
    let mut y = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            y[i * n + j] = (0..k).map(|p| x[i * k + p] * w[j * k + p]).sum();
        }
    }
    y
}

/// `x[m,k] · w[k,n]`
pub fn nn(x: &[f64], w: &[f64], [m, n, k]: [usize; 3]) -> Vec<f64> {
    nt(x, &transpose(w, k, n), [m, n, k])
}

/// `[rows,cols]` → `[cols,rows]`
pub fn transpose(x: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..cols).flat_map(|c| (0..rows).map(move |r| x[r * cols + c])).collect()
}

/// A row added to every row.
pub fn add_row(y: &mut [f64], bias: &[f64]) {
    for row in y.chunks_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
    }
}

/// `x Wᵀ + s ((x ⊙ mask) Aᵀ) Bᵀ`
pub fn lora(x: &[f64], w: &[f64], a: &[f64], b: &[f64], s: f64, mask: &[f64], [m, n, k, r]: [usize; 4]) -> Vec<f64> {
    let masked: Vec<f64> = x.iter().zip(mask).map(|(x, m)| x * m).collect();
    let h = nt(&masked, a, [m, r, k]);
    let branch = nt(&h, b, [m, n, r]);
    nt(x, w, [m, n, k]).iter().zip(branch).map(|(y, b)| y + s * b).collect()
}

/// Rows of a table.
pub fn rows(table: &[f64], ids: &[f64], width: usize) -> Vec<f64> {
    ids.iter().flat_map(|&id| table[id as usize * width..][..width].to_vec()).collect()
}

/// Dropout's factors: 1/(1−p) where the Philox 4×32-10 word of the element is at least p·2³², else 0.
pub fn dropout_mask(n: usize, p: f64, seed: u64, stream: u32, step: u32) -> Vec<f64> {
    let word = |i: u64| {
        let (mut c, mut key) = ([(i / 4) as u32, 0, step, stream], [seed as u32, (seed >> 32) as u32]);
        for _ in 0..10 {
            let (p, q) = (0xD251_1F53 * u64::from(c[0]), 0xCD9E_8D57 * u64::from(c[2]));
            c = [(q >> 32) as u32 ^ c[1] ^ key[0], q as u32, (p >> 32) as u32 ^ c[3] ^ key[1], p as u32];
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        c[(i % 4) as usize]
    };
    (0..n as u64)
        .map(|i| if f64::from(word(i)) >= (p * 2f64.powi(32)).round() { 1.0 / (1.0 - p) } else { 0.0 })
        .collect()
}

/// Logistic function.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `1 − erf(x)`.
///
/// Near 0 by `erf x = 2/√π e^{-x²} Σ 2ⁱ x^{2i+1} / (2i+1)!!`, whose terms have one sign; far out by the continued fraction
/// `erfc x = e^{-x²}/√π · 1/(x + ½/(x + 1/(x + 3/2/(x + …))))`, whose rounding is small beside 1.
pub fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    let e = (-x * x).exp();
    if x > 2.0 {
        let fraction = (1..200).rev().fold(x, |below, i| x + f64::from(i) / 2.0 / below);
        return e / std::f64::consts::PI.sqrt() / fraction;
    }
    let (mut term, mut sum, mut i) = (x, x, 0.0);
    while term > 1e-18 * sum {
        i += 1.0;
        term *= 2.0 * x * x / (2.0 * i + 1.0);
        sum += term;
    }
    1.0 - std::f64::consts::FRAC_2_SQRT_PI * e * sum
}

/// `x Φ(x)`
pub fn gelu(x: f64) -> f64 {
    0.5 * x * erfc(-x / std::f64::consts::SQRT_2)
}

/// The tanh form of GELU.
pub fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

/// Softmax of every row.
pub fn softmax(x: &[f64], cols: usize) -> Vec<f64> {
    x.chunks(cols)
        .flat_map(|row| {
            let max = row.iter().cloned().fold(f64::NEG_INFINITY, f64::max);
            let e: Vec<f64> = row.iter().map(|x| (x - max).exp()).collect();
            let sum: f64 = e.iter().sum();
            e.into_iter().map(move |e| e / sum)
        })
        .collect()
}

/// `x / √(mean(x²) + eps) ⊙ w`, rows as long as w.
pub fn rms_norm(x: &[f64], w: &[f64], eps: f64) -> Vec<f64> {
    x.chunks(w.len())
        .flat_map(|row| {
            let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
            row.iter().zip(w).map(move |(x, w)| x / (mean + eps).sqrt() * w)
        })
        .collect()
}

/// `(x − mean) / √(var + eps) ⊙ w + b`, rows as long as w.
pub fn layer_norm(x: &[f64], w: &[f64], b: &[f64], eps: f64) -> Vec<f64> {
    x.chunks(w.len())
        .flat_map(|row| {
            let n = row.len() as f64;
            let mean = row.iter().sum::<f64>() / n;
            let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            row.iter().zip(w).zip(b).map(move |((x, w), b)| (x - mean) / (var + eps).sqrt() * w + b)
        })
        .collect()
}

/// Sizes of an attention: batch, query and key positions, query and key/value heads, elements of a head.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub batch: usize,
    pub q_len: usize,
    pub kv_len: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
}

/// Softmax attention over q `[batch,q_len,heads,dim]` and k, v `[batch,kv_len,kv_heads,dim]`.
pub fn attention(q: &[f64], k: &[f64], v: &[f64], s: Heads, scale: f64, causal: bool) -> Vec<f64> {
    let mut y = vec![0.0; q.len()];
    for b in 0..s.batch {
        for t in 0..s.q_len {
            for h in 0..s.heads {
                let g = h * s.kv_heads / s.heads;
                let query = &q[((b * s.q_len + t) * s.heads + h) * s.dim..][..s.dim];
                let at = |u: usize| ((b * s.kv_len + u) * s.kv_heads + g) * s.dim;
                let seen = if causal { t + 1 + s.kv_len - s.q_len } else { s.kv_len };
                let scores: Vec<f64> =
                    (0..seen).map(|u| scale * query.iter().zip(&k[at(u)..]).map(|(q, k)| q * k).sum::<f64>()).collect();
                for (u, p) in softmax(&scores, seen).into_iter().enumerate() {
                    for d in 0..s.dim {
                        y[((b * s.q_len + t) * s.heads + h) * s.dim + d] += p * v[at(u) + d];
                    }
                }
            }
        }
    }
    y
}

/// Half-split rotation of x `[batch,seq,heads,dim]`; tables `[positions,dim/2]`; row t is at position start + t.
pub fn rope(x: &[f64], cos: &[f64], sin: &[f64], [seq, heads, dim]: [usize; 3], start: usize) -> Vec<f64> {
    let half = dim / 2;
    let mut y = vec![0.0; x.len()];
    for (head, (x, y)) in x.chunks(dim).zip(y.chunks_mut(dim)).enumerate() {
        let position = start + head / heads % seq;
        for i in 0..half {
            let (c, s) = (cos[position * half + i], sin[position * half + i]);
            y[i] = x[i] * c - x[half + i] * s;
            y[half + i] = x[half + i] * c + x[i] * s;
        }
    }
    y
}

/// `Σ (ln Σ eˣ − x[target]) / denominator` over the rows whose target is not u32::MAX.
pub fn cross_entropy(logits: &[f64], targets: &[f64], vocab: usize, denominator: f64) -> f64 {
    let mut loss = 0.0;
    for (row, &target) in logits.chunks(vocab).zip(targets) {
        if target != f64::from(u32::MAX) {
            let max = row.iter().cloned().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
            loss += max + sum.ln() - row[target as usize];
        }
    }
    loss / denominator
}

/// Dimension i of the result is dimension `perm[i]` of x.
pub fn permute(x: &[f64], dims: &[usize], perm: &[usize]) -> Vec<f64> {
    let out: Vec<usize> = perm.iter().map(|&p| dims[p]).collect();
    (0..x.len())
        .map(|flat| {
            let index = unflatten(flat, &out);
            let mut source = vec![0; dims.len()];
            perm.iter().zip(index).for_each(|(&p, i)| source[p] = i);
            x[flatten(&source, dims)]
        })
        .collect()
}

/// `f(a, b)` where shapes, aligned at the right, have equal dimensions or 1.
pub fn broadcast(a: &[f64], sa: &[usize], b: &[f64], sb: &[usize], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let rank = sa.len().max(sb.len());
    let pad = |s: &[usize]| [vec![1; rank - s.len()], s.to_vec()].concat();
    let (sa, sb) = (pad(sa), pad(sb));
    let out: Vec<usize> = sa.iter().zip(&sb).map(|(&x, &y)| x.max(y)).collect();
    let pick = |x: &[f64], s: &[usize], index: &[usize]| {
        let clipped: Vec<usize> = index.iter().zip(s).map(|(&i, &d)| i.min(d - 1)).collect();
        x[flatten(&clipped, s)]
    };
    (0..out.iter().product())
        .map(|flat| {
            let index = unflatten(flat, &out);
            f(pick(a, &sa, &index), pick(b, &sb, &index))
        })
        .collect()
}

/// `fold` over the middle of `[outer, len, inner]`.
pub fn reduce(x: &[f64], [outer, len, inner]: [usize; 3], start: f64, fold: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let mut y = vec![start; outer * inner];
    for o in 0..outer {
        for l in 0..len {
            for i in 0..inner {
                y[o * inner + i] = fold(y[o * inner + i], x[(o * len + l) * inner + i]);
            }
        }
    }
    y
}

/// Elements `start .. start + take` of the middle of `[outer, len, inner]`.
pub fn slice(x: &[f64], [outer, len, inner]: [usize; 3], start: usize, take: usize) -> Vec<f64> {
    (0..outer).flat_map(|o| x[(o * len + start) * inner..(o * len + start + take) * inner].to_vec()).collect()
}

fn unflatten(mut flat: usize, dims: &[usize]) -> Vec<usize> {
    let mut index = vec![0; dims.len()];
    for (i, &d) in index.iter_mut().zip(dims).rev() {
        *i = flat % d;
        flat /= d;
    }
    index
}

fn flatten(index: &[usize], dims: &[usize]) -> usize {
    index.iter().zip(dims).fold(0, |flat, (&i, &d)| flat * d + i)
}
