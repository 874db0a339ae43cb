//! Large products on all threads, with low-rank branches riding along.
//!
//! `c [m,n] = start + alpha a b`, and with a branch of rank r on some rows: `h = â inner` `[rows,r]` (â: a, masked) is
//! computed from rows of a while they are packed, then `s h outer` is summed into c by more blocks of depth: one product
//! over k + r columns, c is written once.
//!
//! 1. *Rows*: tasks pack spans of rows of a (each row once for all of n) and compute their rows of h from the packed
//!    copy, which is in the cache, and what they give to a gradient `aᵀ h` (see `gradient`).
//! 2. *Columns*: tasks own strips of columns; each packs its strip of b, one block of depths after the other, into its
//!    second-level cache and runs all packed rows past it. Groups of rows with branches of their own share the strip: only
//!    the few rows of it that hold their outer factor are packed for each.
//!
//! While a block is multiplied, the microkernel asks for what comes next: packed rows, and the part of b to be packed then.
//! Both phases repeat over groups of depth blocks, so that packed rows take at most an eighth of the last-level cache (64 MiB of a
//! would otherwise be a temporary of its size). A sum is never split between tasks and blocks are taken in order: bits
//! depend on k and r alone.

mod columns;
mod rows;

use std::ops::Range;

use super::compute::Compute;
use super::depths::Depths;
use super::flops;
use super::gradient::Gradient;
use super::kernel::{DEPTH, STRIDE};
use super::operand::Operand;
use super::side::{GROUP, Side};
use super::tile::Start;
use crate::dropout::Mask;
use crate::parallel::{Shared, Tile, inside, tasks, with_shared};
use crate::results::{Results, whole};
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
    /// `[r,n]`, unless h is all that is wanted.
    pub outer: Option<Operand<'a>>,
    /// What else a gives.
    pub gradient: Option<Gradient<'a>>,
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
        let branch = self.branch.as_ref().filter(|branch| branch.outer.is_some());
        Depths { k, r: branch.map_or(0, |branch| branch.r), most: compute.most() }
    }

    fn gradient(&self) -> Option<&Gradient<'a>> {
        self.branch.as_ref()?.gradient.as_ref()
    }

    /// Rows that one task packs.
    fn span(&self) -> usize {
        self.gradient().map_or(GROUP, Gradient::span)
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
const MAX_ROWS: usize = 36 * GROUP;
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
        if k == 0 {
            for (group, branch) in groups.iter().filter_map(|group| Some((group, group.branch.as_ref()?))) {
                // A sum of nothing.
                // SAFETY: no task runs yet.
                unsafe { branch.h.part(0, group.rows * branch.r) }.fill(0.0);
            }
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
        self.windows(most).for_each(|work| work.run(packed, &Target { c, first: 0 }, epilogue));
    }

    /// The rows that are computed in one go, window after window.
    fn windows(self, most: usize) -> impl Iterator<Item = Self> {
        let mut i0 = 0;
        std::iter::from_fn(move || {
            let work = (i0 < self.m).then(|| Work { i0, m: self.window(i0, most), ..self })?;
            i0 += work.m;
            Some(work)
        })
    }

    /// How many rows from `i0` on are computed in one go: at most `most`, and not part of a span.
    fn window(&self, i0: usize, most: usize) -> usize {
        let end = i0 + most;
        if end >= self.m {
            return self.m - i0;
        }
        let group = &self.groups[self.groups.partition_point(|group| group.start + group.rows <= end)];
        let end = end - (end - group.start) % group.span();
        end - i0
    }

    /// A c that is stored in another dtype than it is summed in: each element is written once. If all of k of some hundred
    /// packed rows is too much, it is sums of some rows in f32 that are kept instead.
    fn rounded(&self, mut c: FloatsMut<'_>, epilogue: Epilogue<'_>) {
        let (m, n) = (self.m, self.n);
        let fit = ROUNDED / (self.count.max(1) * STRIDE);
        if fit >= m.min(512) || n == 0 {
            return self.by_rows(fit.clamp(1, MAX_ROWS), usize::MAX, &Results::new(c), epilogue);
        }
        let most = (ROUNDED / n).clamp(4 * GROUP, MAX_ROWS);
        for work in self.windows(most) {
            let own = c.range(work.i0 * n, work.m * n);
            whole(own, matches!(self.start, Start::Old), |sums| {
                work.run(PACKED, &Target { c: &Results::new(sums.into()), first: work.i0 }, epilogue);
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
}
