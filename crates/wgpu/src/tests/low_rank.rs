//! The low-rank linear with one piece of its kernels replaced: every part of it must show.

use super::broken::shows;
use super::*;

/// `a b` of [m,k] and [k,n], either stored transposed, by plain loops.
fn times([m, n, k]: [usize; 3], a: impl Fn(usize, usize) -> f32, b: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    (0..m * n).map(|e| (0..k).map(|l| a(e / n, l) * b(l, e % n)).sum()).collect()
}

/// The low-rank linear on small integers, by its formulas: y = x Wᵀ + 2 h Bᵀ, dx = gy W + u A, dA = uᵀ x, dB = 2 gyᵀ h.
#[test]
fn a_broken_low_rank_linear_shows() {
    let [m, n, k, r] = [40, 70, 130, 19];
    let [x, w, a, b, gy] =
        [(1, m * k), (2, n * k), (3, r * k), (4, n * r), (5, m * n)].map(|(s, len)| integers(s, len));
    let h = times([m, r, k], |i, l| x[i * k + l], |l, j| a[j * k + l]);
    let u = times([m, r, n], |i, l| 2.0 * gy[i * n + l], |l, j| b[l * r + j]);
    let plus = |left: Vec<f32>, right: Vec<f32>| left.iter().zip(right).map(|(a, b)| a + b).collect::<Vec<f32>>();
    let y = plus(
        times([m, n, k], |i, l| x[i * k + l], |l, j| w[j * k + l]),
        times([m, n, r], |i, l| 2.0 * h[i * r + l], |l, j| b[j * r + l]),
    );
    let dx = plus(
        times([m, k, n], |i, l| gy[i * n + l], |l, j| w[l * k + j]),
        times([m, k, r], |i, l| u[i * r + l], |l, j| a[l * k + j]),
    );
    let da = times([r, k, m], |i, l| u[l * r + i], |l, j| x[l * k + j]);
    let db = times([n, r, m], |i, l| 2.0 * gy[l * n + i], |l, j| h[l * r + j]);
    let want = [y, h, dx, da, db].concat();
    // In the order of the file: the branch, tiles, dot products (after its tree's last round nothing is read), u with dB, and
    // dA with dx.
    let mut mutants: Vec<(&str, usize, &str)> =
        [0, 1, 4, 5, 6, 7, 8, 9].map(|nth| ("workgroupBarrier();", nth, "")).to_vec();
    mutants.extend([
        ("m0 += BK", 0, "m0 += 2u * BK"),
        ("m0 += BK", 1, "m0 += 2u * BK"),
        ("params.scale * branch", 1, "branch"),
    ]);
    shows(&lowrank_shaders::GEMM, &mutants, &want, |wgpu| {
        let [x, w, a, b, gy] = [&x, &w, &a, &b, &gy].map(|x| Held::of(wgpu, x));
        let scalars = Held::of(wgpu, &[0.0f32; Scalars::LEN]);
        let base = Linear { m, n, k, w: Weight::Dense(w.view()), bias: None, precision: Precision::Full };
        let (a, b) = (a.view(), b.view());
        let op = Lora { base, a, b, r, scale: 2.0, dropout: None, scalars: scalars.view() };
        let [mut y, mut h, mut dx, mut da, mut db] =
            [m * n, m * r, m * k, r * k, n * r].map(|len| Held::empty(wgpu, DType::F32, len));
        wgpu.lora_forward(&op, x.view(), y.out(), h.out()).unwrap();
        let [dx_slot, da_slot, db_slot] = [dx.out().set(), da.out().set(), db.out().set()].map(Some);
        wgpu.lora_backward(&op, x.view(), h.view(), gy.view(), dx_slot, da_slot, db_slot).unwrap();
        [&y, &h, &dx, &da, &db].iter().flat_map(|t| t.read::<f32>(wgpu)).collect()
    });
}
