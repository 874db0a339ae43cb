// permute: dimension i of y is dimension perm[i] of x. Dimensions of y, the last one first, with their steps in x.

struct Params {
    n: u32,
    y_start: u32,
    x_start: u32,
    rank: u32,
    dims: array<vec4<u32>, 6>,
}

@group(0) @binding(0) var<uniform> params: Params;

fn source(p: u32) -> u32 {
    var rest = p;
    var i = 0u;
    for (var d = 0u; d < params.rank; d++) {
        let dim = params.dims[d];
        i += rest % dim.x * dim.y;
        rest = rest / dim.x;
    }
    return i;
}
