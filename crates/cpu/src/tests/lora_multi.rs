//! Rows with adapters of their own: each as if alone, and W packed once.

use lowrank_backend::{Error, Linear, Lora, LoraGroup, LoraMulti, Precision, Weight};

use super::*;
use crate::gemm::pack::PACKED;

/// (rows, rank) of each group.
type Groups = [(usize, usize)];

/// Operands on one device.
struct Batch<'b> {
    sizes: [usize; 3],
    groups: &'b Groups,
    precision: Precision,
    add: bool,
    w: T<'b>,
    bias: T<'b>,
    words: T<'b>,
    x: T<'b>,
    gy: T<'b>,
    factors: Vec<(T<'b>, T<'b>)>,
}

impl<'b> Batch<'b> {
    fn new(b: &'b dyn Backend, [n, k]: [usize; 2], groups: &'b Groups, data: fn(u64, usize) -> Vec<f32>) -> Self {
        let m = groups.iter().map(|g| g.0).sum();
        let factor = |(i, g): (usize, &(usize, usize))| {
            let seed = 10 + 2 * i as u64;
            (put(b, &data(seed, g.1 * k)), put(b, &data(seed + 1, n * g.1)))
        };
        Batch {
            sizes: [m, n, k],
            groups,
            precision: Precision::Full,
            add: false,
            w: put(b, &data(1, n * k)),
            bias: put(b, &data(2, n)),
            words: put(b, &scalars()),
            x: put(b, &data(3, m * k)),
            gy: put(b, &data(4, m * n)),
            factors: groups.iter().enumerate().map(factor).collect(),
        }
    }

    fn base(&self, m: usize) -> Linear<'_> {
        let [_, n, k] = self.sizes;
        let (w, bias) = (Weight::Dense(self.w.view()), Some(self.bias.view()));
        Linear { m, n, k, w, bias, precision: self.precision }
    }

    fn old(&self, len: usize) -> T<'b> {
        let b = self.w.backend;
        if self.add { put(b, &integers(7, len)) } else { empty(b, len) }
    }

    /// y, h, dx, then da and db of every group, in one operation.
    fn together(&self) -> Vec<Vec<f32>> {
        let ([m, n, k], b) = (self.sizes, self.w.backend);
        let mut groups = Vec::new();
        for (&(rows, r), (a, b)) in self.groups.iter().zip(&self.factors) {
            groups.push(LoraGroup { rows, r, scale: 0.5 + r as f64, a: a.view(), b: b.view() });
        }
        let op = LoraMulti { base: self.base(m), groups: &groups, scalars: self.words.view() };
        let kept = self.groups.iter().map(|g| g.0 * g.1).sum();
        let (mut y, mut h, mut dx) = (empty(b, m * n), empty(b, kept), self.old(m * k));
        let mut grads: Vec<_> = self.groups.iter().map(|g| (self.old(g.1 * k), self.old(n * g.1))).collect();
        b.lora_multi_forward(&op, self.x.view(), y.out(), h.out()).unwrap();
        let mut slots: Vec<_> =
            grads.iter_mut().map(|(a, b)| [Some(a.slot(self.add)), Some(b.slot(self.add))]).collect();
        let into = Some(dx.slot(self.add));
        b.lora_multi_backward(&op, self.x.view(), h.view(), self.gy.view(), into, &mut slots).unwrap();
        let grads = grads.iter().flat_map(|(a, b)| [a.f32(), b.f32()]);
        [y.f32(), h.f32(), dx.f32()].into_iter().chain(grads).collect()
    }

    /// The same from an operation of its own per group.
    fn alone(&self) -> Vec<Vec<f32>> {
        let ([m, n, k], b) = (self.sizes, self.w.backend);
        let mut outs = vec![Vec::new(), Vec::new(), Vec::new()];
        let (mut start, mut dx) = (0, self.old(m * k));
        for (&(rows, r), (fa, fb)) in self.groups.iter().zip(&self.factors) {
            let base = self.base(rows);
            let x = self.x.view().narrow(start * k, rows * k);
            let gy = self.gy.view().narrow(start * n, rows * n);
            let (mut y, mut h) = (empty(b, rows * n), empty(b, rows * r));
            let (mut da, mut db) = (self.old(r * k), self.old(n * r));
            let into = dx.out().narrow(start * k, rows * k);
            let into = if self.add { into.add() } else { into.set() };
            if r == 0 {
                b.linear_forward(&base, x, y.out()).unwrap();
                b.linear_backward(&base, gy, into).unwrap();
            } else {
                let (scale, a, fb) = (0.5 + r as f64, fa.view(), fb.view());
                let op = Lora { base, r, scale, a, b: fb, dropout: None, scalars: self.words.view() };
                b.lora_forward(&op, x, y.out(), h.out()).unwrap();
                let (sa, sb) = (da.slot(self.add), db.slot(self.add));
                b.lora_backward(&op, x, h.view(), gy, Some(into), Some(sa), Some(sb)).unwrap();
            }
            outs[0].extend(y.f32());
            outs[1].extend(h.f32());
            outs.extend([da.f32(), db.f32()]);
            start += rows;
        }
        outs[2] = dx.f32();
        outs
    }
}

/// Also where ranks decide whether h shares a block of depth (k = 512·i + 500, r up to 28), and above it.
const CASES: [([usize; 2], &Groups); 7] = [
    ([70, 33], &[(20, 3), (17, 0), (40, 8)]),
    ([130, 1012], &[(17, 28), (21, 29), (33, 0), (18, 1)]),
    ([300, 520], &[(40, 5), (64, 600), (17, 12)]),
    ([33, 512], &[(0, 4), (18, 16), (29, 17), (100, 2)]),
    ([513, 511], &[(333, 7), (57, 40)]),
    ([40, 70], &[(4100, 2), (30, 9)]),
    ([40, 70], &[(500, 2), (1300, 9)]),
];

#[test]
fn every_group_has_the_bits_it_has_alone() {
    on_every_path(|cpu| {
        for (sizes, groups) in CASES {
            for (precision, add) in [(Precision::Full, false), (Precision::Full, true), (Precision::Bf16, false)] {
                let batch = Batch { precision, add, ..Batch::new(&cpu, sizes, groups, random) };
                for (i, (got, want)) in batch.together().iter().zip(batch.alone()).enumerate() {
                    // Nothing of a group without rank is written.
                    if i > 2 && groups[(i - 3) / 2].1 == 0 {
                        continue;
                    }
                    let path = cpu.path();
                    assert!(bits(got) == bits(&want), "output {i} of {sizes:?} {groups:?} {precision:?} on {path}");
                }
            }
        }
    });
}

#[test]
fn exact_against_the_definition() {
    let groups: &Groups = &[(20, 3), (5, 2), (17, 0), (1, 1), (0, 2), (40, 8)];
    for add in [false, true] {
        against_reference("lora_multi", 0.0, |b| Batch { add, ..Batch::new(b, [70, 33], groups, integers) }.together());
    }
    // Decoding: nothing but whole operations of the groups.
    let few: &Groups = &[(2, 3), (5, 0), (1, 2)];
    against_reference("lora_multi", 0.0, |b| Batch::new(b, [70, 33], few, integers).together());
}

/// Eight adapters pack W as often as one does, forward and backward; beside it only their factors.
#[test]
fn weights_are_packed_once_for_all_groups() {
    let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let [n, k] = [1100, 1030];
    let packed = |groups: &Groups| {
        let take = || pool.broadcast(|_| PACKED.take()).into_iter().sum::<usize>();
        take();
        pool.install(|| drop(Batch::new(&Cpu::new(), [n, k], groups, random).together()));
        take()
    };
    let (plain, eight) = (packed(&[(144, 0)]), packed(&[(18, 4); 8]));
    assert!(plain >= 2 * n * k, "{plain}: forward and backward pack W");
    // A and B, each as inner and as outer factor, and what their gradients pack.
    let factors = 8 * 2 * 4 * (n + k);
    assert!(eight <= plain + 2 * factors, "{eight} values for eight adapters, {plain} for none");
}

#[test]
fn groups_that_do_not_fit_are_refused() {
    let cpu = Cpu::new();
    let batch = Batch::new(&cpu, [4, 3], &[(20, 1)], random);
    let (a, b) = (batch.factors[0].0.view(), batch.factors[0].1.view());
    let group = LoraGroup { rows: 19, r: 1, scale: 1.0, a, b };
    let op = LoraMulti { base: batch.base(20), groups: &[group], scalars: batch.words.view() };
    let (mut y, mut h) = (empty(&cpu, 80), empty(&cpu, 19));
    let error = cpu.lora_multi_forward(&op, batch.x.view(), y.out(), h.out()).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }) && error.to_string().contains("19 rows of 20"), "{error}");
}
