//! Large products on all threads, with low-rank branches riding along.
//!
//! `c [m,n] = start + alpha a b`, and with a branch of rank r on some rows: `h = â inner` `[rows,r]` (â: a, masked) is
//! computed from rows of a while they are packed, then `s h outer` is summed into c by more blocks of depth: one product
//! over k + r columns, c is written once.
//!
//! 1. *Rows*: tasks pack groups of rows of a (each row once for all of n) and compute their rows of h from the packed
//!    copy, which is in the cache.
//! 2. *Columns*: tasks own strips of columns; each packs its strip of b, one block of depths after the other, into its
//!    second-level cache and runs all packed rows past it. Groups of rows with branches of their own share the strip: only
//!    the few rows of it that hold their outer factor are packed for each.
//!
//! While a block is multiplied, the microkernel asks for what comes next: packed rows, and the part of b to be packed then.
//! Both phases repeat over groups of depth blocks, so that packed rows take at most an eighth of the last-level cache (64 MiB of a
//! would otherwise be a temporary of its size). A sum is never split between tasks and blocks are taken in order: bits
//! depend on k and r alone.

use std::ops::Range;

use super::cache::second_level;
use super::compute::Compute;
use super::depths::{Block, Depths};
use super::flops;
use super::kernel::{Ahead, DEPTH, Kernel, STRIDE};
use super::operand::Operand;
use super::pack;
use super::side::{GROUP, Side};
use super::tile::{PackedColumns, PackedRows, Start, multiply_ahead};
use crate::dropout::Mask;
use crate::parallel::{Shared, Tile, inside, tasks, with_scratch, with_shared};
use crate::results::{Results, whole};
use crate::simd;
use crate::view::FloatsMut;

/// The low-rank branch of a product.
pub(crate) struct Branch<'a> {
    pub r: usize,
    /// `[k,r]`
    pub inner: Operand<'a>,
    /// Dropout on the branch's input, counted over its rows of k elements.
    pub mask: Option<Mask>,
    pub scale: f32,
    /// Whether h itself is multiplied by the scale, not only what goes into c.
    pub keep_scaled: bool,
    /// `[rows,r]`, to write.
    pub h: Shared<'a, f32>,
    /// `[r,n]`
    pub outer: Operand<'a>,
}

/// Rows of c with a branch, or without.
pub(crate) struct Group<'a> {
    start: usize,
    rows: usize,
    branch: Option<Branch<'a>>,
    /// Where the packed inner factor lies.
    packed: usize,
}

impl<'a> Group<'a> {
    pub(crate) fn new(start: usize, rows: usize, branch: Option<Branch<'a>>) -> Self {
        Group { start, rows, branch, packed: 0 }
    }

    fn depths(&self, k: usize, compute: Compute) -> Depths {
        Depths { k, r: self.branch.as_ref().map_or(0, |branch| branch.r), most: compute.most() }
    }
}

/// A product and where it goes.
pub(crate) struct Blocked<'a, 'c> {
    pub compute: Compute,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Operand<'a>,
    pub b: Operand<'a>,
    pub alpha: f32,
    pub start: Start<'a>,
    pub c: FloatsMut<'c>,
}

/// What is done to a finished tile of c: (first row, first column, tile).
pub(crate) type Epilogue<'a> = Option<&'a (dyn Fn(usize, usize, &mut Tile<'_>) + Sync)>;

/// Rows that are packed in one phase at most.
const MAX_ROWS: usize = 1024;
/// Values of packed rows, or of sums in f32, where c is rounded and all of k has to be summed before it is written: 24 MiB.
const ROUNDED: usize = 6 << 20;
/// Values of packed rows in one phase: 8 MiB, at which the last level of any cache of 32 MiB keeps them beside the rest.
const PACKED: usize = 2 << 20;

impl<'a> Blocked<'a, '_> {
    /// Computes the product; with a branch for all rows if there is one.
    pub(crate) fn run(self, branch: Option<Branch<'a>>, epilogue: Epilogue<'_>) {
        let group = Group::new(0, self.m, branch);
        self.run_groups(&mut [group], epilogue);
    }

    /// The same with groups of rows that follow one another and are m together.
    pub(crate) fn run_groups(self, groups: &mut [Group<'a>], epilogue: Epilogue<'_>) {
        let Blocked { compute, m, n, k, a, b, alpha, start, c } = self;
        if m == 0 {
            return;
        }
        let kernel = compute.path.kernel();
        let side = |branch: &Branch<'_>| Side { kernel, r: branch.r, k, mask: branch.mask };
        let mut sides = 0;
        for group in &mut *groups {
            group.packed = sides;
            sides += group.branch.as_ref().map_or(0, |branch| side(branch).packed());
        }
        let groups = &*groups;
        let work = || {
            with_shared(sides, |inner| {
                let out = Shared::new(inner);
                let blocks = k.div_ceil(DEPTH);
                tasks(if sides > 0 { groups.len() * blocks } else { 0 }, sides / 4, |task| {
                    let group = &groups[task / blocks];
                    if let Some(branch) = &group.branch {
                        side(branch).pack(task % blocks, &branch.inner, &out, group.packed);
                    }
                });
                let inner = &*inner;
                let count = groups.iter().map(|group| group.depths(k, compute).count()).max().unwrap_or(0);
                let all = Work { compute, m, n, k, i0: 0, a, b, alpha, start, groups, inner, count };
                match c {
                    FloatsMut::F32(_) => all.by_rows(MAX_ROWS, PACKED, &Results::new(c), epilogue),
                    c => all.rounded(c, epilogue),
                }
            })
        };
        inside(flops([m, n, k]), work);
    }
}

/// One block of rows of a product.
#[derive(Clone, Copy)]
struct Work<'w, 'a> {
    compute: Compute,
    m: usize,
    n: usize,
    k: usize,
    i0: usize,
    a: Operand<'a>,
    b: Operand<'a>,
    alpha: f32,
    start: Start<'a>,
    groups: &'w [Group<'a>],
    /// The packed inner factors.
    inner: &'w [f32],
    /// Blocks of depth of the group that has most.
    count: usize,
}

/// Where the rows from `first` on lie.
struct Target<'t, 'c> {
    c: &'t Results<'c>,
    first: usize,
}

impl<'w, 'a> Work<'w, 'a> {
    /// `most` rows after the other, packed by at most `packed` values at a time. c has all rows.
    fn by_rows(&self, most: usize, packed: usize, c: &Results<'_>, epilogue: Epilogue<'_>) {
        for i0 in (0..self.m).step_by(most) {
            let work = Work { i0, m: most.min(self.m - i0), ..*self };
            work.run(packed, &Target { c, first: 0 }, epilogue);
        }
    }

    /// A c that is stored in another dtype than it is summed in: each element is written once. If all of k of some hundred
    /// packed rows is too much, it is sums of some rows in f32 that are kept instead.
    fn rounded(&self, mut c: FloatsMut<'_>, epilogue: Epilogue<'_>) {
        let (m, n) = (self.m, self.n);
        let fit = ROUNDED / (self.count.max(1) * STRIDE);
        if fit >= m.min(512) || n == 0 {
            return self.by_rows(fit.clamp(1, MAX_ROWS), usize::MAX, &Results::new(c), epilogue);
        }
        let most = (ROUNDED / n).clamp(64, MAX_ROWS);
        for i0 in (0..m).step_by(most) {
            let work = Work { i0, m: most.min(m - i0), ..*self };
            let own = c.range(i0 * n, work.m * n);
            whole(own, matches!(self.start, Start::Old), |sums| {
                work.run(PACKED, &Target { c: &Results::new(sums.into()), first: i0 }, epilogue);
            });
        }
    }

    fn run(&self, packed: usize, target: &Target<'_, '_>, epilogue: Epilogue<'_>) {
        let group = (packed / (self.m * STRIDE)).max(1);
        if self.count == 0 {
            return self.columns(0..0, &[], target, epilogue);
        }
        for first in (0..self.count).step_by(group) {
            let blocks = first..self.count.min(first.saturating_add(group));
            with_shared(blocks.len() * self.m * STRIDE, |packed| {
                self.rows(blocks.clone(), packed);
                self.columns(blocks.clone(), packed, target, epilogue);
            });
        }
    }

    /// The groups of rows `i .. i + rows`, each with its part of them.
    fn groups(&self, i: usize, rows: usize) -> impl Iterator<Item = (&'w Group<'a>, Range<usize>)> {
        let (start, end) = (self.i0 + i, self.i0 + i + rows);
        let first = self.groups.partition_point(|group| group.start + group.rows <= start);
        let groups = self.groups[first..].iter().take_while(move |group| group.start < end);
        let i0 = self.i0;
        groups.map(move |group| (group, group.start.max(start) - i0..(group.start + group.rows).min(end) - i0))
    }

    /// First phase.
    fn rows(&self, blocks: Range<usize>, packed: &mut [f32]) {
        let &Work { compute, m, k, i0, .. } = self;
        let packed = Shared::new(packed);
        tasks(m.div_ceil(GROUP), blocks.len() * DEPTH * m, |task| {
            let (i, rows) = (task * GROUP, GROUP.min(m - task * GROUP));
            for b in blocks.clone() {
                // SAFETY: one group of rows per task.
                let out = unsafe { packed.part(((b - blocks.start) * m + i) * STRIDE, rows * STRIDE) };
                let Block { p, depth, .. } = Depths { k, r: 0, most: compute.most() }.block_or_none(b);
                if depth > 0 {
                    pack::rows(compute.path.kernel(), &self.a, [i0 + i, p], [rows, depth], self.alpha, out);
                }
                for (group, part) in self.groups(i, rows) {
                    let out = &mut out[(part.start - i) * STRIDE..(part.end - i) * STRIDE];
                    let block = group.depths(k, compute).block_or_none(b);
                    if let Some(branch) = &group.branch {
                        self.branch_rows(group, branch, block, part.start, out);
                    }
                    compute.rows(out, block.total());
                }
            }
        });
    }

    /// What packed rows give to their branch's h, and, after the last, h as more packed columns.
    fn branch_rows(&self, group: &Group<'_>, branch: &Branch<'_>, block: Block, i: usize, out: &mut [f32]) {
        let &Branch { r, mask, scale, keep_scaled, .. } = branch;
        let (rows, own) = (out.len() / STRIDE, self.i0 + i - group.start);
        let Block { p, depth, q, rank } = block;
        if depth > 0 {
            let side = Side { kernel: self.compute.path.kernel(), r, k: self.k, mask };
            // SAFETY: this task's rows of h.
            let mut tile = unsafe { branch.h.tile(own * r, rows, r, r) };
            side.add(&self.inner[group.packed..][..side.packed()], [own, p, depth], out, &mut tile);
            if keep_scaled && p + depth == self.k {
                (0..rows).for_each(|i| simd::scale(scale, tile.row(i)));
            }
        } else if self.k == 0 && q == 0 {
            // A sum of nothing.
            // SAFETY: this task's rows of h.
            unsafe { branch.h.part(own * r, rows * r) }.fill(0.0);
        }
        for (row, out) in out.chunks_exact_mut(STRIDE).enumerate().take(if rank > 0 { rows } else { 0 }) {
            // SAFETY: this task's rows of h.
            let h = unsafe { branch.h.part((own + row) * r + q, rank) };
            let out = &mut out[depth..depth + rank];
            out.copy_from_slice(h);
            if !keep_scaled {
                simd::scale(scale, out);
            }
        }
    }

    /// Second phase.
    fn columns(&self, blocks: Range<usize>, packed: &[f32], target: &Target<'_, '_>, epilogue: Epilogue<'_>) {
        let &Work { compute, m, n, i0, .. } = self;
        let kernel = compute.kernel();
        let cut = Cut::new(kernel, m, n);
        let flops = (2 * m * n).saturating_mul(blocks.len() * DEPTH);
        tasks(cut.tasks(), flops / 8, |task| {
            let (i, rows, j, cols) = cut.part(task, m, n);
            let work = |tile: &mut Tile<'_>| {
                with_scratch(cols.next_multiple_of(kernel.cols) * STRIDE, |columns| {
                    for b in blocks.clone() {
                        let packed = &packed[((b - blocks.start) * m + i) * STRIDE..][..rows * STRIDE];
                        self.strip(b, [i, j], packed, columns, tile);
                    }
                });
                if blocks.end == self.count {
                    self.finish([i, j], tile, epilogue);
                }
            };
            let at = (i0 + i - target.first) * n + j;
            // SAFETY: the parts do not overlap.
            unsafe { target.c.lend(at, [rows, cols], n, matches!(self.start, Start::Old), work) };
        });
    }

    /// What is left to do to a tile when its sums are complete.
    fn finish(&self, [i, j]: [usize; 2], tile: &mut Tile<'_>, epilogue: Epilogue<'_>) {
        let (rows, cols) = (tile.rows(), tile.cols());
        if self.k == 0 {
            let empty = |group: &Group<'_>| group.depths(0, self.compute).count() == 0;
            for row in self.groups(i, rows).filter(|(group, _)| empty(group)).flat_map(|(_, part)| part) {
                match self.start {
                    Start::Zero => tile.row(row - i).fill(0.0),
                    Start::Old => {}
                    Start::Row(start) => tile.row(row - i).copy_from_slice(&start[j..j + cols]),
                }
            }
        }
        if let Some(epilogue) = epilogue {
            for at in (0..rows).step_by(GROUP) {
                epilogue(self.i0 + i + at, j, &mut tile.part(at, 0, GROUP.min(rows - at), cols));
            }
        }
    }

    /// One block of depths of a strip of columns, for all its rows.
    fn strip(&self, b: usize, [i, j]: [usize; 2], packed: &[f32], columns: &mut [f32], tile: &mut Tile<'_>) {
        let &Work { compute, k, .. } = self;
        let (kernel, rows, cols) = (compute.kernel(), tile.rows(), tile.cols());
        let start = match self.start {
            _ if b > 0 => Start::Old,
            Start::Row(row) => Start::Row(&row[j..j + cols]),
            start => start,
        };
        let panels = cols.div_ceil(kernel.cols);
        let base = self.base(b);
        // Where several groups bring factors of their own, panels have room for the widest below the part that they share.
        // Only what is f32 stays in place when its neighbour changes: bf16 pairs may hold a row of each.
        let shared = compute == compute.path.into();
        let widest =
            self.groups(i, rows).map(|(group, _)| group.depths(k, compute).block_or_none(b).rank).max().unwrap_or(0);
        let mut unpacked = None;
        if shared {
            let distance = (base.depth + widest) * kernel.cols;
            unpacked = pack::leave(kernel, &self.b, [base.p, j], [base.depth, cols], columns, distance);
        } else if base.depth > 0 && widest == 0 {
            let distance = compute.padded(base.depth) * kernel.cols;
            let done = compute.pack(&self.b, [base.p, j], [base.depth, cols], columns, distance);
            compute.columns(&mut columns[..panels * distance], base.depth, kernel.cols, done);
        }
        let mut later = self.later(b, j, cols);
        if widest == 0 {
            if base.depth > 0 {
                let depth = compute.padded(base.depth);
                let columns = PackedColumns { data: columns, depth, distance: depth * kernel.cols };
                multiply_ahead(kernel, PackedRows(packed), (columns, unpacked), start, tile, later);
            }
            return;
        }
        for (group, part) in self.groups(i, rows) {
            let block = group.depths(k, compute).block_or_none(b);
            if block.total() == 0 {
                continue;
            }
            let depth = compute.padded(block.total());
            let distance = if shared { block.depth + widest } else { depth } * kernel.cols;
            let done = match shared {
                true => 0,
                false => compute.pack(&self.b, [block.p, j], [block.depth, cols], columns, distance),
            };
            if let Some(branch) = &group.branch {
                let rest = &mut columns[block.depth * kernel.cols..];
                pack::columns(kernel, &branch.outer, [block.q, j], [block.rank, cols], rest, distance);
            }
            if !shared {
                compute.columns(&mut columns[..panels * distance], block.total(), kernel.cols, done);
            }
            let packed = &packed[(part.start - i) * STRIDE..(part.end - i) * STRIDE];
            let columns = PackedColumns { data: columns, depth, distance };
            let mut tile = tile.part(part.start - i, 0, part.len(), cols);
            multiply_ahead(kernel, PackedRows(packed), (columns, unpacked.take()), start, &mut tile, later);
            later = Ahead::NONE;
        }
    }

    /// Block `b` of depth without any branch.
    fn base(&self, b: usize) -> Block {
        Depths { k: self.k, r: 0, most: self.compute.most() }.block_or_none(b)
    }

    /// What a task packs after block `b` of the strip of columns at `j`: the next block, or the first of the next strip.
    fn later(&self, b: usize, j: usize, cols: usize) -> Ahead {
        let (b, j) = if b + 1 < self.k.div_ceil(DEPTH) { (b + 1, j) } else { (0, j + cols) };
        if j >= self.n {
            return Ahead::NONE;
        }
        let (Block { p, depth, .. }, cols) = (self.base(b), cols.min(self.n - j));
        if self.b.trans { self.b.ahead([j, p], [cols, depth]) } else { self.b.ahead([p, j], [depth, cols]) }
    }
}

/// How c is cut into tasks: strips of columns, and these into parts of rows where there would be few.
struct Cut {
    cols: usize,
    strips: usize,
    rows: usize,
    parts: usize,
}

impl Cut {
    /// A strip of packed columns fills a quarter of the second-level cache (the rows that pass by want room as well; of 1 MiB,
    /// that is 128 columns); about 4 tasks a thread are enough to share between threads that are
    /// not equally fast. (The bits of c do not depend on the cut.)
    fn new(kernel: &Kernel, m: usize, n: usize) -> Self {
        let tasks = 4 * rayon::current_num_threads();
        let mut cols = (second_level() / 4 / (DEPTH * size_of::<f32>())).clamp(64, 512).next_power_of_two();
        while cols > 2 * kernel.cols && n.div_ceil(cols) < tasks.max(12) {
            cols /= 2;
        }
        let strips = n.div_ceil(cols);
        let parts = tasks.div_ceil(strips.max(1)).min(m.div_ceil(64)).max(1);
        let rows = m.div_ceil(parts);
        Cut { cols, strips, rows, parts: m.div_ceil(rows) }
    }

    fn tasks(&self) -> usize {
        self.strips * self.parts
    }

    fn part(&self, task: usize, m: usize, n: usize) -> (usize, usize, usize, usize) {
        let (i, j) = (task % self.parts * self.rows, task / self.parts * self.cols);
        (i, self.rows.min(m - i), j, self.cols.min(n - j))
    }
}
