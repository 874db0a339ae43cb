//! What moves elements without computing: strided copy, permute, gather, scatter.

use super::element::{load, load_floats, load_ids, put, store};
use crate::*;

pub(super) fn copy(op: &Block, src: In<'_>, mut dst: Slot<'_>) -> Result<()> {
    const OP: &str = "copy";
    let &Block { rows, cols, src_stride, dst_stride } = op;
    if src.dtype != dst.out.dtype {
        return Err(Error::dtype(OP, "destination", dst.out.dtype, format!("{} as in the source", src.dtype)));
    }
    if rows > 1 && ((src_stride < cols && src_stride != 0) || dst_stride < cols) {
        let detail = format!("strides {src_stride} and {dst_stride} are smaller than a row of {cols} elements");
        return Err(Error::invalid(OP, detail));
    }
    src.expect(OP, "source", op.src_len())?;
    dst.out.expect(OP, "destination", op.dst_len())?;
    if dst.mode == Mode::Add && !src.dtype.is_float() {
        return Err(Error::dtype(OP, "destination", src.dtype, "a float dtype to add to"));
    }
    let src = load(OP, src)?;
    // Elements between the rows keep their value, and f64 holds every dtype's elements exactly.
    let mut values = load(OP, dst.out.as_in())?;
    for row in 0..rows {
        let new = &src[row * src_stride..][..cols];
        for (old, &new) in values[row * dst_stride..][..cols].iter_mut().zip(new) {
            *old = if dst.mode == Mode::Add { *old + new } else { new };
        }
    }
    store(OP, dst.out.reborrow(), &values)
}

pub(super) fn permute(dims: &[usize], perm: &[usize], x: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "permute";
    let rank = dims.len();
    let each_once = (0..rank).all(|d| perm.iter().filter(|&&p| p == d).count() == 1);
    if perm.len() != rank || !each_once || rank > MAX_RANK {
        return Err(Error::invalid(OP, format!("{perm:?} is no permutation of {dims:?} (at most {MAX_RANK} of them)")));
    }
    let len = dims.iter().product();
    x.expect(OP, "x", len)?;
    y.out.expect(OP, "y", len)?;
    if x.dtype != y.out.dtype {
        return Err(Error::dtype(OP, "y", y.out.dtype, format!("{} as in x", x.dtype)));
    }
    let x = load(OP, x)?;
    let stride = |d: usize| dims[d + 1..].iter().product::<usize>();
    let mut values = Vec::with_capacity(len);
    for flat in 0..len {
        let (mut rest, mut from) = (flat, 0);
        for &d in perm.iter().rev() {
            from += rest % dims[d] * stride(d);
            rest /= dims[d];
        }
        values.push(x[from]);
    }
    if y.mode == Mode::Set { store(OP, y.out, &values) } else { put(OP, y, values) }
}

/// The ids, none of which is beyond the table.
fn checked_ids(name: &'static str, op: &Rows, ids: In<'_>) -> Result<Vec<usize>> {
    ids.expect(name, "ids", op.count)?;
    let ids = load_ids(name, ids)?;
    match ids.iter().position(|&id| id as usize >= op.rows) {
        None => Ok(ids.into_iter().map(|id| id as usize).collect()),
        Some(i) => {
            let detail = format!("ids[{i}] is {}, the table has only {} rows", ids[i], op.rows);
            Err(Error::invalid(name, detail))
        }
    }
}

pub(super) fn gather(op: &Rows, table: In<'_>, ids: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "gather";
    table.expect(OP, "table", op.rows * op.width)?;
    y.out.expect(OP, "y", op.count * op.width)?;
    let ids = checked_ids(OP, op, ids)?;
    let table = load_floats(OP, "table", table)?;
    let values = ids.iter().flat_map(|&id| &table[id * op.width..][..op.width]).copied().collect();
    put(OP, y, values)
}

pub(super) fn scatter_add(op: &Rows, ids: In<'_>, x: In<'_>, table: Slot<'_>) -> Result<()> {
    const OP: &str = "scatter_add";
    x.expect(OP, "x", op.count * op.width)?;
    table.out.expect(OP, "table", op.rows * op.width)?;
    let ids = checked_ids(OP, op, ids)?;
    let x = load_floats(OP, "x", x)?;
    let mut sums = vec![0.0; op.rows * op.width];
    for (i, &id) in ids.iter().enumerate() {
        for c in 0..op.width {
            sums[id * op.width + c] += x[i * op.width + c];
        }
    }
    put(OP, table, sums)
}
