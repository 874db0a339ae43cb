//! Strided copies and constants.

use lowrank_backend::{Block, DType, Error, In, Mode, Out, Result, Slot};

use crate::parallel::{Shared, float_pieces, pieces, rows_per_task, tasks};
use crate::view::{BLOCK, bytes, bytes_mut, floats, floats_mut, u32s_mut};

/// Host bytes into a buffer.
pub(crate) fn upload(src: &[u8], dst: Out<'_>) -> Result<()> {
    const OP: &str = "upload";
    let size = dst.dtype.size();
    if !src.len().is_multiple_of(size) {
        return Err(Error::shape(OP, format!("{} bytes are no whole number of {}", src.len(), dst.dtype)));
    }
    let dst = bytes_mut(OP, "destination", dst, src.len() / size)?;
    pieces(dst, 1 << 20, src.len(), |start, piece| piece.copy_from_slice(&src[start..start + piece.len()]));
    Ok(())
}

/// Every element to `value`.
pub(crate) fn fill(value: f64, dst: Out<'_>) -> Result<()> {
    const OP: &str = "fill";
    let len = dst.len;
    if dst.dtype == DType::U32 {
        if value.fract() != 0.0 || !(0.0..=f64::from(u32::MAX)).contains(&value) {
            return Err(Error::invalid(OP, format!("{value} is no u32")));
        }
        u32s_mut(OP, "destination", dst, len)?.fill(value as u32);
        return Ok(());
    }
    float_pieces(floats_mut(OP, "destination", dst, len)?, |_, piece| piece.write(Mode::Set, |y| y.fill(value as f32)));
    Ok(())
}

/// See [`Block`].
pub(crate) fn copy(op: &Block, src: In<'_>, dst: Slot<'_>) -> Result<()> {
    const OP: &str = "copy";
    let &Block { rows, cols, src_stride, dst_stride } = op;
    if src.dtype != dst.out.dtype {
        let expected = format!("{} as in the source", src.dtype);
        return Err(Error::dtype(OP, "destination", dst.out.dtype, expected));
    }
    if rows > 1 && ((src_stride < cols && src_stride != 0) || dst_stride < cols) {
        let detail = format!("strides {src_stride} and {dst_stride} are smaller than a row of {cols} elements");
        return Err(Error::invalid(OP, detail));
    }
    let end = |stride: usize| rows.saturating_sub(1).checked_mul(stride).and_then(|n| n.checked_add(cols));
    if end(src_stride).is_none() || end(dst_stride).is_none() {
        return Err(Error::shape(OP, format!("{op:?} overflows")));
    }
    let (src_len, dst_len) = (op.src_len(), op.dst_len());
    if rows == 0 || cols == 0 {
        src.expect(OP, "source", src_len)?;
        return dst.out.expect(OP, "destination", dst_len);
    }
    match dst.mode {
        Mode::Set => {
            let size = src.dtype.size();
            let src = bytes(OP, "source", src, src_len)?;
            let dst = bytes_mut(OP, "destination", dst.out, dst_len)?;
            set_rows(rows, cols * size, [src_stride * size, dst_stride * size], src, dst);
            Ok(())
        }
        Mode::Add => add_rows(op, src, dst.out),
    }
}

fn set_rows(rows: usize, cols: usize, [src_stride, dst_stride]: [usize; 2], src: &[u8], dst: &mut [u8]) {
    if rows == 1 || (src_stride == cols && dst_stride == cols) {
        return pieces(dst, 1 << 18, rows * cols, |start, piece| {
            piece.copy_from_slice(&src[start..start + piece.len()]);
        });
    }
    let (per_task, dst) = (rows_per_task(cols / 4), Shared::new(dst));
    tasks(rows.div_ceil(per_task), rows * cols, |task| {
        for row in task * per_task..rows.min((task + 1) * per_task) {
            // SAFETY: rows do not overlap, dst_stride ≥ cols.
            unsafe { dst.part(row * dst_stride, cols) }.copy_from_slice(&src[row * src_stride..][..cols]);
        }
    });
}

/// Row by row, each in pieces: a single long row and many short ones are both common.
fn add_rows(op: &Block, src: In<'_>, dst: Out<'_>) -> Result<()> {
    const OP: &str = "copy";
    let &Block { rows, cols, src_stride, dst_stride } = op;
    let src = floats(OP, "source", src, op.src_len())?;
    let dst = floats_mut(OP, "destination", dst, op.dst_len())?;
    let contiguous = rows == 1 || dst_stride == cols;
    if contiguous && (src_stride == cols || rows == 1) {
        float_pieces(dst, |start, piece| piece.write(Mode::Add, |values| src.load(start, values)));
        return Ok(());
    }
    let mut buffer = [0.0; BLOCK];
    let mut dst = dst;
    for row in 0..rows {
        for start in (0..cols).step_by(BLOCK) {
            let len = BLOCK.min(cols - start);
            let values = src.block(row * src_stride + start, len, &mut buffer);
            dst.range(row * dst_stride + start, len).write(Mode::Add, |out| out.copy_from_slice(values));
        }
    }
    Ok(())
}
