//! First phase: rows of a are packed, and give what they have to give to their branch while they are in the cache.

use std::ops::Range;

use super::{Branch, Group, Work};
use crate::gemm::depths::Block;
use crate::gemm::kernel::{DEPTH, STRIDE};
use crate::gemm::pack;
use crate::gemm::side::{GROUP, Side};
use crate::parallel::{Shared, tasks, with_shared};
use crate::simd;

impl<'w, 'a> Work<'w, 'a> {
    /// The groups there are, with their rows and the number of tasks before theirs. A task packs a span of rows of one group.
    fn spans(&self) -> impl Iterator<Item = (&'w Group<'a>, Range<usize>, usize)> {
        self.groups(0, self.m).scan(0, |tasks, (group, rows)| {
            let before = *tasks;
            *tasks += rows.len().div_ceil(group.span());
            Some((group, rows, before))
        })
    }

    /// Runs the phase for some blocks of depth.
    pub(super) fn rows(&self, blocks: Range<usize>, packed: &mut [f32]) {
        let count = self.spans().map(|(group, rows, before)| before + rows.len().div_ceil(group.span())).last();
        let (count, width) = (count.unwrap_or(0), blocks.len() * DEPTH);
        let widest = self.spans().filter_map(|(group, ..)| group.gradient()).map(|gradient| gradient.r).max();
        let distance = widest.unwrap_or(0) * width;
        with_shared(count * distance, |sums| {
            let (packed, shared) = (Shared::new(packed), Shared::new(sums));
            tasks(count, blocks.len() * DEPTH * self.m, |task| {
                let Some((group, rows, before)) = self.spans().take_while(|&(_, _, before)| before <= task).last()
                else {
                    return;
                };
                let start = rows.start + (task - before) * group.span();
                // SAFETY: one part per task.
                let sums = unsafe { shared.part(task * distance, distance) };
                self.span(group, start..rows.end.min(start + group.span()), blocks.clone(), &packed, sums);
            });
            let p = blocks.start * DEPTH;
            let cols = (blocks.end * DEPTH).min(self.k).saturating_sub(p);
            for (group, rows, before) in self.spans() {
                if let Some(gradient) = group.gradient() {
                    let first = self.i0 + rows.start == group.start;
                    let sizes = [rows.len().div_ceil(group.span()), distance, width];
                    gradient.add(first, p, cols, &sums[before * distance..], sizes);
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
                let sums = &mut sums[(b - blocks.start) * DEPTH..];
                gradient.sum(kernel, i0 + span.start - group.start, out, block.depth, sums, width);
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
}
