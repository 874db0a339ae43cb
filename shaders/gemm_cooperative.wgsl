// A variant of `tiled` of gemm.wgsl, for adapters whose subgroups multiply matrices of 8 x 8 in f32 (Metal's simdgroup
// matrices, VK_KHR_cooperative_matrix): one subgroup per workgroup owns 32 x 32 elements of c in sixteen accumulators. Both
// operands pass through workgroup memory in steps of 16 along k, zero beyond their ends, and so does c on its way out, where
// the branch, the bias and the bounds are: 10 KiB.
//
// LANES is the size of every subgroup of the adapter. The order of the sums within 8 elements is the hardware's: bits may
// differ from the other variants' and between adapters, never between runs. Behind the cargo feature `cooperative`.

override LANES: u32 = 32u;

alias Left = coop_mat8x8<f32, A>;
alias Right = coop_mat8x8<f32, B>;
alias Sum = coop_mat8x8<f32, C>;

// op(a) [32,16], op(b) [16,32] and c [32,32], by rows.
var<workgroup> left_rows: array<f32, 512>;
var<workgroup> right_rows: array<f32, 512>;
var<workgroup> sum_rows: array<f32, 1024>;

fn fill_left(a_start: u32, row0: u32, k0: u32, lane: u32) {
    for (var e = lane; e < 128u; e += LANES) {
        if (TA == 0u) {
            let v = load_a(a_start, row0 + e / 4u, params.m, k0 + e % 4u * 4u, params.k);
            for (var j = 0u; j < 4u; j++) { left_rows[e / 4u * 16u + e % 4u * 4u + j] = v[j]; }
        } else {
            let v = load_a(a_start, k0 + e / 8u, params.k, row0 + e % 8u * 4u, params.m);
            for (var j = 0u; j < 4u; j++) { left_rows[(e % 8u * 4u + j) * 16u + e / 8u] = v[j]; }
        }
    }
}

fn fill_right(b_start: u32, column0: u32, k0: u32, lane: u32) {
    for (var e = lane; e < 128u; e += LANES) {
        if (TB == 0u) {
            let v = load_b(b_start, k0 + e / 8u, params.k, column0 + e % 8u * 4u, params.n);
            for (var j = 0u; j < 4u; j++) { right_rows[e / 8u * 32u + e % 8u * 4u + j] = v[j]; }
        } else {
            let v = load_b(b_start, column0 + e / 4u, params.n, k0 + e % 4u * 4u, params.k);
            for (var j = 0u; j < 4u; j++) { right_rows[(e % 4u * 4u + j) * 32u + e / 4u] = v[j]; }
        }
    }
}

@compute @workgroup_size(LANES)
fn tiled_cooperative(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row0 = group.y * 32u;
    let column0 = group.x * 32u;
    let a_start = params.a_start + group.z * params.a_batch;
    let b_start = params.b_start + group.z * params.b_batch;
    for (var e = lane; e < 1024u; e += LANES) { sum_rows[e] = 0.0; }
    workgroupBarrier();
    var s00 = coopLoadT<Sum>(&sum_rows[0u], 32u);
    var s01 = coopLoadT<Sum>(&sum_rows[8u], 32u);
    var s02 = coopLoadT<Sum>(&sum_rows[16u], 32u);
    var s03 = coopLoadT<Sum>(&sum_rows[24u], 32u);
    var s10 = coopLoadT<Sum>(&sum_rows[256u], 32u);
    var s11 = coopLoadT<Sum>(&sum_rows[264u], 32u);
    var s12 = coopLoadT<Sum>(&sum_rows[272u], 32u);
    var s13 = coopLoadT<Sum>(&sum_rows[280u], 32u);
    var s20 = coopLoadT<Sum>(&sum_rows[512u], 32u);
    var s21 = coopLoadT<Sum>(&sum_rows[520u], 32u);
    var s22 = coopLoadT<Sum>(&sum_rows[528u], 32u);
    var s23 = coopLoadT<Sum>(&sum_rows[536u], 32u);
    var s30 = coopLoadT<Sum>(&sum_rows[768u], 32u);
    var s31 = coopLoadT<Sum>(&sum_rows[776u], 32u);
    var s32 = coopLoadT<Sum>(&sum_rows[784u], 32u);
    var s33 = coopLoadT<Sum>(&sum_rows[792u], 32u);
    for (var k0 = 0u; k0 < params.k; k0 += BK) {
        fill_left(a_start, row0, k0, lane);
        fill_right(b_start, column0, k0, lane);
        workgroupBarrier();
        for (var k = 0u; k < BK; k += 8u) {
            let a0 = coopLoadT<Left>(&left_rows[0u + k], 16u);
            let a1 = coopLoadT<Left>(&left_rows[128u + k], 16u);
            let a2 = coopLoadT<Left>(&left_rows[256u + k], 16u);
            let a3 = coopLoadT<Left>(&left_rows[384u + k], 16u);
            let b0 = coopLoadT<Right>(&right_rows[k * 32u + 0u], 32u);
            s00 = coopMultiplyAdd(a0, b0, s00);
            s10 = coopMultiplyAdd(a1, b0, s10);
            s20 = coopMultiplyAdd(a2, b0, s20);
            s30 = coopMultiplyAdd(a3, b0, s30);
            let b1 = coopLoadT<Right>(&right_rows[k * 32u + 8u], 32u);
            s01 = coopMultiplyAdd(a0, b1, s01);
            s11 = coopMultiplyAdd(a1, b1, s11);
            s21 = coopMultiplyAdd(a2, b1, s21);
            s31 = coopMultiplyAdd(a3, b1, s31);
            let b2 = coopLoadT<Right>(&right_rows[k * 32u + 16u], 32u);
            s02 = coopMultiplyAdd(a0, b2, s02);
            s12 = coopMultiplyAdd(a1, b2, s12);
            s22 = coopMultiplyAdd(a2, b2, s22);
            s32 = coopMultiplyAdd(a3, b2, s32);
            let b3 = coopLoadT<Right>(&right_rows[k * 32u + 24u], 32u);
            s03 = coopMultiplyAdd(a0, b3, s03);
            s13 = coopMultiplyAdd(a1, b3, s13);
            s23 = coopMultiplyAdd(a2, b3, s23);
            s33 = coopMultiplyAdd(a3, b3, s33);
        }
        workgroupBarrier();
    }
    coopStoreT(s00, &sum_rows[0u], 32u);
    coopStoreT(s01, &sum_rows[8u], 32u);
    coopStoreT(s02, &sum_rows[16u], 32u);
    coopStoreT(s03, &sum_rows[24u], 32u);
    coopStoreT(s10, &sum_rows[256u], 32u);
    coopStoreT(s11, &sum_rows[264u], 32u);
    coopStoreT(s12, &sum_rows[272u], 32u);
    coopStoreT(s13, &sum_rows[280u], 32u);
    coopStoreT(s20, &sum_rows[512u], 32u);
    coopStoreT(s21, &sum_rows[520u], 32u);
    coopStoreT(s22, &sum_rows[528u], 32u);
    coopStoreT(s23, &sum_rows[536u], 32u);
    coopStoreT(s30, &sum_rows[768u], 32u);
    coopStoreT(s31, &sum_rows[776u], 32u);
    coopStoreT(s32, &sum_rows[784u], 32u);
    coopStoreT(s33, &sum_rows[792u], 32u);
    workgroupBarrier();
    for (var e = lane; e < 1024u; e += LANES) {
        let row = row0 + e / 32u;
        let column = column0 + e % 32u;
        var side = 0.0;
        if (BRANCH != 0u) {
            for (var j = 0u; j < params.r; j++) { side = fma(p_at(row, j), q_at(j, column), side); }
        }
        finish(group.z, row, column, sum_rows[e], side);
    }
}
