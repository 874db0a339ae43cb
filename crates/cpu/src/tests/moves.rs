use half::{bf16, f16};
use lowrank_backend::{Block, Rows};

use super::*;

#[test]
fn copies_of_blocks() {
    let blocks = [
        (1, 7, 7, 7),
        (3, 4, 4, 4),
        (3, 4, 9, 4),
        (3, 4, 4, 10),
        (5, 3, 0, 3),
        (300, 200, 0, 201),
        (0, 3, 3, 3),
        (4, 0, 0, 0),
        (1, 20_000, 0, 0),
    ];
    for (rows, cols, src_stride, dst_stride) in blocks {
        let op = Block { rows, cols, src_stride, dst_stride };
        against_reference(&format!("{op:?}"), 0.0, |b| {
            let x = put(b, &integers(1, op.src_len()));
            let (mut y, mut z) = (put(b, &integers(2, op.dst_len())), put(b, &integers(3, op.dst_len())));
            b.copy(&op, x.view(), y.set()).unwrap();
            b.copy(&op, x.view(), z.add()).unwrap();
            vec![y.f32(), z.f32()]
        });
    }
    let cpu = Cpu::new();
    let (x, mut y) = (put(&cpu, &[1u32, 2, 3, 4]), put(&cpu, &[0u32; 4]));
    let op = Block { rows: 2, cols: 1, src_stride: 2, dst_stride: 3 };
    cpu.copy(&op, x.view().narrow(0, 3), y.set()).unwrap();
    assert_eq!(y.get::<u32>(), [1, 0, 0, 3]);
    assert!(cpu.copy(&op, x.view().narrow(0, 3), y.add()).is_err(), "indices have no sum");
    assert!(cpu.copy(&Block { src_stride: usize::MAX, rows: 3, ..op }, x.view(), y.set()).is_err());
    let overlap = Block { rows: 2, cols: 2, src_stride: 2, dst_stride: 1 };
    assert!(cpu.copy(&overlap, x.view(), y.set()).is_err());
}

#[test]
fn fill_takes_what_the_dtype_holds() {
    let cpu = Cpu::new();
    let (mut x, mut ids) = (empty(&cpu, 20_000), put(&cpu, &[0u32; 3]));
    cpu.fill(-2.5, x.out()).unwrap();
    cpu.fill(7.0, ids.out()).unwrap();
    assert!(x.f32().iter().all(|&x| x == -2.5));
    assert_eq!(ids.get::<u32>(), [7; 3]);
    assert!(cpu.fill(0.5, ids.out()).is_err());
    let mut half = put(&cpu, &[f16::ZERO; 2]);
    cpu.fill(1.5, half.out()).unwrap();
    assert_eq!(half.get::<f16>(), [f16::from_f32(1.5); 2]);
}

#[test]
fn permutations() {
    let cases: [(&[usize], &[usize]); 9] = [
        (&[3, 5], &[1, 0]),
        (&[2, 3, 4], &[2, 0, 1]),
        (&[2, 70, 4, 33], &[0, 2, 1, 3]),
        (&[300, 200], &[1, 0]),
        (&[1, 5, 1], &[2, 1, 0]),
        (&[], &[]),
        (&[4, 0, 2], &[1, 2, 0]),
        (&[2, 3, 2, 3, 2, 3], &[5, 3, 1, 0, 2, 4]),
        (&[6, 7], &[0, 1]),
    ];
    for (dims, perm) in cases {
        against_reference(&format!("{dims:?} {perm:?}"), 0.0, |b| {
            let x = integers(1, dims.iter().product());
            let narrow: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
            let (mut y, mut z) = (empty(b, x.len()), put(b, &integers(2, x.len())));
            let (x, narrow) = (put(b, &x), put(b, &narrow));
            let mut n = put(b, &vec![bf16::ONE; x.len]);
            b.permute(dims, perm, x.view(), y.set()).unwrap();
            b.permute(dims, perm, x.view(), z.add()).unwrap();
            b.permute(dims, perm, narrow.view(), n.set()).unwrap();
            vec![y.f32(), z.f32(), n.get::<bf16>().iter().map(|x| x.to_f32()).collect()]
        });
    }
    let cpu = Cpu::new();
    let (x, mut y) = (put(&cpu, &[1.0f32; 4]), empty(&cpu, 4));
    assert!(cpu.permute(&[2, 2], &[0, 0], x.view(), y.set()).is_err());
    assert!(cpu.permute(&[2, 2], &[0], x.view(), y.set()).is_err());
}

#[test]
fn rows_are_gathered_and_scattered() {
    for (rows, width, count) in [(5, 3, 9), (40, 5000, 7), (3, 130, 400), (2, 4, 0), (3, 0, 5)] {
        against_reference(&format!("{rows} {width} {count}"), 0.0, |b| {
            let op = Rows { rows, width, count };
            let ids: Vec<u32> = (0..count as u32).map(|i| i * i % rows as u32).collect();
            let table = integers(1, rows * width);
            let narrow: Vec<bf16> = table.iter().map(|&x| bf16::from_f32(x)).collect();
            let (ids, table, narrow) = (put(b, &ids), put(b, &table), put(b, &narrow));
            let (mut y, mut z) = (empty(b, count * width), put(b, &integers(2, count * width)));
            b.gather(&op, narrow.view(), ids.view(), y.set()).unwrap();
            b.gather(&op, table.view(), ids.view(), z.add()).unwrap();
            let (mut s, mut t) = (empty(b, rows * width), put(b, &integers(3, rows * width)));
            b.scatter_add(&op, ids.view(), z.view(), s.set()).unwrap();
            b.scatter_add(&op, ids.view(), y.view(), t.add()).unwrap();
            [y, z, s, t].iter().map(T::f32).collect()
        });
    }
    let cpu = Cpu::new();
    let (table, ids, mut y) = (put(&cpu, &[0.0f32; 6]), put(&cpu, &[0u32, 3]), empty(&cpu, 4));
    let error = cpu.gather(&Rows { rows: 3, width: 2, count: 2 }, table.view(), ids.view(), y.set()).unwrap_err();
    assert_eq!(error.to_string(), "gather: ids[1] is 3, the table has only 3 rows");
}
