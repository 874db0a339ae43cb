//! Reverse-mode differentiation.
//!
//! Every operation with an input that requires a gradient leaves a [`Node`] in its result: the inputs and its [`Rule`].
//! `backward` visits nodes from the newest to the oldest (ids grow, so a result always has a larger id than its
//! inputs), takes each node out of its tensor, and so frees what it saved as it goes.

use std::collections::BTreeMap;

use lowrank_backend::{Block, Error, Mode, Result, Slot};

use crate::tensor::Write;
use crate::{Tensor, grad};

/// The backward half of an operation.
pub trait Rule: Send + Sync {
    /// The operation's name.
    fn name(&self) -> &'static str;

    /// Given the gradient of the result, adds to the gradients of the inputs. For an input i: take [`Grads::slot`]`(i)`,
    /// write or add into it as its mode says, and [`Grads::put`] it back; or [`Grads::give`] a whole tensor.
    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()>;
}

/// A recorded operation.
pub(crate) struct Node {
    inputs: Vec<Tensor>,
    rule: Box<dyn Rule>,
}

impl Tensor {
    /// Ends an operation: `self` is its fresh result. The rule is made (and what it saves is kept) only if recording is
    /// on and an input requires a gradient.
    pub(crate) fn with_rule<R: Rule + 'static>(self, inputs: &[&Tensor], rule: impl FnOnce() -> R) -> Tensor {
        if !grad::enabled() || !inputs.iter().any(|t| t.requires_grad()) {
            return self;
        }
        let inputs = inputs.iter().map(|&t| t.clone()).collect();
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
        let root = [self.clone()];
        Grads { inputs: &root, pending: &mut pending, taken: 0 }.give(0, gy)?;
        while let Some((_, (tensor, gy))) = pending.pop_last() {
            let node = tensor.0.node.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            let Some(Node { inputs, rule }) = node else {
                let detail = format!("{} was freed by an earlier backward", tensor.label("an intermediate result"));
                return Err(Error::graph("backward", detail));
            };
            drop(tensor);
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
    inputs: &'a [Tensor],
    /// Gradients of intermediate results by id, with the result they belong to.
    pending: &'a mut BTreeMap<u64, (Tensor, Tensor)>,
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
        self.inputs[i].requires_grad()
    }

    /// Memory of the shape and dtype of input `i` for its gradient. For a frozen input nothing is allocated.
    pub fn slot(&mut self, i: usize) -> Result<GradSlot> {
        if !self.wants(i) {
            return Ok(GradSlot(None));
        }
        let (grad, mode) = match self.take(i) {
            Some(grad) => (grad, Mode::Add),
            None => (empty_like(&self.inputs[i])?, Mode::Set),
        };
        self.taken += 1;
        Ok(GradSlot(Some(Taken { input: i, grad, mode })))
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
        let shape = self.inputs[i].shape();
        let part = if part.shape() == shape { part } else { part.into_alias(shape.to_vec()) };
        let sum = match self.take(i) {
            Some(sum) => {
                copy_all(&part, &sum, Mode::Add)?;
                sum
            }
            None if part.owns_storage() => part,
            None => {
                let copy = empty_like(&part)?;
                copy_all(&part, &copy, Mode::Set)?;
                copy
            }
        };
        let input = &self.inputs[i];
        if input.0.is_leaf {
            *input.lock_grad() = Some(sum);
        } else {
            self.pending.insert(input.0.id, (input.clone(), sum));
        }
        Ok(())
    }

    fn take(&mut self, i: usize) -> Option<Tensor> {
        let input = &self.inputs[i];
        if input.0.is_leaf { input.lock_grad().take() } else { self.pending.remove(&input.0.id).map(|(_, g)| g) }
    }
}

fn empty_like(t: &Tensor) -> Result<Tensor> {
    Tensor::empty(t.shape(), t.dtype(), t.device())
}

fn copy_all(src: &Tensor, dst: &Tensor, mode: Mode) -> Result<()> {
    let n = src.len();
    let op = Block { rows: 1, cols: n, src_stride: n, dst_stride: n };
    src.device().backend().copy(&op, src.read().view(), dst.write().slot(mode))
}
