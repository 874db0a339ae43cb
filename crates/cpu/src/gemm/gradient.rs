//! The gradient that rides along with rows of a while they are packed: `out [k,r] (+)= s aᵀ h`, which is `dB = s gyᵀ h`
//! while gy is packed for dx. It reads what packing has left in the cache, so that gy comes from memory once.
//!
//! A task sums its span of rows from 0, in ascending order; spans are added to what is there in ascending order, each by
//! whoever owns the columns. Spans are counted from the first row of the branch and depend on r alone, so the bits do not
//! depend on threads, nor on what else is in a batch.
//! Floor: 2·m·k·r FLOPs. What spans leave is written and read once, 2r / span of the bytes of a: 4/7 at r 16 in the worst
//! case, all of it in the cache.

use lowrank_backend::Mode;

use super::few_rows::multiply_rows;
use super::kernel::{Kernel, STRIDE};
use super::operand::Operand;
use super::pack;
use super::side::GROUP;
use crate::parallel::{Shared, Tile, tasks, with_scratch};
use crate::simd;

/// Columns that are added up at a time.
const STRIP: usize = 256;

/// What is summed, and where it goes.
pub(crate) struct Gradient<'a> {
    pub r: usize,
    /// `[rows,r]`, stored.
    pub h: Operand<'a>,
    pub scale: f32,
    pub mode: Mode,
    /// `[k,r]`
    pub out: Shared<'a, f32>,
}

impl Gradient<'_> {
    /// Rows of a that are summed by one task: few, so that there are many tasks, but the more the larger the sums.
    pub(super) fn span(&self) -> usize {
        if self.r <= 16 { 2 * GROUP } else { 4 * GROUP }
    }

    /// The sums `[r,cols]` of rows `row ..` of the branch, in `packed` as rows of [`STRIDE`].
    pub(super) fn sum(&self, kernel: &Kernel, row: usize, packed: &[f32], sums: &mut Tile<'_>) {
        let (r, cols, rows) = (self.r, sums.cols(), packed.len() / STRIDE);
        assert!(cols.next_multiple_of(kernel.lanes) <= STRIDE);
        with_scratch(r * STRIDE, |h| {
            pack::rows(kernel, &self.h.t(), [0, row], [r, rows], self.scale, h);
            for j in (0..cols).step_by(kernel.cols) {
                let b = (packed[j..].as_ptr(), STRIDE, rows);
                multiply_rows(kernel, h, b, true, &mut sums.part(0, j, r, kernel.cols.min(cols - j)));
            }
        });
    }

    /// Adds columns `p .. p + cols` of `spans` sums, `distance` values apart, to the result. `first`: nothing is there yet.
    pub(super) fn add(&self, first: bool, p: usize, cols: usize, sums: &[f32], [spans, distance, width]: [usize; 3]) {
        let r = self.r;
        let fresh = first && self.mode == Mode::Set;
        tasks(cols.div_ceil(STRIP), cols * r * spans, |task| {
            let (j, count) = (task * STRIP, STRIP.min(cols - task * STRIP));
            // SAFETY: one strip of columns per task.
            let out = unsafe { self.out.part((p + j) * r, count * r) };
            with_scratch(count, |total| {
                for i in 0..r {
                    let part = |span: usize| &sums[span * distance + i * width + j..][..count];
                    if fresh {
                        total.copy_from_slice(part(0));
                    } else {
                        total.iter_mut().zip(out[i..].iter().step_by(r)).for_each(|(total, out)| *total = *out);
                    }
                    (usize::from(fresh)..spans).for_each(|span| simd::add(part(span), total));
                    out[i..].iter_mut().step_by(r).zip(&*total).for_each(|(out, total)| *out = *total);
                }
            });
        });
    }
}
