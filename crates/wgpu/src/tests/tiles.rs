//! The variants of products by tiles: each gives the bits of the plain one, whatever the shape, and shows when it is broken.
//!
//! The suite runs on each of them too: `LOWRANK_WGPU=subgroups cargo test --features wgpu --test suite -- wgpu`.

use super::*;
use crate::tile::Tile;

const VARIANTS: [Tile; 4] = [Tile::Four, Tile::Eight, Tile::Wide, Tile::Subgroups];

/// The device with a variant forced, if its adapter has it.
fn forced(tile: Tile) -> Option<Wgpu> {
    let mut wgpu = device()?;
    if let Err(e) = Tile::named(tile.name(), &wgpu.context) {
        eprintln!("skipped: {e}");
        return None;
    }
    wgpu.forced = Some(tile);
    Some(wgpu)
}

fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = philox::Rng::new(seed, 1);
    (0..n).map(|_| rng.next_u32() as f32 / (1u64 << 31) as f32 - 1.0).collect()
}

/// c of every layout, batched and added to, in one vector.
fn products(wgpu: &Wgpu, [m, n, k]: [usize; 3]) -> Vec<f32> {
    let batch = 2;
    let (a, b) = (Held::of(wgpu, &random(1, batch * m * k)), Held::of(wgpu, &random(2, batch * k * n)));
    let half: Vec<half::bf16> = random(3, batch * k * n).into_iter().map(half::bf16::from_f32).collect();
    let half = Held::of(wgpu, &half);
    let mut all = Vec::new();
    for gemm in [Gemm::nn(m, n, k), Gemm::nt(m, n, k), Gemm::tn(m, n, k)] {
        for b in [&b, &half] {
            let mut c = Held::of(wgpu, &random(4, batch * m * n));
            wgpu.gemm(&Gemm { batch, alpha: 0.5, ..gemm }, a.view(), b.view(), c.out().add()).unwrap();
            all.extend(c.read::<f32>(wgpu));
        }
    }
    all
}

/// y, h, dx, da and db of a low-rank linear with bias and dropout.
fn low_rank(wgpu: &Wgpu, [m, n, k, r]: [usize; 4]) -> Vec<f32> {
    let of = |seed: u64, len: usize| Held::of(wgpu, &random(seed, len));
    let (x, w, a, b) = (of(1, m * k), of(2, n * k), of(3, r * k), of(4, n * r));
    let (bias, gy, scalars) = (of(5, n), of(6, m * n), Held::of(wgpu, &[3.0f32; Scalars::LEN]));
    let base = Linear { m, n, k, w: Weight::Dense(w.view()), bias: Some(bias.view()), precision: Precision::Full };
    let dropout = Some(Dropout { p: 0.25, seed: 1, stream: 2 });
    let op = Lora { base, a: a.view(), b: b.view(), r, scale: 2.0, dropout, scalars: scalars.view() };
    let empty = |len: usize| Held::empty(wgpu, DType::F32, len);
    let (mut y, mut h, mut dx, mut da, mut db) = (empty(m * n), empty(m * r), of(7, m * k), empty(r * k), empty(n * r));
    wgpu.lora_forward(&op, x.view(), y.out(), h.out()).unwrap();
    let slots = (Some(dx.out().add()), Some(da.out().set()), Some(db.out().set()));
    wgpu.lora_backward(&op, x.view(), h.view(), gy.view(), slots.0, slots.1, slots.2).unwrap();
    [&y, &h, &dx, &da, &db].iter().flat_map(|t| t.read::<f32>(wgpu)).collect()
}

#[test]
fn every_variant_has_the_bits_of_the_plain_one() {
    let Some(plain) = forced(Tile::Four) else { return };
    let shapes = [[70, 66, 37], [130, 129, 128], [9, 300, 16], [200, 7, 65]];
    let linears = [[70, 66, 37, 3], [130, 200, 129, 20], [33, 65, 64, 70]];
    let want: Vec<Vec<f32>> = shapes.iter().map(|&s| products(&plain, s)).collect();
    let want_linears: Vec<Vec<f32>> = linears.iter().map(|&s| low_rank(&plain, s)).collect();
    for tile in VARIANTS {
        let Some(wgpu) = forced(tile) else { continue };
        for (shape, want) in shapes.iter().zip(&want) {
            assert!(products(&wgpu, *shape) == *want, "{tile:?}, {shape:?}");
        }
        for (shape, want) in linears.iter().zip(&want_linears) {
            assert!(low_rank(&wgpu, *shape) == *want, "{tile:?}, low rank {shape:?}");
        }
    }
}

#[test]
fn a_broken_variant_shows() {
    let sizes @ [m, n, k] = [130, 140, 100];
    let (a, b) = (integers(1, m * k), integers(2, n * k));
    let want = product(sizes, &a, &b);
    let run = |wgpu: &Wgpu| {
        let (a, b) = (Held::of(wgpu, &a), Held::of(wgpu, &b));
        let mut c = Held::empty(wgpu, DType::F32, m * n);
        wgpu.gemm(&Gemm::nt(m, n, k), a.view(), b.view(), c.out().set()).unwrap();
        c.read::<f32>(wgpu)
    };
    let eight = [("BN / 8u + x", 0, "x"), ("BM / 2u", 0, "0u"), ("if (T == 8u)", 1, "if (T == 9u)")];
    let subgroups = [
        ("first + four + 1u", 0, "first + four"),
        ("number * size + own", 0, "own"),
        ("k0 += BK", 2, "k0 += 2u * BK"),
        ("row + i % 4u", 0, "row + i / 4u"),
    ];
    for (tile, shader, mutants) in [
        (Tile::Eight, &lowrank_shaders::GEMM, &eight[..]),
        (Tile::Wide, &lowrank_shaders::GEMM, &eight[..]),
        (Tile::Subgroups, &lowrank_shaders::GEMM_SUBGROUPS, &subgroups[..]),
    ] {
        let Some(mut wgpu) = forced(tile) else { continue };
        assert!(run(&wgpu) == want, "{tile:?} as it is is wrong");
        // The first two barriers of gemm.wgsl are those of the branch; the variant's own come last.
        let last = shader.text.matches("workgroupBarrier();").count();
        let barriers = match tile {
            Tile::Subgroups => vec![("workgroupBarrier();", last - 2, ""), ("workgroupBarrier();", last - 1, "")],
            _ => vec![("workgroupBarrier();", 2, ""), ("workgroupBarrier();", 3, "")],
        };
        for &(what, nth, by) in mutants.iter().chain(&barriers) {
            wgpu.mutant = Some((shader.name, broken::broken(shader, what, nth, by)));
            assert!(run(&wgpu) != want, "{tile:?}: {what} {nth} → {by:?} does not show");
        }
    }
}

#[test]
fn a_variant_that_is_not_there_is_refused_by_name() {
    let Some(wgpu) = device() else { return };
    let refused = |name: &str| Tile::named(name, &wgpu.context).unwrap_err().to_string();
    let e = refused("fast");
    assert!(e.contains("LOWRANK_WGPU=fast") && e.contains("8x8-wide, subgroups"), "{e}");
    let e = refused("cooperative");
    assert!(e.contains("wgpu:0") && e.contains("LOWRANK_WGPU=cooperative"), "{e}");
}
