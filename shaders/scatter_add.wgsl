// scatter_add: table[ids[i], j] += x[i, j] in ascending i, without atomics.
//
// One workgroup per index i. It works only if no earlier index is the same; then its invocations, one per column, walk
// over all later equal ones. Every sum has one owner and one order.

struct Params {
    count: u32,
    width: u32,
    rows: u32,
    row_step: u32,
    col_step: u32,
    table_start: u32,
    ids_start: u32,
    x_start: u32,
}

override X_TYPE: u32 = 0u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> table: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<u32>;

fn x_at(i: u32) -> f32 {
    if (X_TYPE == F32) { return bitcast<f32>(x[i]); }
    return half_value(half_of(x[i >> 1u], i), X_TYPE);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let i = folded(group, groups);
    if (i >= params.count) { return; }
    let id = ids[params.ids_start + i];
    if (id >= params.rows) { return; }
    for (var j = 0u; j < i; j++) {
        if (ids[params.ids_start + j] == id) { return; }
    }
    for (var column = lane; column < params.width; column += 64u) {
        let at = params.table_start + id * params.row_step + column * params.col_step;
        var sum = table[at];
        for (var j = i; j < params.count; j++) {
            if (ids[params.ids_start + j] == id) { sum += x_at(params.x_start + j * params.width + column); }
        }
        table[at] = sum;
    }
}
