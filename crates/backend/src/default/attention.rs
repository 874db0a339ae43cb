//! Scaled dot-product attention with grouped heads.
//!
//! Query heads are laid out `[batch, kv_heads, group, q_len, dim]`, so that one batched product over `batch·kv_heads`
//! matrices with `group·q_len` rows serves every query head of a key/value head.

use super::softmax::exp_rows;
use super::temp::{Temp, rounded, wide, zip, zip_same};
use crate::{Attention, Backend, Block, Error, Gemm, In, Map, Out, Reduce, Result, Slot, Zip};

/// The sizes of the products: `matrices` of `[rows, dim] · [keys, dim]ᵀ`.
struct Sizes {
    batch: usize,
    kv: usize,
    group: usize,
    queries: usize,
    keys: usize,
    dim: usize,
    matrices: usize,
    rows: usize,
}

impl Sizes {
    fn new(name: &'static str, op: &Attention) -> Result<Self> {
        let &Attention { batch, q_len, kv_len, heads, kv_heads, dim, causal, .. } = op;
        if kv_heads == 0 || heads % kv_heads != 0 {
            let detail = format!("{heads} query heads are no multiple of {kv_heads} key/value heads");
            return Err(Error::invalid(name, detail));
        }
        if kv_len == 0 || causal && kv_len < q_len {
            let detail = format!("{q_len} queries have only {kv_len} keys (causal: {causal})");
            return Err(Error::invalid(name, detail));
        }
        let group = heads / kv_heads;
        Ok(Sizes {
            batch,
            kv: kv_heads,
            group,
            queries: q_len,
            keys: kv_len,
            dim,
            matrices: batch * kv_heads,
            rows: group * q_len,
        })
    }

    fn q_elements(&self) -> usize {
        self.matrices * self.rows * self.dim
    }

    fn kv_elements(&self) -> usize {
        self.matrices * self.keys * self.dim
    }

    /// `[batch, q_len, heads, dim]` → `[batch, kv, group, q_len, dim]`
    fn split_queries<B: Backend + ?Sized>(&self, b: &B, x: In<'_>) -> Result<Temp> {
        x.permute(b, &[self.batch, self.queries, self.kv, self.group, self.dim], &[0, 2, 3, 1, 4])
    }

    fn join_queries<B: Backend + ?Sized>(&self, b: &B, x: In<'_>, y: Slot<'_>) -> Result<()> {
        b.permute(&[self.batch, self.kv, self.group, self.queries, self.dim], &[0, 3, 1, 2, 4], x, y)
    }

    /// `[batch, kv_len, kv, dim]` → `[batch, kv, kv_len, dim]`
    fn split_keys<B: Backend + ?Sized>(&self, b: &B, x: In<'_>) -> Result<Temp> {
        x.permute(b, &[self.batch, self.keys, self.kv, self.dim], &[0, 2, 1, 3])
    }

    fn join_keys<B: Backend + ?Sized>(&self, b: &B, x: In<'_>, y: Slot<'_>) -> Result<()> {
        b.permute(&[self.batch, self.kv, self.keys, self.dim], &[0, 2, 1, 3], x, y)
    }

    /// `s q kᵀ` with −∞ where a key is hidden, `[batch, kv, group, q_len, kv_len]`.
    fn scores<B: Backend + ?Sized>(&self, b: &B, op: &Attention, q: In<'_>, k: In<'_>) -> Result<Temp> {
        let gemm = Gemm::nt(self.rows, self.keys, self.dim).batch(self.matrices);
        let mut scores = Temp::new(b, q.dtype, self.matrices * self.rows * self.keys)?;
        b.gemm(&gemm.alpha(op.scale).precision(op.precision), q, k, scores.set())?;
        // One query at the end sees every key.
        if op.causal && self.queries > 1 {
            let last = self.keys - self.queries;
            let hidden = |i: usize| if i % self.keys > i / self.keys + last { f64::NEG_INFINITY } else { 0.0 };
            let cols = self.queries * self.keys;
            let mask: Vec<f64> = (0..cols).map(hidden).collect();
            let mask = Temp::floats(b, q.dtype, &mask)?;
            let block = Block { rows: self.matrices * self.group, cols, src_stride: 0, dst_stride: cols };
            b.copy(&block, mask.view(), scores.add())?;
        }
        Ok(scores)
    }
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn attention_forward<B: Backend + ?Sized>(
    b: &B,
    op: &Attention,
    q: In<'_>,
    k: In<'_>,
    v: In<'_>,
    y: Out<'_>,
    lse: Out<'_>,
) -> Result<()> {
    const OP: &str = "attention_forward";
    let s = Sizes::new(OP, op)?;
    let all_rows = s.matrices * s.rows;
    q.expect(OP, "q", s.q_elements())?;
    k.expect(OP, "k", s.kv_elements())?;
    v.expect(OP, "v", s.kv_elements())?;
    y.expect(OP, "y", s.q_elements())?;
    lse.expect(OP, "lse", all_rows)?;
    let [mut q_t, mut k_t, mut v_t] = [None, None, None];
    let (q, k, v) = (wide(b, q, &mut q_t)?, wide(b, k, &mut k_t)?, wide(b, v, &mut v_t)?);
    let (q, k, v) = (s.split_queries(b, q)?, s.split_keys(b, k)?, s.split_keys(b, v)?);
    let scores = s.scores(b, op, q.view(), k.view())?;
    let e = exp_rows(b, all_rows, s.keys, scores.view())?;
    e.log_sum_exp(b, lse)?;
    let gemm = Gemm::nn(s.rows, s.dim, s.keys).batch(s.matrices).precision(op.precision);
    let mut weighted = Temp::new(b, q.view().dtype, s.q_elements())?;
    b.gemm(&gemm, e.exp.view(), v.view(), weighted.set())?;
    let mean = zip(b, Zip::Div, (weighted.view(), [all_rows, s.dim]), (e.sum.view(), [all_rows, 1]))?;
    rounded(b, y.set(), |y| s.join_queries(b, mean.view(), y))
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn attention_backward<B: Backend + ?Sized>(
    b: &B,
    op: &Attention,
    q: In<'_>,
    k: In<'_>,
    v: In<'_>,
    y: In<'_>,
    lse: In<'_>,
    gy: In<'_>,
    dq: Option<Slot<'_>>,
    dk: Option<Slot<'_>>,
    dv: Option<Slot<'_>>,
) -> Result<()> {
    const OP: &str = "attention_backward";
    let s = Sizes::new(OP, op)?;
    let all_rows = s.matrices * s.rows;
    for (what, x) in [("q", q), ("y", y), ("gy", gy)] {
        x.expect(OP, what, s.q_elements())?;
    }
    k.expect(OP, "k", s.kv_elements())?;
    v.expect(OP, "v", s.kv_elements())?;
    lse.expect(OP, "lse", all_rows)?;
    let [mut q_t, mut k_t, mut v_t, mut y_t, mut gy_t] = [None, None, None, None, None];
    let (q, k, v) = (wide(b, q, &mut q_t)?, wide(b, k, &mut k_t)?, wide(b, v, &mut v_t)?);
    let (y, gy) = (wide(b, y, &mut y_t)?, wide(b, gy, &mut gy_t)?);
    let dtype = q.dtype;

    // delta[batch, heads, q_len] = rowsum(gy ⊙ y), from [batch, q_len, heads]
    let heads = s.kv * s.group;
    let product = zip_same(b, Zip::Mul, gy, y)?;
    let delta = product.view().reduce(b, Reduce::Sum, [s.batch * s.queries * heads, s.dim, 1])?;
    let delta = delta.view().permute(b, &[s.batch, s.queries, heads], &[0, 2, 1])?;

    let (q, k, v, gy) = (s.split_queries(b, q)?, s.split_keys(b, k)?, s.split_keys(b, v)?, s.split_queries(b, gy)?);
    let scores = s.scores(b, op, q.view(), k.view())?;
    let p = zip(b, Zip::Sub, (scores.view(), [all_rows, s.keys]), (lse, [all_rows, 1]))?.view().map(b, Map::Exp)?;
    drop(scores);
    let gemm = |g: Gemm| g.batch(s.matrices).precision(op.precision);
    if let Some(dv) = dv {
        let mut t = Temp::new(b, dtype, s.kv_elements())?;
        b.gemm(&gemm(Gemm::tn(s.keys, s.dim, s.rows)), p.view(), gy.view(), t.set())?;
        rounded(b, dv, |dv| s.join_keys(b, t.view(), dv))?;
    }
    if dq.is_none() && dk.is_none() {
        return Ok(());
    }
    let mut dp = Temp::new(b, dtype, all_rows * s.keys)?;
    b.gemm(&gemm(Gemm::nt(s.rows, s.keys, s.dim)), gy.view(), v.view(), dp.set())?;
    let centred = zip(b, Zip::Sub, (dp.view(), [all_rows, s.keys]), (delta.view(), [all_rows, 1]))?;
    let ds = zip_same(b, Zip::Mul, p.view(), centred.view())?;
    if let Some(dq) = dq {
        let mut t = Temp::new(b, dtype, s.q_elements())?;
        b.gemm(&gemm(Gemm::nn(s.rows, s.dim, s.keys).alpha(op.scale)), ds.view(), k.view(), t.set())?;
        rounded(b, dq, |dq| s.join_queries(b, t.view(), dq))?;
    }
    if let Some(dk) = dk {
        let mut t = Temp::new(b, dtype, s.kv_elements())?;
        b.gemm(&gemm(Gemm::tn(s.keys, s.dim, s.rows).alpha(op.scale)), ds.view(), q.view(), t.set())?;
        rounded(b, dk, |dk| s.join_keys(b, t.view(), dk))?;
    }
    Ok(())
}
