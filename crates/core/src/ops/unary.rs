//! What elementwise operations of one operand share.

use lowrank_backend::{Broadcast, Map, Result, Slot, Zip};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

/// `f(x)` in a fresh tensor outside of the graph.
pub(crate) fn map(op: &'static str, f: Map, x: &Tensor) -> Result<Tensor> {
    check::float(op, x)?;
    let y = Tensor::empty(x.shape(), x.dtype(), x.device())?;
    x.device().backend().map(f, x.read().view(), y.write().set())?;
    Ok(y)
}

/// `f(a, b)` of two tensors of one shape, into `slot`.
pub(crate) fn zip(f: Zip, a: &Tensor, b: &Tensor, slot: Slot<'_>) -> Result<()> {
    a.device().backend().zip(f, &Broadcast::same(a.len()), a.read().view(), b.read().view(), slot)
}

/// An activation whose gradient is a [`Zip`] of its input and the result's gradient.
pub(crate) fn activation(op: &'static str, f: Map, gradient: Zip, x: &Tensor) -> Result<Tensor> {
    Ok(map(op, f, x)?.with_rule(&[x], || Activation { op, gradient, x: x.clone() }))
}

struct Activation {
    op: &'static str,
    gradient: Zip,
    x: Tensor,
}

impl Rule for Activation {
    fn name(&self) -> &'static str {
        self.op
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let dx = grads.slot(0)?;
        if let Some(slot) = dx.lock().slot() {
            zip(self.gradient, &self.x, &gy, slot)?;
        }
        grads.put(dx)
    }
}
