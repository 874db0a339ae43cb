// reduce: x [outer, len, inner] -> y [outer, inner], sum or maximum.
//
// rows (inner = 1): one workgroup per row, 256 parts results over strided elements, then a tree; columns: one
// invocation per result. The order depends on len alone.

struct Params {
    outer: u32,
    len: u32,
    inner: u32,
    x_start: u32,
    y_start: u32,
}

override MAXIMUM: u32 = 0u;
override X_TYPE: u32 = 0u;
override ADD: u32 = 0u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<u32>;

var<workgroup> parts: array<f32, 256>;

fn x_at(i: u32) -> f32 {
    if (X_TYPE == F32) { return bitcast<f32>(x[i]); }
    return half_value(half_of(x[i >> 1u], i), X_TYPE);
}

fn combine(a: f32, b: f32) -> f32 {
    if (MAXIMUM != 0u) { return larger(a, b); }
    return a + b;
}

fn nothing() -> f32 {
    if (MAXIMUM != 0u) { return negative_infinity(); }
    return 0.0;
}

fn write(i: u32, v: f32) {
    let at = params.y_start + i;
    if (ADD != 0u) { y[at] = y[at] + v; } else { y[at] = v; }
}

@compute @workgroup_size(256)
fn rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let row = folded(group, groups);
    let start = params.x_start + row * params.len;
    var v = nothing();
    if (row < params.outer) {
        for (var i = lane; i < params.len; i += 256u) { v = combine(v, x_at(start + i)); }
    }
    parts[lane] = v;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half >>= 1u) {
        if (lane < half) { parts[lane] = combine(parts[lane], parts[lane + half]); }
        workgroupBarrier();
    }
    if (lane == 0u && row < params.outer) { write(row, parts[0]); }
}

@compute @workgroup_size(256)
fn columns(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
           @builtin(local_invocation_index) lane: u32) {
    let i = folded(group, groups) * 256u + lane;
    if (i >= params.outer * params.inner) { return; }
    let start = params.x_start + i / params.inner * params.len * params.inner + i % params.inner;
    var v = nothing();
    for (var l = 0u; l < params.len; l++) { v = combine(v, x_at(start + l * params.inner)); }
    write(i, v);
}
