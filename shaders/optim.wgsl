// Gradient norm and SGD; AdamW is adamw.wgsl. What changes from step to step is read from the scalar buffer.
//
//   grad_norm   norm = sqrt(sum of the parts of squares.wgsl); clip = min(1, max_norm / (norm + 1e-6)), NaN for a norm that is not finite
//   sgd         g = clip g; u = mu u + g; p = p - lr (wd p + u)

struct Params {
    n: u32,
    p_start: u32,
    m_start: u32,
    v_start: u32,
    g_start: u32,
    scalars_start: u32,
    group: u32,
    pad0: u32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    eps: f32,
    decay: f32,
    max_norm: f32,
}

// sgd: there is a momentum buffer. grad_norm: there is a largest norm.
override HAS: u32 = 0u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> p: array<f32>;
@group(0) @binding(2) var<storage, read_write> m: array<f32>;
@group(0) @binding(3) var<storage, read_write> v: array<f32>;
@group(0) @binding(4) var<storage, read> g: array<f32>;
@group(0) @binding(5) var<storage, read> scalars: array<f32>;

const CLIP: u32 = 1u;
const NORM: u32 = 2u;
const LR: u32 = 8u;

fn scalar(i: u32) -> f32 {
    return scalars[params.scalars_start + i];
}

var<workgroup> parts: array<f32, 256>;

fn total(lane: u32, value: f32) -> f32 {
    parts[lane] = value;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half >>= 1u) {
        if (lane < half) { parts[lane] += parts[lane + half]; }
        workgroupBarrier();
    }
    return parts[0];
}

// p is the scalar buffer, g the parts.
@compute @workgroup_size(256)
fn grad_norm(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = lane; i < params.n; i += 256u) { sum += g[params.g_start + i]; }
    let norm = sqrt(total(lane, sum));
    if (lane == 0u) {
        p[params.p_start + NORM] = norm;
        var clip = 1.0;
        if (HAS != 0u) {
            clip = params.max_norm / (norm + 1e-6);
            if (clip > 1.0) { clip = 1.0; }
        }
        if (!is_finite(norm)) { clip = nan(); }
        p[params.p_start + CLIP] = clip;
    }
}

// m is the momentum buffer.
@compute @workgroup_size(256)
fn sgd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
       @builtin(local_invocation_index) lane: u32) {
    let i = folded(group, groups) * 256u + lane;
    if (i >= params.n) { return; }
    var update = scalar(CLIP) * g[params.g_start + i];
    if (HAS != 0u) {
        update = params.beta1 * m[params.m_start + i] + update;
        m[params.m_start + i] = update;
    }
    let old = p[params.p_start + i];
    p[params.p_start + i] = old - scalar(LR + params.group) * (params.decay * old + update);
}
