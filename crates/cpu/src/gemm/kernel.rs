//! What a microkernel is: the product of a few packed rows and one panel of columns, held in registers.
//!
//! `c [rows, cols] = start + a [rows, k] · b [k, cols]`. The sum over k starts from 0 in every element and runs in
//! ascending order with one rounding per step (two on the portable path); `start` is added once at the end. So the bits of
//! an element depend on its row of a, its column of b and k alone, never on the shape of the tile it is in.

use super::operand::Operand;
use crate::path::Path;

/// Depth of a packed block: 14 rows of it (29 KiB) stay in a first-level cache of 48 KiB while panels of columns stream
/// by, and C is read and written once per 512 steps.
pub(crate) const DEPTH: usize = 512;
/// Distance between packed rows. The 64 bytes above the depth put the rows of a tile into different cache sets; being
/// constant, it lets one register address all of them.
pub(crate) const STRIDE: usize = DEPTH + 16;

/// One call.
#[derive(Clone, Copy)]
pub(crate) struct Job {
    pub k: usize,
    /// Packed rows, [`STRIDE`] apart; an element is what the kernel consumes in one step (an f32, or a pair of bf16).
    pub a: *const f32,
    /// k rows, `b_stride` apart, readable up to the next multiple of the kernel's `lanes`.
    pub b: *const f32,
    pub b_stride: usize,
    pub c: *mut f32,
    pub c_stride: usize,
    /// What is added to the sums: null for nothing, c itself, or with a stride of 0 the same row (a bias) for all.
    pub start: *const f32,
    pub start_stride: usize,
    pub cols: usize,
    /// What will be wanted next: hints, spread over the steps.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only kernels for x86-64 take hints"))]
    pub ahead: [Ahead; 2],
}

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Memory that will be read soon: `rows` runs of `lines` cache lines, `stride` bytes apart. Only ever a hint, so the pointer
/// may lead anywhere.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    pub start: *const u8,
    pub stride: usize,
    pub rows: usize,
    pub lines: usize,
}

impl Ahead {
    pub const NONE: Ahead = Ahead { start: std::ptr::null(), stride: 0, rows: 0, lines: 0 };

    /// Part `i` of `parts`: some runs, or a piece of one.
    pub fn part(self, i: usize, parts: usize) -> Ahead {
        if self.rows >= parts {
            let (first, end) = (self.rows * i / parts, self.rows * (i + 1) / parts);
            return self.run(first, end - first);
        }
        let pieces = parts / self.rows.max(1);
        let (row, piece) = (i / pieces, i % pieces);
        if row >= self.rows {
            return Ahead::NONE;
        }
        self.run(row, 1).slice(piece, pieces)
    }

    fn run(self, first: usize, rows: usize) -> Ahead {
        Ahead { start: self.start.wrapping_add(first * self.stride), rows, ..self }
    }

    /// Piece `i` of `pieces` of every run.
    pub fn slice(self, i: usize, pieces: usize) -> Ahead {
        let (first, end) = (self.lines * i / pieces, self.lines * (i + 1) / pieces);
        Ahead { start: self.start.wrapping_add(first * LINE), lines: end - first, ..self }
    }
}

/// The kernels of one path.
pub(crate) struct Kernel {
    /// Most rows and columns of a tile.
    pub rows: usize,
    pub cols: usize,
    /// Columns are read in groups of this many.
    pub lanes: usize,
    /// Depths that one step consumes: 1, 2 for pairs of bf16, 32 for tiles of them.
    pub grain: usize,
    /// What a thread must do around jobs.
    pub state: Option<TileState>,
    /// Runs a job on this many rows, at most `rows`; its `cols` are at most [`Kernel::cols`].
    pub run: unsafe fn(usize, &Job),
    /// The same for a job of `cols` columns whose first depths are not packed yet: it packs them while it multiplies.
    pub run_and_pack: Option<unsafe fn(usize, &Job, Unpacked)>,
    /// `dst[j·ds + i] = src[i·ss + j]` for i < rows, j < cols; writes zeros for i up to the next multiple of `lanes`.
    pub transpose: unsafe fn(Matrix, *mut f32, usize),
    /// `dst[i·ds + j] = src[i·ss + j]`; writes zeros for j up to the next multiple of `lanes`.
    pub copy: unsafe fn(Matrix, *mut f32, usize),
}

/// The first `depth` rows of a job's b where they are stored, `stride` bytes apart, `size` bytes an element.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only kernels for x86-64 pack while they multiply"))]
pub(crate) struct Unpacked {
    pub start: *const u8,
    pub stride: usize,
    pub size: usize,
    pub depth: usize,
}

impl Unpacked {
    /// The block of `b`, which is stored straight, from depth `p` and column `j` on. Panics if it does not lie in b.
    pub fn new<T>(data: &[T], b: &Operand<'_>, [p, j]: [usize; 2], [depth, cols]: [usize; 2]) -> Self {
        let block = &data[b.start + p * b.stride + j..][..(depth - 1) * b.stride + cols];
        let size = size_of::<T>();
        Unpacked { start: block.as_ptr().cast(), stride: b.stride * size, size, depth }
    }
}

/// Registers that have to be configured: `enter` before jobs on this many rows, `leave` once after all.
#[derive(Clone, Copy)]
pub(crate) struct TileState {
    pub enter: unsafe fn(usize),
    pub leave: unsafe fn(),
}

/// A matrix to transpose or to copy.
#[derive(Clone, Copy)]
pub(crate) struct Matrix {
    pub start: *const f32,
    pub stride: usize,
    pub rows: usize,
    pub cols: usize,
}

impl Path {
    /// Its f32 kernels.
    pub(crate) fn kernel(self) -> &'static Kernel {
        match self {
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 | Path::Avx512Bf16 | Path::Amx => &super::avx512::KERNEL,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => &super::avx2::KERNEL,
            #[cfg(target_arch = "aarch64")]
            Path::Neon => &super::neon::KERNEL,
            _ => &super::portable::KERNEL,
        }
    }
}

/// Evaluates an expression with a constant that equals a number of rows known at run time.
macro_rules! by_rows {
    ($rows:expr, [$($m:literal)*], $name:ident => $call:expr) => {
        match $rows {
            $($m => {
                const $name: usize = $m;
                $call
            })*
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}
pub(crate) use by_rows;

/// Puts finished sums `[rows, width]` where a job wants them, element by element: the edge of narrow vector units.
///
/// # Safety
/// `sums` holds rows × width values, and the job's c and start are valid for rows × job.cols elements.
pub(crate) unsafe fn put_edge(rows: usize, sums: *const f32, width: usize, job: &Job) {
    for i in 0..rows {
        for j in 0..job.cols {
            // SAFETY: inside by the caller's promise.
            unsafe {
                let mut value = *sums.add(i * width + j);
                if !job.start.is_null() {
                    value += *job.start.add(i * job.start_stride + j);
                }
                *job.c.add(i * job.c_stride + j) = value;
            }
        }
    }
}

/// The transpose by plain loops, zeros up to a multiple of `LANES` rows.
///
/// # Safety
/// `m` is readable; `dst` has m.cols rows, `stride` apart, of at least the padded number of rows of `m`.
pub(crate) unsafe fn transpose_plain<const LANES: usize>(m: Matrix, dst: *mut f32, stride: usize) {
    for j in 0..m.cols {
        for i in 0..m.rows.next_multiple_of(LANES) {
            // SAFETY: inside by the caller's promise.
            unsafe { *dst.add(j * stride + i) = if i < m.rows { *m.start.add(i * m.stride + j) } else { 0.0 } };
        }
    }
}

/// The copy by plain loops, zeros up to a multiple of `LANES` columns.
///
/// # Safety
/// `m` is readable; `dst` has m.rows rows, `stride` apart, of at least the padded number of columns of `m`.
#[inline(always)]
pub(crate) unsafe fn copy_plain<const LANES: usize>(m: Matrix, dst: *mut f32, stride: usize) {
    let whole = m.cols / LANES * LANES;
    for i in 0..m.rows {
        // SAFETY: inside by the caller's promise.
        unsafe {
            let (src, dst) = (m.start.add(i * m.stride), dst.add(i * stride));
            for j in (0..whole).step_by(LANES) {
                *dst.add(j).cast::<[f32; LANES]>() = *src.add(j).cast::<[f32; LANES]>();
            }
            if whole < m.cols {
                for j in whole..whole + LANES {
                    *dst.add(j) = if j < m.cols { *src.add(j) } else { 0.0 };
                }
            }
        }
    }
}
