//! First phase: rows of a are packed, and give what they have to give to their branch while they are in the cache.

use std::ops::Range;

use super::{Branch, Group, Work};
use crate::gemm::depths::Block;
use crate::gemm::kernel::{DEPTH, STRIDE};
use crate::gemm::pack;
use crate::gemm::side::{GROUP, Side};
use crate::parallel::{Shared, Tile, tasks, with_shared};
use crate::simd;

impl<'w, 'a> Work<'w, 'a> {
    /// The groups there are, with their rows and their tasks, each of which packs a span of these rows.
    fn spans(&self) -> impl Iterator<Item = (&'w Group<'a>, Range<usize>, Range<usize>)> {
        self.groups(0, self.m).scan(0, |end, (group, rows)| {
            let first = *end;
            *end += rows.len().div_ceil(group.span());
            Some((group, rows, first..*end))
        })
    }

    /// Runs the phase for some blocks of depth.
    pub(super) fn rows(&self, blocks: Range<usize>, packed: &mut [f32]) {
        let (count, width) = (self.spans().map(|(.., tasks)| tasks.len()).sum(), blocks.len() * DEPTH);
        let widest = self.spans().filter_map(|(group, ..)| group.gradient()).map(|gradient| gradient.r).max();
        let distance = widest.unwrap_or(0) * width;
        with_shared(count * distance, |sums| {
            let (packed, shared) = (Shared::new(packed), Shared::new(sums));
            tasks(count, blocks.len() * DEPTH * self.m, |task| {
                let own = self.spans().find(|(.., tasks)| tasks.contains(&task));
                let (group, rows, tasks) = own.expect("tasks are those of the spans");
                let start = rows.start + (task - tasks.start) * group.span();
                // SAFETY: one part per task.
                let sums = unsafe { shared.part(task * distance, distance) };
                self.span(group, start..rows.end.min(start + group.span()), blocks.clone(), &packed, sums);
            });
            let p = blocks.start * DEPTH;
            let cols = (blocks.end * DEPTH).min(self.k).saturating_sub(p);
            for (group, rows, tasks) in self.spans() {
                if let Some(gradient) = group.gradient() {
                    let first = self.i0 + rows.start == group.start;
                    gradient.add(first, p, cols, &sums[tasks.start * distance..], [tasks.len(), distance, width]);
                }
            }
        });
    }

    /// One task: packs some rows of one group, all blocks of them.
    fn span(
        &self,
        group: &Group<'_>,
        span: Range<usize>,
        blocks: Range<usize>,
        packed: &Shared<'_, f32>,
        sums: &mut [f32],
    ) {
        let &Work { compute, m, k, i0, .. } = self;
        let (kernel, width) = (compute.path.kernel(), blocks.len() * DEPTH);
        for b in blocks.clone() {
            // SAFETY: these rows are this task's.
            let out = unsafe { packed.part(((b - blocks.start) * m + span.start) * STRIDE, span.len() * STRIDE) };
            let block = group.depths(k, compute).block_or_none(b);
            for (i, out) in span.clone().step_by(GROUP).zip(out.chunks_mut(GROUP * STRIDE)) {
                let rows = out.len() / STRIDE;
                if block.depth > 0 {
                    pack::rows(kernel, &self.a, [i0 + i, block.p], [rows, block.depth], self.alpha, out);
                }
                if let Some(branch) = &group.branch {
                    self.branch_rows(group, branch, block, i, out);
                }
            }
            if let (Some(gradient), true) = (group.gradient(), block.depth > 0) {
                let mut sums = Tile::new(sums, gradient.r, width);
                let mut sums = sums.part(0, (b - blocks.start) * DEPTH, gradient.r, block.depth);
                gradient.sum(kernel, i0 + span.start - group.start, out, &mut sums);
            }
            compute.rows(out, block.total());
        }
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
}
