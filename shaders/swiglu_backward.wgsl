// swiglu_backward: dgate (+)= gy up silu'(gate); dup (+)= gy silu(gate). Either may be absent (mode 2).

struct Params {
    n: u32,
    dgate_start: u32,
    dup_start: u32,
    gate_start: u32,
    up_start: u32,
    gy_start: u32,
}

// 0 set, 1 add, 2 absent.
override DGATE: u32 = 0u;
override DUP: u32 = 0u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> dgate: array<f32>;
@group(0) @binding(2) var<storage, read_write> dup: array<f32>;
@group(0) @binding(3) var<storage, read> gate: array<f32>;
@group(0) @binding(4) var<storage, read> up: array<f32>;
@group(0) @binding(5) var<storage, read> gy: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = folded(group, groups) * 256u + lane;
    if (i >= params.n) { return; }
    let x = gate[params.gate_start + i];
    let g = gy[params.gy_start + i];
    let s = sigmoid(x);
    if (DGATE != 2u) {
        var d = s * fma(x, 1.0 - s, 1.0) * (g * up[params.up_start + i]);
        if (DGATE == 1u) { d = dgate[params.dgate_start + i] + d; }
        dgate[params.dgate_start + i] = d;
    }
    if (DUP != 2u) {
        var d = g * (x * s);
        if (DUP == 1u) { d = dup[params.dup_start + i] + d; }
        dup[params.dup_start + i] = d;
    }
}
