// rope: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) with x1, x2 the halves of a head, over x [batch, seq, heads, dim].
// sign is -1 to rotate back: the gradient.

struct Params {
    n: u32,
    y_start: u32,
    x_start: u32,
    cos_start: u32,
    sin_start: u32,
    half: u32,
    heads: u32,
    seq: u32,
    sign: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> cosines: array<f32>;
@group(0) @binding(4) var<storage, read> sines: array<f32>;

fn value(p: u32) -> f32 {
    let column = p % (2u * params.half);
    let row = p / (2u * params.half);
    let second = column >= params.half;
    let i = select(column, column - params.half, second);
    let at = (row / params.heads) % params.seq * params.half + i;
    let c = cosines[params.cos_start + at];
    let s = params.sign * sines[params.sin_start + at];
    let here = params.x_start + p;
    if (second) { return x[here] * c + x[here - params.half] * s; }
    return x[here] * c - x[here + params.half] * s;
}
