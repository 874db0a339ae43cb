//! Products inside one task: a tile of packed rows and packed columns, and small products that pack for themselves.

use lowrank_backend::{DECODE_ROWS, Mode};

use super::decode::dots;
use super::kernel::{Ahead, DEPTH, Job, Kernel, LINE, STRIDE, Unpacked};
use super::operand::Operand;
use super::pack;
use crate::parallel::{Tile, with_scratch};
use crate::path::Path;

/// What is added to the sums of a block of depths.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Nothing: the old content is not read.
    Zero,
    /// The old content.
    Old,
    /// One value per column of the tile.
    Row(&'a [f32]),
}

/// Packed rows: `[rows]` of [`STRIDE`] values.
#[derive(Clone, Copy)]
pub(crate) struct PackedRows<'a>(pub &'a [f32]);

/// Packed columns of one block of depths: panels of `kernel.cols` columns, `distance` values apart.
#[derive(Clone, Copy)]
pub(crate) struct PackedColumns<'a> {
    pub data: &'a [f32],
    pub depth: usize,
    pub distance: usize,
}

/// Part of the calls after which what is packed next is asked for: what is asked for sooner has left the cache by then,
/// earlier the larger the power of two that its rows are apart.
const LATE: [usize; 2] = [7, 8];

/// `c = start + a b`. Rows are shared out evenly, so that no tile is left with few of them.
pub(crate) fn multiply_packed(
    kernel: &Kernel,
    a: PackedRows<'_>,
    b: PackedColumns<'_>,
    start: Start<'_>,
    c: &mut Tile<'_>,
) {
    let PackedColumns { data, depth, distance } = b;
    let b = Panels { start: data.as_ptr(), len: data.len(), depth, distance, unpacked: None };
    multiply_panels(kernel, a, b, start, c, Ahead::NONE);
}

/// Panels of columns, some of which may have to be packed on the way.
pub(super) struct LeftColumns<'a> {
    pub data: &'a mut [f32],
    pub depth: usize,
    pub distance: usize,
    /// What is left of the whole panels: the first rows pack it.
    pub unpacked: Option<Unpacked>,
}

/// The same, asking for what will be packed next meanwhile.
pub(super) fn multiply_ahead(
    kernel: &Kernel,
    a: PackedRows<'_>,
    b: LeftColumns<'_>,
    start: Start<'_>,
    c: &mut Tile<'_>,
    later: Ahead,
) {
    let LeftColumns { data, depth, distance, unpacked } = b;
    let b = Panels { start: data.as_mut_ptr(), len: data.len(), depth, distance, unpacked };
    multiply_panels(kernel, a, b, start, c, later);
}

/// Either of the two; memory to write if there is something left to pack.
struct Panels {
    start: *const f32,
    len: usize,
    depth: usize,
    distance: usize,
    unpacked: Option<Unpacked>,
}

fn multiply_panels(kernel: &Kernel, a: PackedRows<'_>, b: Panels, start: Start<'_>, c: &mut Tile<'_>, later: Ahead) {
    let (m, n, depth) = (c.rows(), c.cols(), b.depth);
    if m == 0 || n == 0 {
        return;
    }
    let panels = n.div_ceil(kernel.cols);
    assert!(a.0.len() >= (m - 1) * STRIDE + depth && b.distance >= depth * kernel.cols);
    assert!(b.len >= (panels - 1) * b.distance + depth * kernel.cols);
    let (c_start, c_stride) = (c.as_mut_ptr(), c.stride());
    let (base, base_stride) = match start {
        Start::Zero => (std::ptr::null(), 0),
        Start::Old => (c_start.cast_const(), c_stride),
        Start::Row(row) => {
            assert!(row.len() >= n);
            (row.as_ptr(), 0)
        }
    };
    let all = m.div_ceil(kernel.rows);
    let calls = all * panels;
    let late = calls * LATE[0] / LATE[1];
    let mut rows = all;
    let mut i = 0;
    while i < m {
        let count = (m - i).div_ceil(rows);
        if let Some(state) = kernel.state {
            // SAFETY: the path has the instructions.
            unsafe { (state.enter)(count) };
        }
        // The next rows are asked for while these are multiplied with all panels.
        let next = Ahead {
            start: a.0.as_ptr().wrapping_add((i + count) * STRIDE).cast(),
            stride: STRIDE * 4,
            rows: if rows > 1 { (m - i - count).div_ceil(rows - 1) } else { 0 },
            lines: (depth * 4).div_ceil(LINE),
        };
        for panel in 0..panels {
            let j = panel * kernel.cols;
            let call = (all - rows) * panels + panel;
            let job = Job {
                k: depth.div_ceil(kernel.grain),
                a: a.0[i * STRIDE..].as_ptr(),
                b: b.start.wrapping_add(panel * b.distance),
                b_stride: kernel.cols,
                c: c_start.wrapping_add(i * c_stride + j),
                c_stride,
                start: if base.is_null() { base } else { base.wrapping_add(i * base_stride + j) },
                start_stride: base_stride,
                cols: kernel.cols.min(n - j),
                ahead: [
                    next.slice(panel, panels),
                    call.checked_sub(late).map_or(Ahead::NONE, |call| later.part(call, calls - late)),
                ],
            };
            match (b.unpacked, kernel.run_and_pack) {
                (Some(from), Some(run)) if i == 0 && job.cols == kernel.cols => {
                    let from = Unpacked { start: from.start.wrapping_add(j * from.size), ..from };
                    // SAFETY: as below; what is left is readable in all whole panels, whose memory came as `&mut`.
                    unsafe { run(count, &job, from) };
                }
                // SAFETY: checked above: packed rows and panels hold the block, c is a tile of m×n, start as large as c.
                _ => unsafe { (kernel.run)(count, &job) },
            }
        }
        i += count;
        rows -= 1;
    }
    if let Some(state) = kernel.state {
        // SAFETY: as above.
        unsafe { (state.leave)() };
    }
}

/// A product of two matrices, ready to be computed tile by tile by one task each.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    kernel: &'static Kernel,
    a: Operand<'a>,
    b: Operand<'a>,
    k: usize,
    decode: bool,
}

/// Columns and rows that are packed at a time.
const STRIP: usize = 256;
const ROWS: usize = 112;

impl<'a> Product<'a> {
    /// `a [m,k] · b [k,n]`; m is that of the whole operation, it decides the path.
    pub(crate) fn new(path: Path, m: usize, k: usize, a: Operand<'a>, b: Operand<'a>) -> Self {
        Product { kernel: path.kernel(), a, b, k, decode: decodes(m, &a, &b) }
    }

    /// `c (+)=` the rows from `i0` and columns from `j0` on.
    pub(crate) fn tile(&self, i0: usize, j0: usize, mode: Mode, c: &mut Tile<'_>) {
        self.scaled_tile(i0, j0, 1.0, mode, c);
    }

    /// The same times `alpha`.
    pub(crate) fn scaled_tile(&self, i0: usize, j0: usize, alpha: f32, mode: Mode, c: &mut Tile<'_>) {
        let (m, n, kernel) = (c.rows(), c.cols(), self.kernel);
        if m == 0 || n == 0 {
            return;
        }
        if self.k == 0 {
            if mode == Mode::Set {
                (0..m).for_each(|i| c.row(i).fill(0.0));
            }
            return;
        }
        if self.decode {
            return dots(&self.a, &self.b, self.k, alpha, [i0, j0], mode, c);
        }
        let depth = DEPTH.min(self.k);
        let strip = STRIP.min(n.next_multiple_of(kernel.cols));
        with_scratch(depth * strip, |columns| {
            with_scratch(ROWS.min(m) * STRIDE, |rows| {
                for j in (0..n).step_by(strip) {
                    let count = strip.min(n - j);
                    for p in (0..self.k).step_by(DEPTH) {
                        let depth = DEPTH.min(self.k - p);
                        pack::columns(kernel, &self.b, [p, j0 + j], [depth, count], columns, depth * kernel.cols);
                        let start = if p == 0 && mode == Mode::Set { Start::Zero } else { Start::Old };
                        for i in (0..m).step_by(ROWS) {
                            let height = ROWS.min(m - i);
                            pack::rows(kernel, &self.a, [i0 + i, p], [height, depth], alpha, rows);
                            let packed = PackedColumns { data: columns, depth, distance: depth * kernel.cols };
                            let mut part = c.part(i, j, height, count);
                            multiply_packed(kernel, PackedRows(rows), packed, start, &mut part);
                        }
                    }
                }
            });
        });
    }
}

/// Whether an operation of m rows is computed by dot products.
pub(crate) fn decodes(m: usize, a: &Operand<'_>, b: &Operand<'_>) -> bool {
    m <= DECODE_ROWS && !a.trans && b.trans
}
