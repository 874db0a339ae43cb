// Products: c[i] (+)= alpha op(a[i]) op(b[i]) (+ branch) (+ bias), and the adapter's branch that rides on their tiles.
//
//   gemm             NN, NT and TN by the strides and TA, TB; a batch in z.
//   linear_forward   NT with bias.          linear_backward  NN.
//   lora_forward     h = x^ A^T (dot, MASK 1); y = x W^T + s h B^T (BRANCH 1).
//   lora_backward    u = s gy B and dB = s gy^T h in one kernel (lora_u_db); dA = u^T x^ and dx = gy W + (u A) * mask in
//                    another (lora_da_dx, BRANCH 2, MASK 3): groups below `split` do the first, the others the second.
//
// tiled: a workgroup owns BM x BN elements of c, an invocation T x T of them: 4 x 4 in four vec4 accumulators, or 8 x 8 as
// four such blocks half a tile apart, which halves the reads per multiply-add. Both operands pass through workgroup memory
// in steps of BK = 16 along k, a transposed: 8 KiB for 64 x 64, 16 KiB for 128 x 128. After the last step the branch's r
// columns go through the same tiles into a second set of accumulators, and c is written once.
//
// gemm_subgroups.wgsl and gemm_cooperative.wgsl are variants of `tiled`; crates/wgpu/src/tile.rs chooses.
//
// dot: for few rows (decoding) or few columns (rank r): a workgroup owns 4 x 4 elements, its 64 invocations share k among
// them, and a tree adds the parts. The path depends on the sizes, never on the device.
//
// Every sum runs over k in ascending order (tiled, whatever T, BM and BN are) or in 64 interleaved parts (dot), so the bits
// of a row depend neither on the other rows nor on the tile. Operands may be f32, bf16 or f16; arithmetic is f32.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    r: u32,
    // Distance between stored rows.
    a_step: u32,
    b_step: u32,
    c_step: u32,
    p_step: u32,
    q_step: u32,
    a_start: u32,
    b_start: u32,
    c_start: u32,
    p_start: u32,
    q_start: u32,
    bias_start: u32,
    scalars_start: u32,
    // Distance between matrices of a batch.
    a_batch: u32,
    b_batch: u32,
    c_batch: u32,
    alpha: f32,
    // Factor of the branch.
    scale: f32,
    // Elements of a row of what dropout counts.
    mask_step: u32,
    // The second result of the kernels that have one, and where its groups begin.
    d_start: u32,
    split: u32,
    mask: Mask,
}

override BM: u32 = 64u;
override BN: u32 = 64u;
// Elements of a side of what an invocation owns: 4 or 8.
override T: u32 = 4u;
// a is stored [k,m]; b is stored [n,k].
override TA: u32 = 0u;
override TB: u32 = 0u;
override A_TYPE: u32 = 0u;
override B_TYPE: u32 = 0u;
override BIAS_TYPE: u32 = 0u;
// Rows of a, b start at multiples of 4 elements.
override A_VEC: u32 = 0u;
override B_VEC: u32 = 0u;
override ADD: u32 = 0u;
override ADD2: u32 = 0u;
override BIAS: u32 = 0u;
// 0 none; p [m,r] times q^T with q [n,r] (1), or times q [r,n] (2).
override BRANCH: u32 = 0u;
// Dropout on nothing (0), a (1), b (2) or the branch (3).
override MASK: u32 = 0u;

const BK: u32 = 16u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> c: array<f32>;
@group(0) @binding(2) var<storage, read_write> d: array<f32>;
@group(0) @binding(3) var<storage, read> a: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> b: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> p: array<f32>;
@group(0) @binding(6) var<storage, read> q: array<f32>;
// The bias; in lora_da_dx x.
@group(0) @binding(7) var<storage, read> bias: array<u32>;
@group(0) @binding(8) var<storage, read> scalars: array<f32>;

var<workgroup> a_tile: array<f32, BM * 16u>;
var<workgroup> b_tile: array<vec4<f32>, BN * 4u>;

fn halves(words: vec2<u32>, kind: u32) -> vec4<f32> {
    return vec4<f32>(half_value(words.x & 0xffffu, kind), half_value(words.x >> 16u, kind),
                     half_value(words.y & 0xffffu, kind), half_value(words.y >> 16u, kind));
}

// Four neighbours of a, element i a multiple of 4.
fn a_four(i: u32) -> vec4<f32> {
    if (A_TYPE == F32) { return bitcast<vec4<f32>>(a[i >> 2u]); }
    let words = a[i >> 3u];
    return halves(select(words.xy, words.zw, (i & 4u) != 0u), A_TYPE);
}

fn b_four(i: u32) -> vec4<f32> {
    if (B_TYPE == F32) { return bitcast<vec4<f32>>(b[i >> 2u]); }
    let words = b[i >> 3u];
    return halves(select(words.xy, words.zw, (i & 4u) != 0u), B_TYPE);
}

fn a_one(i: u32) -> f32 {
    if (A_TYPE == F32) { return bitcast<f32>(a[i >> 2u][i & 3u]); }
    return half_value(half_of(a[i >> 3u][(i >> 1u) & 3u], i), A_TYPE);
}

fn b_one(i: u32) -> f32 {
    if (B_TYPE == F32) { return bitcast<f32>(b[i >> 2u][i & 3u]); }
    return half_value(half_of(b[i >> 3u][(i >> 1u) & 3u], i), B_TYPE);
}

fn step_now() -> u32 {
    return u32(scalars[params.scalars_start]);
}

// v times the mask of elements i .. i + 4.
fn dropped_four(i: u32, v: vec4<f32>) -> vec4<f32> {
    let step = step_now();
    var words = philox(params.mask, step, i >> 2u);
    let shift = i & 3u;
    if (shift != 0u) {
        let next = philox(params.mask, step, (i >> 2u) + 1u);
        if (shift == 1u) { words = vec4<u32>(words.yzw, next.x); }
        else if (shift == 2u) { words = vec4<u32>(words.zw, next.xy); }
        else { words = vec4<u32>(words.w, next.xyz); }
    }
    return select(vec4<f32>(0.0), v * params.mask.keep, words >= vec4<u32>(params.mask.threshold));
}

// Elements at .. at + 4 of a stored row of a, zero beyond its end.
fn load_a(start: u32, row: u32, rows: u32, at: u32, length: u32) -> vec4<f32> {
    var v = vec4<f32>(0.0);
    if (row >= rows || at >= length) { return v; }
    let i = start + row * params.a_step + at;
    if (A_VEC != 0u && at + 4u <= length) {
        v = a_four(i);
    } else {
        v.x = a_one(i);
        if (at + 1u < length) { v.y = a_one(i + 1u); }
        if (at + 2u < length) { v.z = a_one(i + 2u); }
        if (at + 3u < length) { v.w = a_one(i + 3u); }
    }
    if (MASK == 1u) { v = dropped_four(row * params.mask_step + at, v); }
    return v;
}

fn load_b(start: u32, row: u32, rows: u32, at: u32, length: u32) -> vec4<f32> {
    var v = vec4<f32>(0.0);
    if (row >= rows || at >= length) { return v; }
    let i = start + row * params.b_step + at;
    if (B_VEC != 0u && at + 4u <= length) {
        v = b_four(i);
    } else {
        v.x = b_one(i);
        if (at + 1u < length) { v.y = b_one(i + 1u); }
        if (at + 2u < length) { v.z = b_one(i + 2u); }
        if (at + 3u < length) { v.w = b_one(i + 3u); }
    }
    if (MASK == 2u) { v = dropped_four(row * params.mask_step + at, v); }
    return v;
}

fn p_at(row: u32, j: u32) -> f32 {
    if (row >= params.m || j >= params.r) { return 0.0; }
    return p[params.p_start + row * params.p_step + j];
}

// Element (j, column) of the matrix that p is multiplied with.
fn q_at(j: u32, column: u32) -> f32 {
    if (column >= params.n || j >= params.r) { return 0.0; }
    if (BRANCH == 1u) { return q[params.q_start + column * params.q_step + j]; }
    return q[params.q_start + j * params.q_step + column];
}

fn bias_at(column: u32) -> f32 {
    let i = params.bias_start + column;
    if (BIAS_TYPE == F32) { return bitcast<f32>(bias[i]); }
    return half_value(half_of(bias[i >> 1u], i), BIAS_TYPE);
}

// One element of c.
fn finish(matrix: u32, row: u32, column: u32, product: f32, branch: f32) {
    if (row >= params.m || column >= params.n) { return; }
    var v = params.alpha * product;
    if (BRANCH != 0u) {
        var side = params.scale * branch;
        if (MASK == 3u) { side = dropped(params.mask, step_now(), row * params.mask_step + column, side); }
        v += side;
    }
    if (BIAS != 0u) { v += bias_at(column); }
    let i = params.c_start + matrix * params.c_batch + row * params.c_step + column;
    if (ADD != 0u) { v = c[i] + v; }
    c[i] = v;
}

// Four neighbours of a row of c.
fn finish_four(matrix: u32, row: u32, column: u32, product: vec4<f32>, branch: vec4<f32>) {
    if (row >= params.m) { return; }
    var v = params.alpha * product;
    if (BRANCH != 0u) {
        var side = params.scale * branch;
        if (MASK == 3u) { side = dropped_four(row * params.mask_step + column, side); }
        v += side;
    }
    for (var j = 0u; j < 4u; j++) {
        if (column + j >= params.n) { break; }
        var one = v[j];
        if (BIAS != 0u) { one += bias_at(column + j); }
        let i = params.c_start + matrix * params.c_batch + row * params.c_step + column + j;
        if (ADD != 0u) { one = c[i] + one; }
        c[i] = one;
    }
}

// What an invocation owns: rows 0 to 3 with columns 0 to 3 (l); for T = 8 also rows 4 to 7, which lie BM / 2 below, and
// columns 4 to 7 (r), which lie BN / 2 to the right.
struct Sums {
    l0: vec4<f32>,
    l1: vec4<f32>,
    l2: vec4<f32>,
    l3: vec4<f32>,
    l4: vec4<f32>,
    l5: vec4<f32>,
    l6: vec4<f32>,
    l7: vec4<f32>,
    r0: vec4<f32>,
    r1: vec4<f32>,
    r2: vec4<f32>,
    r3: vec4<f32>,
    r4: vec4<f32>,
    r5: vec4<f32>,
    r6: vec4<f32>,
    r7: vec4<f32>,
}

// Plus the product of the two tiles.
fn multiply(s: ptr<function, Sums>, x: u32, y: u32) {
    for (var k = 0u; k < BK; k++) {
        let right = b_tile[k * (BN / 4u) + x];
        let at = k * BM + y * 4u;
        let a0 = vec4<f32>(a_tile[at]);
        let a1 = vec4<f32>(a_tile[at + 1u]);
        let a2 = vec4<f32>(a_tile[at + 2u]);
        let a3 = vec4<f32>(a_tile[at + 3u]);
        (*s).l0 = fma(a0, right, (*s).l0);
        (*s).l1 = fma(a1, right, (*s).l1);
        (*s).l2 = fma(a2, right, (*s).l2);
        (*s).l3 = fma(a3, right, (*s).l3);
        if (T == 8u) {
            let other = b_tile[k * (BN / 4u) + BN / 8u + x];
            let below = at + BM / 2u;
            let a4 = vec4<f32>(a_tile[below]);
            let a5 = vec4<f32>(a_tile[below + 1u]);
            let a6 = vec4<f32>(a_tile[below + 2u]);
            let a7 = vec4<f32>(a_tile[below + 3u]);
            (*s).l4 = fma(a4, right, (*s).l4);
            (*s).l5 = fma(a5, right, (*s).l5);
            (*s).l6 = fma(a6, right, (*s).l6);
            (*s).l7 = fma(a7, right, (*s).l7);
            (*s).r0 = fma(a0, other, (*s).r0);
            (*s).r1 = fma(a1, other, (*s).r1);
            (*s).r2 = fma(a2, other, (*s).r2);
            (*s).r3 = fma(a3, other, (*s).r3);
            (*s).r4 = fma(a4, other, (*s).r4);
            (*s).r5 = fma(a5, other, (*s).r5);
            (*s).r6 = fma(a6, other, (*s).r6);
            (*s).r7 = fma(a7, other, (*s).r7);
        }
    }
}

// BK columns of BM rows of op(a), transposed.
fn fill_a(a_start: u32, row0: u32, k0: u32, lane: u32, lanes: u32) {
    for (var e = lane; e < BM * BK / 4u; e += lanes) {
        if (TA == 0u) {
            let row = e / (BK / 4u);
            let k = e % (BK / 4u) * 4u;
            let v = load_a(a_start, row0 + row, params.m, k0 + k, params.k);
            a_tile[k * BM + row] = v.x;
            a_tile[(k + 1u) * BM + row] = v.y;
            a_tile[(k + 2u) * BM + row] = v.z;
            a_tile[(k + 3u) * BM + row] = v.w;
        } else {
            let k = e / (BM / 4u);
            let row = e % (BM / 4u) * 4u;
            let v = load_a(a_start, k0 + k, params.k, row0 + row, params.m);
            a_tile[k * BM + row] = v.x;
            a_tile[k * BM + row + 1u] = v.y;
            a_tile[k * BM + row + 2u] = v.z;
            a_tile[k * BM + row + 3u] = v.w;
        }
    }
}

// BK rows of BN columns of op(b).
fn fill_b(b_start: u32, column0: u32, k0: u32, lane: u32, lanes: u32) {
    for (var e = lane; e < BN * BK / 4u; e += lanes) {
        if (TB == 0u) {
            let k = e / (BN / 4u);
            let column = e % (BN / 4u);
            b_tile[k * (BN / 4u) + column] = load_b(b_start, k0 + k, params.k, column0 + column * 4u, params.n);
        } else {
            let column = e / (BK / 4u);
            let k = e % (BK / 4u) * 4u;
            let v = load_b(b_start, column0 + column, params.n, k0 + k, params.k);
            let at = column / 4u;
            let part = column % 4u;
            b_tile[k * (BN / 4u) + at][part] = v.x;
            b_tile[(k + 1u) * (BN / 4u) + at][part] = v.y;
            b_tile[(k + 2u) * (BN / 4u) + at][part] = v.z;
            b_tile[(k + 3u) * (BN / 4u) + at][part] = v.w;
        }
    }
}

// The branch's product through the same tiles.
fn branch(s: ptr<function, Sums>, row0: u32, column0: u32, local: vec2<u32>, lane: u32, lanes: u32) {
    for (var k0 = 0u; k0 < params.r; k0 += BK) {
        for (var e = lane; e < BM * BK; e += lanes) {
            a_tile[e % BK * BM + e / BK] = p_at(row0 + e / BK, k0 + e % BK);
        }
        for (var e = lane; e < BN * BK; e += lanes) {
            let j = select(e / BN, e % BK, BRANCH == 1u);
            let column = select(e % BN, e / BK, BRANCH == 1u);
            b_tile[j * (BN / 4u) + column / 4u][column % 4u] = q_at(k0 + j, column0 + column);
        }
        workgroupBarrier();
        multiply(s, local.x, local.y);
        workgroupBarrier();
    }
}

fn tile(group: vec3<u32>, local: vec2<u32>, lane: u32) {
    let row0 = group.y * BM;
    let column0 = group.x * BN;
    let lanes = BM * BN / (T * T);
    let a_start = params.a_start + group.z * params.a_batch;
    let b_start = params.b_start + group.z * params.b_batch;
    var sums: Sums;
    for (var k0 = 0u; k0 < params.k; k0 += BK) {
        fill_a(a_start, row0, k0, lane, lanes);
        fill_b(b_start, column0, k0, lane, lanes);
        workgroupBarrier();
        multiply(&sums, local.x, local.y);
        workgroupBarrier();
    }
    var side: Sums;
    if (BRANCH != 0u) { branch(&side, row0, column0, local, lane, lanes); }
    let row = row0 + local.y * 4u;
    let column = column0 + local.x * 4u;
    finish_four(group.z, row, column, sums.l0, side.l0);
    finish_four(group.z, row + 1u, column, sums.l1, side.l1);
    finish_four(group.z, row + 2u, column, sums.l2, side.l2);
    finish_four(group.z, row + 3u, column, sums.l3, side.l3);
    if (T == 8u) {
        let below = row + BM / 2u;
        let other = column + BN / 2u;
        finish_four(group.z, below, column, sums.l4, side.l4);
        finish_four(group.z, below + 1u, column, sums.l5, side.l5);
        finish_four(group.z, below + 2u, column, sums.l6, side.l6);
        finish_four(group.z, below + 3u, column, sums.l7, side.l7);
        finish_four(group.z, row, other, sums.r0, side.r0);
        finish_four(group.z, row + 1u, other, sums.r1, side.r1);
        finish_four(group.z, row + 2u, other, sums.r2, side.r2);
        finish_four(group.z, row + 3u, other, sums.r3, side.r3);
        finish_four(group.z, below, other, sums.r4, side.r4);
        finish_four(group.z, below + 1u, other, sums.r5, side.r5);
        finish_four(group.z, below + 2u, other, sums.r6, side.r6);
        finish_four(group.z, below + 3u, other, sums.r7, side.r7);
    }
}

@compute @workgroup_size(BN / T, BM / T)
fn tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
         @builtin(local_invocation_index) lane: u32) {
    tile(group, local.xy, lane);
}

var<workgroup> parts: array<vec4<f32>, 256>;

// a is not transposed here. Invocation `lane` takes elements 4 lane .. 4 lane + 4 of every 256 along k.
fn dots(group: vec3<u32>, lane: u32) {
    let row0 = group.y * 4u;
    let column0 = group.x * 4u;
    let a_start = params.a_start + group.z * params.a_batch;
    let b_start = params.b_start + group.z * params.b_batch;
    var sums: array<vec4<f32>, 4>;
    for (var k = lane * 4u; k < params.k; k += 256u) {
        // Four columns of b at four k.
        var right: array<vec4<f32>, 4>;
        for (var j = 0u; j < 4u; j++) {
            if (TB == 0u) {
                right[j] = load_b(b_start, k + j, params.k, column0, params.n);
            } else {
                let v = load_b(b_start, column0 + j, params.n, k, params.k);
                right[0][j] = v.x;
                right[1][j] = v.y;
                right[2][j] = v.z;
                right[3][j] = v.w;
            }
        }
        for (var i = 0u; i < 4u; i++) {
            let left = load_a(a_start, row0 + i, params.m, k, params.k);
            sums[i] = fma(vec4<f32>(left.x), right[0], sums[i]);
            sums[i] = fma(vec4<f32>(left.y), right[1], sums[i]);
            sums[i] = fma(vec4<f32>(left.z), right[2], sums[i]);
            sums[i] = fma(vec4<f32>(left.w), right[3], sums[i]);
        }
    }
    for (var i = 0u; i < 4u; i++) { parts[lane * 4u + i] = sums[i]; }
    workgroupBarrier();
    for (var half = 32u; half > 0u; half >>= 1u) {
        if (lane < half) {
            for (var i = 0u; i < 4u; i++) { parts[lane * 4u + i] += parts[(lane + half) * 4u + i]; }
        }
        workgroupBarrier();
    }
    if (lane < 16u) {
        let row = row0 + lane / 4u;
        let column = column0 + lane % 4u;
        var side = 0.0;
        if (BRANCH != 0u) {
            for (var j = 0u; j < params.r; j++) { side = fma(p_at(row, j), q_at(j, column), side); }
        }
        finish(group.z, row, column, parts[lane / 4u][lane % 4u], side);
    }
}

@compute @workgroup_size(64)
fn dot_product(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    dots(group, lane);
}

// Four neighbours of a row of d, which has `rows` rows of `columns`.
fn finish_d(row: u32, rows: u32, column: u32, columns: u32, factor: f32, v: vec4<f32>) {
    if (row >= rows) { return; }
    for (var j = 0u; j < 4u; j++) {
        if (column + j >= columns) { break; }
        let at = params.d_start + row * columns + column + j;
        if (ADD2 != 0u) { d[at] = d[at] + factor * v[j]; } else { d[at] = factor * v[j]; }
    }
}

// u [m,r] = alpha gy B, and d = dB [k,r] (+)= alpha gy^T h with h in p: here k is the layer's n, and n its r. BM BN = 1024.
@compute @workgroup_size(64)
fn lora_u_db(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if (group.x < params.split) {
        let across = (params.n + 3u) / 4u;
        dots(vec3<u32>(group.x % across, group.x / across, 0u), lane);
        return;
    }
    let across = (params.n + BN - 1u) / BN;
    let row0 = (group.x - params.split) / across * BM;
    let column0 = (group.x - params.split) % across * BN;
    var sums: Sums;
    for (var m0 = 0u; m0 < params.m; m0 += BK) {
        for (var e = lane; e < BM * BK / 4u; e += 64u) {
            let k = e / (BM / 4u);
            let row = e % (BM / 4u) * 4u;
            let v = load_a(params.a_start, m0 + k, params.m, row0 + row, params.k);
            a_tile[k * BM + row] = v.x;
            a_tile[k * BM + row + 1u] = v.y;
            a_tile[k * BM + row + 2u] = v.z;
            a_tile[k * BM + row + 3u] = v.w;
        }
        for (var e = lane; e < BN * BK; e += 64u) {
            let k = e / BN;
            let column = e % BN;
            b_tile[k * (BN / 4u) + column / 4u][column % 4u] = p_at(m0 + k, column0 + column);
        }
        workgroupBarrier();
        multiply(&sums, lane % (BN / 4u), lane / (BN / 4u));
        workgroupBarrier();
    }
    let row = row0 + lane / (BN / 4u) * 4u;
    let column = column0 + lane % (BN / 4u) * 4u;
    finish_d(row, params.k, column, params.n, params.alpha, sums.l0);
    finish_d(row + 1u, params.k, column, params.n, params.alpha, sums.l1);
    finish_d(row + 2u, params.k, column, params.n, params.alpha, sums.l2);
    finish_d(row + 3u, params.k, column, params.n, params.alpha, sums.l3);
}

// Elements at .. at + 4 of row `row` of x^, which has n columns.
fn load_x(row: u32, at: u32) -> vec4<f32> {
    var v = vec4<f32>(0.0);
    if (row >= params.m) { return v; }
    for (var j = 0u; j < 4u; j++) {
        if (at + j < params.n) { v[j] = bitcast<f32>(bias[params.bias_start + row * params.n + at + j]); }
    }
    if (MASK == 3u) { v = dropped_four(row * params.mask_step + at, v); }
    return v;
}

// d = dA [r,n] (+)= u^T x^ with u in p, and c = dx [m,n] (+)= gy W + (u A) * mask: here n is the layer's k.
@compute @workgroup_size(BN / T, BM / T)
fn lora_da_dx(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
              @builtin(local_invocation_index) lane: u32) {
    let across = (params.n + BN - 1u) / BN;
    if (group.x >= params.split) {
        let rest = group.x - params.split;
        tile(vec3<u32>(rest % across, rest / across, 0u), local.xy, lane);
        return;
    }
    let row0 = group.x / across * BM;
    let column0 = group.x % across * BN;
    let lanes = BM * BN / (T * T);
    var sums: Sums;
    for (var m0 = 0u; m0 < params.m; m0 += BK) {
        for (var e = lane; e < BM * BK; e += lanes) { a_tile[e] = p_at(m0 + e / BM, row0 + e % BM); }
        for (var e = lane; e < BN * BK / 4u; e += lanes) {
            let k = e / (BN / 4u);
            let column = e % (BN / 4u);
            b_tile[k * (BN / 4u) + column] = load_x(m0 + k, column0 + column * 4u);
        }
        workgroupBarrier();
        multiply(&sums, local.x, local.y);
        workgroupBarrier();
    }
    let row = row0 + local.y * 4u;
    let column = column0 + local.x * 4u;
    finish_d(row, params.r, column, params.n, 1.0, sums.l0);
    finish_d(row + 1u, params.r, column, params.n, 1.0, sums.l1);
    finish_d(row + 2u, params.r, column, params.n, 1.0, sums.l2);
    finish_d(row + 3u, params.r, column, params.n, 1.0, sums.l3);
    if (T == 8u) {
        let below = row + BM / 2u;
        let other = column + BN / 2u;
        finish_d(below, params.r, column, params.n, 1.0, sums.l4);
        finish_d(below + 1u, params.r, column, params.n, 1.0, sums.l5);
        finish_d(below + 2u, params.r, column, params.n, 1.0, sums.l6);
        finish_d(below + 3u, params.r, column, params.n, 1.0, sums.l7);
        finish_d(row, params.r, other, params.n, 1.0, sums.r0);
        finish_d(row + 1u, params.r, other, params.n, 1.0, sums.r1);
        finish_d(row + 2u, params.r, other, params.n, 1.0, sums.r2);
        finish_d(row + 3u, params.r, other, params.n, 1.0, sums.r3);
        finish_d(below, params.r, other, params.n, 1.0, sums.r4);
        finish_d(below + 1u, params.r, other, params.n, 1.0, sums.r5);
        finish_d(below + 2u, params.r, other, params.n, 1.0, sums.r6);
        finish_d(below + 3u, params.r, other, params.n, 1.0, sums.r7);
    }
}
