//! What the weight-decomposed low-rank linear allocates, saves and computes.

use std::rc::Rc;

use super::meter::Bytes;
use super::rules::{Layer, Rule};
use super::shadow::{Grads, Meta, Shadow, Tape};

/// What `dora_linear` keeps for backward.
pub(super) struct Dora {
    sizes: [usize; 4],
    dropout: bool,
    bias: bool,
    _x: Shadow,
    _saved: [Rc<Bytes>; 4],
}

impl Tape {
    /// `g ⊙ (x Wᵀ + s (x Aᵀ) Bᵀ) + bias`, the row norms by products of rank r.
    pub(super) fn dora(&self, x: &Shadow, m: usize, l: &Layer, r: usize, magnitude: &Rc<Meta>) -> Shadow {
        let (n, k) = (l.n, l.k);
        let norm = {
            let _temporaries = [r * r, n * r, n * r, n].map(|len| self.alloc(len));
            self.alloc(n)
        };
        let g = self.alloc(n);
        let (v, h) = (self.activations(m * n), self.alloc(m * r));
        let _dropped = l.dropout.then(|| self.activations(m * k));
        drop(self.alloc(m * r));
        let y = self.fresh(m * n);
        let _rest = match (l.dropout, l.has_bias) {
            (true, _) => Some(self.activations(m * k)),
            (false, true) => Some(self.alloc(m * n)),
            (false, false) => None,
        };
        self.meter.forward(2 * m * n * k + 2 * m * r * (n + k) + 2 * n * r * k + 2 * r * r * (k + n));
        if l.dropout {
            self.meter.forward(2 * m * n * k);
        }
        let inputs = [&x.meta, &l.a, &l.b, magnitude, &l.bias];
        self.record(y, &inputs, || {
            let _saved = [v, h, norm, g];
            let (dropout, bias) = (l.dropout, l.has_bias);
            Rule::Dora(Box::new(Dora { sizes: [m, n, k, r], dropout, bias, _x: x.clone(), _saved }))
        })
    }
}

impl Dora {
    pub(super) fn backward(self, grads: &mut Grads<'_>) {
        let tape = grads.tape;
        let [m, n, k, r] = self.sizes;
        let [dx, da, db] = [0, 1, 2].map(|i| grads.slot(i));
        let (has_x, has_a, has_b) = (dx.is_some(), da.is_some(), db.is_some());
        if has_x || has_a || has_b {
            let _t = tape.activations(m * n);
            let _dropped = self.dropout.then(|| tape.activations(m * k));
            let apart = (self.dropout && has_x).then(|| tape.activations(m * k));
            drop(tape.alloc(m * r));
            let one = |wanted: bool, flops: usize| if wanted { flops } else { 0 };
            let branch = one(has_b, 2 * m * n * r) + one(has_a, 2 * m * k * r) + one(has_x, 2 * m * k * r);
            tape.meter.backward(one(has_x || has_a, 2 * m * n * r) + branch + one(has_x, 2 * m * n * k));
            if apart.is_some() {
                let _base_and_difference = [tape.activations(m * k), tape.activations(m * k)];
                tape.meter.backward(2 * m * n * k);
            }
        }
        for slot in [dx, da, db] {
            grads.put(slot);
        }
        let dm = grads.slot(3);
        if dm.is_some() {
            let _product_and_sum = [tape.alloc(m * n), tape.alloc(n)];
        }
        grads.put(dm);
        if self.bias {
            let dbias = grads.slot(4);
            grads.put(dbias);
        }
    }
}
