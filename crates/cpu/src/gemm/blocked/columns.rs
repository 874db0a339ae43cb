//! Second phase: strips of columns, past which all packed rows run.

use std::ops::Range;

use super::{Epilogue, Group, Target, Work};
use crate::gemm::cache::second_level;
use crate::gemm::depths::{Block, Depths};
use crate::gemm::kernel::{Ahead, DEPTH, Kernel, STRIDE};
use crate::gemm::pack;
use crate::gemm::side::GROUP;
use crate::gemm::tile::{LeftColumns, PackedRows, Start, multiply_ahead};
use crate::parallel::{Tile, tasks, with_scratch};

/// Rows of a finished tile that an epilogue gets at a time.
const FINISHED: usize = 4 * GROUP;

impl Work<'_, '_> {
    /// Runs the phase for some blocks of depth.
    pub(super) fn columns(
        &self,
        blocks: Range<usize>,
        packed: &[f32],
        target: &Target<'_, '_>,
        epilogue: Epilogue<'_>,
    ) {
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
            for at in (0..rows).step_by(FINISHED) {
                epilogue(self.i0 + i + at, j, &mut tile.part(at, 0, FINISHED.min(rows - at), cols));
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
        if base.depth > 0 && (shared || widest == 0) {
            let distance = if widest == 0 { compute.padded(base.depth) } else { base.depth + widest } * kernel.cols;
            let (done, left) = compute.pack(&self.b, [base.p, j], [base.depth, cols], columns, distance);
            compute.columns(&mut columns[..panels * distance], base.depth, kernel.cols, done);
            unpacked = left;
        }
        let mut later = self.later(b, j, cols);
        if widest == 0 {
            if base.depth > 0 {
                let depth = compute.padded(base.depth);
                let columns = LeftColumns { data: columns, depth, distance: depth * kernel.cols, unpacked };
                multiply_ahead(kernel, PackedRows(packed), columns, start, tile, later);
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
            let (done, unpacked) = match shared {
                true => (0, unpacked.take()),
                false => compute.pack(&self.b, [block.p, j], [block.depth, cols], columns, distance),
            };
            if let Some(outer) = group.branch.as_ref().and_then(|branch| branch.outer.as_ref()) {
                let rest = &mut columns[block.depth * kernel.cols..];
                pack::columns(kernel, outer, [block.q, j], [block.rank, cols], rest, distance);
            }
            if !shared {
                compute.columns(&mut columns[..panels * distance], block.total(), kernel.cols, done);
            }
            let packed = &packed[(part.start - i) * STRIDE..(part.end - i) * STRIDE];
            let columns = LeftColumns { data: &mut *columns, depth, distance, unpacked };
            let mut tile = tile.part(part.start - i, 0, part.len(), cols);
            multiply_ahead(kernel, PackedRows(packed), columns, start, &mut tile, later);
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
