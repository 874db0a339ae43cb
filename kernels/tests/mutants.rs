//! The moving, elementwise, row-wise and optimiser kernels on ptxsim: right and without a finding as it
//! is, and wrong or found out with a barrier removed, a bound off by one, or a step doubled.

use lowrank_kernels::Module;
use ptxsim::{Arg, Config, Memory, launch};

/// A kernel's call: entry, blocks, arguments.
struct Call<'a> {
    entry: &'a str,
    blocks: usize,
    args: Vec<Arg>,
}

/// Small integers, so that sums are exact in any order.
fn integers(seed: u32, n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| ((i.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(97)) >> 13) as f32 % 5.0 - 2.0).collect()
}

fn ptr(mem: &mut Memory, values: &[f32]) -> u64 {
    mem.upload(values)
}

fn u64s(values: &[usize]) -> Vec<Arg> {
    values.iter().map(|&v| Arg::U64(v as u64)).collect()
}

fn u32s(values: &[u32]) -> Vec<Arg> {
    values.iter().map(|&v| Arg::U32(v)).collect()
}

fn ptrs(values: &[u64]) -> Vec<Arg> {
    values.iter().map(|&v| Arg::Ptr(v)).collect()
}

/// Runs it; None if ptxsim has anything to report.
fn run(ptx: &str, mem: &mut Memory, call: &Call<'_>) -> Option<()> {
    let module = ptxsim::Module::parse(ptx).unwrap();
    let config = Config { step_limit: 1 << 20, ..Config::new([call.blocks as u32, 1, 1], [256, 1, 1]) };
    launch(&module, call.entry, mem, &config, &call.args).unwrap().is_clean().then_some(())
}

/// The text with the `nth` line of this kernel that contains `what` changed by `by`.
fn mutate(ptx: &str, entry: &str, what: &str, nth: usize, by: fn(&str) -> String) -> String {
    let start = ptx.find(&format!(".entry {entry}(")).unwrap();
    let end = ptx[start..].find("\n}").map_or(ptx.len(), |n| start + n);
    let mut seen = 0;
    let body: Vec<String> = ptx[start..end]
        .lines()
        .map(|line| {
            let hit = line.contains(what);
            seen += usize::from(hit);
            if hit && seen == nth + 1 { by(line) } else { line.to_string() }
        })
        .collect();
    assert!(seen > nth, "{entry} has no {what} number {nth}");
    format!("{}{}{}", &ptx[..start], body.join("\n"), &ptx[end..])
}

type Mutant = (&'static str, usize, fn(&str) -> String);

fn removed(_: &str) -> String {
    String::new()
}

/// A comparison that lets one more in: ≥ becomes >, > becomes ≥, < becomes ≤.
fn off_by_one(line: &str) -> String {
    let swaps = [(".ge.", ".gt."), (".gt.", ".ge."), (".lt.", ".le."), (".le.", ".lt.")];
    let (from, to) = swaps.into_iter().find(|(from, _)| line.contains(from)).expect("a comparison");
    line.replacen(from, to, 1)
}

/// The end of the elements is lost.
fn unbounded(line: &str) -> String {
    line.replace("min.u64", "max.u64")
}

/// `case` gives what it should with the kernel as it is, and something else, or a finding, with each mutant.
fn shows(module: Module, entry: &str, mutants: &[Mutant], case: impl Fn(&str) -> Option<bool>) {
    assert_eq!(case(module.ptx), Some(true), "{entry} as it is");
    for &(what, nth, by) in mutants {
        let broken = mutate(module.ptx, entry, what, nth, by);
        assert_ne!(broken, module.ptx, "{entry}: {what} {nth} is unchanged");
        assert_ne!(case(&broken), Some(true), "{entry}: a change of {what} {nth} does not show");
    }
}

const BARRIER: &str = "bar.sync";

#[test]
fn copy() {
    // 9 rows of 7 of a matrix with rows of 11, to one with rows of 8.
    let x = integers(1, 9 * 11 - 4);
    shows(lowrank_kernels::COPY, "copy_f32", &[("setp.", 0, off_by_one)], |ptx| {
        let mut mem = Memory::new();
        let (from, to) = (ptr(&mut mem, &x), ptr(&mut mem, &[9.0; 9 * 8 - 1]));
        let args = [ptrs(&[to, from]), u64s(&[63, 7, 11, 8]), u32s(&[0])].concat();
        run(ptx, &mut mem, &Call { entry: "copy_f32", blocks: 1, args })?;
        let y = mem.download::<f32>(to, 71).unwrap();
        Some((0..71).all(|i| y[i] == if i % 8 < 7 { x[i / 8 * 11 + i % 8] } else { 9.0 }))
    });
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
fn softmax() {
    // Equal elements: each is one over a power of two, exactly.
    let mutants: &[Mutant] = &[(BARRIER, 0, removed), (BARRIER, 1, removed), (BARRIER, 2, removed)];
    shows(lowrank_kernels::SOFTMAX, "softmax_forward", mutants, |ptx| {
        let mut mem = Memory::new();
        let (from, to) = (ptr(&mut mem, &[3.0; 2 * 512]), ptr(&mut mem, &[0.0; 2 * 512]));
        let args = [ptrs(&[to, from]), u64s(&[512])].concat();
        run(ptx, &mut mem, &Call { entry: "softmax_forward", blocks: 2, args })?;
        Some(mem.download::<f32>(to, 1024).unwrap() == vec![1.0 / 512.0; 1024])
    });
    let mutants: &[Mutant] = &[(BARRIER, 0, removed)];
    shows(lowrank_kernels::SOFTMAX, "softmax_backward", mutants, |ptx| {
        let (y, gy) = (integers(8, 600), integers(9, 600));
        let mut mem = Memory::new();
        let (ya, ga, to) = (ptr(&mut mem, &y), ptr(&mut mem, &gy), ptr(&mut mem, &[0.0; 600]));
        let args = [ptrs(&[to, ya, ga]), u64s(&[300]), u32s(&[0])].concat();
        run(ptx, &mut mem, &Call { entry: "softmax_backward", blocks: 2, args })?;
        let sum = |row: usize| (0..300).map(|i| y[row * 300 + i] * gy[row * 300 + i]).sum::<f32>();
        let want: Vec<f32> = (0..600).map(|i| y[i] * (gy[i] - sum(i / 300))).collect();
        Some(mem.download::<f32>(to, 600).unwrap() == want)
    });
}

#[test]
fn norm() {
    // Rows of ±2: the mean square is 4, rstd ½, so all is exact.
    let x: Vec<f32> = integers(10, 2 * 512).iter().map(|v| if *v > 0.0 { 2.0 } else { -2.0 }).collect();
    let w = integers(11, 512);
    shows(lowrank_kernels::NORM, "norm_forward", &[(BARRIER, 2, removed)], |ptx| {
        let mut mem = Memory::new();
        let (from, weight) = (ptr(&mut mem, &x), ptr(&mut mem, &w));
        let (to, rstd) = (ptr(&mut mem, &[0.0; 1024]), ptr(&mut mem, &[0.0; 2]));
        let args = [ptrs(&[to, rstd, 0, from, weight, 0]), u64s(&[512]), vec![Arg::F32(0.0)]].concat();
        run(ptx, &mut mem, &Call { entry: "norm_forward", blocks: 2, args })?;
        let want: Vec<f32> = (0..1024).map(|i| x[i] * 0.5 * w[i % 512]).collect();
        Some(mem.download::<f32>(to, 1024).unwrap() == want && mem.download::<f32>(rstd, 2).unwrap() == [0.5; 2])
    });
}

#[test]
fn sequence() {
    let x = integers(12, 2 * 2 * 6);
    let (cos, sin) = (integers(13, 2 * 3), integers(14, 2 * 3));
    // x [1, 2, 2, 6].
    shows(lowrank_kernels::SEQUENCE, "rope", &[("setp.", 0, off_by_one)], |ptx| {
        let mut mem = Memory::new();
        let at = [&x, &cos, &sin].map(|v| ptr(&mut mem, v));
        let to = ptr(&mut mem, &[0.0; 24]);
        let args = [ptrs(&[to, at[0], at[1], at[2]]), u64s(&[12, 3, 2, 2]), vec![Arg::F32(1.0)], u32s(&[0])].concat();
        run(ptx, &mut mem, &Call { entry: "rope", blocks: 1, args })?;
        let want: Vec<f32> = (0..24)
            .map(|i| {
                let (row, column) = (i / 6, i % 6);
                let t = row / 2 * 3 + column % 3;
                if column < 3 { x[i] * cos[t] - x[i + 3] * sin[t] } else { x[i] * cos[t] + x[i - 3] * sin[t] }
            })
            .collect();
        Some(mem.download::<f32>(to, 24).unwrap() == want)
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
