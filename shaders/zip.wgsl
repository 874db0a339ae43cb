// zip: y (+)= f(a, b) with broadcasting. Dimensions are merged on the host; the last one comes first here, and a
// dimension that an operand is broadcast over has step 0.

struct Params {
    n: u32,
    y_start: u32,
    a_start: u32,
    b_start: u32,
    rank: u32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
    // Size, step in a, step in b.
    dims: array<vec4<u32>, 6>,
}

override OP: u32 = 0u;
override A_TYPE: u32 = 0u;
override B_TYPE: u32 = 0u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> a: array<u32>;
@group(0) @binding(3) var<storage, read> b: array<u32>;

// Gradient of x sigmoid(x).
fn silu_grad(x: f32) -> f32 {
    let s = sigmoid(x);
    return s * fma(x, 1.0 - s, 1.0);
}

// With u = sqrt(2/pi) (x + 0.044715 x^3) and s = sigmoid(2u): d(x s) = s + x s (1 - s) 2u'.
fn gelu_tanh_grad(x: f32) -> f32 {
    let s = sigmoid(1.5957691216 * fma(0.044715 * x * x, x, x));
    return s + x * s * (1.0 - s) * 1.5957691216 * fma(0.134145 * x, x, 1.0);
}

fn value(p: u32) -> f32 {
    var rest = p;
    var i = params.a_start;
    var j = params.b_start;
    for (var d = 0u; d < params.rank; d++) {
        let dim = params.dims[d];
        let at = rest % dim.x;
        rest = rest / dim.x;
        i += at * dim.y;
        j += at * dim.z;
    }
    if (A_TYPE == U32) { return select(0.0, 1.0, a[i] == b[j]); }
    var u = 0.0;
    var v = 0.0;
    if (A_TYPE == F32) { u = bitcast<f32>(a[i]); } else { u = half_value(half_of(a[i >> 1u], i), A_TYPE); }
    if (B_TYPE == F32) { v = bitcast<f32>(b[j]); } else { v = half_value(half_of(b[j >> 1u], j), B_TYPE); }
    switch (OP) {
        case 0u: { return u + v; }
        case 1u: { return u - v; }
        case 2u: { return u * v; }
        case 3u: { return div_of(u, v); }
        case 4u: { return select(0.0, 1.0, u == v); }
        case 5u: { return select(0.0, v, u > 0.0); }
        case 6u: { return silu_grad(u) * v; }
        case 7u: { return (normal_cdf(u) + u * normal_density(u)) * v; }
        default: { return gelu_tanh_grad(u) * v; }
    }
}
