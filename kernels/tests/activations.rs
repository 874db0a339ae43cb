//! Row-wise, elementwise and moving kernels on activations in bf16, against plain loops in f64 over the rounded operands:
//! half a unit of bf16 and what f32 loses, also where results are added to what is there. Lengths around four elements and
//! a block, aligned and not.

mod common;

use common::{Gpu, close};
use lowrank_backend::philox;
use lowrank_kernels::launch::{Operand, Type};
use lowrank_kernels::{COPY, DROPOUT, MAP, MOVING, Module, NORM, REDUCE, SEQUENCE, SOFTMAX, ZIP};
use ptxsim::{Arg, Config, launch};

/// Units in the last place: half of one of bf16's, and f32's.
const HALF: f64 = 1.0 / 256.0;
const UNIT: f64 = 1.0 / 16_777_216.0;

const B: Type = Type::Bf16;
const F: Type = Type::F32;

/// Runs a kernel that must have no findings.
fn go(gpu: &mut Gpu, file: Module, entry: &str, blocks: usize, args: &[Arg]) {
    let module = ptxsim::Module::parse(file.ptx).unwrap();
    let config = Config::new([blocks as u32, 1, 1], [256, 1, 1]);
    let report = launch(&module, entry, &mut gpu.mem, &config, args).unwrap();
    assert!(report.is_clean(), "{entry}: {report}");
}

fn p(x: Operand) -> Arg {
    Arg::Ptr(x.at)
}

fn n(size: usize) -> Arg {
    Arg::U64(size as u64)
}

const NONE: Arg = Arg::Ptr(0);
const BF16: Arg = Arg::U32(1);
const FLAGS: [Arg; 2] = [Arg::U32(0), Arg::U32(1)];

/// Shapes of rows: one element, fewer than four, odd ones, a block's worth and more; and where operands start.
const ROWS: [(usize, usize, usize); 6] = [(2, 1, 0), (3, 7, 0), (2, 64, 1), (2, 1030, 0), (2, 1024, 0), (1, 2052, 3)];

/// A result: the kernel's numbers, the true ones, and the sizes of what was added up.
fn rounded(what: &str, got: &[f64], want: &[f64], terms: f64, sizes: &[f64]) {
    close(what, got, want, |i| HALF * want[i].abs() + terms * UNIT * sizes[i] + 1e-30);
}

fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.sum()
}

#[test]
fn norms() {
    for (rows, cols, shift) in ROWS {
        for layer in [false, true] {
            let name = format!("{rows} x {cols} from {shift}, layer {layer}");
            let mut gpu = Gpu::new((rows * cols) as u64);
            let len = rows * cols;
            let (x, vx) = gpu.shifted(len, B, shift);
            let (gy, vg) = gpu.shifted(len, B, shift);
            let ((w, vw), (b, vb)) = (gpu.shifted(cols, F, shift), gpu.random(cols, F));
            let (y, rstd, mean) = (gpu.shifted(len, B, shift).0, gpu.alloc(rows, F), gpu.alloc(rows, F));
            let [stat, add] = [mean, b].map(|o| if layer { p(o) } else { NONE });
            let args = [p(y), p(rstd), stat.clone(), p(x), p(w), add, n(cols), Arg::F32(1e-5)];
            go(&mut gpu, NORM, "norm_forward_bf16", rows, &args);
            let (dx, old) = gpu.shifted(len, B, shift);
            let (dw, db) = (gpu.alloc(cols, F), gpu.alloc(cols, F));
            let slots = [p(dw), if layer { p(db) } else { NONE }];
            let sizes = [n(rows), n(cols), n(64), n(cols), Arg::U32(0), Arg::U32(0)];
            let shared = [p(x), stat.clone(), p(rstd), p(gy)];
            go(&mut gpu, NORM, "norm_weights_bf16", cols.div_ceil(256), &[&slots[..], &shared, &sizes].concat());
            let args = [p(dx), p(x), p(w), stat, p(rstd), p(gy), n(cols), Arg::U32(1)];
            go(&mut gpu, NORM, "norm_backward_bf16", rows, &args);

            let at = |r: usize, c: usize| vx[r * cols + c];
            let over = |f: &dyn Fn(usize) -> f64| sum((0..cols).map(f));
            let means: Vec<f64> =
                (0..rows).map(|r| if layer { over(&|c| at(r, c)) / cols as f64 } else { 0.0 }).collect();
            let root = |r: usize| {
                let squares = over(&|c| (at(r, c) - means[r]).powi(2)) / cols as f64;
                1.0 / (squares + f64::from(1e-5f32)).sqrt()
            };
            let roots: Vec<f64> = (0..rows).map(root).collect();
            let hat = |i: usize| (vx[i] - means[i / cols]) * roots[i / cols];
            let bias = |i: usize| if layer { vb[i % cols] } else { 0.0 };
            let terms = cols as f64 / 64.0 + 24.0;
            // What cancels in x − mean, and in 1/√(…) of it, where a row has but one element.
            let spread = |i: usize| (vx[i].abs() + means[i / cols].abs()) * roots[i / cols];
            let want: Vec<f64> = (0..len).map(|i| hat(i) * vw[i % cols] + bias(i)).collect();
            let sizes: Vec<f64> = (0..len).map(|i| spread(i) * vw[i % cols].abs() + bias(i).abs()).collect();
            rounded(&format!("y {name}"), &gpu.read(y, len), &want, terms, &sizes);
            let relative: Vec<f64> = roots.iter().map(|r| r * (1.0 + if layer { r * r } else { 0.0 })).collect();
            close(&format!("rstd {name}"), &gpu.read(rstd, rows), &roots, |i| terms * UNIT * relative[i]);

            let t = |i: usize| vg[i] * vw[i % cols];
            let (mut want, mut sizes) = (Vec::new(), Vec::new());
            for i in 0..len {
                let row = i / cols * cols;
                let along = sum((row..row + cols).map(|j| t(j) * hat(j))) / cols as f64;
                let across = if layer { sum((row..row + cols).map(t)) / cols as f64 } else { 0.0 };
                want.push(old[i] + roots[i / cols] * (t(i) - across - hat(i) * along));
                let all = sum((row..row + cols).map(|j| t(j).abs() * (1.0 + spread(j)))) / cols as f64;
                sizes.push(old[i].abs() + roots[i / cols] * (t(i).abs() + (1.0 + spread(i)) * all));
            }
            rounded(&format!("dx {name}"), &gpu.read(dx, len), &want, terms, &sizes);
            let rows_of = |c: usize| (0..rows).map(move |r| r * cols + c);
            let want: Vec<f64> = (0..cols).map(|c| sum(rows_of(c).map(|i| vg[i] * hat(i)))).collect();
            let sizes: Vec<f64> = (0..cols).map(|c| sum(rows_of(c).map(|i| vg[i].abs() * spread(i)))).collect();
            close(&format!("dw {name}"), &gpu.read(dw, cols), &want, |i| terms * UNIT * sizes[i] + 1e-30);
            if layer {
                let want: Vec<f64> = (0..cols).map(|c| sum(rows_of(c).map(|i| vg[i]))).collect();
                close(&format!("db {name}"), &gpu.read(db, cols), &want, |_| terms * UNIT * rows as f64);
            }
        }
    }
}

#[test]
fn softmax() {
    for (rows, cols, shift) in ROWS {
        let name = format!("{rows} x {cols} from {shift}");
        let mut gpu = Gpu::new(cols as u64);
        let len = rows * cols;
        let (x, vx) = gpu.shifted(len, B, shift);
        let y = gpu.shifted(len, B, shift).0;
        go(&mut gpu, SOFTMAX, "softmax_forward_bf16", rows, &[p(y), p(x), n(cols)]);
        let row = |i: usize| i / cols * cols..(i / cols + 1) * cols;
        let want: Vec<f64> = (0..len).map(|i| vx[i].exp() / sum(row(i).map(|j| vx[j].exp()))).collect();
        let terms = cols as f64 / 64.0 + 24.0;
        let vy = gpu.read(y, len);
        rounded(&format!("y {name}"), &vy, &want, terms, &want);

        let (gy, vg) = gpu.shifted(len, B, shift);
        let (dx, old) = gpu.shifted(len, B, shift);
        for add in [1, 0] {
            let args = [p(dx), p(y), p(gy), n(cols), Arg::U32(add)];
            go(&mut gpu, SOFTMAX, "softmax_backward_bf16", rows, &args);
            let old = |i: usize| old[i] * f64::from(add);
            let dot = |i: usize| sum(row(i).map(|j| vy[j] * vg[j]));
            let sizes: Vec<f64> = (0..len).map(|i| old(i).abs() + vy[i] * (vg[i].abs() + 1.0)).collect();
            let want: Vec<f64> = (0..len).map(|i| old(i) + vy[i] * (vg[i] - dot(i))).collect();
            rounded(&format!("dx {name}"), &gpu.read(dx, len), &want, terms, &sizes);
        }
    }
}

#[test]
fn cross_entropy() {
    for (rows, cols, shift) in ROWS {
        let name = format!("{rows} x {cols} from {shift}");
        let mut gpu = Gpu::new(cols as u64 + 1);
        let len = rows * cols;
        let (x, vx) = gpu.shifted(len, B, shift);
        // The last row is ignored where there are three.
        let targets: Vec<u32> =
            (0..rows).map(|r| if r == 2 { u32::MAX } else { (cols - 1 - r % cols) as u32 }).collect();
        let to = gpu.mem.upload(&targets);
        let (lse, losses) = (gpu.alloc(rows, F), gpu.alloc(rows, F));
        go(&mut gpu, SOFTMAX, "cross_entropy_forward_bf16", rows, &[p(lse), p(losses), p(x), Arg::Ptr(to), n(cols)]);
        let sums = |r: usize| sum((0..cols).map(|c| vx[r * cols + c].exp())).ln();
        let want: Vec<f64> = (0..rows).map(sums).collect();
        let terms = cols as f64 / 64.0 + 24.0;
        close(&format!("lse {name}"), &gpu.read(lse, rows), &want, |i| terms * UNIT * (1.0 + want[i].abs()));
        let loss = |r: usize| match targets[r] {
            u32::MAX => 0.0,
            target => want[r] - vx[r * cols + target as usize],
        };
        let losses_want: Vec<f64> = (0..rows).map(loss).collect();
        close(&format!("loss {name}"), &gpu.read(losses, rows), &losses_want, |i| terms * UNIT * (2.0 + want[i].abs()));

        let factor = gpu.upload(&mut [0.5], F);
        let args = [p(x), Arg::Ptr(to), p(lse), p(factor), n(cols), Arg::F32(0.25)];
        go(&mut gpu, SOFTMAX, "cross_entropy_backward_bf16", rows, &args);
        let slope = |i: usize| match targets[i / cols] {
            u32::MAX => 0.0,
            target => {
                let hit = if i % cols == target as usize { 1.0 } else { 0.0 };
                0.125 * ((vx[i] - want[i / cols]).exp() - hit)
            }
        };
        let gradient: Vec<f64> = (0..len).map(slope).collect();
        rounded(&format!("gradient {name}"), &gpu.read(x, len), &gradient, terms + 8.0, &vec![0.25; len]);
    }
}

#[test]
fn the_gated_unit() {
    for (len, shift) in [(1, 0), (6, 0), (1024, 0), (1030, 0), (1021, 1)] {
        let name = format!("{len} from {shift}");
        let mut gpu = Gpu::new(len as u64);
        let [(gate, vg), (up, vu), (gy, vd), (y, _)] = std::array::from_fn(|_| gpu.shifted(len, B, shift));
        let blocks = len.div_ceil(1024);
        go(&mut gpu, SEQUENCE, "swiglu_forward_bf16", blocks, &[p(y), p(gate), p(up), n(len)]);
        let s = |i: usize| 1.0 / (1.0 + (-vg[i]).exp());
        let all = |f: &dyn Fn(usize) -> f64| (0..len).map(f).collect::<Vec<f64>>();
        let want = all(&|i| vg[i] * s(i) * vu[i]);
        rounded(&format!("y {name}"), &gpu.read(y, len), &want, 16.0, &want);

        let ((dgate, a), (dup, b)) = (gpu.shifted(len, B, shift), gpu.shifted(len, B, shift));
        let args =
            [&[p(dgate), p(dup), p(gate), p(up), p(gy), n(len)], &[FLAGS[1].clone(), FLAGS[1].clone()][..]].concat();
        go(&mut gpu, SEQUENCE, "swiglu_backward_bf16", blocks, &args);
        let slope = |i: usize| vd[i] * vu[i] * s(i) * (1.0 + vg[i] * (1.0 - s(i)));
        let straight = |i: usize| vd[i] * vg[i] * s(i);
        let want = all(&|i| a[i] + slope(i));
        rounded(&format!("dgate {name}"), &gpu.read(dgate, len), &want, 16.0, &all(&|i| a[i].abs() + 2.0));
        let want = all(&|i| b[i] + straight(i));
        rounded(&format!("dup {name}"), &gpu.read(dup, len), &want, 16.0, &all(&|i| b[i].abs() + 2.0));
        // Either may be absent, and be set.
        let args = [&[NONE, p(dup), p(gate), p(up), p(gy), n(len)], &[FLAGS[0].clone(), FLAGS[0].clone()][..]].concat();
        go(&mut gpu, SEQUENCE, "swiglu_backward_bf16", blocks, &args);
        let want = all(&straight);
        rounded(&format!("dup alone {name}"), &gpu.read(dup, len), &want, 16.0, &want);
    }
}

/// Integers: the sums are exact in f32, so what is left is one rounding, to nearest even.
#[test]
fn rope_rounds_once() {
    // One pair at a time, and four.
    for (half, add) in [(5, 0), (5, 1), (8, 0), (8, 1)] {
        let [seq, heads] = [3, 2];
        let len = 2 * seq * heads * 2 * half;
        let mut gpu = Gpu::new(7);
        let mut draw = |count: usize, below: u64| -> Vec<f64> {
            (0..count).map(|_| (gpu.rng.next() % below) as f64 - (below / 2) as f64).collect()
        };
        let (mut vx, mut old) = (draw(len, 255), draw(len, 255));
        let (mut vc, mut vs) = (draw(seq * half, 63), draw(seq * half, 63));
        let (x, y) = (gpu.upload(&mut vx, B), gpu.upload(&mut old, B));
        let (cos, sin) = (gpu.upload(&mut vc, F), gpu.upload(&mut vs, F));
        let sizes = [n(len / 2), n(half), n(heads), n(seq), Arg::F32(-1.0), Arg::U32(add)];
        go(&mut gpu, SEQUENCE, "rope_bf16", 1, &[&[p(y), p(x), p(cos), p(sin)], &sizes[..]].concat());
        let want: Vec<f64> = (0..len)
            .map(|i| {
                let (row, c) = (i / (2 * half), i % (2 * half));
                let at = row / heads % seq * half + c % half;
                let turned = if c < half {
                    vx[i] * vc[at] + vx[i + half] * vs[at]
                } else {
                    vx[i] * vc[at] - vx[i - half] * vs[at]
                };
                half::bf16::from_f64(turned + f64::from(add) * old[i]).to_f64()
            })
            .collect();
        assert_eq!(gpu.read(y, len), want, "half {half} add {add}");
        assert!(want.iter().any(|v| v.abs() > 256.0), "nothing was rounded");
    }
}

/// map, zip, dropout, reduce, gather, scatter and copy take any storage; here bf16 throughout, four at a time and one by one.
#[test]
fn elementwise_and_moving_kernels_round_once() {
    let one = |v: f64| half::bf16::from_f64(v).to_f64();
    for (len, shift) in [(1030, 0), (1021, 1)] {
        for add in [0, 1] {
            let mut gpu = Gpu::new(len as u64);
            let flag = || FLAGS[add].clone();
            let keep = |old: &[f64], i: usize| if add == 1 { old[i] } else { 0.0 };
            let (x, vx) = gpu.shifted(len, B, shift);
            let (z, vz) = gpu.shifted(len, B, shift);
            // x² of bf16 is exact in f32; with what is there the sum is rounded once in f32, far below bf16.
            let (y, old) = gpu.shifted(len, B, shift);
            let tail = [Arg::U32(6), Arg::F32(0.0), Arg::F32(0.0)];
            go(&mut gpu, MAP, "map", 2, &[&[p(y), p(x), n(len), BF16, BF16, flag()], &tail[..]].concat());
            let want: Vec<f64> = (0..len).map(|i| vx[i] * vx[i] + keep(&old, i)).collect();
            rounded("map", &gpu.read(y, len), &want, 2.0, &vec![2.0; len]);

            let (y, old) = gpu.shifted(len, B, shift);
            let args = [p(y), p(x), p(z), n(len), BF16, BF16, BF16, flag(), Arg::U32(2)];
            go(&mut gpu, ZIP, "zip_same", 2, &args);
            let want: Vec<f64> = (0..len).map(|i| vx[i] * vz[i] + keep(&old, i)).collect();
            rounded("zip", &gpu.read(y, len), &want, 2.0, &vec![2.0; len]);

            let (y, old) = gpu.shifted(len, B, shift);
            let d = lowrank_backend::Dropout { p: 0.5, seed: 7, stream: 5 };
            let scalars = gpu.mem.upload(&[3.0f32; 64]);
            let site: Vec<u8> =
                [7u32, 0, 5, d.threshold()].iter().flat_map(|v| v.to_le_bytes()).chain(2f32.to_le_bytes()).collect();
            let args = [p(y), p(x), Arg::Ptr(scalars), n(len), BF16, BF16, flag(), Arg::Bytes(site)];
            go(&mut gpu, DROPOUT, "dropout", 2, &args);
            let kept = |i: usize| philox::word(7, 5, 3, i as u64) >= d.threshold();
            let want: Vec<f64> =
                (0..len).map(|i| one(if kept(i) { 2.0 * vx[i] } else { 0.0 } + keep(&old, i))).collect();
            rounded("dropout", &gpu.read(y, len), &want, 2.0, &vec![3.0; len]);

            // Every second element of rows of 10, to rows of 7 apart.
            let (y, old) = gpu.shifted(7 * 20, B, shift);
            go(&mut gpu, COPY, "copy_bf16", 1, &[p(y), p(x), n(100), n(5), n(10), n(7), flag()]);
            let copied = |i: usize| if i % 7 < 5 { vx[i / 7 * 10 + i % 7] + keep(&old, i) } else { old[i] };
            let want: Vec<f64> = (0..140).map(|i| one(copied(i))).collect();
            assert_eq!(gpu.read(y, 140), want, "copy");

            // Rows 3, 0, 3 and one beyond a table of four rows of 9.
            let (y, old) = gpu.shifted(4 * 9, B, shift);
            let ids = gpu.mem.upload(&[3u32, 0, 3, 4]);
            let args = [p(y), p(x), Arg::Ptr(ids), n(36), n(9), n(4), n(9), n(1), BF16, BF16, flag()];
            go(&mut gpu, MOVING, "gather", 1, &args);
            let got = gpu.read(y, 36);
            assert!(got[27..].iter().all(|v| v.is_nan()));
            let from = |i: usize| vx[[3, 0, 3][i / 9] * 9 + i % 9];
            assert_eq!(got[..27], (0..27).map(|i| one(from(i) + keep(&old, i))).collect::<Vec<_>>()[..], "gather");

            // Rows of 100 by a block, rows of 50 by a warp, columns.
            let result = gpu.alloc(20, B);
            let reduced = |i: usize, of: usize| sum((0..of).map(|j| vx[i * of + j]));
            let tail = [BF16, BF16, FLAGS[0].clone(), Arg::U32(0)];
            go(&mut gpu, REDUCE, "reduce_rows", 10, &[&[p(result), p(x), n(100), n(100), n(1)], &tail[..]].concat());
            let want: Vec<f64> = (0..10).map(|i| reduced(i, 100)).collect();
            rounded("rows", &gpu.read(result, 10), &want, 8.0, &[100.0; 10]);
            go(&mut gpu, REDUCE, "reduce_short_rows", 3, &[&[p(result), p(x), n(20), n(50)], &tail[..]].concat());
            let want: Vec<f64> = (0..20).map(|i| reduced(i, 50)).collect();
            rounded("short rows", &gpu.read(result, 20), &want, 8.0, &[50.0; 20]);
            go(
                &mut gpu,
                REDUCE,
                "reduce_columns",
                1,
                &[&[p(result), p(x), n(20), n(50), n(20), n(50), n(1)], &tail[..]].concat(),
            );
            let want: Vec<f64> = (0..20).map(|i| sum((0..50).map(|j| vx[j * 20 + i]))).collect();
            rounded("columns", &gpu.read(result, 20), &want, 50.0, &[50.0; 20]);
        }
    }
}

/// A gradient in bf16 is added up in f32.
#[test]
fn scattered_rows_are_summed_in_f32() {
    let mut gpu = Gpu::new(1);
    let (x, vx) = gpu.random(300 * 20, B);
    let ids: Vec<u32> = (0..300).map(|i| [2, 0, 2, 1, 2][i % 5]).collect();
    let (at, table) = (gpu.mem.upload(&ids), gpu.upload(&mut vec![0.0; 60], F));
    let args = [p(table), Arg::Ptr(at), p(x), n(300), n(20), n(3), n(20), n(1), BF16];
    go(&mut gpu, MOVING, "scatter_add", 300, &args);
    let of = |row: usize, c: usize| sum((0..300).filter(|&i| ids[i] as usize == row).map(|i| vx[i * 20 + c]));
    let want: Vec<f64> = (0..60).map(|i| of(i / 20, i % 20)).collect();
    close("table", &gpu.read(table, 60), &want, |_| 180.0 * UNIT * 20.0);
}
