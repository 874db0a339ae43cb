// fill: every element gets the same bits.

struct Params {
    n: u32,
    y_start: u32,
    bits: u32,
}

override Y_TYPE: u32 = 0u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;

fn write_half(at: u32, word: u32) -> u32 {
    return select(params.bits, half_of(word, at), at < params.y_start || at >= params.y_start + params.n);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let p = folded(group, groups) * 256u + lane;
    if (Y_TYPE == F32 || Y_TYPE == U32) {
        if (p < params.n) { y[params.y_start + p] = params.bits; }
        return;
    }
    let at = (params.y_start & 0xfffffffeu) + 2u * p;
    if (at >= params.y_start + params.n) { return; }
    let word = y[at >> 1u];
    y[at >> 1u] = write_half(at, word) | (write_half(at + 1u, word) << 16u);
}
