//! Attention by blocks of queries: scores of 64 queries against the keys they see are all that is in memory at a time.
//!
//! q, y, gy `[batch, q_len, heads, dim]`, k, v `[batch, kv_len, kv_heads, dim]`, lse `[batch, heads, q_len]`. Forward: one
//! task per (sequence, head, block). Backward: one task per (sequence, key/value head), which adds up the query heads and
//! blocks it serves in their order, so dk and dv need no atomics; probabilities are recomputed from lse (Dao et al.
//! 2022). Of later keys only those in the same block are multiplied, with weight 0 (so that NaN in one
//! of their values shows in the block).

use lowrank_backend::{Attention, Error, In, Mode, Out, Result, Slot};

use crate::gemm::{Compute, Operand, Product, flops};
use crate::math::{exp, exp_shift_sum};
use crate::parallel::{Shared, Tile, tasks, with_scratch};
use crate::path::Path;
use crate::simd::{self, fma, kernel};
use crate::view::{f32s, f32s_mut, volume};

/// Queries of a block: enough to use keys and values well, few enough for their scores to stay in the cache.
const BLOCK: usize = 64;
/// Queries up to which P·V is computed row by row: packing V would cost more.
const FEW: usize = 4;

/// Offsets and strides that follow from the description.
struct Sizes {
    op: Attention,
    group: usize,
    /// Elements between positions of q, and of k and v.
    q_stride: usize,
    kv_stride: usize,
    blocks: usize,
    /// Elements of lse.
    rows: usize,
}

impl Sizes {
    fn new(name: &'static str, op: &Attention) -> Result<Self> {
        Compute::check(name, op.precision)?;
        let &Attention { batch, q_len, kv_len, heads, kv_heads, dim, causal, .. } = op;
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            let detail = format!("{heads} query heads are no multiple of {kv_heads} key/value heads");
            return Err(Error::invalid(name, detail));
        }
        if kv_len == 0 || causal && kv_len < q_len {
            let detail = format!("{q_len} queries have only {kv_len} keys (causal: {causal})");
            return Err(Error::invalid(name, detail));
        }
        let blocks = q_len.div_ceil(BLOCK);
        let (q_stride, kv_stride) = (volume(name, &[heads, dim])?, volume(name, &[kv_heads, dim])?);
        let rows = volume(name, &[batch, heads, q_len])?;
        Ok(Sizes { op: *op, group: heads / kv_heads, q_stride, kv_stride, blocks, rows })
    }

    fn q_elements(&self, name: &'static str) -> Result<usize> {
        volume(name, &[self.op.batch, self.op.q_len, self.q_stride])
    }

    fn kv_elements(&self, name: &'static str) -> Result<usize> {
        volume(name, &[self.op.batch, self.op.kv_len, self.kv_stride])
    }

    fn work(&self) -> usize {
        flops([self.rows, self.op.kv_len, self.op.dim])
    }

    /// First element of head h in sequence b of q.
    fn q_start(&self, b: usize, h: usize) -> usize {
        b * self.op.q_len * self.q_stride + h * self.op.dim
    }

    fn kv_start(&self, b: usize, h: usize) -> usize {
        b * self.op.kv_len * self.kv_stride + h * self.op.dim
    }

    /// Keys that query `i` sees.
    fn keys(&self, i: usize) -> usize {
        if self.op.causal { self.op.kv_len - self.op.q_len + i + 1 } else { self.op.kv_len }
    }

    /// First query and number of queries of a block, and the keys that its last one sees.
    fn block(&self, block: usize) -> (usize, usize, usize) {
        let first = block * BLOCK;
        let count = BLOCK.min(self.op.q_len - first);
        (first, count, self.keys(first + count - 1))
    }

    fn queries<'a>(&self, x: &'a [f32], b: usize, h: usize, first: usize) -> Operand<'a> {
        Operand::f32(x, self.q_stride).at(self.q_start(b, h) + first * self.q_stride)
    }

    fn key_rows<'a>(&self, x: &'a [f32], b: usize, kv: usize) -> Operand<'a> {
        Operand::f32(x, self.kv_stride).at(self.kv_start(b, kv))
    }
}

/// See [`Attention`].
pub(crate) fn attention_forward(
    path: Path,
    op: &Attention,
    q: In<'_>,
    k: In<'_>,
    v: In<'_>,
    y: Out<'_>,
    lse: Out<'_>,
) -> Result<()> {
    const OP: &str = "attention_forward";
    let s = Sizes::new(OP, op)?;
    let (q_elements, kv_elements) = (s.q_elements(OP)?, s.kv_elements(OP)?);
    let (q, k, v) = (f32s(OP, "q", q, q_elements)?, f32s(OP, "k", k, kv_elements)?, f32s(OP, "v", v, kv_elements)?);
    let y = Shared::new(f32s_mut(OP, "y", y, q_elements)?);
    let lse = Shared::new(f32s_mut(OP, "lse", lse, s.rows)?);
    let &Attention { q_len, heads, dim, scale, .. } = op;

    tasks(op.batch * heads * s.blocks, s.work(), |task| {
        let (b, h, block) = (task / s.blocks / heads, task / s.blocks % heads, task % s.blocks);
        let (first, count, visible) = s.block(block);
        let (keys, values) = (s.key_rows(k, b, h / s.group), s.key_rows(v, b, h / s.group));
        // SAFETY: y and lse of one head in one block of queries.
        let (mut out, lse) = unsafe {
            (
                y.tile(s.q_start(b, h) + first * s.q_stride, count, dim, s.q_stride),
                lse.part((b * heads + h) * q_len + first, count),
            )
        };
        with_scratch(count * visible, |p| {
            let scores = Product::new(path, q_len, dim, s.queries(q, b, h, first), keys.t());
            scores.tile(0, 0, Mode::Set, &mut Tile::new(p, count, visible));
            let mut inverse = [0.0f32; BLOCK];
            for (i, row) in p.chunks_exact_mut(visible).enumerate() {
                let (seen, hidden) = row.split_at_mut(s.keys(first + i));
                simd::scale(scale as f32, seen);
                let max = simd::max(seen);
                let sum = exp_shift_sum(seen, max);
                hidden.fill(0.0);
                inverse[i] = (1.0 / sum) as f32;
                lse[i] = (f64::from(max) + sum.ln()) as f32;
            }
            if q_len <= FEW {
                few_rows(&s, p.chunks_exact(visible), &v[s.kv_start(b, h / s.group)..], &mut out);
            } else {
                Product::new(path, q_len, visible, Operand::f32(p, visible), values).tile(0, 0, Mode::Set, &mut out);
            }
            (0..count).for_each(|i| simd::scale(inverse[i], out.row(i)));
        });
    });
    Ok(())
}

/// `y = P V` row by row, for an operation of one block; v from its head on.
fn few_rows<'a>(s: &Sizes, p: impl Iterator<Item = &'a [f32]>, v: &[f32], y: &mut Tile<'_>) {
    let dim = y.cols();
    for (i, p) in p.enumerate() {
        let y = y.row(i);
        y.fill(0.0);
        for (j, &p) in p[..s.keys(i)].iter().enumerate() {
            simd::axpy(p, &v[j * s.kv_stride..][..dim], y);
        }
    }
}

kernel! {
    /// `p ← exp(s p − lse)`.
    fn probabilities[FMA](scale: f32, lse: f32, p: &mut [f32]) {
        for p in p.iter_mut() {
            *p = exp::<FMA>(fma::<FMA>(scale, *p, -lse));
        }
    }
}

kernel! {
    /// `ds ← s p (ds − delta)`.
    fn score_gradients[FMA](scale: f32, delta: f32, p: &[f32], ds: &mut [f32]) {
        for (ds, p) in ds.iter_mut().zip(p) {
            *ds = scale * *p * (*ds - delta);
        }
    }
}

/// See the trait's `attention_backward`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn attention_backward(
    path: Path,
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
    let (q_elements, kv_elements) = (s.q_elements(OP)?, s.kv_elements(OP)?);
    let (q, k, v) = (f32s(OP, "q", q, q_elements)?, f32s(OP, "k", k, kv_elements)?, f32s(OP, "v", v, kv_elements)?);
    let (y, gy) = (f32s(OP, "y", y, q_elements)?, f32s(OP, "gy", gy, q_elements)?);
    let lse = f32s(OP, "lse", lse, s.rows)?;
    let dq = output(OP, "dq", dq, q_elements)?;
    let dk = output(OP, "dk", dk, kv_elements)?;
    let dv = output(OP, "dv", dv, kv_elements)?;
    let &Attention { batch, q_len, kv_len, heads, kv_heads, dim, scale, .. } = op;
    let scale = scale as f32;

    tasks(batch * kv_heads, s.work(), |task| {
        let (b, kv) = (task / kv_heads, task % kv_heads);
        let (keys, values) = (s.key_rows(k, b, kv), s.key_rows(v, b, kv));
        for (out, mode) in [&dk, &dv].into_iter().flatten() {
            if *mode == Mode::Set {
                // SAFETY: one key/value head per task.
                let mut tile = unsafe { out.tile(s.kv_start(b, kv), kv_len, dim, s.kv_stride) };
                (0..kv_len).for_each(|i| tile.row(i).fill(0.0));
            }
        }
        for (h, block) in (kv * s.group..(kv + 1) * s.group).flat_map(|h| (0..s.blocks).map(move |block| (h, block))) {
            let (first, count, visible) = s.block(block);
            let start = s.q_start(b, h) + first * s.q_stride;
            let (queries, gradients) = (s.queries(q, b, h, first), s.queries(gy, b, h, first));
            with_scratch(2 * count * visible, |scratch| {
                let (p, ds) = scratch.split_at_mut(count * visible);
                Product::new(path, q_len, dim, queries, keys.t()).tile(
                    0,
                    0,
                    Mode::Set,
                    &mut Tile::new(p, count, visible),
                );
                for (i, row) in p.chunks_exact_mut(visible).enumerate() {
                    let (seen, hidden) = row.split_at_mut(s.keys(first + i));
                    probabilities(scale, lse[(b * heads + h) * q_len + first + i], seen);
                    hidden.fill(0.0);
                }
                let p = &*p;
                if let Some((dv, _)) = &dv {
                    // SAFETY: one key/value head per task.
                    let mut tile = unsafe { dv.tile(s.kv_start(b, kv), visible, dim, s.kv_stride) };
                    Product::new(path, visible, count, Operand::f32(p, visible).t(), gradients).tile(
                        0,
                        0,
                        Mode::Add,
                        &mut tile,
                    );
                }
                if dq.is_none() && dk.is_none() {
                    return;
                }
                Product::new(path, q_len, dim, gradients, values.t()).tile(
                    0,
                    0,
                    Mode::Set,
                    &mut Tile::new(ds, count, visible),
                );
                for (i, (row, p)) in ds.chunks_exact_mut(visible).zip(p.chunks_exact(visible)).enumerate() {
                    let at = start + i * s.q_stride;
                    let delta = simd::dot(&gy[at..at + dim], &y[at..at + dim]);
                    let (seen, hidden) = row.split_at_mut(s.keys(first + i));
                    score_gradients(scale, delta, p, seen);
                    hidden.fill(0.0);
                }
                let ds = Operand::f32(ds, visible);
                if let Some((dq, mode)) = &dq {
                    // SAFETY: one head's block of queries, and each head belongs to one task.
                    let mut tile = unsafe { dq.tile(start, count, dim, s.q_stride) };
                    Product::new(path, count, visible, ds, keys).tile(0, 0, *mode, &mut tile);
                }
                if let Some((dk, _)) = &dk {
                    // SAFETY: one key/value head per task.
                    let mut tile = unsafe { dk.tile(s.kv_start(b, kv), visible, dim, s.kv_stride) };
                    Product::new(path, visible, count, ds.t(), queries).tile(0, 0, Mode::Add, &mut tile);
                }
            });
        }
    });
    Ok(())
}

/// A wanted gradient as shared memory.
fn output<'a>(
    op: &'static str,
    what: &str,
    slot: Option<Slot<'a>>,
    len: usize,
) -> Result<Option<(Shared<'a, f32>, Mode)>> {
    let Some(slot) = slot else { return Ok(None) };
    Ok(Some((Shared::new(f32s_mut(op, what, slot.out, len)?), slot.mode)))
}
