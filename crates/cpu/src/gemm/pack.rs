//! Packing: operands in the order in which microkernels read them. This is where bf16 and f16 become f32, where dropout's
//! mask is applied and where transposed operands are turned.

use super::kernel::{Kernel, Matrix, STRIDE};
use super::operand::Operand;
use crate::parallel::with_scratch;
use crate::simd;

/// Rows `i0 .. i0 + rows` of a, depths `p0 .. p0 + depth`, times `alpha`, to rows [`STRIDE`] apart.
pub(crate) fn rows(
    kernel: &Kernel,
    a: &Operand<'_>,
    [i0, p0]: [usize; 2],
    [rows, depth]: [usize; 2],
    alpha: f32,
    out: &mut [f32],
) {
    assert!(out.len() >= rows * STRIDE && depth <= STRIDE);
    if !a.trans {
        for (i, out) in out.chunks_mut(STRIDE).take(rows).enumerate() {
            a.load(i0 + i, p0, &mut out[..depth]);
        }
    } else {
        // Padded to a multiple of `lanes`, a row still ends inside its stride.
        const { assert!(STRIDE.is_multiple_of(16)) };
        turn(kernel, a, [p0, i0], [depth, rows], out, STRIDE);
    }
    if alpha != 1.0 {
        out.chunks_mut(STRIDE).take(rows).for_each(|out| simd::scale(alpha, &mut out[..depth]));
    }
}

#[cfg(test)]
thread_local! {
    /// Values of right operands that this thread has packed.
    pub(crate) static PACKED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Depths `p0 .. p0 + depth` of b, columns `j0 .. j0 + cols`, to panels of `kernel.cols` columns, `distance` values apart.
pub(crate) fn columns(
    kernel: &Kernel,
    b: &Operand<'_>,
    [p0, j0]: [usize; 2],
    [depth, cols]: [usize; 2],
    out: &mut [f32],
    distance: usize,
) {
    if depth == 0 {
        return;
    }
    #[cfg(test)]
    PACKED.set(PACKED.get() + depth * cols);
    let width = kernel.cols;
    if b.trans {
        for (panel, out) in out.chunks_mut(distance).take(cols.div_ceil(width)).enumerate() {
            let j = panel * width;
            turn(kernel, b, [j0 + j, p0], [width.min(cols - j), depth], out, width);
        }
        return;
    }
    // A few depths at a time, so that rows of b are read as long runs.
    const RUN: usize = 8;
    for p in (0..depth).step_by(RUN) {
        let count = RUN.min(depth - p);
        for j in (0..cols).step_by(width) {
            let out = &mut out[j / width * distance + p * width..][..count * width];
            straight(kernel, b, [p0 + p, j0 + j], [count, width.min(cols - j)], out);
        }
    }
}

/// The stored block `[r0 .. r0 + rows, c0 .. c0 + cols]` as rows of `kernel.cols` values.
fn straight(kernel: &Kernel, x: &Operand<'_>, [r0, c0]: [usize; 2], [rows, cols]: [usize; 2], out: &mut [f32]) {
    let width = kernel.cols;
    let Some(data) = x.plain() else {
        for (r, out) in out.chunks_exact_mut(width).enumerate() {
            x.load(r0 + r, c0, &mut out[..cols]);
            out[cols..cols.next_multiple_of(kernel.lanes)].fill(0.0);
        }
        return;
    };
    assert!(out.len() >= rows * width && cols <= width);
    let block = &data[x.start + r0 * x.stride + c0..][..(rows - 1) * x.stride + cols];
    let matrix = Matrix { start: block.as_ptr(), stride: x.stride, rows, cols };
    // SAFETY: the block is in the slice, the result has rows of `width` ≥ the padded number of columns.
    unsafe { (kernel.copy)(matrix, out.as_mut_ptr(), width) };
}

/// The transpose of the stored block `[r0 .. r0 + rows, c0 .. c0 + cols]`, its rows `stride` apart.
fn turn(
    kernel: &Kernel,
    x: &Operand<'_>,
    [r0, c0]: [usize; 2],
    [rows, cols]: [usize; 2],
    out: &mut [f32],
    stride: usize,
) {
    assert!(cols == 0 || out.len() >= (cols - 1) * stride + rows.next_multiple_of(kernel.lanes));
    match x.plain() {
        Some(data) if rows * cols > 0 => {
            let block = &data[x.start + r0 * x.stride + c0..][..(rows - 1) * x.stride + cols];
            let matrix = Matrix { start: block.as_ptr(), stride: x.stride, rows, cols };
            // SAFETY: the block is in the slice, the result has room for the padded rows.
            unsafe { (kernel.transpose)(matrix, out.as_mut_ptr(), stride) };
        }
        Some(_) => {}
        None => {
            // Converted a few cache lines at a time.
            const CHUNK: usize = 64;
            with_scratch(rows * CHUNK, |buffer| {
                for c in (0..cols).step_by(CHUNK) {
                    let count = CHUNK.min(cols - c);
                    for (r, line) in buffer.chunks_exact_mut(CHUNK).enumerate() {
                        x.load(r0 + r, c0 + c, &mut line[..count]);
                    }
                    let matrix = Matrix { start: buffer.as_ptr(), stride: CHUNK, rows, cols: count };
                    // SAFETY: as above.
                    unsafe { (kernel.transpose)(matrix, out[c * stride..].as_mut_ptr(), stride) };
                }
            });
        }
    }
}
