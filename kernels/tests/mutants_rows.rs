//! The row-wise and gated kernels on ptxsim, for f32 and for bf16: right and without a finding as they are, and wrong or
//! found out with a barrier removed or a bound off by one.

mod faults;

use faults::*;
use lowrank_kernels::{NORM, SEQUENCE, SOFTMAX};
use ptxsim::{Arg, Memory};

fn barriers(n: usize) -> Vec<Mutant> {
    (0..n).map(|nth| (BARRIER, nth, removed as fn(&str) -> String)).collect()
}

/// Whether numbers are these, but for what exp and its sum lose.
fn near(got: &[f32], want: &[f32], loss: f32) -> bool {
    got.iter().zip(want).all(|(g, w)| (g - w).abs() <= loss * (w.abs() + 1e-3))
}

#[test]
fn softmax() {
    for of in BOTH {
        // Equal elements: each is one over a power of two, exactly. The last barrier guards what nobody uses again.
        let entry = of.entry("softmax_forward");
        shows(SOFTMAX, &entry, &barriers(3), |ptx| {
            let mut mem = Memory::new();
            let (from, to) = (of.upload(&mut mem, &[3.0; 2 * 512]), of.upload(&mut mem, &[0.0; 2 * 512]));
            let args = [ptrs(&[to, from]), u64s(&[512])].concat();
            run(ptx, &mut mem, &Call { entry: &entry, blocks: 2, args })?;
            Some(of.read(&mem, to, 1024) == vec![1.0 / 512.0; 1024])
        });
        let entry = of.entry("softmax_backward");
        shows(SOFTMAX, &entry, &barriers(1), |ptx| {
            let (y, gy) = (integers(8, 600), integers(9, 600));
            let mut mem = Memory::new();
            let [ya, ga, to] = [&y, &gy, &vec![0.0; 600]].map(|v| of.upload(&mut mem, v));
            let args = [ptrs(&[to, ya, ga]), u64s(&[300]), u32s(&[0])].concat();
            run(ptx, &mut mem, &Call { entry: &entry, blocks: 2, args })?;
            let sum = |row: usize| (0..300).map(|i| y[row * 300 + i] * gy[row * 300 + i]).sum::<f32>();
            let want: Vec<f32> = (0..600).map(|i| of.round(y[i] * (gy[i] - sum(i / 300)))).collect();
            Some(of.read(&mem, to, 600) == want)
        });
    }
}

#[test]
fn cross_entropy() {
    const IGNORE: u32 = u32::MAX;
    for of in BOTH {
        // Logits of 0: lse is ln cols. One target is a column, one is ignored, one lies just behind the row.
        let entry = of.entry("cross_entropy_forward");
        // A row is bounded by its loop, or where four elements are taken by how many are left.
        let bound: Mutant = if of.half { ("min.u64", 0, unbounded) } else { ("setp.", 3, off_by_one) };
        let cols = 1027usize;
        shows(SOFTMAX, &entry, &[barriers(3), vec![bound]].concat(), |ptx| {
            let mut mem = Memory::new();
            let (x, targets) = (of.upload(&mut mem, &vec![0.0; 3 * cols]), mem.upload(&[IGNORE, cols as u32, 5]));
            let [lse, losses] = [[0.0f32; 3]; 2].map(|v| mem.upload(&v));
            let args = [ptrs(&[lse, losses, x, targets]), u64s(&[cols])].concat();
            run(ptx, &mut mem, &Call { entry: &entry, blocks: 3, args })?;
            let (lse, losses): (Vec<f32>, Vec<f32>) = (mem.download(lse, 3).unwrap(), mem.download(losses, 3).unwrap());
            let want = (cols as f32).ln();
            Some(
                near(&lse, &[want; 3], 1e-5)
                    && losses[0] == 0.0
                    && losses[1].is_nan()
                    && near(&losses[2..], &[want], 1e-5),
            )
        });
        // x = lse = 0: the gradient is the factor, and 0 at the target. Rows one by one, so that each kind is the last.
        let entry = of.entry("cross_entropy_backward");
        let f32 = [2, 4, 5, 6].map(|nth| -> Mutant { ("setp.", nth, off_by_one) });
        let mutants =
            if of.half { vec![("setp.", 8, off_by_one as _), ("min.u64", 0, unbounded as _)] } else { f32.to_vec() };
        shows(SOFTMAX, &entry, &mutants, |ptx| {
            for target in [5u32, IGNORE, cols as u32] {
                let mut mem = Memory::new();
                let (x, targets) = (of.upload(&mut mem, &vec![0.0; cols]), mem.upload(&[target]));
                let (lse, gy) = (mem.upload(&[0.0f32]), mem.upload(&[2.0f32]));
                let args = [ptrs(&[x, targets, lse, gy]), u64s(&[cols]), vec![Arg::F32(0.5)]].concat();
                run(ptx, &mut mem, &Call { entry: &entry, blocks: 1, args })?;
                let got = of.read(&mem, x, cols);
                let right = |(i, v): (usize, &f32)| match target {
                    5 => *v == if i == 5 { 0.0 } else { 1.0 },
                    IGNORE => *v == 0.0,
                    _ => v.is_nan(),
                };
                if !got.iter().enumerate().all(right) {
                    return Some(false);
                }
            }
            Some(true)
        });
    }
    shows(SOFTMAX, "cross_entropy_total", &[barriers(1), vec![("setp.", 1, off_by_one)]].concat(), |ptx| {
        let losses = integers(17, 300);
        let mut mem = Memory::new();
        let (to, from) = (mem.upload(&[0.0f32]), mem.upload(&losses));
        let args = [ptrs(&[to, from]), u64s(&[300]), vec![Arg::F32(0.5)]].concat();
        run(ptx, &mut mem, &Call { entry: "cross_entropy_total", blocks: 1, args })?;
        Some(mem.download::<f32>(to, 1).unwrap() == [0.5 * losses.iter().sum::<f32>()])
    });
}

/// Rows of 2 and −2 by turns: the mean is 0, rstd ½, x̂ ±1, and all sums are exact.
fn turns(n: usize) -> Vec<f32> {
    (0..n).map(|i| if i % 2 == 0 { 2.0 } else { -2.0 }).collect()
}

#[test]
fn norm() {
    let cols = 512;
    let (x, w, b, gy) = (turns(2 * cols), integers(11, cols), integers(12, cols), integers(13, 2 * cols));
    for of in BOTH {
        let entry = of.entry("norm_forward");
        shows(NORM, &entry, &barriers(3), |ptx| {
            let mut mem = Memory::new();
            let (from, to) = (of.upload(&mut mem, &x), of.upload(&mut mem, &[0.0; 1024]));
            let [weight, bias] = [&w, &b].map(|v| mem.upload(v));
            let [rstd, mean] = [[9.0f32; 2]; 2].map(|v| mem.upload(&v));
            let args = [ptrs(&[to, rstd, mean, from, weight, bias]), u64s(&[cols]), vec![Arg::F32(0.0)]].concat();
            run(ptx, &mut mem, &Call { entry: &entry, blocks: 2, args })?;
            let want: Vec<f32> = (0..2 * cols).map(|i| x[i] * 0.5 * w[i % cols] + b[i % cols]).collect();
            let stats: [Vec<f32>; 2] = [rstd, mean].map(|at| mem.download(at, 2).unwrap());
            Some(of.read(&mem, to, 2 * cols) == want && stats == [[0.5; 2], [0.0; 2]])
        });
        let entry = of.entry("norm_backward");
        shows(NORM, &entry, &barriers(3), |ptx| {
            let mut mem = Memory::new();
            let [from, gya, to] = [&x, &gy, &vec![0.0; 1024]].map(|v| of.upload(&mut mem, v));
            let (weight, mean, rstd) = (mem.upload(&w), mem.upload(&[0.0f32; 2]), mem.upload(&[0.5f32; 2]));
            let args = [ptrs(&[to, from, weight, mean, rstd, gya]), u64s(&[cols]), u32s(&[0])].concat();
            run(ptx, &mut mem, &Call { entry: &entry, blocks: 2, args })?;
            let t = |i: usize| gy[i] * w[i % cols];
            let over =
                |row: usize, f: &dyn Fn(usize) -> f32| (row * cols..(row + 1) * cols).map(f).sum::<f32>() / cols as f32;
            let want = |i: usize| {
                let (across, along) = (over(i / cols, &t), over(i / cols, &|j| t(j) * x[j] * 0.5));
                of.round(0.5 * (t(i) - across - x[i] * 0.5 * along))
            };
            Some(of.read(&mem, to, 2 * cols) == (0..2 * cols).map(want).collect::<Vec<_>>())
        });
        // Five rows in parts of two.
        let entry = of.entry("norm_weights");
        shows(NORM, &entry, &[("setp.", 0, off_by_one), ("min.u64", 0, unbounded)], |ptx| {
            let mut mem = Memory::new();
            let [from, gya] = [&x[..35], &gy[..35]].map(|v| of.upload(&mut mem, v));
            let (mean, rstd) = (mem.upload(&[0.0f32; 5]), mem.upload(&[0.5f32; 5]));
            let [dw, db] = [[9.0f32; 21]; 2].map(|v| mem.upload(&v));
            let args = [ptrs(&[dw, db, from, mean, rstd, gya]), u64s(&[5, 7, 2, 21]), u32s(&[0, 0])].concat();
            run(ptx, &mut mem, &Call { entry: &entry, blocks: 1, args })?;
            let parts = |f: &dyn Fn(usize) -> f32| -> Vec<f32> {
                let rows = |part: usize| part * 2..(part * 2 + 2).min(5);
                (0..21).map(|i| rows(i / 7).map(|row| f(row * 7 + i % 7)).sum()).collect()
            };
            let got: [Vec<f32>; 2] = [dw, db].map(|at| mem.download(at, 21).unwrap());
            Some(got == [parts(&|i| gy[i] * x[i] * 0.5), parts(&|i| gy[i])])
        });
    }
}

#[test]
fn rope() {
    // x [1, 2, 2, 2 · half]: pairs one by one, and for bf16 four at a time.
    for (of, half) in [(BOTH[0], 3), (BOTH[1], 4)] {
        let len = 8 * half;
        let x = integers(12, len);
        let (cos, sin) = (integers(13, 2 * half), integers(14, 2 * half));
        let entry = of.entry("rope");
        shows(SEQUENCE, &entry, &[("setp.", 0, off_by_one)], |ptx| {
            let mut mem = Memory::new();
            let (from, to) = (of.upload(&mut mem, &x), of.upload(&mut mem, &vec![0.0; len]));
            let [cosines, sines] = [&cos, &sin].map(|v| mem.upload(v));
            let args = [ptrs(&[to, from, cosines, sines]), u64s(&[len / 2, half, 2, 2]), vec![Arg::F32(1.0)]].concat();
            run(ptx, &mut mem, &Call { entry: &entry, blocks: 1, args: [args, u32s(&[0])].concat() })?;
            let want: Vec<f32> = (0..len)
                .map(|i| {
                    let (row, column) = (i / (2 * half), i % (2 * half));
                    let t = row / 2 * half + column % half;
                    let first = column < half;
                    if first { x[i] * cos[t] - x[i + half] * sin[t] } else { x[i] * cos[t] + x[i - half] * sin[t] }
                })
                .collect();
            Some(of.read(&mem, to, len) == want)
        });
    }
}

#[test]
fn the_gated_unit() {
    let len = 255;
    let [gate, up, gy] = [20, 21, 22].map(|seed| integers(seed, len));
    let s = |i: usize| 1.0 / (1.0 + (-gate[i]).exp());
    for of in BOTH {
        let loss = if of.half { 1.0 / 256.0 } else { 0.0 } + 1e-5;
        let all = |f: &dyn Fn(usize) -> f32| (0..len).map(f).collect::<Vec<f32>>();
        let entry = of.entry("swiglu_forward");
        shows(SEQUENCE, &entry, &[("min.u64", 0, unbounded)], |ptx| {
            let mut mem = Memory::new();
            let [g, u, to] = [&gate, &up, &vec![9.0; len]].map(|v| of.upload(&mut mem, v));
            let args = [ptrs(&[to, g, u]), u64s(&[len])].concat();
            run(ptx, &mut mem, &Call { entry: &entry, blocks: 1, args })?;
            Some(near(&of.read(&mem, to, len), &all(&|i| gate[i] * s(i) * up[i]), loss))
        });
        let entry = of.entry("swiglu_backward");
        shows(SEQUENCE, &entry, &[("min.u64", 0, unbounded)], |ptx| {
            let mut mem = Memory::new();
            let [g, u, d] = [&gate, &up, &gy].map(|v| of.upload(&mut mem, v));
            let [dgate, dup] = [(); 2].map(|()| of.upload(&mut mem, &vec![9.0; len]));
            let args = [ptrs(&[dgate, dup, g, u, d]), u64s(&[len]), u32s(&[0, 0])].concat();
            run(ptx, &mut mem, &Call { entry: &entry, blocks: 1, args })?;
            let slope = |i: usize| gy[i] * up[i] * s(i) * (1.0 + gate[i] * (1.0 - s(i)));
            let (a, b) = (all(&slope), all(&|i| gy[i] * gate[i] * s(i)));
            Some(near(&of.read(&mem, dgate, len), &a, loss) && near(&of.read(&mem, dup, len), &b, loss))
        });
    }
}
