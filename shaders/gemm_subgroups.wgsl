// A variant of `tiled` of gemm.wgsl, for adapters with subgroups: a does not pass through workgroup memory. The invocations
// of a subgroup that own the same four rows of c read those rows of a once, each a vec4, and hand the elements on by
// shuffles; b goes through its tile as before. BM = BN = 64, T = 4, 256 invocations.
//
// Any subgroup size from 4 to 128: an invocation's place in the tile is its number by subgroups, not by the workgroup's
// own order, so that 16, or all if there are fewer, in a row of a subgroup own the same rows. The sums have the bits of
// `tiled`.

@compute @workgroup_size(256)
fn tiled_subgroups(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_id) number: u32,
                   @builtin(subgroup_size) size: u32, @builtin(subgroup_invocation_id) own: u32) {
    let lane = number * size + own;
    let local = vec2<u32>(lane % 16u, lane / 16u);
    let row0 = group.y * BM;
    let column0 = group.x * BN;
    let a_start = params.a_start + group.z * params.a_batch;
    let b_start = params.b_start + group.z * params.b_batch;
    let row = row0 + local.y * 4u;
    let column = column0 + local.x * 4u;
    // How many share four rows, the first of them in the subgroup, and this one's number among them.
    let sharing = min(size, 16u);
    let i = own % sharing;
    let first = own - i;
    var sums: Sums;
    for (var k0 = 0u; k0 < params.k; k0 += BK) {
        fill_b(b_start, column0, k0, lane, 256u);
        workgroupBarrier();
        for (var part = 0u; part < BK; part += sharing) {
            // Row i mod 4 at four k; of a transposed a, four rows at one k.
            var own_a: vec4<f32>;
            if (TA == 0u) {
                own_a = load_a(a_start, row + i % 4u, params.m, k0 + part + i / 4u * 4u, params.k);
            } else {
                own_a = load_a(a_start, k0 + part + i, params.k, row, params.m);
            }
            for (var four = 0u; four < sharing; four += 4u) {
                for (var j = 0u; j < 4u; j++) {
                    let right = b_tile[(part + four + j) * 16u + local.x];
                    var left: vec4<f32>;
                    if (TA == 0u) {
                        let element = own_a[j];
                        left.x = subgroupShuffle(element, first + four);
                        left.y = subgroupShuffle(element, first + four + 1u);
                        left.z = subgroupShuffle(element, first + four + 2u);
                        left.w = subgroupShuffle(element, first + four + 3u);
                    } else {
                        left = subgroupShuffle(own_a, first + four + j);
                    }
                    sums.l0 = fma(vec4<f32>(left.x), right, sums.l0);
                    sums.l1 = fma(vec4<f32>(left.y), right, sums.l1);
                    sums.l2 = fma(vec4<f32>(left.z), right, sums.l2);
                    sums.l3 = fma(vec4<f32>(left.w), right, sums.l3);
                }
            }
        }
        workgroupBarrier();
    }
    var side: Sums;
    if (BRANCH != 0u) { branch(&side, row0, column0, local, lane, 256u); }
    finish_four(group.z, row, column, sums.l0, side.l0);
    finish_four(group.z, row + 1u, column, sums.l1, side.l1);
    finish_four(group.z, row + 2u, column, sums.l2, side.l2);
    finish_four(group.z, row + 3u, column, sums.l3, side.l3);
}
