// map: y (+)= f(x), elementwise; x and y of any float storage.

struct Params {
    n: u32,
    y_start: u32,
    x_start: u32,
    c: f32,
    d: f32,
}

override OP: u32 = 0u;
override X_TYPE: u32 = 0u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<u32>;

fn value(p: u32) -> f32 {
    let i = params.x_start + p;
    var v = 0.0;
    if (X_TYPE == F32) { v = bitcast<f32>(x[i]); } else { v = half_value(half_of(x[i >> 1u], i), X_TYPE); }
    switch (OP) {
        case 0u: { return v; }
        case 1u: { return params.c * v + params.d; }
        case 2u: { return exp_of(v); }
        case 3u: { return log_of(v); }
        case 4u: { return sqrt(v); }
        case 5u: { return div_of(1.0, v); }
        case 6u: { return v * v; }
        case 7u: { if (is_nan(v)) { return v; } return tanh_of(v); }
        case 8u: { if (v > params.c) { return params.c; } return v; }
        case 9u: { if (v < params.c) { return params.c; } return v; }
        case 10u: { if (v < 0.0) { return 0.0; } return v; }
        case 11u: { return v * sigmoid(v); }
        case 12u: { return v * normal_cdf(v); }
        default: { return v * sigmoid(1.5957691216 * fma(0.044715 * v * v, v, v)); }
    }
}
