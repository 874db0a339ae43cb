//! Checks that operations share.

use lowrank_backend::{Error, Result};

use crate::Tensor;

/// All operands on the device of the first.
pub(crate) fn same_device(op: &'static str, tensors: &[&Tensor]) -> Result<()> {
    let first = tensors[0].device();
    match tensors.iter().find(|t| !t.device().same(first)) {
        Some(t) => Err(Error::DeviceMismatch { op, left: first.name(), right: t.device().name() }),
        None => Ok(()),
    }
}

/// Operands have the dtype of the first.
pub(crate) fn same_dtype(op: &'static str, tensors: &[&Tensor]) -> Result<()> {
    match tensors.iter().find(|t| t.dtype() != tensors[0].dtype()) {
        Some(t) => Err(Error::dtype(op, t.label("an operand"), t.dtype(), tensors[0].dtype().name())),
        None => Ok(()),
    }
}

/// A float dtype.
pub(crate) fn float(op: &'static str, t: &Tensor) -> Result<()> {
    if t.dtype().is_float() { Ok(()) } else { Err(Error::dtype(op, t.label("x"), t.dtype(), "a float dtype")) }
}

/// A tensor has this shape.
pub(crate) fn shape(op: &'static str, what: &str, t: &Tensor, want: &[usize]) -> Result<()> {
    if t.shape() == want {
        return Ok(());
    }
    Err(Error::shape(op, format!("{}, expected {want:?}", t.label(what))))
}

/// The last dimension, and the product of the others.
pub(crate) fn rows_cols(op: &'static str, t: &Tensor) -> Result<(usize, usize)> {
    match t.shape().split_last() {
        Some((&cols, outer)) => Ok((outer.iter().product(), cols)),
        None => Err(Error::shape(op, format!("{} has no dimensions", t.label("x")))),
    }
}
