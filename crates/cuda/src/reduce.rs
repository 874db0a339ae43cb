//! Sums and maxima. What is long is reduced in two passes, so that a few long rows or columns do not leave most of the
//! GPU idle; the cut depends on sizes alone.

use lowrank_backend::{Buffer, DType, In, Mode, Out, Reduce, Result, Slot};
use lowrank_kernels as kernels;

use crate::Cuda;
use crate::launch::{add, code, volume};

/// Elements of a row that one block reduces.
const ROW_CHUNK: usize = 16_384;
/// Elements of a column that one thread reduces.
const COLUMN_CHUNK: usize = 128;
/// Rows up to this length are a warp's.
const SHORT: usize = 64;

/// See [`Reduce`]; x `[outer, len, inner]` → y `[outer, inner]`.
pub(crate) fn reduce(cuda: &Cuda, op: Reduce, dims: [usize; 3], x: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "reduce";
    let [outer, len, inner] = dims;
    cuda.expect_float(OP, "x", x, volume(OP, &dims)?)?;
    cuda.expect_float(OP, "y", y.out.as_in(), volume(OP, &[outer, inner])?)?;
    let chunk = if inner == 1 { ROW_CHUNK } else { COLUMN_CHUNK };
    let parts = len.div_ceil(chunk);
    if parts <= 1 {
        return stage(cuda, op, dims, [len.max(1), 1], x, y);
    }
    let total = volume(OP, &[outer, parts, inner])?;
    let mut t: Box<dyn Buffer> = Box::new(cuda.scratch(total)?);
    let partial = Slot { out: Out::new(&mut *t, DType::F32, total), mode: Mode::Set };
    stage(cuda, op, dims, [chunk, parts], x, partial)?;
    reduce(cuda, op, [outer, parts, inner], In::new(&*t, DType::F32, total), y)
}

/// One pass: y `[outer, parts, inner]`.
fn stage(
    cuda: &Cuda,
    op: Reduce,
    [outer, len, inner]: [usize; 3],
    [chunk, parts]: [usize; 2],
    x: In<'_>,
    y: Slot<'_>,
) -> Result<()> {
    const OP: &str = "reduce";
    let (from, to) = (cuda.address(OP, "x", x)?, cuda.address(OP, "y", y.out.as_in())?);
    let codes = [code(y.out.dtype), code(x.dtype), add(y.mode), u32::from(op == Reduce::Max)];
    if inner == 1 && len <= SHORT {
        let mut l = cuda.launch(OP, &kernels::REDUCE, "reduce_short_rows");
        return l.u64s(&[to, from]).sizes(&[outer, len]).u32s(&codes).run_elements(outer * 32);
    }
    if inner == 1 {
        let mut l = cuda.launch(OP, &kernels::REDUCE, "reduce_rows");
        return l.u64s(&[to, from]).sizes(&[len, chunk, parts]).u32s(&codes).run(outer * parts, 256);
    }
    let results = outer * parts * inner;
    let mut l = cuda.launch(OP, &kernels::REDUCE, "reduce_columns");
    l.u64s(&[to, from]).sizes(&[results, len, inner, chunk, parts]).u32s(&codes).run_elements(results)
}
