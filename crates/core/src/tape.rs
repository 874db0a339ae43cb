//! Reverse-mode differentiation.
//!
//! Every operation with an input that requires a gradient leaves a [`Node`] in its result: the inputs and its [`Rule`].
//! `backward` visits nodes from the newest to the oldest (ids grow, so a result always has a larger id than its
//! inputs), takes each node out of its tensor, and so frees what it saved as it goes.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use lowrank_backend::{Block, Error, Mode, Result, Slot};

use crate::tensor::{Meta, Write};
use crate::{Tensor, grad};

/// The backward half of an operation.
pub trait Rule: Send + Sync {
    /// The operation's name.
    fn name(&self) -> &'static str;

    /// Given the gradient of the result, adds to the gradients of the inputs. For an input i: take [`Grads::slot`]`(i)`,
    /// write or add into it as its mode says, and [`Grads::put`] it back; or [`Grads::give`] a whole tensor.
    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()>;
}

/// A recorded operation. It knows its inputs without their elements: what backward needs of those, the rule holds.
pub(crate) struct Node {
    inputs: Vec<Arc<Meta>>,
    rule: Box<dyn Rule>,
}

impl Drop for Meta {
    /// Lets a graph go without recursion, which a long chain of results would overflow the stack with.
    fn drop(&mut self) {
        let take = |meta: &mut Meta| meta.node.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let mut nodes: Vec<Node> = take(self).into_iter().collect();
        while let Some(Node { inputs, rule }) = nodes.pop() {
            // First what the rule holds of the inputs, so that the last handles are here.
            drop(rule);
            nodes.extend(inputs.into_iter().filter_map(|meta| take(&mut Arc::into_inner(meta)?)));
        }
    }
}

impl Tensor {
    /// Ends an operation: `self` is its fresh result. The rule is made (and what it saves is kept) only if recording is
    /// on and an input requires a gradient.
    pub(crate) fn with_rule<R: Rule + 'static>(self, inputs: &[&Tensor], rule: impl FnOnce() -> R) -> Tensor {
        if !grad::enabled() || !inputs.iter().any(|t| t.requires_grad()) {
            return self;
        }
        self.with_rule_always(inputs, rule)
    }

    /// The same even if no input requires a gradient: for an operation that wants its own result's.
    pub(crate) fn with_rule_always<R: Rule + 'static>(self, inputs: &[&Tensor], rule: impl FnOnce() -> R) -> Tensor {
        if !grad::enabled() {
            return self;
        }
        let inputs = inputs.iter().map(|t| t.meta.clone()).collect();
        self.record(Node { inputs, rule: Box::new(rule()) })
    }

    /// Gradients of this scalar (one element) with respect to every trainable leaf it depends on, added to what the
    /// leaves hold. Frees the graph: a second call is an error.
    pub fn backward(&self) -> Result<()> {
        if self.len() != 1 {
            return Err(Error::graph("backward", format!("{} is not a scalar", self.label("the tensor"))));
        }
        self.backward_with(Tensor::full(1.0, self.shape(), self.dtype(), self.device())?)
    }

    /// The same from any tensor, with the gradient of a scalar with respect to it.
    pub fn backward_with(&self, gy: Tensor) -> Result<()> {
        if !self.requires_grad() {
            return Err(Error::graph("backward", format!("{} depends on nothing trainable", self.label("the tensor"))));
        }
        if gy.shape() != self.shape() || gy.dtype() != self.dtype() || !gy.device().same(self.device()) {
            let detail = format!("gradient {} for {}", gy.label("of it"), self.label("the tensor"));
            return Err(Error::graph("backward", detail));
        }
        let mut pending = BTreeMap::new();
        let root = [self.meta.clone()];
        Grads { inputs: &root, pending: &mut pending, taken: 0 }.give(0, gy)?;
        while let Some((_, (meta, gy))) = pending.pop_last() {
            let node = meta.node.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(Node { inputs, rule }) = node else {
                let detail = format!("a result of shape {:?} was freed by an earlier backward", meta.shape);
                return Err(Error::graph("backward", detail));
            };
            drop(meta);
            let name = rule.name();
            let mut grads = Grads { inputs: &inputs, pending: &mut pending, taken: 0 };
            rule.backward(gy, &mut grads)?;
            if grads.taken != 0 {
                return Err(Error::graph("backward", format!("the rule of {name} kept {} gradients", grads.taken)));
            }
        }
        Ok(())
    }
}

/// Where a rule leaves the gradients of its inputs.
pub struct Grads<'a> {
    inputs: &'a [Arc<Meta>],
    /// Gradients of intermediate results by id, with the result they belong to.
    pending: &'a mut BTreeMap<u64, (Arc<Meta>, Tensor)>,
    taken: usize,
}

/// Memory for one gradient, or nothing if the input is frozen.
#[must_use = "put it back with Grads::put"]
pub struct GradSlot(Option<Taken>);

struct Taken {
    input: usize,
    grad: Tensor,
    mode: Mode,
}

/// A [`GradSlot`] locked for writing.
pub struct SlotLock<'a>(Option<(Write<'a>, Mode)>);

impl GradSlot {
    /// Whether there is something to compute.
    pub fn wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Locks the memory for the backend call.
    pub fn lock(&self) -> SlotLock<'_> {
        SlotLock(self.0.as_ref().map(|t| (t.grad.write(), t.mode)))
    }
}

impl SlotLock<'_> {
    /// What the backend takes: `None` for a frozen input.
    pub fn slot(&mut self) -> Option<Slot<'_>> {
        self.0.as_mut().map(|(w, mode)| w.slot(*mode))
    }
}

impl Grads<'_> {
    /// Whether input `i` wants a gradient.
    pub fn wants(&self, i: usize) -> bool {
        self.inputs[i].requires_grad
    }

    /// Memory of the shape and dtype of input `i` for its gradient. For a frozen input nothing is allocated.
    pub fn slot(&mut self, i: usize) -> Result<GradSlot> {
        if !self.wants(i) {
            return Ok(GradSlot(None));
        }
        let (grad, mode) = match self.take(i) {
            Some(grad) => (grad, Mode::Add),
            None => {
                let input = &self.inputs[i];
                (Tensor::empty(&input.shape, input.dtype, &input.device)?, Mode::Set)
            }
        };
        self.taken += 1;
        Ok(GradSlot(Some(Taken { input: i, grad, mode })))
    }

    /// The gradient of input `i` so far, or memory for it, with how to write to it: for rules that have to rearrange it
    /// first. It goes back by [`Grads::give`]. `None` for a frozen input.
    pub fn so_far(&mut self, i: usize) -> Result<Option<(Tensor, Mode)>> {
        let slot = self.slot(i)?;
        self.taken -= usize::from(slot.wanted());
        Ok(slot.0.map(|taken| (taken.grad, taken.mode)))
    }

    /// Gives a filled slot back.
    pub fn put(&mut self, slot: GradSlot) -> Result<()> {
        let Some(Taken { input, grad, .. }) = slot.0 else { return Ok(()) };
        self.taken -= 1;
        self.give(input, grad)
    }

    /// Adds a whole tensor, with as many elements as input `i`, to its gradient. It is moved, not copied, if it is the
    /// first part and nobody else holds its storage.
    pub fn give(&mut self, i: usize, part: Tensor) -> Result<()> {
        if !self.wants(i) {
            return Ok(());
        }
        let shape = &self.inputs[i].shape;
        let part = if part.shape() == shape { part } else { part.into_alias(shape.clone()) };
        let sum = match self.take(i) {
            Some(sum) => {
                let part = if part.shares_storage(&sum) { part.copy()? } else { part };
                copy_all(&part, &sum, Mode::Add)?;
                sum
            }
            None if part.owns_storage() => part,
            None => part.copy()?,
        };
        let input = &self.inputs[i];
        if input.is_leaf {
            *input.lock_grad() = Some(sum);
        } else {
            self.pending.insert(input.id, (input.clone(), sum));
        }
        Ok(())
    }

    fn take(&mut self, i: usize) -> Option<Tensor> {
        let input = &self.inputs[i];
        if input.is_leaf { input.lock_grad().take() } else { self.pending.remove(&input.id).map(|(_, g)| g) }
    }
}

impl Tensor {
    /// The same values in memory of their own, outside of the graph.
    pub(crate) fn copy(&self) -> Result<Tensor> {
        let copy = Tensor::empty(self.shape(), self.dtype(), self.device())?;
        copy_all(self, &copy, Mode::Set)?;
        Ok(copy)
    }
}

fn copy_all(src: &Tensor, dst: &Tensor, mode: Mode) -> Result<()> {
    let n = src.len();
    let op = Block { rows: 1, cols: n, src_stride: n, dst_stride: n };
    src.device().backend().copy(&op, src.read().view(), dst.write().slot(mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Device, no_grad};

    fn leaf(values: &[f64], device: &Device) -> Result<Tensor> {
        Tensor::from_f64(values, &[values.len()], DType::F64, device)?.trainable()
    }

    fn grad(t: &Tensor) -> Result<Vec<f64>> {
        t.grad().expect("has a gradient").to_f64()
    }

    /// d(x² + x)/dx = 2x + 1, and a second backward of a new graph adds to it.
    #[test]
    fn diamond_accumulates() -> Result<()> {
        let device = Device::reference()?;
        let x = leaf(&[3.0, -1.0], &device)?;
        let loss = || x.mul(&x)?.add(&x)?.sum();
        loss()?.backward()?;
        assert_eq!(grad(&x)?, [7.0, -1.0]);
        loss()?.backward()?;
        assert_eq!(grad(&x)?, [14.0, -2.0]);
        x.zero_grad();
        assert!(x.grad().is_none());
        Ok(())
    }

    #[test]
    fn a_graph_is_used_once() -> Result<()> {
        let device = Device::reference()?;
        let x = leaf(&[2.0], &device)?;
        let y = x.square()?;
        let (one, two) = (y.scale(1.0)?, y.scale(2.0)?);
        one.backward()?;
        for again in [one, two] {
            assert!(again.backward().unwrap_err().to_string().contains("freed by an earlier backward"));
        }
        let frozen = x.detach().square()?;
        assert!(frozen.backward().unwrap_err().to_string().contains("nothing trainable"));
        assert!(!no_grad(|| x.square())?.requires_grad());
        Ok(())
    }

    #[test]
    fn long_chains_are_let_go_and_gone_back() -> Result<()> {
        let device = Device::reference()?;
        let x = leaf(&[1.0], &device)?;
        for go_back in [false, true] {
            let mut y = x.scale(1.0)?;
            for _ in 0..100_000 {
                y = y.add(&x)?;
            }
            if go_back {
                y.backward()?;
                assert_eq!(grad(&x)?, [100_001.0]);
            }
        }
        Ok(())
    }

    /// One gradient tensor reaches several inputs, or one input twice, also under another shape; and the user keeps it.
    #[test]
    fn shared_gradients_are_not_overwritten() -> Result<()> {
        let device = Device::reference()?;
        let x = leaf(&[1.0, 2.0], &device)?;
        x.add(&x)?.sum()?.backward()?;
        assert_eq!(grad(&x)?, [2.0, 2.0]);

        x.zero_grad();
        let z = leaf(&[5.0, 5.0], &device)?;
        let gy = Tensor::from_slice(&[1.0, 10.0], &[1, 2], &device)?;
        x.reshape(&[1, 2])?.add(&z.reshape(&[1, 2])?)?.backward_with(gy.clone())?;
        // Adding to one gradient changes neither the other nor the one that was passed in.
        x.scale(3.0)?.sum()?.backward()?;
        assert_eq!((grad(&x)?, grad(&z)?, gy.to_f64()?), (vec![4.0, 13.0], vec![1.0, 10.0], vec![1.0, 10.0]));

        // Its own gradient, passed back in.
        x.backward_with(x.grad().expect("has one"))?;
        assert_eq!(grad(&x)?, [8.0, 26.0]);
        Ok(())
    }

    #[test]
    fn broadcast_gradients_are_summed() -> Result<()> {
        let device = Device::reference()?;
        let a = Tensor::from_slice(&[1.0, 2.0, 3.0], &[1, 3, 1], &device)?.trainable()?;
        let b = Tensor::from_slice(&[1.0, 10.0, 100.0, 1000.0], &[2, 1, 2], &device)?.trainable()?;
        let y = a.mul(&b)?;
        assert_eq!(y.shape(), [2, 3, 2]);
        y.sum()?.backward()?;
        assert_eq!((grad(&a)?, grad(&b)?), (vec![1111.0; 3], vec![6.0; 4]));
        let c = leaf(&[7.0], &device)?;
        for y in [a.detach().add(&c)?, a.detach().sub(&c)?, a.detach().div(&c)?] {
            y.sum()?.backward()?;
        }
        assert!((grad(&c)?[0] - (3.0 - 3.0 - 6.0 / 49.0)).abs() < 1e-12);
        Ok(())
    }

    /// A frozen weight's gradient is neither allocated nor computed: dx alone is smaller than W.
    #[test]
    fn frozen_inputs_cost_nothing() -> Result<()> {
        let device = Device::reference()?;
        let (n, k) = (64, 32);
        let x = leaf(&vec![1.0; k], &device)?.reshape(&[1, k])?;
        let w = Tensor::full(0.5, &[n, k], DType::F64, &device)?;
        let y = x.linear(&w, None)?;
        let gy = Tensor::full(1.0, &[1, n], DType::F64, &device)?;
        let before = device.stats().bytes_live;
        device.backend().reset_peak();
        y.backward_with(gy)?;
        let extra = device.stats().bytes_peak - before;
        assert!(extra < (n * k * 8 / 2) as u64, "{extra} bytes");
        assert!(w.grad().is_none());
        Ok(())
    }
}
