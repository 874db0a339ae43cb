//! Large products on all threads, with a low-rank branch riding along.
//!
//! `c [m,n] = start + alpha a b`, and with a branch of rank r: `h = â inner` `[m,r]` (â: a, masked) is computed from rows of
//! a while they are packed, then `s h outer` is summed into c by more blocks of depth: one product over k + r columns,
//! c is written once.
//!
//! 1. *Rows*: tasks pack groups of rows of a (each row once for all of n) and compute their rows of h from the packed
//!    copy, which is in the cache.
//! 2. *Columns*: tasks own strips of columns; each packs its strip of b, one block of depths after the other, into its
//!    second-level cache and runs all packed rows past it.
//!
//! Both repeat over groups of depth blocks, so that packed rows take at most an eighth of the last-level cache (64 MiB of a
//! would otherwise be a temporary of its size). A sum is never split between tasks and blocks are taken in order: bits
//! depend on k and r alone.

use lowrank_backend::Mode;

use super::compute::Compute;
use super::kernel::{DEPTH, Kernel, STRIDE};
use super::operand::Operand;
use super::pack;
use super::tile::{PackedColumns, PackedRows, Start, multiply_packed};
use crate::dropout::Mask;
use crate::parallel::{Shared, Tile, tasks, with_scratch};
use crate::path::Path;
use crate::simd;

/// The low-rank branch of a product.
pub(crate) struct Branch<'a> {
    pub r: usize,
    /// `[k,r]`
    pub inner: Operand<'a>,
    /// Dropout on the branch's input, counted over rows of k elements.
    pub mask: Option<Mask>,
    pub scale: f32,
    /// Whether h itself is multiplied by the scale, not only what goes into c.
    pub keep_scaled: bool,
    /// `[m,r]`, to write.
    pub h: &'a mut [f32],
    /// `[r,n]`; `None` leaves c without the branch.
    pub outer: Option<Operand<'a>>,
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
    pub c: &'c mut [f32],
}

/// What is done to a finished tile of c: (first row, first column, tile).
pub(crate) type Epilogue<'a> = Option<&'a (dyn Fn(usize, usize, &mut Tile<'_>) + Sync)>;

/// Rows that are packed in one phase at most.
const MAX_ROWS: usize = 4096;
/// Values of packed rows in one phase: 8 MiB, at which the last level of any cache of 32 MiB keeps them beside the rest.
const PACKED: usize = 2 << 20;
/// Rows of a task of the first phase.
const GROUP: usize = 28;

/// Blocks of depth, in the order in which they are summed: those of a, then the branch's, whose first part shares the last
/// block of a where it fits (a block of its own would read and write all of c again).
#[derive(Clone, Copy)]
struct Depths {
    k: usize,
    r: usize,
    /// Most columns of a block that h shares.
    most: usize,
}

/// One block: `depth` columns of a from `p` on, then `rank` columns of h from `q` on.
#[derive(Clone, Copy)]
struct Block {
    p: usize,
    depth: usize,
    q: usize,
    rank: usize,
}

impl Block {
    fn total(&self) -> usize {
        self.depth + self.rank
    }
}

impl Depths {
    fn main(&self) -> usize {
        self.k.div_ceil(DEPTH)
    }

    /// Columns of h in the last block of a.
    fn shared(&self) -> usize {
        let last = self.k - DEPTH * self.main().saturating_sub(1);
        if self.k > 0 && last + self.r <= self.most { self.r } else { 0 }
    }

    fn count(&self) -> usize {
        self.main() + (self.r - self.shared()).div_ceil(DEPTH)
    }

    fn block(&self, i: usize) -> Block {
        if let Some(i) = i.checked_sub(self.main()) {
            let q = self.shared() + i * DEPTH;
            return Block { p: self.k, depth: 0, q, rank: DEPTH.min(self.r - q) };
        }
        let rank = if i + 1 == self.main() { self.shared() } else { 0 };
        Block { p: i * DEPTH, depth: DEPTH.min(self.k - i * DEPTH), q: 0, rank }
    }
}

impl<'a> Blocked<'a, '_> {
    /// Computes the product, with its branch if there is one.
    pub(crate) fn run(self, branch: Option<Branch<'a>>, epilogue: Epilogue<'_>) {
        let Blocked { compute, m, n, k, .. } = self;
        if m == 0 {
            return;
        }
        let kernel = compute.path.kernel();
        let outer = branch.as_ref().and_then(|branch| branch.outer);
        let side = branch.as_ref().map(|branch| Side::of(kernel, branch, k));
        let rank = if outer.is_some() { side.as_ref().map_or(0, |side| side.r) } else { 0 };
        let depths = Depths { k, r: rank, most: compute.most() };
        let packed_side = side.as_ref().map_or(0, Side::packed);
        with_scratch(packed_side, |inner| {
            if let (Some(side), Some(branch)) = (&side, &branch) {
                side.pack(&branch.inner, inner);
            }
            let inner = &*inner;
            let mut branch = branch;
            let h = branch.as_mut().map(|branch| Shared::new(&mut *branch.h));
            let c = Shared::new(self.c);
            for i0 in (0..m).step_by(MAX_ROWS) {
                let rows = MAX_ROWS.min(m - i0);
                let work = Work { compute, m: rows, n, i0, depths, a: self.a, b: self.b, outer, alpha: self.alpha };
                work.run(self.start, side.as_ref().map(|side| (side, inner)), h.as_ref(), &c, epilogue);
            }
        });
    }
}

/// The side product `h = â inner`.
#[derive(Clone, Copy)]
struct Side {
    kernel: &'static Kernel,
    r: usize,
    k: usize,
    mask: Option<Mask>,
    scale: f32,
    keep_scaled: bool,
}

impl Side {
    fn of(kernel: &'static Kernel, branch: &Branch<'_>, k: usize) -> Self {
        let &Branch { r, mask, scale, keep_scaled, .. } = branch;
        Side { kernel, r, k, mask, scale, keep_scaled }
    }

    fn width(&self) -> usize {
        self.r.next_multiple_of(self.kernel.cols)
    }

    fn packed(&self) -> usize {
        self.k * self.width()
    }

    fn pack(&self, inner: &Operand<'_>, out: &mut [f32]) {
        let (out, width) = (Shared::new(out), self.width());
        tasks(self.k.div_ceil(DEPTH), self.k * self.r, |q| {
            let (p, depth) = (q * DEPTH, DEPTH.min(self.k - q * DEPTH));
            // SAFETY: one block per task.
            let out = unsafe { out.part(p * width, depth * width) };
            pack::columns(self.kernel, inner, [p, 0], [depth, self.r], out, depth * self.kernel.cols);
        });
    }

    /// Adds block `p .. p + depth` to the rows of h that belong to packed rows from `i0` on.
    fn add(&self, inner: &[f32], [i0, p, depth]: [usize; 3], packed: &[f32], h: &mut Tile<'_>) {
        let columns = PackedColumns { data: &inner[p * self.width()..][..depth * self.width()], depth };
        let start = if p == 0 { Start::Zero } else { Start::Old };
        let Some(mask) = self.mask else {
            return multiply_packed(self.kernel, PackedRows(packed), columns, start, h);
        };
        with_scratch(h.rows() * STRIDE, |masked| {
            for (i, (out, row)) in masked.chunks_exact_mut(STRIDE).zip(packed.chunks(STRIDE)).enumerate() {
                out[..depth].copy_from_slice(&row[..depth]);
                mask.apply(((i0 + i) * self.k + p) as u64, &mut out[..depth]);
            }
            multiply_packed(self.kernel, PackedRows(masked), columns, start, h);
        });
    }
}

/// One block of rows of a product.
struct Work<'a> {
    compute: Compute,
    m: usize,
    n: usize,
    i0: usize,
    depths: Depths,
    a: Operand<'a>,
    b: Operand<'a>,
    outer: Option<Operand<'a>>,
    alpha: f32,
}

impl Work<'_> {
    fn run(
        &self,
        start: Start<'_>,
        side: Option<(&Side, &[f32])>,
        h: Option<&Shared<'_, f32>>,
        c: &Shared<'_, f32>,
        epilogue: Epilogue<'_>,
    ) {
        let count = self.depths.count();
        let group = (PACKED / (self.m * STRIDE)).max(1);
        if count == 0 {
            return self.columns(0..0, &[], start, c, epilogue);
        }
        for first in (0..count).step_by(group) {
            let blocks = first..count.min(first + group);
            with_scratch(blocks.len() * self.m * STRIDE, |packed| {
                self.rows(blocks.clone(), side, h, packed);
                self.columns(blocks.clone(), packed, start, c, epilogue);
            });
        }
    }

    /// First phase.
    fn rows(
        &self,
        blocks: std::ops::Range<usize>,
        side: Option<(&Side, &[f32])>,
        h: Option<&Shared<'_, f32>>,
        packed: &mut [f32],
    ) {
        let (m, depths) = (self.m, self.depths);
        let packed = Shared::new(packed);
        tasks(m.div_ceil(GROUP), blocks.len() * DEPTH * m, |task| {
            let (i, rows) = (task * GROUP, GROUP.min(m - task * GROUP));
            for b in blocks.clone() {
                let Block { p, depth, q, rank } = depths.block(b);
                // SAFETY: one group of rows per task.
                let out = unsafe { packed.part(((b - blocks.start) * m + i) * STRIDE, rows * STRIDE) };
                if depth > 0 {
                    pack::rows(self.compute.path.kernel(), &self.a, [self.i0 + i, p], [rows, depth], self.alpha, out);
                }
                let (Some((side, inner)), Some(h)) = (side, h) else {
                    self.compute.rows(out, depth);
                    continue;
                };
                let r = side.r;
                if depth > 0 {
                    // SAFETY: this task's rows of h.
                    let mut tile = unsafe { h.tile((self.i0 + i) * r, rows, r, r) };
                    side.add(inner, [self.i0 + i, p, depth], out, &mut tile);
                    if side.keep_scaled && p + depth == depths.k {
                        (0..rows).for_each(|i| simd::scale(side.scale, tile.row(i)));
                    }
                }
                for (row, out) in out.chunks_exact_mut(STRIDE).enumerate().take(if rank > 0 { rows } else { 0 }) {
                    // SAFETY: this task's rows of h.
                    let h = unsafe { h.part((self.i0 + i + row) * r + q, rank) };
                    let out = &mut out[depth..depth + rank];
                    out.copy_from_slice(h);
                    if !side.keep_scaled {
                        simd::scale(side.scale, out);
                    }
                }
                self.compute.rows(out, depth + rank);
            }
        });
    }

    /// Second phase.
    fn columns(
        &self,
        blocks: std::ops::Range<usize>,
        packed: &[f32],
        start: Start<'_>,
        c: &Shared<'_, f32>,
        epilogue: Epilogue<'_>,
    ) {
        let &Work { compute, m, n, i0, depths, .. } = self;
        let kernel = compute.kernel();
        let cut = Cut::new(kernel, m, n);
        let flops = (2 * m * n).saturating_mul(blocks.len() * DEPTH);
        tasks(cut.tasks(), flops / 8, |task| {
            let (i, rows, j, cols) = cut.part(task, m, n);
            // SAFETY: the parts do not overlap.
            let mut tile = unsafe { c.tile((i0 + i) * n + j, rows, cols, n) };
            let columns = cols.next_multiple_of(kernel.cols) * STRIDE;
            with_scratch(columns, |columns| {
                for b in blocks.clone() {
                    let block = depths.block(b);
                    let depth = compute.padded(block.total());
                    let distance = depth * kernel.cols;
                    pack::columns(kernel, &self.b, [block.p, j], [block.depth, cols], columns, distance);
                    if let Some(outer) = &self.outer {
                        let rest = &mut columns[block.depth * kernel.cols..];
                        pack::columns(kernel, outer, [block.q, j], [block.rank, cols], rest, distance);
                    }
                    compute.columns(&mut columns[..cols.div_ceil(kernel.cols) * distance], block.total(), kernel.cols);
                    let start = match start {
                        _ if b > 0 => Start::Old,
                        Start::Row(row) => Start::Row(&row[j..j + cols]),
                        start => start,
                    };
                    let packed = &packed[((b - blocks.start) * m + i) * STRIDE..][..rows * STRIDE];
                    let columns = PackedColumns { data: columns, depth };
                    multiply_packed(kernel, PackedRows(packed), columns, start, &mut tile);
                }
            });
            if depths.count() == 0 {
                for i in 0..rows {
                    match start {
                        Start::Zero => tile.row(i).fill(0.0),
                        Start::Old => {}
                        Start::Row(row) => tile.row(i).copy_from_slice(&row[j..j + cols]),
                    }
                }
            }
            if let Some(epilogue) = epilogue.filter(|_| blocks.end == depths.count()) {
                for at in (0..rows).step_by(GROUP) {
                    epilogue(i0 + i + at, j, &mut tile.part(at, 0, GROUP.min(rows - at), cols));
                }
            }
        });
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
    /// A strip of packed columns fills at most 512 KiB; about 16 tasks are enough to share between threads that are not
    /// equally fast.
    fn new(kernel: &Kernel, m: usize, n: usize) -> Self {
        let mut cols = 256;
        while cols > 2 * kernel.cols && n.div_ceil(cols) < 12 {
            cols /= 2;
        }
        let strips = n.div_ceil(cols);
        let parts = 16usize.div_ceil(strips.max(1)).min(m.div_ceil(64)).max(1);
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

/// `c [m,r] (+)= alpha a b` for few columns: every task packs its rows and multiplies them at once, b is packed once.
pub(crate) fn few_columns(
    path: Path,
    [m, r, k]: [usize; 3],
    a: Operand<'_>,
    b: Operand<'_>,
    alpha: f32,
    mode: Mode,
    c: &mut [f32],
) {
    let kernel = path.kernel();
    let side = Side { kernel, r, k, mask: None, scale: 1.0, keep_scaled: false };
    with_scratch(side.packed(), |packed| {
        side.pack(&b, packed);
        let packed = &*packed;
        let c = Shared::new(c);
        tasks(m.div_ceil(GROUP), m.saturating_mul(k * r) / 4, |task| {
            let (i, rows) = (task * GROUP, GROUP.min(m - task * GROUP));
            // SAFETY: one group of rows per task.
            let mut tile = unsafe { c.tile(i * r, rows, r, r) };
            with_scratch(rows * STRIDE, |out| {
                for p in (0..k).step_by(DEPTH) {
                    let depth = DEPTH.min(k - p);
                    pack::rows(kernel, &a, [i, p], [rows, depth], alpha, out);
                    let columns = PackedColumns { data: &packed[p * side.width()..][..depth * side.width()], depth };
                    let start = if p == 0 && mode == Mode::Set { Start::Zero } else { Start::Old };
                    multiply_packed(kernel, PackedRows(out), columns, start, &mut tile);
                }
            });
        });
    });
}
