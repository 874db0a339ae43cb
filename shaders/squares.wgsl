// The first half of grad_norm: parts[chunk] = sum of squares of a chunk of 65536 gradients, 256 interleaved strips and a
// tree. Up to GRADIENTS gradients in one call, so that a model with many adapters needs few: squares_7.wgsl or
// squares_24.wgsl comes before this file, and a workgroup finds its gradient by its number. A chunk never spans two
// gradients; its sum depends on its elements alone.

struct Params {
    parts_start: u32,
    chunks: u32,
    pad0: u32,
    pad1: u32,
    // Elements and where they start, of two gradients each.
    gradients: array<vec4<u32>, (GRADIENTS + 1u) / 2u>,
}

const CHUNK: u32 = 65536u;

@group(0) @binding(0) var<uniform> params: Params;

var<workgroup> sums: array<f32, 256>;

// Elements and start of a gradient.
fn about(which: u32) -> vec2<u32> {
    let two = params.gradients[which / 2u];
    return select(two.xy, two.zw, (which & 1u) != 0u);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let chunk = folded(group, groups);
    if (chunk >= params.chunks) { return; }
    var which = 0u;
    var first = 0u;
    var next = 0u;
    for (var i = 0u; i < GRADIENTS; i++) {
        let count = (about(i).x + CHUNK - 1u) / CHUNK;
        if (chunk >= next) { which = i; first = next; }
        next += count;
    }
    let begin = (chunk - first) * CHUNK;
    let end = min(about(which).x, begin + CHUNK);
    let start = about(which).y;
    var sum = 0.0;
    for (var i = begin + lane; i < end; i += 256u) {
        let x = gradient(which, start + i);
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
