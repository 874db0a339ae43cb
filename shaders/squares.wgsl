// The first half of grad_norm: parts[chunk] = sum of squares of a chunk of 65536 gradients, 256 interleaved strips and a
// tree. Up to seven gradients in one call, so that a model with many adapters needs few: a workgroup finds its gradient by
// its number. A chunk never spans two gradients; its sum depends on its elements alone.

struct Params {
    parts_start: u32,
    chunks: u32,
    pad0: u32,
    pad1: u32,
    // Elements, where they start, and the first chunk, of each gradient.
    gradients: array<vec4<u32>, 7>,
}

const CHUNK: u32 = 65536u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> parts: array<f32>;
@group(0) @binding(2) var<storage, read> g0: array<f32>;
@group(0) @binding(3) var<storage, read> g1: array<f32>;
@group(0) @binding(4) var<storage, read> g2: array<f32>;
@group(0) @binding(5) var<storage, read> g3: array<f32>;
@group(0) @binding(6) var<storage, read> g4: array<f32>;
@group(0) @binding(7) var<storage, read> g5: array<f32>;
@group(0) @binding(8) var<storage, read> g6: array<f32>;

var<workgroup> sums: array<f32, 256>;

fn gradient(which: u32, i: u32) -> f32 {
    switch (which) {
        case 0u: { return g0[i]; }
        case 1u: { return g1[i]; }
        case 2u: { return g2[i]; }
        case 3u: { return g3[i]; }
        case 4u: { return g4[i]; }
        case 5u: { return g5[i]; }
        default: { return g6[i]; }
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let chunk = folded(group, groups);
    if (chunk >= params.chunks) { return; }
    var which = 0u;
    for (var i = 1u; i < 7u; i++) { if (chunk >= params.gradients[i].z) { which = i; } }
    let about = params.gradients[which];
    let begin = (chunk - about.z) * CHUNK;
    let end = min(about.x, begin + CHUNK);
    var sum = 0.0;
    for (var i = begin + lane; i < end; i += 256u) {
        let x = gradient(which, about.y + i);
        sum = fma(x, x, sum);
    }
    sums[lane] = sum;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half >>= 1u) {
        if (lane < half) { sums[lane] += sums[lane + half]; }
        workgroupBarrier();
    }
    if (lane == 0u) { parts[params.parts_start + chunk] = sums[0]; }
}
