//! copy, permute, gather and scatter_add: elements find their way by index arithmetic in the kernel.

use bytemuck::NoUninit;
use lowrank_backend::{Block, DType, Error, In, MAX_RANK, Mode, Result, Rows, Slot};
use lowrank_kernels as kernels;

use crate::Cuda;
use crate::launch::{add, code, volume};

/// See [`Block`].
pub(crate) fn copy(cuda: &Cuda, op: &Block, src: In<'_>, dst: Slot<'_>) -> Result<()> {
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
    let from = cuda.address(OP, "source", src)?;
    let to = cuda.address(OP, "destination", dst.out.as_in())?;
    src.expect(OP, "source", op.src_len())?;
    dst.out.expect(OP, "destination", op.dst_len())?;
    if dst.mode == Mode::Add && !src.dtype.is_float() {
        return Err(Error::dtype(OP, "source", src.dtype, "a float to be added"));
    }
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let entry = match src.dtype {
        DType::BF16 => "copy_bf16",
        DType::F16 => "copy_f16",
        _ => "copy_f32",
    };
    let len = volume(OP, &[rows, cols])?;
    let mut l = cuda.launch(OP, &kernels::COPY, entry);
    l.u64s(&[to, from]).sizes(&[len, cols, src_stride, dst_stride]).u32s(&[add(dst.mode)]).run_elements(len)
}

/// `Order` of `moving.cu`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Order {
    size: [u64; MAX_RANK],
    step: [u64; MAX_RANK],
}

/// Dimension i of y is dimension `perm[i]` of x.
pub(crate) fn permute(cuda: &Cuda, dims: &[usize], perm: &[usize], x: In<'_>, y: Slot<'_>) -> Result<()> {
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
    let from = cuda.address(OP, "x", x)?;
    let to = cuda.address(OP, "y", y.out.as_in())?;
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
    let mut order = Order { size: [1; MAX_RANK], step: [0; MAX_RANK] };
    for (i, &p) in perm.iter().rev().enumerate() {
        (order.size[i], order.step[i]) = (dims[p] as u64, steps[p] as u64);
    }
    let mut l = cuda.launch(OP, &kernels::MOVING, "permute");
    l.u64s(&[to, from]).sizes(&[len]).u32s(&[code(y.out.dtype), code(x.dtype), add(y.mode), rank as u32]);
    l.arg(&order).run_elements(len)
}

/// See `Backend::gather`.
pub(crate) fn gather(cuda: &Cuda, op: &Rows, table: In<'_>, ids: In<'_>, y: Slot<'_>) -> Result<()> {
    gather_steps(cuda, "gather", op, [op.width, 1], table, ids, y)
}

/// `y[i, j] (+)= table[ids[i]·row + j·column]` with [row, column] the steps of the table.
pub(crate) fn gather_steps(
    cuda: &Cuda,
    name: &'static str,
    op: &Rows,
    steps: [usize; 2],
    table: In<'_>,
    ids: In<'_>,
    y: Slot<'_>,
) -> Result<()> {
    let &Rows { rows, width, count } = op;
    let from = cuda.expect_float(name, "table", table, volume(name, &[rows, width])?)?;
    let ids = cuda.expect(name, "ids", ids, DType::U32, count)?;
    let len = volume(name, &[count, width])?;
    let to = cuda.expect_float(name, "y", y.out.as_in(), len)?;
    let mut l = cuda.launch(name, &kernels::MOVING, "gather");
    l.u64s(&[to, from, ids]).sizes(&[len, width, rows]).sizes(&steps);
    l.u32s(&[code(y.out.dtype), code(table.dtype), add(y.mode)]).run_elements(len)
}

/// See `Backend::scatter_add`.
pub(crate) fn scatter_add(cuda: &Cuda, op: &Rows, ids: In<'_>, x: In<'_>, table: Slot<'_>) -> Result<()> {
    scatter_steps(cuda, "scatter_add", op, [op.width, 1], ids, x, table)
}

/// `table[ids[i]·row + j·column] += x[i, j]`, in ascending i.
pub(crate) fn scatter_steps(
    cuda: &Cuda,
    name: &'static str,
    op: &Rows,
    steps: [usize; 2],
    ids: In<'_>,
    x: In<'_>,
    table: Slot<'_>,
) -> Result<()> {
    let &Rows { rows, width, count } = op;
    let from = cuda.expect_float(name, "x", x, volume(name, &[count, width])?)?;
    let ids = cuda.expect(name, "ids", ids, DType::U32, count)?;
    let to = cuda.expect(name, "table", table.out.as_in(), DType::F32, volume(name, &[rows, width])?)?;
    if table.mode == Mode::Set {
        crate::elementwise::fill(cuda, 0.0, table.out)?;
    }
    if width == 0 {
        return Ok(());
    }
    let mut l = cuda.launch(name, &kernels::MOVING, "scatter_add");
    l.u64s(&[to, ids, from]).sizes(&[count, width, rows]).sizes(&steps).u32s(&[code(x.dtype)]).run(count, 256)
}
