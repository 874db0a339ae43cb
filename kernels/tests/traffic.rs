//! What the moving, elementwise, row-wise and optimiser kernels transfer, as ptxsim counts it, against what they must on
//! paper: whole sectors of 32 bytes, every element as often as stated here, and no bank conflict in shared memory.

use ptxsim::{Arg, Config, Memory, Module, launch};

/// Bytes of global memory that a call moves, and its bank conflicts.
fn count(file: lowrank_kernels::Module, entry: &str, mem: &mut Memory, blocks: usize, args: Vec<Arg>) -> (u64, u64) {
    let module = Module::parse(file.ptx).unwrap();
    let config = Config { count: true, ..Config::new([blocks as u32, 1, 1], [256, 1, 1]) };
    let report = launch(&module, entry, mem, &config, &args).unwrap();
    assert!(report.is_clean(), "{entry}: {report}");
    (32 * report.counters.global_sectors, report.counters.bank_conflicts)
}

const F: u64 = 4;

fn ptrs(values: &[u64]) -> Vec<Arg> {
    values.iter().map(|&v| Arg::Ptr(v)).collect()
}

fn u64s(values: &[usize]) -> Vec<Arg> {
    values.iter().map(|&v| Arg::U64(v as u64)).collect()
}

fn u32s(values: &[u32]) -> Vec<Arg> {
    values.iter().map(|&v| Arg::U32(v)).collect()
}

fn f32s(values: &[f32]) -> Vec<Arg> {
    values.iter().map(|&v| Arg::F32(v)).collect()
}

/// `n` buffers of `len` ones.
fn ones<const N: usize>(mem: &mut Memory, len: usize) -> [u64; N] {
    std::array::from_fn(|_| mem.upload(&vec![1.0f32; len]))
}

/// One reading of each operand, one writing of each result.
#[test]
fn elementwise() {
    let (n, len) = (4096usize, 4096u64);
    let mut mem = Memory::new();
    let [a, b, c, d, e] = ones(&mut mem, n);
    let blocks = n / 1024;
    let map = [ptrs(&[b, a]), u64s(&[n]), u32s(&[0, 0, 0, 6]), f32s(&[0.0, 0.0])].concat();
    assert_eq!(count(lowrank_kernels::MAP, "map", &mut mem, blocks, map), (2 * F * len, 0));
    // f32 to bf16.
    let cast = [ptrs(&[b, a]), u64s(&[n]), u32s(&[1, 0, 0, 0]), f32s(&[0.0, 0.0])].concat();
    assert_eq!(count(lowrank_kernels::MAP, "map", &mut mem, blocks, cast), (6 * len, 0));
    let zip = [ptrs(&[c, a, b]), u64s(&[n]), u32s(&[0, 0, 0, 0, 2])].concat();
    assert_eq!(count(lowrank_kernels::ZIP, "zip_same", &mut mem, blocks, zip), (3 * F * len, 0));
    let swiglu = [ptrs(&[c, a, d]), u64s(&[n])].concat();
    assert_eq!(count(lowrank_kernels::SEQUENCE, "swiglu_forward", &mut mem, blocks, swiglu), (3 * F * len, 0));
    let swiglu = [ptrs(&[c, b, a, d, e]), u64s(&[n]), u32s(&[0, 0])].concat();
    assert_eq!(count(lowrank_kernels::SEQUENCE, "swiglu_backward", &mut mem, blocks, swiglu), (5 * F * len, 0));
    let copy = [ptrs(&[c, a]), u64s(&[n, n, n, n]), u32s(&[0])].concat();
    assert_eq!(count(lowrank_kernels::COPY, "copy_f32", &mut mem, n / 256, copy), (2 * F * len, 0));
    // The step is a sector for each warp.
    let site: Vec<u8> = [7u32, 0, 5, 1 << 31].iter().flat_map(|v| v.to_le_bytes()).chain(2f32.to_le_bytes()).collect();
    let drop = [ptrs(&[c, a, d]), u64s(&[n]), u32s(&[0, 0, 0]), vec![Arg::Bytes(site)]].concat();
    let warps = len / 128;
    assert_eq!(count(lowrank_kernels::DROPOUT, "dropout", &mut mem, blocks, drop), (2 * F * len + 32 * warps, 0));
}

/// A block a row. The second reading of a row is from the cache; it counts here as well.
#[test]
fn rows() {
    let (rows, cols) = (4usize, 1024usize);
    let all = (rows * cols) as u64;
    let mut mem = Memory::new();
    let [x, y, gy, w] = ones(&mut mem, rows * cols);
    let [small, other] = ones(&mut mem, 64);
    let targets = mem.upload(&[1u32, 2, 3, 4]);
    // x read twice, y written.
    let softmax = [ptrs(&[y, x]), u64s(&[cols])].concat();
    assert_eq!(count(lowrank_kernels::SOFTMAX, "softmax_forward", &mut mem, rows, softmax), (3 * F * all, 0));
    // The logits once; a row's target, its logit, and lse and loss out: four sectors.
    let loss = [ptrs(&[small, other, x, targets]), u64s(&[cols])].concat();
    let scalars = 4 * 32 * rows as u64;
    assert_eq!(count(lowrank_kernels::SOFTMAX, "cross_entropy_forward", &mut mem, rows, loss), (F * all + scalars, 0));
    // Read and written in place; target, lse and gy are a sector for each of eight warps.
    let back = [ptrs(&[x, targets, small, other]), u64s(&[cols]), f32s(&[1.0])].concat();
    let (bytes, conflicts) = count(lowrank_kernels::SOFTMAX, "cross_entropy_backward", &mut mem, rows, back);
    assert_eq!((bytes, conflicts), (2 * F * all + 3 * 8 * 32 * rows as u64, 0));
    // x twice, w once a row, y; rstd a sector.
    let norm = [ptrs(&[y, small, 0, x, w, 0]), u64s(&[cols]), f32s(&[1e-6])].concat();
    let (bytes, conflicts) = count(lowrank_kernels::NORM, "norm_forward", &mut mem, rows, norm);
    assert_eq!((bytes, conflicts), (4 * F * all + 32 * rows as u64, 0));
    // x, gy and w twice, dx; rstd a sector for each warp.
    let norm = [ptrs(&[y, x, w, 0, small, gy]), u64s(&[cols]), u32s(&[0])].concat();
    let (bytes, conflicts) = count(lowrank_kernels::NORM, "norm_backward", &mut mem, rows, norm);
    assert_eq!((bytes, conflicts), (7 * F * all + 8 * 32 * rows as u64, 0));
    // x once; a result a row.
    let sum = [ptrs(&[small, x]), u64s(&[cols, cols, 1]), u32s(&[0, 0, 0, 0])].concat();
    let (bytes, conflicts) = count(lowrank_kernels::REDUCE, "reduce_rows", &mut mem, rows, sum);
    assert_eq!((bytes, conflicts), (F * all + 32 * rows as u64, 0));
    // Columns: x once, a result each.
    let sum = [ptrs(&[y, x]), u64s(&[cols, rows, cols, rows, 1]), u32s(&[0, 0, 0, 0])].concat();
    let (bytes, conflicts) = count(lowrank_kernels::REDUCE, "reduce_columns", &mut mem, cols / 256, sum);
    assert_eq!((bytes, conflicts), (F * (all + cols as u64), 0));
}

/// Activations in bf16: half the bytes, still in whole sectors, also where results are added to what is there.
#[test]
fn activations_in_bf16() {
    let (rows, cols) = (4usize, 1024usize);
    let (n, all) = (rows * cols, (rows * cols) as u64);
    let mut mem = Memory::new();
    let [a, b, c, d, e]: [u64; 5] = std::array::from_fn(|_| mem.upload(&vec![0x3f80u16; n]));
    let [w, small, other] = ones(&mut mem, cols);
    let (blocks, half) = (n / 1024, F / 2);
    // One reading of each operand and one writing of each result, and one more reading where it is added to.
    for add in [0u32, 1] {
        let more = half * all * u64::from(add);
        let map = [ptrs(&[b, a]), u64s(&[n]), u32s(&[1, 1, add, 6]), f32s(&[0.0, 0.0])].concat();
        assert_eq!(count(lowrank_kernels::MAP, "map", &mut mem, blocks, map), (2 * half * all + more, 0));
        let zip = [ptrs(&[c, a, b]), u64s(&[n]), u32s(&[1, 1, 1, add, 2])].concat();
        assert_eq!(count(lowrank_kernels::ZIP, "zip_same", &mut mem, blocks, zip), (3 * half * all + more, 0));
        let swiglu = [ptrs(&[c, b, a, d, e]), u64s(&[n]), u32s(&[add, add])].concat();
        let counted = count(lowrank_kernels::SEQUENCE, "swiglu_backward_bf16", &mut mem, blocks, swiglu);
        assert_eq!(counted, (5 * half * all + 2 * more, 0));
        let site: Vec<u8> =
            [7u32, 0, 5, 1 << 31].iter().flat_map(|v| v.to_le_bytes()).chain(2f32.to_le_bytes()).collect();
        let drop = [ptrs(&[c, a, w]), u64s(&[n]), u32s(&[1, 1, add]), vec![Arg::Bytes(site)]].concat();
        let counted = count(lowrank_kernels::DROPOUT, "dropout", &mut mem, blocks, drop);
        assert_eq!(counted, (2 * half * all + more + 32 * all / 128, 0));
        let copy = [ptrs(&[c, a]), u64s(&[n, n, n, n]), u32s(&[add])].concat();
        assert_eq!(count(lowrank_kernels::COPY, "copy_bf16", &mut mem, n / 256, copy), (2 * half * all + more, 0));
        // [1, 4, 16, 64], tables [4, 32]: a warp has the pairs of four heads, which share a row of each table.
        let rope = [ptrs(&[c, a, w, w]), u64s(&[n / 2, 32, 16, 4]), f32s(&[1.0]), u32s(&[add])].concat();
        let counted = count(lowrank_kernels::SEQUENCE, "rope_bf16", &mut mem, n / 2048, rope);
        assert_eq!(counted, (2 * half * all + more + 2 * F * all / 8, 0));
        let back = [ptrs(&[c, a, d]), u64s(&[cols]), u32s(&[add])].concat();
        let counted = count(lowrank_kernels::SOFTMAX, "softmax_backward_bf16", &mut mem, rows, back);
        assert_eq!(counted, (5 * half * all + more, 0));
        // x, gy and w (f32) twice, dx; rstd a sector for each warp.
        let norm = [ptrs(&[c, a, w, 0, small, d]), u64s(&[cols]), u32s(&[add])].concat();
        let counted = count(lowrank_kernels::NORM, "norm_backward_bf16", &mut mem, rows, norm);
        assert_eq!(counted, (5 * half * all + 2 * F * all + more + 8 * 32 * rows as u64, 0));
    }
    let swiglu = [ptrs(&[c, a, d]), u64s(&[n])].concat();
    let counted = count(lowrank_kernels::SEQUENCE, "swiglu_forward_bf16", &mut mem, blocks, swiglu);
    assert_eq!(counted, (3 * half * all, 0));
    let softmax = [ptrs(&[c, a]), u64s(&[cols])].concat();
    let counted = count(lowrank_kernels::SOFTMAX, "softmax_forward_bf16", &mut mem, rows, softmax);
    assert_eq!(counted, (3 * half * all, 0));
    let targets = mem.upload(&[1u32, 2, 3, 4]);
    let loss = [ptrs(&[small, other, a, targets]), u64s(&[cols])].concat();
    let counted = count(lowrank_kernels::SOFTMAX, "cross_entropy_forward_bf16", &mut mem, rows, loss);
    assert_eq!(counted, (half * all + 4 * 32 * rows as u64, 0));
    let back = [ptrs(&[a, targets, small, other]), u64s(&[cols]), f32s(&[1.0])].concat();
    let counted = count(lowrank_kernels::SOFTMAX, "cross_entropy_backward_bf16", &mut mem, rows, back);
    assert_eq!(counted, (2 * half * all + 3 * 8 * 32 * rows as u64, 0));
    // x twice, w once a row, y; rstd a sector.
    let norm = [ptrs(&[c, small, 0, a, w, 0]), u64s(&[cols]), f32s(&[1e-6])].concat();
    let counted = count(lowrank_kernels::NORM, "norm_forward_bf16", &mut mem, rows, norm);
    assert_eq!(counted, (3 * half * all + F * all + 32 * rows as u64, 0));
    // x and gy once; rstd and the mean of a row are a sector for each warp; a result a column.
    let weights = [ptrs(&[other, 0, a, 0, small, d]), u64s(&[rows, cols, 64, cols]), u32s(&[0, 0])].concat();
    let counted = count(lowrank_kernels::NORM, "norm_weights_bf16", &mut mem, cols / 256, weights);
    assert_eq!(counted, (2 * half * all + 32 * all / 32 + F * cols as u64, 0));
    // Rows of an embedding: a warp reads its index once.
    let ids = mem.upload(&[3u32, 0, 1]);
    let gather = [ptrs(&[c, a, ids]), u64s(&[3 * cols, cols, rows, cols, 1]), u32s(&[1, 1, 0])].concat();
    let (bytes, _) = count(lowrank_kernels::MOVING, "gather", &mut mem, 3 * cols / 256, gather);
    assert_eq!(bytes, 2 * half * 3 * cols as u64 + 32 * 3 * cols as u64 / 32);
}

/// AdamW reads p, m, v and g and writes p, m and v; the four scalars are one or two sectors for each warp.
#[test]
fn optimiser() {
    let len = 8192usize;
    let mut mem = Memory::new();
    let [p, m, v, g, scalars] = ones(&mut mem, len);
    let mut table = vec![0u8; 80 * 44];
    for (column, at) in [p, m, v, g, len as u64].into_iter().enumerate() {
        table[8 * 80 * column..][..8].copy_from_slice(&at.to_le_bytes());
    }
    let constants = f32s(&[0.9, 0.1, 0.99, 0.01, 1e-8, 0.0]);
    let args = [ptrs(&[scalars]), u32s(&[1, 8]), constants, vec![Arg::Bytes(table)]].concat();
    let (bytes, conflicts) = count(lowrank_kernels::OPTIM, "adamw", &mut mem, len / 4096, args);
    let warps = 2 * 8;
    assert_eq!((bytes, conflicts), (7 * F * len as u64 + 4 * 32 * warps, 0));
}
