//! Checks that operations share.

use lowrank_backend::{DType, Error, Result};

use crate::{Device, Tensor};

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

/// Parameters and tables that belong to activations x have the dtype that is kept beside it.
pub(crate) fn beside(op: &'static str, x: &Tensor, tensors: &[&Tensor]) -> Result<()> {
    let want = x.dtype().wide();
    match tensors.iter().find(|t| t.dtype() != want) {
        Some(t) => {
            let beside = if want == x.dtype() { want.name().into() } else { format!("{want} beside {}", x.dtype()) };
            Err(Error::dtype(op, t.label("an operand"), t.dtype(), beside))
        }
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

/// A dimension of a tensor.
pub(crate) fn axis(op: &'static str, t: &Tensor, axis: usize) -> Result<()> {
    if axis < t.rank() {
        return Ok(());
    }
    Err(Error::shape(op, format!("axis {axis} of {}", t.label("x"))))
}

/// `[outer, len, inner]` around an axis.
pub(crate) fn around(op: &'static str, t: &Tensor, at: usize) -> Result<[usize; 3]> {
    axis(op, t, at)?;
    let s = t.shape();
    Ok([s[..at].iter().product(), s[at], s[at + 1..].iter().product()])
}

/// A matrix that may be stored in another float dtype than x while it is frozen; a trainable one is a parameter beside x.
pub(crate) fn weight(op: &'static str, what: &str, w: &Tensor, x: DType) -> Result<()> {
    if !w.dtype().is_float() {
        return Err(Error::dtype(op, w.label(what), w.dtype(), "a float dtype"));
    }
    if w.requires_grad() && w.dtype() != x.wide() {
        return Err(Error::dtype(op, format!("trainable {}", w.label(what)), w.dtype(), x.wide().name()));
    }
    Ok(())
}

/// Indices.
pub(crate) fn ids(op: &'static str, what: &str, t: &Tensor) -> Result<()> {
    if t.dtype() == DType::U32 { Ok(()) } else { Err(Error::dtype(op, t.label(what), t.dtype(), "u32")) }
}

/// The dropout mask of forward can be made again: the device is still at its step.
pub(crate) fn same_step(op: &'static str, device: &Device, forward: u32) -> Result<()> {
    let now = device.step();
    if now == forward {
        return Ok(());
    }
    Err(Error::graph(op, format!("dropout's forward was step {forward}, the device is at step {now}")))
}
