//! Transposition of any dimensions: the one place where strides exist.

use lowrank_backend::{DType, Error, In, MAX_RANK, Mode, Result, Slot};

use crate::parallel::{Shared, float_pieces, tasks};
use crate::view::{Floats, bytes, bytes_mut, floats, floats_mut, volume};

/// y's dimensions in order, merged where x has them side by side too, with their distances in x.
struct Walk {
    dims: [usize; MAX_RANK],
    strides: [usize; MAX_RANK],
    /// How many of them there are, at least one.
    rank: usize,
}

impl Walk {
    fn new(dims: &[usize], perm: &[usize]) -> Self {
        let mut walk = Walk { dims: [1; MAX_RANK], strides: [1; MAX_RANK], rank: 0 };
        for &d in perm.iter().filter(|&&d| dims[d] != 1) {
            let (size, stride) = (dims[d], dims[d + 1..].iter().product::<usize>());
            let last = walk.rank.wrapping_sub(1);
            if walk.rank > 0 && walk.strides[last] == stride * size {
                walk.dims[last] *= size;
                walk.strides[last] = stride;
            } else {
                (walk.dims[walk.rank], walk.strides[walk.rank]) = (size, stride);
                walk.rank += 1;
            }
        }
        walk.rank = walk.rank.max(1);
        walk
    }

    /// Where row `row` of y's last dimension starts in x.
    fn source(&self, mut row: usize) -> usize {
        let outer = self.rank - 1;
        (0..outer).rev().fold(0, |at, d| {
            let i = row % self.dims[d];
            row /= self.dims[d];
            at + i * self.strides[d]
        })
    }
}

/// Dimension i of y is dimension `perm[i]` of x.
pub(crate) fn permute(dims: &[usize], perm: &[usize], x: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "permute";
    let rank = dims.len();
    let each_once = (0..rank).all(|d| perm.iter().filter(|&&p| p == d).count() == 1);
    if rank > MAX_RANK || perm.len() != rank || !each_once {
        return Err(Error::invalid(OP, format!("{perm:?} is no permutation of {dims:?} (at most {MAX_RANK} of them)")));
    }
    let len = volume(OP, dims)?;
    if x.dtype != y.out.dtype {
        return Err(Error::dtype(OP, "y", y.out.dtype, format!("{} as in x", x.dtype)));
    }
    if y.mode == Mode::Add {
        return add(dims, perm, x, y, len);
    }
    let dtype = x.dtype;
    let (x, y) = (bytes(OP, "x", x, len)?, bytes_mut(OP, "y", y.out, len)?);
    if len == 0 {
        return Ok(());
    }
    let walk = Walk::new(dims, perm);
    match dtype {
        DType::F64 => move_all::<u64>(&walk, bytemuck::cast_slice(x), bytemuck::cast_slice_mut(y)),
        DType::F32 | DType::U32 => move_all::<u32>(&walk, bytemuck::cast_slice(x), bytemuck::cast_slice_mut(y)),
        DType::BF16 | DType::F16 => move_all::<u16>(&walk, bytemuck::cast_slice(x), bytemuck::cast_slice_mut(y)),
    }
    Ok(())
}

/// Rows of a task, and columns that are copied of each before going on: what one row reads with a stride, the next ones
/// find in the cache.
const ROWS: usize = 64;
const COLS: usize = 32;

fn move_all<T: Copy + Send + Sync>(walk: &Walk, x: &[T], y: &mut [T]) {
    let last = walk.rank - 1;
    let (cols, stride) = (walk.dims[last], walk.strides[last]);
    let (rows, work) = (y.len() / cols, y.len());
    let y = Shared::new(y);
    tasks(rows.div_ceil(ROWS), work, |task| {
        let first = task * ROWS;
        let count = ROWS.min(rows - first);
        let from: [usize; ROWS] = std::array::from_fn(|i| if i < count { walk.source(first + i) } else { 0 });
        // SAFETY: the rows of one task.
        let out = unsafe { y.part(first * cols, count * cols) };
        if stride == 1 {
            for (out, &from) in out.chunks_exact_mut(cols).zip(&from) {
                out.copy_from_slice(&x[from..from + cols]);
            }
            return;
        }
        for col in (0..cols).step_by(COLS) {
            let width = COLS.min(cols - col);
            for (out, &from) in out.chunks_exact_mut(cols).zip(&from) {
                let x = &x[from + col * stride..];
                out[col..col + width].iter_mut().zip(x.iter().step_by(stride)).for_each(|(y, &x)| *y = x);
            }
        }
    });
}

/// The accumulating form: gradients of float tensors.
fn add(dims: &[usize], perm: &[usize], x: In<'_>, y: Slot<'_>, len: usize) -> Result<()> {
    const OP: &str = "permute";
    let (x, y) = (floats(OP, "x", x, len)?, floats_mut(OP, "y", y.out, len)?);
    if len == 0 {
        return Ok(());
    }
    let walk = Walk::new(dims, perm);
    let last = walk.rank - 1;
    let (cols, stride) = (walk.dims[last], walk.strides[last]);
    float_pieces(y, |start, piece| {
        piece.write(Mode::Add, |values| {
            for (i, value) in values.iter_mut().enumerate() {
                let (row, col) = ((start + i) / cols, (start + i) % cols);
                let at = walk.source(row) + col * stride;
                *value = match x {
                    Floats::F32(x) => x[at],
                    Floats::BF16(x) => x[at].to_f32(),
                    Floats::F16(x) => x[at].to_f32(),
                };
            }
        });
    });
    Ok(())
}
