use half::{bf16, f16};
use lowrank_backend::{Broadcast, Dropout, Map, Reduce, Zip};

use super::*;

const MAPS: [Map; 15] = [
    Map::Copy,
    Map::Affine(2.0, -0.5),
    Map::Exp,
    Map::Log,
    Map::Sqrt,
    Map::Recip,
    Map::Square,
    Map::Tanh,
    Map::Min(0.25),
    Map::Max(0.25),
    Map::Relu,
    Map::Silu,
    Map::GeluErf,
    Map::GeluTanh,
    Map::Affine(0.0, 1.0),
];

#[test]
fn maps_equal_their_definitions() {
    for op in MAPS {
        for len in [0, 1, 5000, 40_000] {
            against_reference(&format!("{op:?}"), 2e-6, |b| {
                // Away from 0, where 1/x and ln x have no small absolute error.
                let x: Vec<f32> = random(1, len).iter().map(|x| x * 3.0 + x.signum() * 0.1).collect();
                let (x, mut y, mut z) = (put(b, &x), empty(b, len), put(b, &random(2, len)));
                b.map(op, x.view(), y.set()).unwrap();
                b.map(op, x.view(), z.add()).unwrap();
                vec![y.f32(), z.f32()]
            });
        }
    }
}

#[test]
fn nan_and_infinities_as_in_the_reference() {
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-40, -100.0, 100.0];
    for op in MAPS {
        against_reference(&format!("{op:?}"), 1e-6, |b| {
            let (x, mut y) = (put(b, &special), empty(b, special.len()));
            b.map(op, x.view(), y.set()).unwrap();
            vec![y.f32()]
        });
    }
}

#[test]
fn storage_dtypes_convert_and_compute() {
    against_reference("half", 0.0, |b| {
        let x = random(1, 5000);
        let h: Vec<f16> = x.iter().map(|&x| f16::from_f32(x)).collect();
        let (x, h) = (put(b, &x), put(b, &h));
        let (mut down, mut up) = (put(b, &vec![bf16::NAN; 5000]), empty(b, 5000));
        b.map(Map::Copy, x.view(), down.set()).unwrap();
        b.map(Map::Affine(2.0, 0.0), h.view(), down.add()).unwrap();
        b.zip(Zip::Mul, &Broadcast::same(5000), down.view(), h.view(), up.set()).unwrap();
        let mut sums = put(b, &[bf16::ZERO; 50]);
        b.reduce(Reduce::Max, [50, 100, 1], down.view(), sums.set()).unwrap();
        vec![
            up.f32(),
            down.get::<bf16>().iter().map(|x| x.to_f32()).collect(),
            sums.get::<bf16>().iter().map(|x| x.to_f32()).collect(),
        ]
    });
}

const ZIPS: [Zip; 9] = [
    Zip::Add,
    Zip::Sub,
    Zip::Mul,
    Zip::Div,
    Zip::Equal,
    Zip::ReluGrad,
    Zip::SiluGrad,
    Zip::GeluErfGrad,
    Zip::GeluTanhGrad,
];

#[test]
fn zips_broadcast_in_every_way() {
    let shapes: [(&[usize], &[usize]); 11] = [
        (&[7], &[7]),
        (&[1], &[300]),
        (&[50, 100], &[1, 100]),
        (&[50, 100], &[50, 1]),
        (&[50, 1], &[1, 100]),
        (&[3, 1, 5, 1], &[1, 4, 5, 6]),
        (&[2, 3, 4], &[1, 1, 1]),
        (&[90, 70, 10], &[90, 70, 10]),
        (&[], &[]),
        (&[0, 4], &[1, 4]),
        (&[2, 1, 3, 1, 2, 1], &[1, 5, 1, 2, 1, 4]),
    ];
    for (sa, sb) in shapes {
        let dims = Broadcast::new(sa, sb).unwrap();
        let (na, nb, len) = dims.lens();
        for op in ZIPS {
            against_reference(&format!("{op:?} {sa:?} {sb:?}"), 1e-5, |b| {
                let away = |x: Vec<f32>| x.iter().map(|x| x + x.signum() * 0.5).collect::<Vec<_>>();
                let (x, z) = (put(b, &away(random(1, na))), put(b, &away(random(2, nb))));
                let (mut y, mut w) = (empty(b, len), put(b, &random(3, len)));
                b.zip(op, &dims, x.view(), z.view(), y.set()).unwrap();
                b.zip(op, &dims, x.view(), z.view(), w.add()).unwrap();
                vec![y.f32(), w.f32()]
            });
        }
    }
}

#[test]
fn indices_can_be_compared() {
    against_reference("equal", 0.0, |b| {
        let (rows, classes) = (put(b, &[2u32, 0, u32::MAX]), put(b, &[0u32, 1, 2, 3]));
        let mut y = empty(b, 12);
        b.zip(Zip::Equal, &Broadcast::new(&[3, 1], &[1, 4]).unwrap(), rows.view(), classes.view(), y.set()).unwrap();
        vec![y.f32()]
    });
}

#[test]
fn reductions() {
    let dims = [
        [1, 1, 1],
        [3, 5, 7],
        [1, 300_000, 1],
        [1, 70, 200],
        [900, 100, 1],
        [4, 0, 3],
        [2, 0, 1],
        [0, 3, 2],
        [5, 9, 0],
    ];
    for dims in dims {
        for op in [Reduce::Sum, Reduce::Max] {
            against_reference(&format!("{op:?} {dims:?}"), 1e-6, |b| {
                let mut x = random(1, dims.iter().product());
                if op == Reduce::Max && x.len() > 20 {
                    x[17] = f32::NAN;
                }
                let x = put(b, &x);
                let (mut y, mut z) = (empty(b, dims[0] * dims[2]), put(b, &integers(2, dims[0] * dims[2])));
                b.reduce(op, dims, x.view(), y.set()).unwrap();
                b.reduce(op, dims, x.view(), z.add()).unwrap();
                vec![y.f32(), z.f32()]
            });
        }
    }
}

#[test]
fn dropout_is_its_definition() {
    for len in [0, 1, 50_001] {
        against_reference("dropout", 3e-7, |b| {
            let op = Dropout { p: 0.25, seed: 42, stream: 7 };
            let (x, words) = (put(b, &random(1, len)), put(b, &scalars()));
            let (mut y, mut z) = (empty(b, len), put(b, &random(2, len)));
            b.dropout(&op, words.view(), x.view(), y.set()).unwrap();
            b.dropout(&op, words.view(), x.view(), z.add()).unwrap();
            vec![y.f32(), z.f32()]
        });
    }
    let cpu = Cpu::new();
    let (x, words, mut y) = (put(&cpu, &[1.0f32]), put(&cpu, &scalars()), empty(&cpu, 1));
    let op = Dropout { p: 1.0, seed: 0, stream: 0 };
    assert!(cpu.dropout(&op, words.view(), x.view(), y.set()).unwrap_err().to_string().contains("p = 1"));
}
