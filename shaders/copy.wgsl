// copy: a strided block, row by row.

struct Params {
    n: u32,
    y_start: u32,
    x_start: u32,
    cols: u32,
    src_stride: u32,
    dst_stride: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

fn source(p: u32) -> u32 {
    let row = p / params.dst_stride;
    let col = p % params.dst_stride;
    if (col >= params.cols) { return UNCOVERED; }
    return row * params.src_stride + col;
}
