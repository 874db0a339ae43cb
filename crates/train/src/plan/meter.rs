//! Counts bytes and necessary FLOPs of a run that does not take place.

use std::cell::RefCell;
use std::rc::Rc;

use serde::Serialize;

use super::Memory;

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Weights,
    Adapter,
    Gradients,
    Optimiser,
    Activations,
}

/// Necessary floating-point operations, a product and a sum being two. Element-wise work is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flops {
    /// Of the forward pass.
    pub forward: u64,
    /// Of the backward pass.
    pub backward: u64,
}

impl Flops {
    /// The sum.
    pub fn total(&self) -> u64 {
        self.forward + self.backward
    }

    pub(super) fn times(&self, n: usize) -> Flops {
        Flops { forward: self.forward.saturating_mul(n as u64), backward: self.backward.saturating_mul(n as u64) }
    }
}

#[derive(Default)]
struct State {
    live: Memory,
    peak: Memory,
    flops: Flops,
}

/// The account. Clones are handles on the same one.
#[derive(Clone, Default)]
pub(super) struct Meter(Rc<RefCell<State>>);

/// Some bytes, in use until dropped.
pub(super) struct Bytes {
    meter: Meter,
    part: Part,
    bytes: usize,
}

impl Meter {
    pub(super) fn alloc(&self, part: Part, bytes: usize) -> Rc<Bytes> {
        let mut state = self.0.borrow_mut();
        *field(&mut state.live, part) += bytes;
        if state.live.total() > state.peak.total() {
            state.peak = state.live;
        }
        Rc::new(Bytes { meter: self.clone(), part, bytes })
    }

    pub(super) fn forward(&self, flops: usize) {
        self.0.borrow_mut().flops.forward += flops as u64;
    }

    pub(super) fn backward(&self, flops: usize) {
        self.0.borrow_mut().flops.backward += flops as u64;
    }

    /// What is in use at the moment of most use.
    pub(super) fn peak(&self) -> Memory {
        self.0.borrow().peak
    }

    pub(super) fn flops(&self) -> Flops {
        self.0.borrow().flops
    }
}

impl Bytes {
    pub(super) fn size(&self) -> usize {
        self.bytes
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        *field(&mut self.meter.0.borrow_mut().live, self.part) -= self.bytes;
    }
}

fn field(memory: &mut Memory, part: Part) -> &mut usize {
    match part {
        Part::Weights => &mut memory.weights,
        Part::Adapter => &mut memory.adapter,
        Part::Gradients => &mut memory.gradients,
        Part::Optimiser => &mut memory.optimiser,
        Part::Activations => &mut memory.activations,
    }
}
