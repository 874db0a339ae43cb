//! What each operation allocates, saves and computes; the counterpart of `lowrank-core`'s `ops` and the CPU's kernels.
//!
//! FLOPs are the necessary ones: a low-rank linear of m rows costs 2mnk + 2mr(n+k) forward and 2mnk + 4mr(n+k) backward,
//! and what no gradient is wanted of costs nothing.

use std::rc::Rc;

use super::bottleneck::Bottleneck;
use super::dora::Dora;
use super::meter::Bytes;
use super::shadow::{Grads, Meta, Shadow, Tape};

/// What is saved for backward, with the sizes that backward allocates by.
pub(super) enum Rule {
    Linear {
        mnk: [usize; 3],
        _x: Option<Shadow>,
    },
    Lora {
        mnk: [usize; 3],
        r: usize,
        _x: Shadow,
        _h: Rc<Bytes>,
        _pair: Vec<Shadow>,
    },
    Dora(Box<Dora>),
    LoraEmbedding {
        count: usize,
        dim: usize,
        r: usize,
        _h: Rc<Bytes>,
    },
    /// Gradients of all inputs, nothing else.
    Plain {
        flops: usize,
        _saved: Vec<Shadow>,
        _more: Option<Rc<Bytes>>,
    },
    Reshape,
    /// Its first part is trained, the other frozen.
    Concat,
    Add,
    CrossEntropy {
        logits: Rc<Bytes>,
        _lse: Rc<Bytes>,
    },
}

impl Rule {
    pub(super) fn backward(self, gy: Rc<Bytes>, grads: &mut Grads<'_>) {
        let tape = grads.tape;
        match self {
            Rule::Linear { mnk: [m, n, k], .. } => {
                for i in 0..3 {
                    let slot = grads.slot(i);
                    if slot.is_some() && i < 2 {
                        tape.meter.backward(2 * m * n * k);
                    }
                    grads.put(slot);
                }
            }
            Rule::Lora { mnk: [m, n, k], r, .. } => {
                let [dx, dw, da, db] = [0, 1, 2, 3].map(|i| grads.slot(i));
                let (has_x, has_a, has_b) = (dx.is_some(), da.is_some(), db.is_some());
                {
                    // u = s gy B.
                    let _u = (has_x || has_a).then(|| tape.alloc(m * r));
                    let u = if has_x || has_a { 2 * m * n * r } else { 0 };
                    let one = |wanted: bool, flops: usize| if wanted { flops } else { 0 };
                    let branch = one(has_b, 2 * m * n * r) + one(has_a, 2 * m * k * r) + one(has_x, 2 * m * k * r);
                    tape.meter.backward(u + branch + (usize::from(has_x) + usize::from(dw.is_some())) * 2 * m * n * k);
                }
                for slot in [dx, dw, da, db] {
                    grads.put(slot);
                }
                let dbias = grads.slot(4);
                grads.put(dbias);
            }
            Rule::Dora(dora) => dora.backward(grads),
            Rule::LoraEmbedding { count, dim, r, .. } => {
                let slots = [0, 1, 2].map(|i| grads.slot(i));
                drop(slots[1].is_some().then(|| tape.alloc(count * r)));
                let products = usize::from(slots[1].is_some()) + usize::from(slots[2].is_some());
                tape.meter.backward(products * 2 * count * dim * r);
                slots.into_iter().for_each(|slot| grads.put(slot));
            }
            Rule::Plain { flops, .. } => {
                tape.meter.backward(flops);
                let slots = [0, 1, 2].map(|i| grads.slot(i));
                slots.into_iter().for_each(|slot| grads.put(slot));
            }
            Rule::Reshape => grads.give(0, gy),
            Rule::Concat => {
                let slot = grads.slot(0);
                grads.put(slot);
            }
            Rule::Add => match (grads.wants(0), grads.wants(1)) {
                (true, true) => {
                    grads.give(0, gy.clone());
                    grads.give(1, gy);
                }
                (true, false) => grads.give(0, gy),
                (false, _) => grads.give(1, gy),
            },
            Rule::CrossEntropy { logits, .. } => grads.give(0, logits),
        }
    }
}

/// A linear layer's trainable parts and rank.
pub(super) struct Layer {
    /// Behind the layer.
    pub(super) bottleneck: Option<Bottleneck>,
    /// DoRA's magnitudes.
    pub(super) magnitude: Option<Rc<Meta>>,
    pub(super) dropout: bool,
    pub(super) has_bias: bool,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) rank: Option<usize>,
    /// Its init took a pair of the same rank off the base; stands for every frozen tensor.
    pub(super) offset: Option<Rc<Meta>>,
    /// W, A, B, bias: frozen ones have `needs` false.
    pub(super) w: Rc<Meta>,
    pub(super) a: Rc<Meta>,
    pub(super) b: Rc<Meta>,
    pub(super) bias: Rc<Meta>,
}

impl Tape {
    /// `x Wᵀ + bias` of m rows, with the low-rank branch and the bottleneck if the layer has them.
    pub(super) fn linear(&self, x: &Shadow, m: usize, l: &Layer) -> Shadow {
        let y = self.adapted(x, m, l);
        match &l.bottleneck {
            None => y,
            Some(b) => self.bottleneck(&y, [m, l.n], b),
        }
    }

    fn adapted(&self, x: &Shadow, m: usize, l: &Layer) -> Shadow {
        let (n, k) = (l.n, l.k);
        if let (Some(r), Some(magnitude)) = (l.rank, &l.magnitude) {
            return self.dora(x, m, l, r, magnitude);
        }
        match (l.rank, &l.offset) {
            (None, _) => self.product(x, [m, n, k], [&l.w, &l.bias]),
            (Some(r), None) => self.lora(x, [m, n, k], r, [&l.w, &l.a, &l.b, &l.bias], Vec::new()),
            (Some(r), Some(o)) if !l.dropout => {
                let joined = |part: &Rc<Meta>, len: usize| self.record(self.fresh_wide(len), &[part], || Rule::Concat);
                let (a, b) = (joined(&l.a, 2 * r * k), joined(&l.b, 2 * r * n));
                self.lora(x, [m, n, k], 2 * r, [&l.w, &a.meta, &b.meta, &l.bias], vec![a.clone(), b.clone()])
            }
            (Some(r), Some(o)) => {
                let y = self.lora(x, [m, n, k], r, [&l.w, o, o, &l.bias], Vec::new());
                let plain = |x: &Shadow| {
                    let y = self.fresh(x.meta.bytes / self.size);
                    self.record(y, &[&x.meta], || Rule::Plain { flops: 0, _saved: Vec::new(), _more: None })
                };
                let h = self.product(&plain(x), [m, r, k], [&l.a, o]);
                self.add(&y, &plain(&self.product(&h, [m, n, r], [&l.b, o])))
            }
        }
    }

    pub(super) fn product(&self, x: &Shadow, [m, n, k]: [usize; 3], [w, bias]: [&Rc<Meta>; 2]) -> Shadow {
        let y = self.fresh(m * n);
        self.meter.forward(2 * m * n * k);
        let saved = w.needs.then(|| x.clone());
        self.record(y, &[&x.meta, w, bias], || Rule::Linear { mnk: [m, n, k], _x: saved })
    }

    /// `pair` is what of A and B must be kept because nobody else does.
    fn lora(
        &self,
        x: &Shadow,
        [m, n, k]: [usize; 3],
        r: usize,
        [w, a, b, bias]: [&Rc<Meta>; 4],
        pair: Vec<Shadow>,
    ) -> Shadow {
        let y = self.fresh(m * n);
        self.meter.forward(2 * m * n * k);
        let h = self.alloc(m * r);
        // s h, for the time of the call.
        drop(self.alloc(m * r));
        self.meter.forward(2 * m * r * (n + k));
        let inputs = [&x.meta, w, a, b, bias];
        self.record(y, &inputs, || Rule::Lora { mnk: [m, n, k], r, _x: x.clone(), _h: h, _pair: pair })
    }

    /// Rows of a table, with the low-rank branch if the layer has one. `l` is `[dim, vocab]`.
    pub(super) fn embedding(&self, count: usize, l: &Layer) -> Shadow {
        let dim = l.n;
        let y = self.fresh(count * dim);
        let Some(r) = l.rank else {
            return self.record(y, &[&l.w], || Rule::Plain { flops: 0, _saved: Vec::new(), _more: None });
        };
        let h = self.alloc(count * r);
        drop(self.alloc(count * r));
        self.meter.forward(2 * count * dim * r);
        self.record(y, &[&l.w, &l.a, &l.b], || Rule::LoraEmbedding { count, dim, r, _h: h })
    }

    /// A norm over the last dimension of m rows.
    pub(super) fn norm(&self, x: &Shadow, m: usize, w: &Rc<Meta>) -> Shadow {
        let y = self.fresh(x.meta.bytes / self.size);
        let rstd = self.alloc(m);
        self.record(y, &[&x.meta, w], || Rule::Plain { flops: 0, _saved: vec![x.clone()], _more: Some(rstd) })
    }

    pub(super) fn rope(&self, x: &Shadow) -> Shadow {
        let y = self.fresh(x.meta.bytes / self.size);
        self.record(y, &[&x.meta], || Rule::Plain { flops: 0, _saved: Vec::new(), _more: None })
    }

    pub(super) fn reshape(&self, x: &Shadow) -> Shadow {
        self.record(self.alias(x), &[&x.meta], || Rule::Reshape)
    }

    /// Causal attention; `rows` is batch · heads · queries, `pairs` batch · heads · (query, key) pairs that are seen.
    /// Forward two products over them, backward four: probabilities computed again are no necessary work.
    pub(super) fn attention(&self, [q, k, v]: [&Shadow; 3], rows: usize, pairs: usize, dim: usize) -> Shadow {
        let y = self.fresh(q.meta.bytes / self.size);
        let lse = self.alloc(rows);
        self.meter.forward(4 * pairs * dim);
        let saved = y.clone();
        self.record(y, &[&q.meta, &k.meta, &v.meta], || Rule::Plain {
            flops: 8 * pairs * dim,
            _saved: vec![q.clone(), k.clone(), v.clone(), saved],
            _more: Some(lse),
        })
    }

    pub(super) fn swiglu(&self, gate: &Shadow, up: &Shadow) -> Shadow {
        let y = self.fresh(gate.meta.bytes / self.size);
        let saved = || vec![gate.clone(), up.clone()];
        self.record(y, &[&gate.meta, &up.meta], || Rule::Plain { flops: 0, _saved: saved(), _more: None })
    }

    pub(super) fn add(&self, a: &Shadow, b: &Shadow) -> Shadow {
        let y = self.fresh(a.meta.bytes / self.size);
        self.record(y, &[&a.meta, &b.meta], || Rule::Add)
    }

    /// Takes the logits, over which backward writes their gradient.
    pub(super) fn cross_entropy(&self, logits: Shadow, rows: usize) -> Shadow {
        let (loss, lse) = (self.fresh_wide(1), self.alloc(rows));
        let Shadow { meta, storage } = logits;
        self.record(loss, &[&meta], || Rule::CrossEntropy { logits: storage, _lse: lse })
    }
}
