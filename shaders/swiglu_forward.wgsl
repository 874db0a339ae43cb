// swiglu_forward: y = silu(gate) * up.

struct Params {
    n: u32,
    y_start: u32,
    gate_start: u32,
    up_start: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> gate: array<f32>;
@group(0) @binding(3) var<storage, read> up: array<f32>;

fn value(p: u32) -> f32 {
    let g = gate[params.gate_start + p];
    return g * sigmoid(g) * up[params.up_start + p];
}
