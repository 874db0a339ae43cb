//! The moving, elementwise and optimiser kernels and the small ones between products on ptxsim: right and without a finding
//! as they are, and wrong or found out with a barrier removed, a bound off by one, or a step doubled.

mod faults;

use faults::*;
use ptxsim::{Arg, Memory};

#[test]
fn copy() {
    // 9 rows of 7 of a matrix with rows of 11, to one with rows of 8.
    let x = integers(1, 9 * 11 - 4);
    let copied = |y: &[f32]| (0..71).all(|i| y[i] == if i % 8 < 7 { x[i / 8 * 11 + i % 8] } else { 9.0 });
    for (entry, of) in [("copy_f32", BOTH[0]), ("copy_bf16", BOTH[1])] {
        shows(lowrank_kernels::COPY, entry, &[("setp.", 0, off_by_one)], |ptx| {
            let mut mem = Memory::new();
            let (from, to) = (of.upload(&mut mem, &x), of.upload(&mut mem, &[9.0; 9 * 8 - 1]));
            let args = [ptrs(&[to, from]), u64s(&[63, 7, 11, 8]), u32s(&[0])].concat();
            run(ptx, &mut mem, &Call { entry, blocks: 1, args })?;
            Some(copied(&of.read(&mem, to, 71)))
        });
    }
    shows(lowrank_kernels::COPY, "copy_f16", &[("setp.", 0, off_by_one)], |ptx| {
        let mut mem = Memory::new();
        let (from, to) = (mem.upload(&[7u16, 8, 9]), mem.upload(&[0u16; 3]));
        let args = [ptrs(&[to, from]), u64s(&[3, 3, 3, 3]), u32s(&[0])].concat();
        run(ptx, &mut mem, &Call { entry: "copy_f16", blocks: 1, args })?;
        Some(mem.download::<u16>(to, 3).unwrap() == [7, 8, 9])
    });
}

#[test]
fn fill() {
    for (entry, bytes) in [("fill_32", 4), ("fill_16", 2)] {
        shows(lowrank_kernels::COPY, entry, &[("setp.", 0, off_by_one)], |ptx| {
            let mut mem = Memory::new();
            let to = mem.alloc(255 * bytes);
            let args = [ptrs(&[to]), u64s(&[255]), u32s(&[0x0607_0809])].concat();
            run(ptx, &mut mem, &Call { entry, blocks: 1, args })?;
            let want = &0x0607_0809u32.to_le_bytes()[..bytes];
            Some(mem.download::<u8>(to, 255 * bytes).unwrap().chunks(bytes).all(|v| v == want))
        });
    }
}

#[test]
fn map() {
    let x = integers(2, 255);
    shows(lowrank_kernels::MAP, "map", &[("min.u64", 0, unbounded)], |ptx| {
        let mut mem = Memory::new();
        let (from, to) = (ptr(&mut mem, &x), ptr(&mut mem, &[0.0; 255]));
        let args = [ptrs(&[to, from]), u64s(&[255]), u32s(&[0, 0, 0, 6]), vec![Arg::F32(0.0), Arg::F32(0.0)]].concat();
        run(ptx, &mut mem, &Call { entry: "map", blocks: 1, args })?;
        Some(mem.download::<f32>(to, 255).unwrap().iter().zip(&x).all(|(y, x)| *y == x * x))
    });
}

#[test]
fn zip() {
    // [70] and [1] by the general kernel.
    let (a, b) = (integers(3, 70), [3.0f32]);
    shows(lowrank_kernels::ZIP, "zip", &[("setp.", 0, off_by_one)], |ptx| {
        let mut mem = Memory::new();
        let (x, y, to) = (ptr(&mut mem, &a), ptr(&mut mem, &b), ptr(&mut mem, &[0.0; 70]));
        let dims: Vec<u64> = [[70, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0], [0; 6]].concat();
        let dims = Arg::Bytes(dims.iter().flat_map(|d| d.to_le_bytes()).collect());
        let args = [ptrs(&[to, x, y]), u64s(&[70]), u32s(&[0, 0, 0, 0, 2, 1]), vec![dims]].concat();
        run(ptx, &mut mem, &Call { entry: "zip", blocks: 1, args })?;
        Some(mem.download::<f32>(to, 70).unwrap().iter().zip(&a).all(|(y, a)| *y == 3.0 * a))
    });
}

#[test]
fn zip_same() {
    let (a, b) = (integers(23, 255), integers(24, 255));
    shows(lowrank_kernels::ZIP, "zip_same", &[("min.u64", 0, unbounded)], |ptx| {
        let mut mem = Memory::new();
        let [x, y, to] = [&a, &b, &vec![9.0; 255]].map(|v| mem.upload(v));
        let args = [ptrs(&[to, x, y]), u64s(&[255]), u32s(&[0, 0, 0, 0, 2])].concat();
        run(ptx, &mut mem, &Call { entry: "zip_same", blocks: 1, args })?;
        Some((0..255).all(|i| mem.download::<f32>(to, 255).unwrap()[i] == a[i] * b[i]))
    });
}

#[test]
fn reduce() {
    let x = integers(4, 3 * 1000);
    let mutants: &[Mutant] = &[(BARRIER, 0, removed), (BARRIER, 2, removed)];
    shows(lowrank_kernels::REDUCE, "reduce_rows", mutants, |ptx| {
        let mut mem = Memory::new();
        let (from, to) = (ptr(&mut mem, &x), ptr(&mut mem, &[0.0; 3]));
        for maximum in [0, 1] {
            let args = [ptrs(&[to, from]), u64s(&[1000, 1000, 1]), u32s(&[0, 0, 0, maximum])].concat();
            run(ptx, &mut mem, &Call { entry: "reduce_rows", blocks: 3, args })?;
            let top = |row: &[f32]| row.iter().copied().fold(f32::MIN, f32::max);
            let want: Vec<f32> =
                x.chunks(1000).map(|row| if maximum == 1 { top(row) } else { row.iter().sum() }).collect();
            if mem.download::<f32>(to, 3).unwrap() != want {
                return Some(false);
            }
        }
        Some(true)
    });
}

#[test]
fn reduce_short_rows_and_columns() {
    let x = integers(5, 3 * 40);
    let mutants: &[Mutant] = &[("setp.", 0, off_by_one), ("setp.", 2, off_by_one)];
    shows(lowrank_kernels::REDUCE, "reduce_short_rows", mutants, |ptx| {
        // Rows of 40 and of 31, which leave some lanes without an element.
        for (rows, len) in [(3usize, 40usize), (3, 31)] {
            let mut mem = Memory::new();
            let (from, to) = (mem.upload(&x[..rows * len]), mem.upload(&vec![9.0f32; rows]));
            let args = [ptrs(&[to, from]), u64s(&[rows, len]), u32s(&[0, 0, 0, 0])].concat();
            run(ptx, &mut mem, &Call { entry: "reduce_short_rows", blocks: 1, args })?;
            let want: Vec<f32> = x[..rows * len].chunks(len).map(|row| row.iter().sum()).collect();
            if mem.download::<f32>(to, rows).unwrap() != want {
                return Some(false);
            }
        }
        Some(true)
    });
    // [10, 7] in parts of four rows.
    let mutants: &[Mutant] = &[("setp.", 0, off_by_one), ("min.u64", 0, unbounded)];
    shows(lowrank_kernels::REDUCE, "reduce_columns", mutants, |ptx| {
        let mut mem = Memory::new();
        let (from, to) = (mem.upload(&x[..70]), mem.upload(&[9.0f32; 21]));
        let args = [ptrs(&[to, from]), u64s(&[21, 10, 7, 4, 3]), u32s(&[0, 0, 0, 0])].concat();
        run(ptx, &mut mem, &Call { entry: "reduce_columns", blocks: 1, args })?;
        let part = |i: usize| (i / 7 * 4..(i / 7 * 4 + 4).min(10)).map(|row| x[row * 7 + i % 7]).sum::<f32>();
        Some(mem.download::<f32>(to, 21).unwrap() == (0..21).map(part).collect::<Vec<_>>())
    });
}

#[test]
fn permute() {
    // [3, 5] to [5, 3].
    let x = integers(25, 15);
    shows(lowrank_kernels::MOVING, "permute", &[("setp.", 0, off_by_one), ("setp.", 3, off_by_one)], |ptx| {
        let mut mem = Memory::new();
        let (from, to) = (mem.upload(&x), mem.upload(&[9.0f32; 15]));
        let order = longs(&[3, 5, 1, 1, 1, 1, 5, 1, 0, 0, 0, 0]);
        let args = [ptrs(&[to, from]), u64s(&[15]), u32s(&[0, 0, 0, 2]), vec![Arg::Bytes(order)]].concat();
        run(ptx, &mut mem, &Call { entry: "permute", blocks: 1, args })?;
        Some(mem.download::<f32>(to, 15).unwrap() == (0..15).map(|i| x[i % 3 * 5 + i / 3]).collect::<Vec<_>>())
    });
}

#[test]
fn moving() {
    // More indices than a block looks at in one go.
    let ids: Vec<u32> = (0..300).map(|i| [2, 0, 2, 1, 2][i % 5]).collect();
    let x = integers(6, 300 * 20);
    let mut want = vec![0.0f32; 3 * 20];
    for (i, &id) in ids.iter().enumerate() {
        (0..20).for_each(|j| want[id as usize * 20 + j] += x[i * 20 + j]);
    }
    let mutants: &[Mutant] = &[(BARRIER, 0, removed), (BARRIER, 1, removed)];
    shows(lowrank_kernels::MOVING, "scatter_add", mutants, |ptx| {
        let mut mem = Memory::new();
        let (ids, from, to) = (mem.upload(&ids), ptr(&mut mem, &x), ptr(&mut mem, &[0.0; 60]));
        let args = [ptrs(&[to, ids, from]), u64s(&[300, 20, 3, 20, 1]), u32s(&[0])].concat();
        run(ptx, &mut mem, &Call { entry: "scatter_add", blocks: 300, args })?;
        Some(mem.download::<f32>(to, 60).unwrap() == want)
    });
    // An id one beyond the table is NaN, not what lies behind it.
    shows(lowrank_kernels::MOVING, "gather", &[("setp.", 2, off_by_one)], |ptx| {
        let mut mem = Memory::new();
        let table = ptr(&mut mem, &x[..12]);
        let (ids, to) = (mem.upload(&[3u32, 4, 0]), ptr(&mut mem, &[0.0; 9]));
        let args = [ptrs(&[to, table, ids]), u64s(&[9, 3, 4, 3, 1]), u32s(&[0, 0, 0])].concat();
        run(ptx, &mut mem, &Call { entry: "gather", blocks: 1, args })?;
        let y = mem.download::<f32>(to, 9).unwrap();
        Some(y[..3] == x[9..12] && y[3..6].iter().all(|v| v.is_nan()) && y[6..] == x[..3])
    });
}

#[test]
fn optim() {
    // Tensors of 5000 and 3 elements: two blocks and one.
    let (long, short) = (integers(15, 5000), integers(16, 3));
    let mutants: &[Mutant] = &[(BARRIER, 0, removed), ("setp.", 4, off_by_one)];
    shows(lowrank_kernels::OPTIM, "grad_squares", mutants, |ptx| {
        let mut mem = Memory::new();
        let (a, b, to) = (ptr(&mut mem, &long), ptr(&mut mem, &short), ptr(&mut mem, &[0.0; 3]));
        let mut table = vec![0u8; 160 * 20];
        for (i, (at, len, first)) in [(a, 5000u64, 0u32), (b, 3, 2)].into_iter().enumerate() {
            table[8 * i..][..8].copy_from_slice(&at.to_le_bytes());
            table[8 * (160 + i)..][..8].copy_from_slice(&len.to_le_bytes());
            table[16 * 160 + 4 * i..][..4].copy_from_slice(&first.to_le_bytes());
        }
        let args = [ptrs(&[to]), u32s(&[2]), vec![Arg::Bytes(table)]].concat();
        run(ptx, &mut mem, &Call { entry: "grad_squares", blocks: 3, args })?;
        let squares = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>();
        let want = [squares(&long[..4096]), squares(&long[4096..]), squares(&short)];
        Some(mem.download::<f32>(to, 3).unwrap() == want)
    });
}

/// An optimiser's table of two tensors of 5000 and 3 elements: columns of `room` addresses, then lengths, then first blocks.
fn table(room: usize, columns: &[[u64; 2]]) -> Arg {
    let mut bytes = Vec::new();
    for column in columns.iter().chain(&[[5000, 3]]) {
        bytes.extend(longs(column));
        bytes.resize(bytes.len() + 8 * (room - 2), 0);
    }
    bytes.extend(words(&[0, 2]));
    bytes.resize(bytes.len() + 4 * (room - 2), 0);
    Arg::Bytes(bytes)
}

const LENGTHS: [usize; 2] = [5000, 3];

#[test]
fn adamw() {
    let [p, m, v, g] = [30, 31, 32, 33].map(|seed| LENGTHS.map(|len| integers(seed, len)));
    // clip, norm, the two corrections, lr. v is a square.
    let v = v.map(|v| v.iter().map(|x| x * x).collect::<Vec<f32>>());
    shows(lowrank_kernels::OPTIM, "adamw", &[("setp.", 1, off_by_one), ("setp.", 5, off_by_one)], |ptx| {
        let mut mem = Memory::new();
        let scalars = mem.upload(&[0.0f32, 0.5, 0.0, 0.5, 0.5, 0.25]);
        let at = [&p, &m, &v, &g].map(|pair| [0, 1].map(|i| mem.upload(&pair[i])));
        let constants = [0.5, 0.5, 0.5, 0.5, 1e-3, 0.25].map(Arg::F32).to_vec();
        let args = [ptrs(&[scalars]), u32s(&[2, 5]), constants, vec![table(80, &at)]].concat();
        run(ptx, &mut mem, &Call { entry: "adamw", blocks: 3, args })?;
        let right = |t: usize| {
            let [np, nm, nv]: [Vec<f32>; 3] = std::array::from_fn(|c| mem.download(at[c][t], LENGTHS[t]).unwrap());
            (0..LENGTHS[t]).all(|i| {
                let d = 0.5 * g[t][i];
                let (one, two) = (0.5 * m[t][i] + 0.5 * d, 0.5 * v[t][i] + 0.5 * d * d);
                let step = 0.25 * p[t][i] + one / 0.5 / ((two / 0.5).sqrt() + 1e-3);
                nm[i] == one && nv[i] == two && (np[i] - (p[t][i] - 0.25 * step)).abs() <= 1e-5 * (1.0 + step.abs())
            })
        };
        Some(right(0) && right(1))
    });
}

#[test]
fn sgd() {
    let [p, u, g] = [34, 35, 36].map(|seed| LENGTHS.map(|len| integers(seed, len)));
    // With momentum and without.
    let mutants: &[Mutant] = &[("setp.", 1, off_by_one), ("setp.", 6, off_by_one), ("setp.", 7, off_by_one)];
    shows(lowrank_kernels::OPTIM, "sgd", mutants, |ptx| {
        for momentum in [true, false] {
            let mut mem = Memory::new();
            let scalars = mem.upload(&[0.0f32, 0.5, 0.0, 0.0, 0.0, 0.25]);
            let mut at = [&p, &u, &g].map(|pair| [0, 1].map(|i| mem.upload(&pair[i])));
            at[1] = if momentum { at[1] } else { [0; 2] };
            let constants = [0.5, 0.25].map(Arg::F32).to_vec();
            let args = [ptrs(&[scalars]), u32s(&[2, 5]), constants, vec![table(100, &at)]].concat();
            run(ptx, &mut mem, &Call { entry: "sgd", blocks: 3, args })?;
            for t in [0, 1] {
                let step = |i: usize| 0.5 * g[t][i] + if momentum { 0.5 * u[t][i] } else { 0.0 };
                let want = |i: usize| p[t][i] - 0.25 * (0.25 * p[t][i] + step(i));
                let len = LENGTHS[t];
                let moved =
                    momentum && mem.download::<f32>(at[1][t], len).unwrap() != (0..len).map(step).collect::<Vec<_>>();
                if moved || mem.download::<f32>(at[0][t], len).unwrap() != (0..len).map(want).collect::<Vec<_>>() {
                    return Some(false);
                }
            }
        }
        Some(true)
    });
}

#[test]
fn grad_norm() {
    // 4096 in all: the norm is 64, half as much is allowed.
    let parts: Vec<f32> = (0..300).map(|i| if i < 299 { 13.0 } else { 209.0 }).collect();
    shows(lowrank_kernels::OPTIM, "grad_norm", &[(BARRIER, 0, removed), ("setp.", 1, off_by_one)], |ptx| {
        let mut mem = Memory::new();
        let (scalars, from) = (mem.upload(&[9.0f32; 8]), mem.upload(&parts));
        let args = [ptrs(&[scalars, from]), u64s(&[300]), vec![Arg::F32(32.0)]].concat();
        run(ptx, &mut mem, &Call { entry: "grad_norm", blocks: 1, args })?;
        let got = mem.download::<f32>(scalars, 4).unwrap();
        Some(got[2] == 64.0 && (got[1] - 0.5).abs() < 1e-6 && got[0] == 9.0 && got[3] == 9.0)
    });
}

/// Three matrices in one launch: the blocks of each, its rows, its last columns.
#[test]
fn bf16_rows() {
    let shapes = [(3usize, 10usize), (70, 16), (5, 7)];
    let x = shapes.map(|(rows, cols)| integers(rows as u32, rows * cols));
    let mutants: &[Mutant] = &[("setp.", 0, off_by_one), ("setp.", 1, off_by_one), ("setp.", 2, off_by_one)];
    shows(lowrank_kernels::BF16_ROWS, "bf16_rows", mutants, |ptx| {
        let mut mem = Memory::new();
        let (mut jobs, mut to, mut blocks) = (Vec::new(), Vec::new(), 0);
        for ((rows, cols), x) in shapes.iter().zip(&x) {
            let pitch = cols.next_multiple_of(8);
            let y = mem.alloc(rows * pitch * 2);
            let own = (rows * pitch / 4).div_ceil(256);
            jobs.extend(longs(&[mem.upload(x), y]));
            jobs.extend(words(&[*rows as u32, *cols as u32, pitch as u32, own as u32, 0, 2f32.to_bits()]));
            to.push(y);
            blocks += own;
        }
        run(ptx, &mut mem, &Call { entry: "bf16_rows", blocks, args: vec![Arg::Bytes(jobs)] })?;
        Some(shapes.iter().zip(&x).zip(&to).all(|(((rows, cols), x), &y)| {
            let pitch = cols.next_multiple_of(8);
            let want = |i: usize| if i % pitch < *cols { 2.0 * x[i / pitch * cols + i % pitch] } else { 0.0 };
            mem.download::<u16>(y, rows * pitch).is_ok()
                && BOTH[1].read(&mem, y, rows * pitch) == (0..rows * pitch).map(want).collect::<Vec<_>>()
        }))
    });
}

/// Three sums in one launch: the blocks of each, its end, its parts.
#[test]
fn lora_sum() {
    let sizes = [(5usize, 3usize), (1030, 6), (3, 4)];
    let x = sizes.map(|(len, parts)| integers(len as u32, len * parts));
    let end = |nth| -> Mutant { ("setp.", nth, off_by_one) };
    // The loop over parts takes four at a time and may end after each.
    let mutants = &[end(0), end(1), ("min.u64", 0, unbounded), end(11), end(14), end(17)];
    shows(lowrank_kernels::LORA, "lora_sum", mutants, |ptx| {
        let mut mem = Memory::new();
        let (mut jobs, mut to, mut blocks) = (Vec::new(), Vec::new(), 0);
        for ((len, parts), x) in sizes.iter().zip(&x) {
            let (out, copy, own) = (mem.alloc(4 * len), mem.alloc(2 * len), len.div_ceil(1024));
            jobs.extend(longs(&[mem.upload(x), out, copy, *len as u64]));
            jobs.extend(words(&[*parts as u32, 2f32.to_bits(), 0.5f32.to_bits(), 0, 0, own as u32]));
            to.push([out, copy]);
            blocks += own;
        }
        run(ptx, &mut mem, &Call { entry: "lora_sum", blocks, args: vec![Arg::Bytes(jobs)] })?;
        Some(sizes.iter().zip(&x).zip(&to).all(|((&(len, parts), x), &[out, copy])| {
            let sum = |i: usize| (0..parts).map(|part| x[part * len + i]).sum::<f32>();
            let twice: Vec<f32> = (0..len).map(|i| 2.0 * sum(i)).collect();
            mem.download::<f32>(out, len).unwrap() == twice
                && BOTH[1].read(&mem, copy, len) == (0..len).map(sum).collect::<Vec<_>>()
        }))
    });
}

#[test]
fn attention_delta() {
    // 70 queries of two heads of 12 elements: two blocks a head, rows that do not fill a warp.
    let [queries, heads, dim] = [70usize, 2, 12];
    let (y, gy) = (integers(40, queries * heads * dim), integers(41, queries * heads * dim));
    for of in BOTH {
        let mutants: &[Mutant] = &[
            ("shfl.sync", 0, removed),
            ("setp.", 19, off_by_one),
            ("setp.", 20, off_by_one),
            ("setp.", 21, off_by_one),
        ];
        shows(lowrank_kernels::ATTENTION_DELTA, "attention_delta", mutants, |ptx| {
            let mut mem = Memory::new();
            let (ya, ga, to) = (of.upload(&mut mem, &y), of.upload(&mut mem, &gy), mem.alloc(queries * heads * 4));
            let mut p = longs(&[0, 0, 0, ya, ga, 0, 0, 0, 0, 0, 0, 0, to]);
            let [q, h, d] = [queries as u32, heads as u32, dim as u32];
            p.extend(words(&[1, q, q, h, h, d, 1f32.to_bits(), 0, 0, 0, 0, of.half.into(), of.half.into(), 0]));
            run(ptx, &mut mem, &Call { entry: "attention_delta", blocks: 4, args: vec![Arg::Bytes(p)] })?;
            let dot = |at: usize| (0..dim).map(|i| y[at * dim + i] * gy[at * dim + i]).sum::<f32>();
            let want = |i: usize| dot(i % queries * heads + i / queries);
            Some(
                mem.download::<f32>(to, queries * heads).unwrap() == (0..queries * heads).map(want).collect::<Vec<_>>(),
            )
        });
    }
}

#[test]
fn dropout() {
    // p = ½, no offset: about half is kept and doubled; what is kept is fixed by the generator.
    let x = vec![1.0f32; 255];
    shows(lowrank_kernels::DROPOUT, "dropout", &[("min.u64", 1, unbounded)], |ptx| {
        let mut mem = Memory::new();
        let (from, to, scalars) = (ptr(&mut mem, &x), ptr(&mut mem, &[0.0; 255]), ptr(&mut mem, &[3.0]));
        let site: Vec<u8> =
            [7u32, 0, 5, 1 << 31].iter().flat_map(|v| v.to_le_bytes()).chain(2f32.to_le_bytes()).collect();
        let args = [ptrs(&[to, from, scalars]), u64s(&[255]), u32s(&[0, 0, 0]), vec![Arg::Bytes(site)]].concat();
        run(ptx, &mut mem, &Call { entry: "dropout", blocks: 1, args })?;
        let y = mem.download::<f32>(to, 255).unwrap();
        let kept = y.iter().filter(|v| **v == 2.0).count();
        Some((90..=166).contains(&kept) && y.iter().all(|v| *v == 0.0 || *v == 2.0))
    });
}
