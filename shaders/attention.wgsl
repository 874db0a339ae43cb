// Attention with grouped heads, fused (Dao et al. 2022, FlashAttention): nothing of size [q_len, kv_len] is stored.
//
//   attention_forward    y = softmax(s q k^T) v, lse = ln sum exp(s q k^T); online softmax over tiles of keys
//   row_products         delta = rowsum(gy y)
//   attention_dq         P = exp(s q k^T - lse); dS = P (gy v^T - delta); dq (+)= s dS k
//   attention_dkv        dv (+)= P^T gy; dk (+)= s dS^T q, summed over the query heads of a key/value head
//
// Layouts: q, y, gy [batch, q_len, heads, dim]; k, v [batch, kv_len, kv_heads, dim]; lse, delta [batch, heads, q_len].
//
// A workgroup owns ROWS rows of one head (queries; keys in attention_dkv) and walks over the other side in tiles of COLS.
// D4 invocations share a row, each with one vec4 of its dim elements in registers, so ROWS x D4 invocations. Tiles of both
// sides lie in workgroup memory, padded to 4 D4 elements a row with zeros. ROWS and COLS come from dim so that memory and
// invocations stay within every adapter's defaults (16 KiB, 256). Sums run over keys (queries) in ascending order, each
// with one owner: the same bits on every run.

struct Params {
    batch: u32,
    q_len: u32,
    kv_len: u32,
    heads: u32,
    kv_heads: u32,
    dim: u32,
    causal: u32,
    scale: f32,
    q_start: u32,
    k_start: u32,
    v_start: u32,
    gy_start: u32,
    lse_start: u32,
    delta_start: u32,
    y_start: u32,
    y2_start: u32,
}

override D4: u32 = 16u;
override ROWS: u32 = 8u;
override COLS: u32 = 16u;
// 0 set, 1 add, 2 absent, for the two results.
override FIRST: u32 = 0u;
override SECOND: u32 = 0u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> y2: array<f32>;
@group(0) @binding(3) var<storage, read> q: array<f32>;
@group(0) @binding(4) var<storage, read> k: array<f32>;
@group(0) @binding(5) var<storage, read> v: array<f32>;
@group(0) @binding(6) var<storage, read> gy: array<f32>;
@group(0) @binding(7) var<storage, read> lse: array<f32>;
@group(0) @binding(8) var<storage, read> delta: array<f32>;

// Two matrices of the workgroup's own rows, two of the tile it walks over, and what lies between them.
var<workgroup> own: array<vec4<f32>, ROWS * D4>;
var<workgroup> own2: array<vec4<f32>, ROWS * D4>;
var<workgroup> tile: array<vec4<f32>, COLS * D4>;
var<workgroup> tile2: array<vec4<f32>, COLS * D4>;
var<workgroup> weights: array<f32, ROWS * COLS>;
var<workgroup> weights2: array<f32, ROWS * COLS>;
var<workgroup> maxima: array<f32, ROWS * 2u>;

// Where row `t` of a head begins, for q-like and k-like tensors.
fn q_row(b: u32, t: u32, h: u32) -> u32 {
    return ((b * params.q_len + t) * params.heads + h) * params.dim;
}

fn k_row(b: u32, t: u32, h: u32) -> u32 {
    return ((b * params.kv_len + t) * params.kv_heads + h) * params.dim;
}

fn q_part(at: u32, part: u32) -> vec4<f32> {
    var x = vec4<f32>(0.0);
    for (var j = 0u; j < 4u; j++) { if (part * 4u + j < params.dim) { x[j] = q[params.q_start + at + part * 4u + j]; } }
    return x;
}

fn k_part(at: u32, part: u32) -> vec4<f32> {
    var x = vec4<f32>(0.0);
    for (var j = 0u; j < 4u; j++) { if (part * 4u + j < params.dim) { x[j] = k[params.k_start + at + part * 4u + j]; } }
    return x;
}

fn v_part(at: u32, part: u32) -> vec4<f32> {
    var x = vec4<f32>(0.0);
    for (var j = 0u; j < 4u; j++) { if (part * 4u + j < params.dim) { x[j] = v[params.v_start + at + part * 4u + j]; } }
    return x;
}

fn gy_part(at: u32, part: u32) -> vec4<f32> {
    var x = vec4<f32>(0.0);
    for (var j = 0u; j < 4u; j++) { if (part * 4u + j < params.dim) { x[j] = gy[params.gy_start + at + part * 4u + j]; } }
    return x;
}

fn write(at: u32, part: u32, x: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) {
        if (part * 4u + j < params.dim) {
            let i = params.y_start + at + part * 4u + j;
            if (FIRST == 1u) { y[i] = y[i] + x[j]; } else { y[i] = x[j]; }
        }
    }
}

fn write2(at: u32, part: u32, x: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) {
        if (part * 4u + j < params.dim) {
            let i = params.y2_start + at + part * 4u + j;
            if (SECOND == 1u) { y2[i] = y2[i] + x[j]; } else { y2[i] = x[j]; }
        }
    }
}

// Keys that query t sees.
fn visible(t: u32) -> u32 {
    if (params.causal == 0u) { return params.kv_len; }
    return min(params.kv_len, t + params.kv_len - params.q_len + 1u);
}

// x: block of rows, y: head, z: sequence.
@compute @workgroup_size(D4, ROWS)
fn attention_forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
                     @builtin(local_invocation_index) lane: u32) {
    let row0 = group.x * ROWS;
    let head = group.y;
    let b = group.z;
    let kv_head = head / (params.heads / params.kv_heads);
    let lanes = D4 * ROWS;
    let t = row0 + local.y;
    if (t < params.q_len) { own[lane] = q_part(q_row(b, t, head), local.x); } else { own[lane] = vec4<f32>(0.0); }
    if (lane < ROWS * 2u) { maxima[lane] = negative_infinity(); }
    for (var i = lane + lanes; i < ROWS * 2u; i += lanes) { maxima[i] = negative_infinity(); }
    let last = visible(min(row0 + ROWS, params.q_len) - 1u);
    let sees = visible(min(t, params.q_len - 1u));
    var sum = 0.0;
    var out = vec4<f32>(0.0);
    var old_max = negative_infinity();
    var side = 0u;
    for (var key0 = 0u; key0 < last; key0 += COLS) {
        for (var e = lane; e < COLS * D4; e += lanes) {
            let key = key0 + e / D4;
            if (key < params.kv_len) {
                let at = k_row(b, key, kv_head);
                tile[e] = k_part(at, e % D4);
                tile2[e] = v_part(at, e % D4);
            } else {
                tile[e] = vec4<f32>(0.0);
                tile2[e] = vec4<f32>(0.0);
            }
        }
        workgroupBarrier();
        for (var e = lane; e < ROWS * COLS; e += lanes) {
            let row = e / COLS;
            let key = key0 + e % COLS;
            var s = negative_infinity();
            if (key < visible(min(row0 + row, params.q_len - 1u))) {
                var d = vec4<f32>(0.0);
                for (var i = 0u; i < D4; i++) { d = fma(own[row * D4 + i], tile[(e % COLS) * D4 + i], d); }
                s = params.scale * ((d.x + d.y) + (d.z + d.w));
            }
            weights[e] = s;
        }
        workgroupBarrier();
        for (var e = lane; e < ROWS * COLS; e += lanes) {
            let row = e / COLS;
            var max = maxima[row * 2u + side];
            for (var j = 0u; j < COLS; j++) {
                let s = weights[row * COLS + j];
                if (s > max) { max = s; }
            }
            var p = 0.0;
            if (key0 + e % COLS < visible(min(row0 + row, params.q_len - 1u))) { p = exp_of(weights[e] - max); }
            weights2[e] = p;
            if (e % COLS == 0u) { maxima[row * 2u + 1u - side] = max; }
        }
        workgroupBarrier();
        side = 1u - side;
        let max = maxima[local.y * 2u + side];
        var shrink = 0.0;
        if (key0 > 0u) { shrink = exp_of(old_max - max); }
        old_max = max;
        sum *= shrink;
        out *= shrink;
        if (sees > key0) {
            let here = min(COLS, sees - key0);
            for (var j = 0u; j < here; j++) {
                let p = weights2[local.y * COLS + j];
                sum += p;
                out = fma(vec4<f32>(p), tile2[j * D4 + local.x], out);
            }
        }
        workgroupBarrier();
    }
    if (t >= params.q_len) { return; }
    let at = params.y_start + q_row(b, t, head) + local.x * 4u;
    for (var j = 0u; j < 4u; j++) { if (local.x * 4u + j < params.dim) { y[at + j] = out[j] / sum; } }
    if (local.x == 0u) { y2[params.y2_start + (b * params.heads + head) * params.q_len + t] = old_max + log_of(sum); }
}

// delta from gy and y, which is bound as q. One invocation per row.
@compute @workgroup_size(64)
fn row_products(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let row = folded(group, groups) * 64u + lane;
    if (row >= params.batch * params.heads * params.q_len) { return; }
    let t = row % params.q_len;
    let head = row / params.q_len % params.heads;
    let at = q_row(row / params.q_len / params.heads, t, head);
    var sum = 0.0;
    for (var i = 0u; i < params.dim; i++) { sum = fma(gy[params.gy_start + at + i], q[params.q_start + at + i], sum); }
    y[params.y_start + row] = sum;
}

@compute @workgroup_size(D4, ROWS)
fn attention_dq(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
    let row0 = group.x * ROWS;
    let head = group.y;
    let b = group.z;
    let kv_head = head / (params.heads / params.kv_heads);
    let lanes = D4 * ROWS;
    let t = row0 + local.y;
    own[lane] = vec4<f32>(0.0);
    own2[lane] = vec4<f32>(0.0);
    if (t < params.q_len) {
        own[lane] = q_part(q_row(b, t, head), local.x);
        own2[lane] = gy_part(q_row(b, t, head), local.x);
    }
    let last = visible(min(row0 + ROWS, params.q_len) - 1u);
    let sees = visible(min(t, params.q_len - 1u));
    var dq = vec4<f32>(0.0);
    for (var key0 = 0u; key0 < last; key0 += COLS) {
        for (var e = lane; e < COLS * D4; e += lanes) {
            let key = key0 + e / D4;
            if (key < params.kv_len) {
                let at = k_row(b, key, kv_head);
                tile[e] = k_part(at, e % D4);
                tile2[e] = v_part(at, e % D4);
            }
        }
        workgroupBarrier();
        for (var e = lane; e < ROWS * COLS; e += lanes) {
            let row = e / COLS;
            let query = min(row0 + row, params.q_len - 1u);
            if (key0 + e % COLS < visible(query)) {
                var s = vec4<f32>(0.0);
                var d = vec4<f32>(0.0);
                for (var i = 0u; i < D4; i++) {
                    s = fma(own[row * D4 + i], tile[(e % COLS) * D4 + i], s);
                    d = fma(own2[row * D4 + i], tile2[(e % COLS) * D4 + i], d);
                }
                let r = (b * params.heads + head) * params.q_len + query;
                let p = exp_of(params.scale * ((s.x + s.y) + (s.z + s.w)) - lse[params.lse_start + r]);
                weights[e] = p * (((d.x + d.y) + (d.z + d.w)) - delta[params.delta_start + r]);
            }
        }
        workgroupBarrier();
        if (sees > key0) {
            let here = min(COLS, sees - key0);
            for (var j = 0u; j < here; j++) {
                dq = fma(vec4<f32>(weights[local.y * COLS + j]), tile[j * D4 + local.x], dq);
            }
        }
        workgroupBarrier();
    }
    if (t < params.q_len) { write(q_row(b, t, head), local.x, params.scale * dq); }
}

// y: key/value head. Rows are keys, the tiles queries.
@compute @workgroup_size(D4, ROWS)
fn attention_dkv(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
                 @builtin(local_invocation_index) lane: u32) {
    let row0 = group.x * ROWS;
    let kv_head = group.y;
    let b = group.z;
    let shared_by = params.heads / params.kv_heads;
    let lanes = D4 * ROWS;
    let key = row0 + local.y;
    own[lane] = vec4<f32>(0.0);
    own2[lane] = vec4<f32>(0.0);
    if (key < params.kv_len) {
        own[lane] = k_part(k_row(b, key, kv_head), local.x);
        own2[lane] = v_part(k_row(b, key, kv_head), local.x);
    }
    var dk = vec4<f32>(0.0);
    var dv = vec4<f32>(0.0);
    // Queries before this see none of these keys.
    var begin = 0u;
    if (params.causal != 0u && row0 + params.q_len > params.kv_len) {
        begin = (row0 + params.q_len - params.kv_len) / COLS * COLS;
    }
    for (var i = 0u; i < shared_by; i++) {
        let head = kv_head * shared_by + i;
        for (var query0 = begin; query0 < params.q_len; query0 += COLS) {
            for (var e = lane; e < COLS * D4; e += lanes) {
                let query = query0 + e / D4;
                if (query < params.q_len) {
                    let at = q_row(b, query, head);
                    tile[e] = q_part(at, e % D4);
                    tile2[e] = gy_part(at, e % D4);
                }
            }
            workgroupBarrier();
            for (var e = lane; e < ROWS * COLS; e += lanes) {
                let row = e / COLS;
                let query = query0 + e % COLS;
                if (query < params.q_len && row0 + row < visible(query)) {
                    var s = vec4<f32>(0.0);
                    var d = vec4<f32>(0.0);
                    for (var j = 0u; j < D4; j++) {
                        s = fma(own[row * D4 + j], tile[(e % COLS) * D4 + j], s);
                        d = fma(own2[row * D4 + j], tile2[(e % COLS) * D4 + j], d);
                    }
                    let r = (b * params.heads + head) * params.q_len + query;
                    let p = exp_of(params.scale * ((s.x + s.y) + (s.z + s.w)) - lse[params.lse_start + r]);
                    weights[e] = p;
                    weights2[e] = p * (((d.x + d.y) + (d.z + d.w)) - delta[params.delta_start + r]);
                }
            }
            workgroupBarrier();
            let end = min(COLS, params.q_len - query0);
            for (var j = 0u; j < end; j++) {
                if (key < visible(query0 + j)) {
                    dv = fma(vec4<f32>(weights[local.y * COLS + j]), tile2[j * D4 + local.x], dv);
                    dk = fma(vec4<f32>(weights2[local.y * COLS + j]), tile[j * D4 + local.x], dk);
                }
            }
            workgroupBarrier();
        }
    }
    if (key < params.kv_len) {
        let at = k_row(b, key, kv_head);
        if (FIRST != 2u) { write(at, local.x, params.scale * dk); }
        if (SECOND != 2u) { write2(at, local.x, dv); }
    }
}
