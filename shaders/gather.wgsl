// gather: y[i, j] (+)= table[ids[i], j]. The table may be bound in slices of rows: a slice fills only its rows. It may
// also be stored transposed. An id beyond the table gives NaN, since nothing can be reported without waiting.

struct Params {
    n: u32,
    y_start: u32,
    x_start: u32,
    ids_start: u32,
    width: u32,
    // Rows of the slice that is bound, and of the whole table.
    first: u32,
    last: u32,
    rows: u32,
    row_step: u32,
    col_step: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> ids: array<u32>;

fn source(p: u32) -> u32 {
    let id = ids[params.ids_start + p / params.width];
    if (id >= params.rows) { return select(UNCOVERED, OUTSIDE, params.first == 0u); }
    if (id < params.first || id >= params.last) { return UNCOVERED; }
    return (id - params.first) * params.row_step + p % params.width * params.col_step;
}
