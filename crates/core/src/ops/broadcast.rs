//! Broadcasting as numpy does it: shapes are aligned at their last dimension, missing ones are 1, and a dimension of 1 is
//! repeated. The gradient of a repeated operand is summed over the repetitions.

use lowrank_backend::{Broadcast, Error, Reduce, Result, Slot, Zip};

use crate::ops::check;
use crate::{Grads, Tensor};

/// `f(a, b)` in a fresh tensor outside of the graph, and the shapes for backward.
pub(crate) fn zip(op: &'static str, f: Zip, a: &Tensor, b: &Tensor) -> Result<(Tensor, Broadcast)> {
    check::same_device(op, &[a, b])?;
    check::float(op, a)?;
    check::same_dtype(op, &[a, b])?;
    let (dims, shape) = shapes(op, a, b)?;
    let y = Tensor::empty(&shape, a.dtype(), a.device())?;
    a.device().backend().zip(f, &dims, a.read().view(), b.read().view(), y.write().set())?;
    Ok((y, dims))
}

fn shapes(op: &'static str, a: &Tensor, b: &Tensor) -> Result<(Broadcast, Vec<usize>)> {
    if a.shape() == b.shape() {
        return Ok((Broadcast::same(a.len()), a.shape().to_vec()));
    }
    let rank = a.rank().max(b.rank());
    let pad = |t: &Tensor| -> Vec<usize> {
        std::iter::repeat_n(1, rank - t.rank()).chain(t.shape().iter().copied()).collect()
    };
    let Some(dims) = Broadcast::new(&pad(a), &pad(b)) else {
        return Err(Error::shape(op, format!("{} does not broadcast with {}", a.label("a"), b.label("b"))));
    };
    Ok((dims, (0..rank).map(|i| dims.out(i)).collect()))
}

/// Whether an operand of shape `to` was not repeated in a result like `gy`.
pub(crate) fn whole(gy: &Tensor, to: &[usize]) -> bool {
    to.iter().product::<usize>() == gy.len()
}

/// Gradient of operand i of shape `to`: `f` writes it in the result's shape, from where it is summed if need be.
pub(crate) fn give(
    grads: &mut Grads<'_>,
    i: usize,
    to: &[usize],
    gy: &Tensor,
    f: impl FnOnce(Slot<'_>) -> Result<()>,
) -> Result<()> {
    let grad = grads.slot(i)?;
    if let Some(slot) = grad.lock().slot() {
        if whole(gy, to) {
            f(slot)?;
        } else {
            let wide = Tensor::empty(gy.shape(), gy.dtype().wide(), gy.device())?;
            f(wide.write().set())?;
            sum_to(&wide, to, slot)?;
        }
    }
    grads.put(grad)
}

/// Sums g into the smaller shape `to` of the same rank. Neighbouring repeated dimensions are one reduction.
pub(crate) fn sum_to(g: &Tensor, to: &[usize], slot: Slot<'_>) -> Result<()> {
    let mut dims = g.shape().to_vec();
    let repeated = |dims: &[usize], from: usize| (from..to.len()).find(|&i| to[i] == 1 && dims[i] != 1);
    let mut last = Some(slot);
    let mut part: Option<Tensor> = None;
    let mut at = repeated(&dims, 0);
    while let Some(start) = at {
        let end = (start..to.len()).find(|&i| to[i] != 1).unwrap_or(to.len());
        let size = |range: &[usize]| range.iter().product::<usize>();
        let sizes = [size(&dims[..start]), size(&dims[start..end]), size(&dims[end..])];
        dims[start..end].fill(1);
        at = repeated(&dims, end);
        let source = part.as_ref().unwrap_or(g);
        let backend = g.device().backend();
        if at.is_some() {
            let next = Tensor::empty(&dims, g.dtype().wide(), g.device())?;
            backend.reduce(Reduce::Sum, sizes, source.read().view(), next.write().set())?;
            part = Some(next);
        } else if let Some(slot) = last.take() {
            backend.reduce(Reduce::Sum, sizes, source.read().view(), slot)?;
        }
    }
    Ok(())
}

/// `f(g, operand)` for a g of the result's shape and an operand of shape `shape`, repeated as in forward.
pub(crate) fn against(f: Zip, g: &Tensor, operand: &Tensor, shape: &[usize], slot: Slot<'_>) -> Result<()> {
    let dims = if whole(g, shape) { Some(Broadcast::same(g.len())) } else { Broadcast::new(g.shape(), shape) };
    let dims = dims.expect("forward has broadcast these shapes");
    g.device().backend().zip(f, &dims, g.read().view(), operand.read().view(), slot)
}
