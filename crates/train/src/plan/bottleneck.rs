//! What the bottleneck behind a layer allocates, saves and computes.

use std::rc::Rc;

use super::rules::Rule;
use super::shadow::{Meta, Shadow, Tape};

/// The trainable parts: W_down, b_d, W_up, b_u.
pub(super) struct Bottleneck {
    pub(super) r: usize,
    pub(super) parts: [Rc<Meta>; 4],
}

impl Tape {
    /// `y + W_up gelu(W_down y + b_d) + b_u` of m rows with n elements.
    pub(super) fn bottleneck(&self, y: &Shadow, [m, n]: [usize; 2], b: &Bottleneck) -> Shadow {
        let [down, down_bias, up, up_bias] = &b.parts;
        let h = self.gelu(&self.product(y, [m, b.r, n], [down, down_bias]));
        self.add(y, &self.product(&h, [m, n, b.r], [up, up_bias]))
    }

    fn gelu(&self, x: &Shadow) -> Shadow {
        let y = self.fresh(x.meta.bytes / self.size);
        self.record(y, &[&x.meta], || Rule::Plain { flops: 0, _saved: vec![x.clone()], _more: None })
    }
}
