// The frame of every elementwise kernel: y[p] (+)= value(p) for p in 0 .. n.
//
// A kernel defines value(p) and Params, which begins with n and y_start. One invocation writes one word of y: with
// 16-bit storage that is two elements, and a half that belongs to a neighbouring view stays as it is.

override Y_TYPE: u32 = 0u;
override ADD: u32 = 0u;

@group(0) @binding(1) var<storage, read_write> y: array<u32>;

fn write_half(at: u32, word: u32) -> u32 {
    if (at < params.y_start || at >= params.y_start + params.n) { return half_of(word, at); }
    var v = value(at - params.y_start);
    if (ADD != 0u) { v = half_value(half_of(word, at), Y_TYPE) + v; }
    return half_bits(v, Y_TYPE);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = folded(group, groups) * 256u + lane;
    if (Y_TYPE == F32 || Y_TYPE == U32) {
        if (i >= params.n) { return; }
        var v = value(i);
        if (ADD != 0u) { v = bitcast<f32>(y[params.y_start + i]) + v; }
        y[params.y_start + i] = bitcast<u32>(v);
        return;
    }
    let at = (params.y_start & 0xfffffffeu) + 2u * i;
    if (at >= params.y_start + params.n) { return; }
    let word = y[at >> 1u];
    y[at >> 1u] = write_half(at, word) | (write_half(at + 1u, word) << 16u);
}
