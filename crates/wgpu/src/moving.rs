//! copy, permute, gather and scatter_add: elements find their way by index arithmetic in the kernel.

use lowrank_backend::{Block, DType, Error, In, MAX_RANK, Mode, Result, Rows, Slot};
use lowrank_shaders as shaders;

use crate::Wgpu;
use crate::launch::{add, code, volume};

/// See [`Block`].
pub(crate) fn copy(wgpu: &Wgpu, op: &Block, src: In<'_>, dst: Slot<'_>) -> Result<()> {
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
    wgpu.block(OP, "source", src)?;
    wgpu.block(OP, "destination", dst.out.as_in())?;
    src.expect(OP, "source", op.src_len())?;
    dst.out.expect(OP, "destination", op.dst_len())?;
    if dst.mode == Mode::Add && !src.dtype.is_float() {
        return Err(Error::dtype(OP, "source", src.dtype, "a float to be added"));
    }
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let (mode, y) = (dst.mode, dst.out);
    let mut launch = wgpu.launch(OP, &shaders::COPY, "main");
    let y_start = launch.output("destination", &y)?;
    let x_start = launch.input("source", src)?;
    // One row has no stride of its own.
    let dst_stride = if rows == 1 { cols } else { dst_stride };
    launch.sizes(&[y.len])?.u32s(&[y_start, x_start]).sizes(&[cols, src_stride, dst_stride])?;
    launch.constant("X_TYPE", code(src.dtype)).constant("Y_TYPE", code(y.dtype));
    launch.constant("ADD", add(mode)).run_elements(&y)
}

/// Dimension i of y is dimension `perm[i]` of x.
pub(crate) fn permute(wgpu: &Wgpu, dims: &[usize], perm: &[usize], x: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "permute";
    let rank = dims.len();
    let mut seen = [false; MAX_RANK];
    let valid = rank <= MAX_RANK
        && perm.len() == rank
        && perm.iter().all(|&p| p < rank && !std::mem::replace(&mut seen[p], true));
    if !valid {
        return Err(Error::invalid(OP, format!("{perm:?} is no permutation of the dimensions of {dims:?}")));
    }
    let len = volume(OP, dims)?;
    wgpu.block(OP, "x", x)?;
    x.expect(OP, "x", len)?;
    y.out.expect(OP, "y", len)?;
    if x.dtype != y.out.dtype && !(x.dtype.is_float() && y.out.dtype.is_float())
        || y.mode == Mode::Add && !x.dtype.is_float()
    {
        return Err(Error::dtype(OP, "y", y.out.dtype, x.dtype.name()));
    }
    let mut steps = [1; MAX_RANK];
    for i in (1..rank).rev() {
        steps[i - 1] = steps[i] * dims[i];
    }
    let (mode, y) = (y.mode, y.out);
    let mut launch = wgpu.launch(OP, &shaders::PERMUTE, "main");
    let y_start = launch.output("y", &y)?;
    let x_start = launch.input("x", x)?;
    launch.sizes(&[len])?.u32s(&[y_start, x_start, rank as u32]);
    for &p in perm.iter().rev() {
        launch.sizes(&[dims[p], steps[p], 0, 0])?;
    }
    launch.constant("X_TYPE", code(x.dtype)).constant("Y_TYPE", code(y.dtype));
    launch.constant("ADD", add(mode)).run_elements(&y)
}

/// See [`gather`].
pub(crate) fn gather(wgpu: &Wgpu, op: &Rows, table: In<'_>, ids: In<'_>, y: Slot<'_>) -> Result<()> {
    gather_steps(wgpu, "gather", op, [op.width, 1], table, ids, y)
}

/// `y[i, j] (+)= table[ids[i]·row + j·column]` with [row, column] the steps of the table. A table larger than one
/// binding is bound in slices of rows, each of which fills the rows of y that it holds.
pub(crate) fn gather_steps(
    wgpu: &Wgpu,
    name: &'static str,
    op: &Rows,
    [row_step, col_step]: [usize; 2],
    table: In<'_>,
    ids: In<'_>,
    mut y: Slot<'_>,
) -> Result<()> {
    let &Rows { rows, width, count } = op;
    wgpu.expect_float(name, "table", table, volume(name, &[rows, width])?)?;
    wgpu.expect(name, "ids", ids, DType::U32, count)?;
    wgpu.expect_float(name, "y", y.out.as_in(), volume(name, &[count, width])?)?;
    if count == 0 || width == 0 {
        return Ok(());
    }
    let fit = wgpu.max_binding() as usize / (width * table.dtype.size());
    // A transposed table is not cut.
    let per_slice = if col_step == 1 && fit < rows { fit.max(1) } else { rows.max(1) };
    for first in (0..rows.max(1)).step_by(per_slice) {
        let last = rows.min(first + per_slice);
        let slice = table.narrow(first * width, (last - first) * width);
        let y = y.reborrow();
        let (mode, y) = (y.mode, y.out);
        let mut launch = wgpu.launch(name, &shaders::GATHER, "main");
        let y_start = launch.output("y", &y)?;
        let x_start = launch.input("table", slice)?;
        let ids_start = launch.input("ids", ids)?;
        launch.sizes(&[y.len])?.u32s(&[y_start, x_start, ids_start]);
        launch.sizes(&[width, first, last, rows, row_step, col_step])?;
        launch.constant("X_TYPE", code(table.dtype)).constant("Y_TYPE", code(y.dtype));
        launch.constant("ADD", add(mode)).run_elements(&y)?;
    }
    Ok(())
}

/// See [`scatter_add`].
pub(crate) fn scatter_add(wgpu: &Wgpu, op: &Rows, ids: In<'_>, x: In<'_>, table: Slot<'_>) -> Result<()> {
    scatter_steps(wgpu, "scatter_add", op, [op.width, 1], ids, x, table)
}

/// `table[ids[i]·row + j·column] += x[i, j]`, in ascending i.
pub(crate) fn scatter_steps(
    wgpu: &Wgpu,
    name: &'static str,
    op: &Rows,
    steps: [usize; 2],
    ids: In<'_>,
    x: In<'_>,
    table: Slot<'_>,
) -> Result<()> {
    let &Rows { rows, width, count } = op;
    wgpu.expect_float(name, "x", x, volume(name, &[count, width])?)?;
    wgpu.expect(name, "ids", ids, DType::U32, count)?;
    wgpu.expect(name, "table", table.out.as_in(), DType::F32, volume(name, &[rows, width])?)?;
    let Slot { mut out, mode } = table;
    if mode == Mode::Set {
        crate::elementwise::fill(wgpu, 0.0, out.reborrow())?;
    }
    if count == 0 || width == 0 {
        return Ok(());
    }
    let mut launch = wgpu.launch(name, &shaders::SCATTER_ADD, "main");
    let table_start = launch.output("table", &out)?;
    let ids_start = launch.input("ids", ids)?;
    let x_start = launch.input("x", x)?;
    launch.sizes(&[count, width, rows, steps[0], steps[1]])?.u32s(&[table_start, ids_start, x_start]);
    launch.constant("X_TYPE", code(x.dtype)).run(count as u64)
}
