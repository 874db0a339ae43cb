// The frame of kernels that move elements: y[p] (+)= x[source(p)] for the positions p in 0 .. n that are covered.
//
// source(p) is UNCOVERED where y stays as it is, and OUTSIDE where it becomes NaN. Between equal storage types elements
// are moved as bits, so that NaN and subnormals arrive as they were.

const UNCOVERED: u32 = 0xffffffffu;
const OUTSIDE: u32 = 0xfffffffeu;

override X_TYPE: u32 = 0u;
override Y_TYPE: u32 = 0u;
override ADD: u32 = 0u;

@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<u32>;

fn x_bits(i: u32) -> u32 {
    if (X_TYPE == F32 || X_TYPE == U32) { return x[i]; }
    return half_of(x[i >> 1u], i);
}

fn x_value(from_: u32) -> f32 {
    if (from_ == OUTSIDE) { return nan(); }
    let b = x_bits(params.x_start + from_);
    if (X_TYPE == F32 || X_TYPE == U32) { return bitcast<f32>(b); }
    return half_value(b, X_TYPE);
}

fn write_half(at: u32, word: u32) -> u32 {
    let old = half_of(word, at);
    if (at < params.y_start || at >= params.y_start + params.n) { return old; }
    let i = source(at - params.y_start);
    if (i == UNCOVERED) { return old; }
    if (X_TYPE == Y_TYPE && ADD == 0u && i != OUTSIDE) { return x_bits(params.x_start + i); }
    var v = x_value(i);
    if (ADD != 0u) { v = half_value(old, Y_TYPE) + v; }
    return half_bits(v, Y_TYPE);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let p = folded(group, groups) * 256u + lane;
    if (Y_TYPE == F32 || Y_TYPE == U32) {
        if (p >= params.n) { return; }
        let i = source(p);
        if (i == UNCOVERED) { return; }
        let at = params.y_start + p;
        if (X_TYPE == Y_TYPE && ADD == 0u && i != OUTSIDE) {
            y[at] = x_bits(params.x_start + i);
            return;
        }
        var v = x_value(i);
        if (ADD != 0u) { v = bitcast<f32>(y[at]) + v; }
        y[at] = bitcast<u32>(v);
        return;
    }
    let at = (params.y_start & 0xfffffffeu) + 2u * p;
    if (at >= params.y_start + params.n) { return; }
    let word = y[at >> 1u];
    y[at >> 1u] = write_half(at, word) | (write_half(at + 1u, word) << 16u);
}
