//! Attention by blocks of queries: scores of 64 queries against the keys they see are all that is in memory at a time.
//!
//! q, y, gy `[batch, q_len, heads, dim]`, k, v `[batch, kv_len, kv_heads, dim]`, lse `[batch, heads, q_len]`. Forward: one
//! task per (sequence, head, block). Of later keys only those in the same block are multiplied, with weight 0 (so that NaN in
//! one of their values shows in the block).
//!
//! Backward: probabilities are recomputed from lse (Dao et al. 2022); five products, 10 FLOPs a pair of positions and element.
//! What the blocks of all query heads give to dk and dv is added in their order, so there are no atomics and bits do
//! not depend on how the work is shared out, of which there are two ways:
//!
//! * where (sequences × key/value heads) share out evenly, one task each: P and dS of a block stay in the cache;
//! * else in waves: P and dS of some blocks by one task each, then dk and dv of these by tasks for blocks of keys. No FLOP more,
//!   but P and dS are read from further away: 6 to 12 % more processor time with two threads, and by the clock 74 instead of
//!   123 ms for 2048 positions of 8 heads with one of keys and values, 2.5 instead of 4.5 for 512 (AMD EPYC, Zen 5, two threads).
//!
//! Not built: tasks for blocks of keys that recompute S and dP of their own (7 products instead of 5).

use std::ops::Range;

use lowrank_backend::{Attention, Error, In, Mode, Out, Result, Slot};

use crate::gemm::{Compute, Operand, Product, flops};
use crate::math::{exp, exp_shift_sum};
use crate::parallel::{Shared, Tile, inside, pieces, tasks, with_scratch, with_shared};
use crate::path::Path;
use crate::results::{Results, whole};
use crate::simd::{self, fma, kernel};
use crate::view::{Floats, FloatsMut, f32s, f32s_mut, floats, floats_mut, volume};

/// Queries of a block: enough to use keys and values well, few enough for their scores to stay in the cache.
const BLOCK: usize = 64;
/// Queries up to which P·V is computed row by row: packing V would cost more.
const FEW: usize = 4;
/// Values of P and dS at a time where they are not: 4 MiB, or two blocks of queries a thread where that is more.
const WAVE: usize = 1 << 20;
/// Keys of a task then.
const KEYS: usize = 128;

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

    fn queries<'a>(&self, x: Floats<'a>, b: usize, h: usize, first: usize) -> Operand<'a> {
        Operand::new(x, self.q_stride).at(self.q_start(b, h) + first * self.q_stride)
    }

    fn key_rows<'a>(&self, x: Floats<'a>, b: usize, kv: usize) -> Operand<'a> {
        Operand::new(x, self.kv_stride).at(self.kv_start(b, kv))
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
    let (q, k, v) =
        (floats(OP, "q", q, q_elements)?, floats(OP, "k", k, kv_elements)?, floats(OP, "v", v, kv_elements)?);
    let y = Results::new(floats_mut(OP, "y", y, q_elements)?);
    let lse = Shared::new(f32s_mut(OP, "lse", lse, s.rows)?);
    let &Attention { q_len, heads, dim, scale, .. } = op;

    tasks(op.batch * heads * s.blocks, s.work(), |task| {
        let (b, h, block) = (task / s.blocks / heads, task / s.blocks % heads, task % s.blocks);
        let (first, count, visible) = s.block(block);
        let (keys, values) = (s.key_rows(k, b, h / s.group), s.key_rows(v, b, h / s.group));
        // SAFETY: lse of one head in one block of queries.
        let lse = unsafe { lse.part((b * heads + h) * q_len + first, count) };
        let start = s.q_start(b, h) + first * s.q_stride;
        let mut work = |p: &mut [f32], out: &mut Tile<'_>| {
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
                few_rows(&s, p.chunks_exact(visible), v, s.kv_start(b, h / s.group), out);
            } else {
                Product::new(path, q_len, visible, Operand::f32(p, visible), values).tile(0, 0, Mode::Set, out);
            }
            (0..count).for_each(|i| simd::scale(inverse[i], out.row(i)));
        };
        with_scratch(count * visible, |p| {
            // SAFETY: y of one head in one block of queries.
            unsafe { y.lend(start, [count, dim], s.q_stride, false, |out| work(p, out)) };
        });
    });
    Ok(())
}

/// `y = P V` row by row, for an operation of one block; v of the head that starts at `head`.
fn few_rows<'a>(s: &Sizes, p: impl Iterator<Item = &'a [f32]>, v: Floats<'_>, head: usize, y: &mut Tile<'_>) {
    let dim = y.cols();
    with_scratch(dim, |buffer| {
        for (i, p) in p.enumerate() {
            let y = y.row(i);
            y.fill(0.0);
            for (j, &p) in p[..s.keys(i)].iter().enumerate() {
                simd::axpy(p, v.block(head + j * s.kv_stride, dim, buffer), y);
            }
        }
    });
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
    let (q, k, v) =
        (floats(OP, "q", q, q_elements)?, floats(OP, "k", k, kv_elements)?, floats(OP, "v", v, kv_elements)?);
    let (y, gy) = (floats(OP, "y", y, q_elements)?, floats(OP, "gy", gy, q_elements)?);
    let lse = f32s(OP, "lse", lse, s.rows)?;
    let dq = output(OP, "dq", dq, q_elements)?.map(|(dq, mode)| (Results::new(dq), mode));
    let (dk, dv) = (output(OP, "dk", dk, kv_elements)?, output(OP, "dv", dv, kv_elements)?);
    summed(dk, |dk| summed(dv, |dv| Backward { path, s, q, k, v, y, gy, lse, dq, dk, dv }.run()));
    Ok(())
}

/// What the backward pass reads and writes. Its units of work are blocks of queries of one head, counted by sequence, head
/// and block, so that those of one key/value head follow one another.
struct Backward<'a> {
    path: Path,
    s: Sizes,
    q: Floats<'a>,
    k: Floats<'a>,
    v: Floats<'a>,
    y: Floats<'a>,
    gy: Floats<'a>,
    lse: &'a [f32],
    dq: Option<(Results<'a>, Mode)>,
    dk: Summed<'a>,
    dv: Summed<'a>,
}

/// One unit: sequence, head, its key/value head, first query, number of queries, the keys that the last of them sees.
struct Unit {
    b: usize,
    h: usize,
    kv: usize,
    first: usize,
    count: usize,
    visible: usize,
}

/// Whose gradient.
#[derive(Clone, Copy)]
enum Of {
    Values,
    Keys,
}

impl Backward<'_> {
    fn run(&self) {
        let &Attention { batch, heads, kv_heads, kv_len, .. } = &self.s.op;
        let (work, pairs) = (self.s.work(), batch * kv_heads);
        inside(work, || {
            let threads = rayon::current_num_threads();
            for (out, mode) in [&self.dk, &self.dv].into_iter().flatten() {
                if *mode == Mode::Set {
                    // SAFETY: nobody else has it here.
                    pieces(unsafe { out.all() }, 1 << 16, work, |_, part| part.fill(0.0));
                }
            }
            // Threads that wait for the last tasks cost more than the other way from about an eighth on.
            if pairs.next_multiple_of(threads) * 8 <= pairs * 9 {
                return tasks(pairs, work, |pair| self.pair(pair));
            }
            let (units, slot) = (batch * heads * self.s.blocks, 2 * BLOCK * kv_len);
            if units == 0 {
                return;
            }
            let wave = (WAVE / slot).max(2 * threads).min(units);
            with_shared(wave * slot, |scratch| {
                (0..units).step_by(wave).for_each(|first| self.wave(first..units.min(first + wave), slot, scratch));
            });
        });
    }

    fn per_pair(&self) -> usize {
        self.s.group * self.s.blocks
    }

    fn unit(&self, unit: usize) -> Unit {
        let (b, h) = (unit / self.s.blocks / self.s.op.heads, unit / self.s.blocks % self.s.op.heads);
        let (first, count, visible) = self.s.block(unit % self.s.blocks);
        Unit { b, h, kv: h / self.s.group, first, count, visible }
    }

    /// All units of a key/value head, one after the other: each one's scores stay in the cache.
    fn pair(&self, pair: usize) {
        for unit in pair * self.per_pair()..(pair + 1) * self.per_pair() {
            let unit = self.unit(unit);
            with_scratch(2 * unit.count * unit.visible, |scratch| {
                self.queries(&unit, scratch);
                [Of::Values, Of::Keys].into_iter().for_each(|of| self.keys(&unit, scratch, of, 0..unit.visible));
            });
        }
    }

    /// Some units on all threads: first each by itself, then for blocks of keys what all of them give to dk or dv, in their
    /// order.
    fn wave(&self, units: Range<usize>, slot: usize, scratch: &mut [f32]) {
        let &Attention { q_len, kv_len, dim, .. } = &self.s.op;
        let work = flops([units.len() * BLOCK.min(q_len), kv_len, dim]);
        let shared = Shared::new(scratch);
        tasks(units.len(), work, |i| {
            let unit = self.unit(units.start + i);
            // SAFETY: one slot per unit.
            self.queries(&unit, unsafe { shared.part(i * slot, 2 * unit.count * unit.visible) });
        });
        let per = self.per_pair();
        let (pairs, blocks) = (units.start / per..units.end.div_ceil(per), kv_len.div_ceil(KEYS));
        let scratch = &*scratch;
        tasks(2 * pairs.len() * blocks, work, |task| {
            let of = if task % 2 == 0 { Of::Values } else { Of::Keys };
            let (pair, first) = (pairs.start + task / 2 / blocks, task / 2 % blocks * KEYS);
            for index in units.start.max(pair * per)..units.end.min((pair + 1) * per) {
                let unit = self.unit(index);
                let scratch = &scratch[(index - units.start) * slot..][..2 * unit.count * unit.visible];
                if first < unit.visible {
                    self.keys(&unit, scratch, of, first..unit.visible.min(first + KEYS));
                }
            }
        });
    }

    /// P and dS of a unit, side by side, and its rows of dq.
    fn queries(&self, unit: &Unit, scratch: &mut [f32]) {
        let (s, &Unit { b, h, kv, first, count, visible }) = (&self.s, unit);
        let &Attention { q_len, dim, heads, scale, .. } = &s.op;
        let scale = scale as f32;
        let (keys, values) = (s.key_rows(self.k, b, kv), s.key_rows(self.v, b, kv));
        let (queries, gradients) = (s.queries(self.q, b, h, first), s.queries(self.gy, b, h, first));
        let (p, ds) = scratch.split_at_mut(count * visible);
        let all = |a, b: Operand<'_>, c: &mut [f32]| {
            Product::new(self.path, q_len, dim, a, b.t()).tile(0, 0, Mode::Set, &mut Tile::new(c, count, visible));
        };
        all(queries, keys, p);
        for (i, row) in p.chunks_exact_mut(visible).enumerate() {
            let (seen, hidden) = row.split_at_mut(s.keys(first + i));
            probabilities(scale, self.lse[(b * heads + h) * q_len + first + i], seen);
            hidden.fill(0.0);
        }
        if self.dq.is_none() && self.dk.is_none() {
            return;
        }
        all(gradients, values, ds);
        let start = s.q_start(b, h) + first * s.q_stride;
        for (i, (row, p)) in ds.chunks_exact_mut(visible).zip(p.chunks_exact(visible)).enumerate() {
            let at = start + i * s.q_stride;
            let delta = self.gy.with(at, dim, |gy| self.y.with(at, dim, |y| simd::dot(gy, y)));
            let (seen, hidden) = row.split_at_mut(s.keys(first + i));
            score_gradients(scale, delta, p, seen);
            hidden.fill(0.0);
        }
        if let Some((dq, mode)) = &self.dq {
            let product = Product::new(self.path, count, visible, Operand::f32(ds, visible), keys);
            let work = |tile: &mut Tile<'_>| product.tile(0, 0, *mode, tile);
            // SAFETY: one head's block of queries: this unit's own.
            unsafe { dq.lend(start, [count, dim], s.q_stride, *mode == Mode::Add, work) };
        }
    }

    /// What a unit gives to some rows of dv or dk: `dv += Pᵀ gy`, `dk += dSᵀ q`.
    fn keys(&self, unit: &Unit, scratch: &[f32], of: Of, rows: Range<usize>) {
        let (s, &Unit { b, h, kv, first, count, visible }) = (&self.s, unit);
        let (p, ds) = scratch.split_at(count * visible);
        let (target, scores, right) = match of {
            Of::Values => (&self.dv, p, self.gy),
            Of::Keys => (&self.dk, ds, self.q),
        };
        let Some((target, _)) = target else { return };
        let product =
            Product::new(self.path, visible, count, Operand::f32(scores, visible).t(), s.queries(right, b, h, first));
        let start = s.kv_start(b, kv) + rows.start * s.kv_stride;
        // SAFETY: these rows of one key/value head: this task's own.
        let mut tile = unsafe { target.tile(start, rows.len(), s.op.dim, s.kv_stride) };
        product.tile(rows.start, 0, Mode::Add, &mut tile);
    }
}

/// A gradient that is summed in f32, if it is wanted.
type Summed<'a> = Option<(Shared<'a, f32>, Mode)>;

/// A gradient, if it is wanted.
type Output<'a> = Option<(FloatsMut<'a>, Mode)>;

fn output<'a>(op: &'static str, what: &str, slot: Option<Slot<'a>>, len: usize) -> Result<Output<'a>> {
    let Some(slot) = slot else { return Ok(None) };
    Ok(Some((floats_mut(op, what, slot.out, len)?, slot.mode)))
}

/// Runs `f` with memory in f32 for sums that many tasks add to, and rounds them once if they are stored otherwise.
fn summed(output: Output<'_>, f: impl FnOnce(Summed<'_>)) {
    match output {
        None => f(None),
        Some((x, mode)) => whole(x, mode == Mode::Add, |sums| f(Some((Shared::new(sums), mode)))),
    }
}
