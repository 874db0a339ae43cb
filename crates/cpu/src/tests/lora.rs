use half::bf16;
use lowrank_backend::{Dropout, Error, IGNORE, Linear, Lora, LoraEmbedding, Precision, Weight};

use super::*;

struct Case {
    m: usize,
    n: usize,
    k: usize,
    r: usize,
    scale: f64,
    dropout: Option<Dropout>,
    bias: bool,
    half: bool,
    add: bool,
}

const PLAIN: Case = Case { m: 21, n: 40, k: 33, r: 3, scale: 0.5, dropout: None, bias: true, half: false, add: false };

impl Case {
    /// y, h, dx, da, db.
    fn run(&self, b: &dyn Backend, data: fn(u64, usize) -> Vec<f32>) -> Vec<Vec<f32>> {
        let &Case { m, n, k, r, scale, dropout, add, .. } = self;
        let w = data(1, n * k);
        let narrow: Vec<bf16> = w.iter().map(|&x| bf16::from_f32(x)).collect();
        let w = if self.half { put(b, &narrow) } else { put(b, &w) };
        let (bias, a, bb) = (put(b, &data(2, n)), put(b, &data(3, r * k)), put(b, &data(4, n * r)));
        let (x, gy, words) = (put(b, &data(5, m * k)), put(b, &data(6, m * n)), put(b, &scalars()));
        let (mut y, mut h) = (empty(b, m * n), empty(b, m * r));
        let old = |len| if add { put(b, &data(8, len)) } else { empty(b, len) };
        let (mut dx, mut da, mut db) = (old(m * k), old(r * k), old(n * r));
        let base = Linear {
            m,
            n,
            k,
            w: Weight::Dense(w.view()),
            bias: self.bias.then(|| bias.view()),
            precision: Precision::Full,
        };
        let op = Lora { base, r, scale, a: a.view(), b: bb.view(), dropout, scalars: words.view() };
        b.lora_forward(&op, x.view(), y.out(), h.out()).unwrap();
        let (sx, sa, sb) = (dx.slot(add), da.slot(add), db.slot(add));
        b.lora_backward(&op, x.view(), h.view(), gy.view(), Some(sx), Some(sa), Some(sb)).unwrap();
        [y, h, dx, da, db].iter().map(T::f32).collect()
    }
}

#[test]
fn exact_on_integers() {
    // The last four: several spans of rows, and several phases of them, sum dB; one rank is too large for that.
    let sizes = [(1, 1, 1, 1), (16, 7, 300, 8), (17, 129, 31, 16), (64, 257, 65, 70), (0, 3, 4, 2), (20, 0, 5, 2)];
    let tall = [(300, 530, 40, 5), (1100, 40, 33, 16), (2050, 70, 20, 17), (300, 40, 33, 65)];
    for (m, n, k, r) in sizes.into_iter().chain(tall) {
        for add in [false, true] {
            let case = Case { m, n, k, r, add, bias: m > 0, ..PLAIN };
            against_reference(&format!("lora {m} {n} {k} {r}"), 0.0, |b| case.run(b, integers));
        }
    }
}

#[test]
fn rounding_stays_small() {
    let dropout = Some(Dropout { p: 0.4, seed: 11, stream: 2 });
    for (m, add) in [(5, true), (150, false), (1100, true)] {
        for dropout in [None, dropout] {
            for half in [false, true] {
                let case = Case { m, n: 130, k: 300, r: 8, scale: 1.7, dropout, half, add, bias: half };
                against_reference("lora", 3e-6, |b| case.run(b, random));
            }
        }
    }
}

/// A row gives the same bits alone (above the decode path) and in any batch; so does its dx.
#[test]
fn rows_do_not_depend_on_the_batch() {
    on_every_path(|cpu| {
        let (n, k, r) = (200, 600, 5);
        let run = |rows: std::ops::Range<usize>| {
            let m = rows.len();
            let (w, a, bb) = (put(&cpu, &random(1, n * k)), put(&cpu, &random(2, r * k)), put(&cpu, &random(3, n * r)));
            let x = put(&cpu, &random(4, 200 * k)[rows.start * k..rows.end * k]);
            let gy = put(&cpu, &random(5, 200 * n)[rows.start * n..rows.end * n]);
            let words = put(&cpu, &scalars());
            let base = Linear { m, n, k, w: Weight::Dense(w.view()), bias: None, precision: Precision::Full };
            let op = Lora { base, r, scale: 0.3, a: a.view(), b: bb.view(), dropout: None, scalars: words.view() };
            let (mut y, mut h, mut dx) = (empty(&cpu, m * n), empty(&cpu, m * r), empty(&cpu, m * k));
            cpu.lora_forward(&op, x.view(), y.out(), h.out()).unwrap();
            cpu.lora_backward(&op, x.view(), h.view(), gy.view(), Some(dx.set()), None, None).unwrap();
            [(y, n), (h, r), (dx, k)].map(|(t, cols)| (bits(&t.f32()), cols))
        };
        let all = run(0..200);
        for rows in [0..17, 60..77, 183..200, 50..179] {
            for ((part, cols), (all, _)) in run(rows.clone()).iter().zip(&all) {
                assert!(part[..] == all[rows.start * cols..rows.end * cols], "{rows:?}");
            }
        }
    });
}

#[test]
fn only_what_is_wanted_is_computed_and_temporaries_are_small() {
    on_every_path(|cpu| {
        let (m, n, k, r) = (64, 300, 200, 4);
        let (w, a, bb) = (put(&cpu, &random(1, n * k)), put(&cpu, &random(2, r * k)), put(&cpu, &random(3, n * r)));
        let (x, gy, words) = (put(&cpu, &random(4, m * k)), put(&cpu, &random(5, m * n)), put(&cpu, &scalars()));
        let base = Linear { m, n, k, w: Weight::Dense(w.view()), bias: None, precision: Precision::Full };
        let dropout = Some(Dropout { p: 0.5, seed: 1, stream: 0 });
        let op = Lora { base, r, scale: 2.0, a: a.view(), b: bb.view(), dropout, scalars: words.view() };
        let (mut y, mut h, mut dx) = (empty(&cpu, m * n), empty(&cpu, m * r), empty(&cpu, m * k));
        cpu.reset_peak();
        let live = cpu.stats().bytes_live;
        cpu.lora_forward(&op, x.view(), y.out(), h.out()).unwrap();
        cpu.lora_backward(&op, x.view(), h.view(), gy.view(), Some(dx.set()), None, None).unwrap();
        assert!(cpu.stats().bytes_peak <= live + (m * r * 4) as u64);
        cpu.lora_backward(&op, x.view(), h.view(), gy.view(), None, None, None).unwrap();
    });
}

#[test]
fn the_linear_layer_alone() {
    for (m, n, k) in [(1, 1, 1), (4, 70, 33), (40, 130, 257)] {
        against_reference("linear", 0.0, |b| {
            let (x, w, bias) = (put(b, &integers(1, m * k)), put(b, &integers(2, n * k)), put(b, &integers(3, n)));
            let gy = put(b, &integers(4, m * n));
            let weight = Weight::Dense(w.view());
            let op = Linear { m, n, k, w: weight, bias: Some(bias.view()), precision: Precision::Full };
            let (mut y, mut dx, mut copy) = (empty(b, m * n), put(b, &integers(5, m * k)), empty(b, n * k));
            b.linear_forward(&op, x.view(), y.out()).unwrap();
            b.linear_backward(&op, gy.view(), dx.add()).unwrap();
            b.dequantise(weight, copy.out()).unwrap();
            vec![y.f32(), dx.f32(), copy.f32()]
        });
    }
}

#[test]
fn the_embedding() {
    for (vocab, dim, count, r, add) in
        [(1, 1, 1, 1, false), (50, 70, 33, 4, true), (50, 300, 5, 3, false), (9, 4, 0, 2, true)]
    {
        against_reference("lora_embedding", 0.0, |b| {
            let (w, a, bb) =
                (put(b, &integers(1, vocab * dim)), put(b, &integers(2, r * vocab)), put(b, &integers(3, dim * r)));
            let ids: Vec<u32> = (0..count as u32).map(|i| i * 7 % 11 % vocab as u32).collect();
            let (ids, gy) = (put(b, &ids), put(b, &integers(4, count * dim)));
            let op = LoraEmbedding {
                vocab,
                dim,
                count,
                r,
                scale: 2.0,
                w: w.view(),
                a: a.view(),
                b: bb.view(),
                ids: ids.view(),
                precision: Precision::Full,
            };
            let (mut y, mut h) = (empty(b, count * dim), empty(b, count * r));
            let (mut da, mut db) = (put(b, &integers(5, r * vocab)), put(b, &integers(6, dim * r)));
            b.lora_embedding_forward(&op, y.out(), h.out()).unwrap();
            b.lora_embedding_backward(&op, h.view(), gy.view(), Some(da.slot(add)), Some(db.slot(add))).unwrap();
            [y, h, da, db].iter().map(T::f32).collect()
        });
    }
}

#[test]
fn an_id_outside_is_named() {
    on_every_path(|cpu| {
        let (w, a, b) = (put(&cpu, &[0.0f32; 6]), put(&cpu, &[0.0f32; 3]), put(&cpu, &[0.0f32; 2]));
        let ids = put(&cpu, &[0u32, IGNORE]);
        let op = LoraEmbedding {
            vocab: 3,
            dim: 2,
            count: 2,
            r: 1,
            scale: 1.0,
            w: w.view(),
            a: a.view(),
            b: b.view(),
            ids: ids.view(),
            precision: Precision::Full,
        };
        let (mut y, mut h) = (empty(&cpu, 4), empty(&cpu, 2));
        let error = cpu.lora_embedding_forward(&op, y.out(), h.out()).unwrap_err();
        assert!(matches!(&error, Error::Invalid { detail, .. } if detail.contains("ids[1] is 4294967295")), "{error}");
    });
}
