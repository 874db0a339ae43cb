//! Products: which kernel computes them.

use bytemuck::NoUninit;
use lowrank_backend::{DType, Error, Gemm, In, Result, Slot};
use lowrank_kernels as kernels;

use crate::Cuda;
use crate::launch::{add, code, volume};

/// `Operand` of `gemm_simt.cu`: where it is, and how far neighbours are apart in m (or n), in k and between matrices.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Operand {
    at: u64,
    dtype: u32,
    pad: u32,
    across: u64,
    along: u64,
    matrix: u64,
}

/// Rows and columns of c that one block computes.
const TILE: usize = 64;

/// See [`Gemm`].
pub(crate) fn gemm(cuda: &Cuda, op: &Gemm, a: In<'_>, b: In<'_>, c: Slot<'_>) -> Result<()> {
    const OP: &str = "gemm";
    let &Gemm { batch, m, n, k, ta, tb, alpha, precision } = op;
    cuda.precision(OP, precision)?;
    if ta && tb {
        return Err(Error::invalid(OP, "both operands transposed"));
    }
    let a_at = cuda.expect_float(OP, "a", a, volume(OP, &[batch, m, k])?)?;
    let b_at = cuda.expect_float(OP, "b", b, volume(OP, &[batch, k, n])?)?;
    let c_at = cuda.expect(OP, "c", c.out.as_in(), DType::F32, volume(OP, &[batch, m, n])?)?;
    let operand = |at, x: In<'_>, across: usize, along: usize, size: usize| {
        let (across, along, matrix) = (across as u64, along as u64, size as u64);
        Operand { at, dtype: code(x.dtype), pad: 0, across, along, matrix }
    };
    let a = if ta { operand(a_at, a, 1, m, m * k) } else { operand(a_at, a, k, 1, m * k) };
    let b = if tb { operand(b_at, b, k, 1, k * n) } else { operand(b_at, b, 1, n, k * n) };
    let (rows, cols) = (m.div_ceil(TILE), n.div_ceil(TILE));
    let mut l = cuda.launch(OP, &kernels::GEMM_SIMT, "gemm_simt");
    l.u64s(&[c_at]).arg(&a).arg(&b).sizes(&[m, n, k, rows, cols]).f32s(&[alpha]).u32s(&[add(c.mode)]);
    l.run(volume(OP, &[batch, rows, cols])?, 256)
}
