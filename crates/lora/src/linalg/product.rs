//! Products of matrices on their device, outside of the graph. Either operand may be stored in any float dtype.

use lowrank_core::backend::{Error as BackendError, Gemm, Slot};
use lowrank_core::{DType, Tensor};

use crate::Result;

/// `a b`.
pub(crate) fn nn(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    product(a, b, false, false)
}

/// `aᵀ b`.
pub(crate) fn tn(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    product(a, b, true, false)
}

/// `a bᵀ`.
pub(crate) fn nt(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    product(a, b, false, true)
}

fn product(a: &Tensor, b: &Tensor, ta: bool, tb: bool) -> Result<Tensor> {
    let sizes = sizes(a, b, ta, tb)?;
    let dtype = if a.dtype() == DType::F64 || b.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let c = Tensor::empty(&[sizes[0], sizes[1]], dtype, a.device())?;
    gemm(sizes, a, b, ta, tb, c.write().set())?;
    Ok(c)
}

/// `c += aᵀ b`, in place.
pub(crate) fn add_tn(c: &Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
    let sizes = sizes(a, b, true, false)?;
    if c.shape() != [sizes[0], sizes[1]] {
        let detail = format!("{} is not {} by {}", c.label("c"), sizes[0], sizes[1]);
        return Err(BackendError::shape("gemm", detail).into());
    }
    gemm(sizes, a, b, true, false, c.write().slot(lowrank_core::backend::Mode::Add))
}

fn sizes(a: &Tensor, b: &Tensor, ta: bool, tb: bool) -> Result<[usize; 3]> {
    let misfit = || BackendError::shape("gemm", format!("{} does not fit {}", a.label("a"), b.label("b")));
    let (&[a0, a1], &[b0, b1]) = (a.shape(), b.shape()) else { return Err(misfit().into()) };
    let (m, k) = if ta { (a1, a0) } else { (a0, a1) };
    let (bk, n) = if tb { (b1, b0) } else { (b0, b1) };
    if k == bk && a.device().same(b.device()) { Ok([m, n, k]) } else { Err(misfit().into()) }
}

fn gemm([m, n, k]: [usize; 3], a: &Tensor, b: &Tensor, ta: bool, tb: bool, c: Slot<'_>) -> Result<()> {
    let op = Gemm { ta, tb, ..Gemm::nn(m, n, k) };
    Ok(a.device().backend().gemm(&op, a.read().view(), b.read().view(), c)?)
}
