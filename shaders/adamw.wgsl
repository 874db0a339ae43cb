// AdamW (Loshchilov & Hutter 2019, algorithm 2) of up to TENSORS tensors in one call: adapters are many small tensors, and
// what a training step costs on a GPU is its kernels.
//
//   g = clip g; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;  p = p - lr (wd p + (m / c1) / (sqrt(v / c2) + eps))
//
// adamw_1.wgsl or adamw_6.wgsl comes before this file: the bindings, TENSORS, and how an element is read and written. A
// workgroup owns 256 elements of one tensor and finds the tensor by its number. What changes from step to step is read
// from the scalar buffer.

struct Tensor {
    n: u32,
    // Its first workgroup; beyond the last one for a tensor that is not there.
    first: u32,
    p_start: u32,
    m_start: u32,
    v_start: u32,
    g_start: u32,
    pad0: u32,
    pad1: u32,
}

struct Params {
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    eps: f32,
    decay: f32,
    scalars_start: u32,
    group: u32,
    tensors: array<Tensor, TENSORS>,
}

@group(0) @binding(0) var<uniform> params: Params;

const CLIP: u32 = 1u;
const CORRECTION1: u32 = 3u;
const CORRECTION2: u32 = 4u;
const LR: u32 = 8u;

fn scalar(i: u32) -> f32 {
    return scalars[params.scalars_start + i];
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let number = folded(group, groups);
    var which = 0u;
    for (var i = 1u; i < TENSORS; i++) { if (number >= params.tensors[i].first) { which = i; } }
    let about = params.tensors[which];
    let i = (number - about.first) * 256u + lane;
    if (i >= about.n) { return; }
    let grad = scalar(CLIP) * read_g(which, about.g_start + i);
    let first = params.beta1 * read_m(which, about.m_start + i) + params.rest1 * grad;
    let second = params.beta2 * read_v(which, about.v_start + i) + params.rest2 * (grad * grad);
    let update = div_of(first / scalar(CORRECTION1), sqrt(second / scalar(CORRECTION2)) + params.eps);
    let old = read_p(which, about.p_start + i);
    write_m(which, about.m_start + i, first);
    write_v(which, about.v_start + i, second);
    write_p(which, about.p_start + i, old - scalar(LR + params.group) * (params.decay * old + update));
}
