// dropout: y (+)= x * mask. The mask is Philox of the element's number; the step comes from the scalar buffer.

struct Params {
    n: u32,
    y_start: u32,
    x_start: u32,
    scalars_start: u32,
    mask: Mask,
}

override X_TYPE: u32 = 0u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<u32>;
@group(0) @binding(3) var<storage, read> scalars: array<f32>;

fn value(p: u32) -> f32 {
    let i = params.x_start + p;
    var v = 0.0;
    if (X_TYPE == F32) { v = bitcast<f32>(x[i]); } else { v = half_value(half_of(x[i >> 1u], i), X_TYPE); }
    return dropped(params.mask, u32(scalars[params.scalars_start]), p, v);
}
