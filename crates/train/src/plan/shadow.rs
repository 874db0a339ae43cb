//! Tensors without elements, and a tape over them: what is allocated, kept and freed, operation by operation, as
//! `lowrank-core`'s tape and rules and the CPU's kernels do it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::meter::{Bytes, Meter, Part};
use super::rules::Rule;

/// A tensor of which only the memory is real.
#[derive(Clone)]
pub(super) struct Shadow {
    pub(super) meta: Rc<Meta>,
    pub(super) storage: Rc<Bytes>,
}

/// What the graph knows of a tensor.
pub(super) struct Meta {
    id: u64,
    pub(super) bytes: usize,
    /// Gradients reach it.
    pub(super) needs: bool,
    /// A trainable leaf keeps its gradient here.
    leaf: Option<RefCell<Option<Rc<Bytes>>>>,
    node: RefCell<Option<Node>>,
}

struct Node {
    inputs: Vec<Rc<Meta>>,
    rule: Rule,
}

/// Whether operations record themselves, how large elements are, and the account.
pub(super) struct Tape {
    pub(super) meter: Meter,
    /// Of activations.
    pub(super) size: usize,
    /// Of parameters, statistics and sums.
    wide: usize,
    pub(super) recording: bool,
    next: RefCell<u64>,
}

impl Tape {
    pub(super) fn new(meter: &Meter, [size, wide]: [usize; 2], recording: bool) -> Self {
        Tape { meter: meter.clone(), size, wide, recording, next: RefCell::new(0) }
    }

    /// A result of `len` activations that nothing leads to yet.
    pub(super) fn fresh(&self, len: usize) -> Shadow {
        self.over(self.activations(len), len * self.size)
    }

    /// Memory of `len` activations.
    pub(super) fn activations(&self, len: usize) -> Rc<Bytes> {
        self.meter.alloc(Part::Activations, len * self.size)
    }

    /// A result of `len` wide elements that nothing leads to yet.
    pub(super) fn fresh_wide(&self, len: usize) -> Shadow {
        self.over(self.alloc(len), len * self.wide)
    }

    /// Memory of `len` wide elements.
    pub(super) fn alloc(&self, len: usize) -> Rc<Bytes> {
        self.meter.alloc(Part::Activations, len * self.wide)
    }

    /// Something trainable of `len` elements, whose own memory is on another account.
    pub(super) fn leaf(&self, len: usize) -> Rc<Meta> {
        Rc::new(Meta { leaf: Some(RefCell::new(None)), needs: true, ..self.meta(len * self.wide) })
    }

    /// The same memory as a new tensor.
    pub(super) fn alias(&self, x: &Shadow) -> Shadow {
        self.over(x.storage.clone(), x.meta.bytes)
    }

    fn over(&self, storage: Rc<Bytes>, bytes: usize) -> Shadow {
        Shadow { meta: Rc::new(self.meta(bytes)), storage }
    }

    fn meta(&self, bytes: usize) -> Meta {
        let mut id = self.next.borrow_mut();
        *id += 1;
        Meta { id: *id, bytes, needs: false, leaf: None, node: RefCell::new(None) }
    }

    /// Ends an operation, as `Tensor::with_rule` does.
    pub(super) fn record(&self, y: Shadow, inputs: &[&Rc<Meta>], rule: impl FnOnce() -> Rule) -> Shadow {
        if !self.recording || !inputs.iter().any(|m| m.needs) {
            return y;
        }
        let inputs = inputs.iter().map(|&m| m.clone()).collect();
        let Meta { id, bytes, .. } = *y.meta;
        let node = RefCell::new(Some(Node { inputs, rule: rule() }));
        Shadow { meta: Rc::new(Meta { id, bytes, needs: true, leaf: None, node }), storage: y.storage }
    }

    /// As `Tensor::backward`: nodes from the newest to the oldest, each dropped with what it saved when done.
    pub(super) fn backward(&self, loss: &Shadow) {
        let mut pending = BTreeMap::new();
        let root = [loss.meta.clone()];
        Grads { tape: self, inputs: &root, pending: &mut pending }.give(0, self.alloc(1));
        while let Some((_, (meta, gy))) = pending.pop_last() {
            let Some(Node { inputs, rule }) = meta.node.take() else { continue };
            drop(meta);
            rule.backward(gy, &mut Grads { tape: self, inputs: &inputs, pending: &mut pending });
        }
    }
}

/// Gradients of a rule's inputs.
pub(super) struct Grads<'a> {
    pub(super) tape: &'a Tape,
    inputs: &'a [Rc<Meta>],
    pending: &'a mut BTreeMap<u64, (Rc<Meta>, Rc<Bytes>)>,
}

impl Grads<'_> {
    pub(super) fn wants(&self, i: usize) -> bool {
        self.inputs.get(i).is_some_and(|m| m.needs)
    }

    /// Memory for a gradient, if it is wanted: that of an earlier part, or new.
    pub(super) fn slot(&mut self, i: usize) -> Option<(usize, Rc<Bytes>)> {
        let meta = self.inputs.get(i).filter(|m| m.needs)?.clone();
        let part = if meta.leaf.is_some() { Part::Gradients } else { Part::Activations };
        let grad = self.take(&meta).unwrap_or_else(|| self.tape.meter.alloc(part, meta.bytes));
        Some((i, grad))
    }

    pub(super) fn put(&mut self, slot: Option<(usize, Rc<Bytes>)>) {
        if let Some((i, grad)) = slot {
            self.give(i, grad);
        }
    }

    /// Adds a whole gradient: moved if it is the first part and owned, else added or copied.
    pub(super) fn give(&mut self, i: usize, part: Rc<Bytes>) {
        let Some(meta) = self.inputs.get(i).filter(|m| m.needs).cloned() else { return };
        let copy = |part: &Bytes| self.tape.meter.alloc(Part::Activations, part.size());
        let sum = match self.take(&meta) {
            Some(sum) => {
                let _copied = Rc::ptr_eq(&part, &sum).then(|| copy(&part));
                sum
            }
            None if Rc::strong_count(&part) == 1 => part,
            None => copy(&part),
        };
        match &meta.leaf {
            Some(leaf) => *leaf.borrow_mut() = Some(sum),
            None => drop(self.pending.insert(meta.id, (meta.clone(), sum))),
        }
    }

    fn take(&mut self, meta: &Meta) -> Option<Rc<Bytes>> {
        match &meta.leaf {
            Some(leaf) => leaf.take(),
            None => self.pending.remove(&meta.id).map(|(_, g)| g),
        }
    }
}
