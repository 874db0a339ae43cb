//! Which kernel computes a product that goes by tiles, and how large the tile is.
//!
//! Every variant gives the same bits, except the cooperative one, whose order within 8 elements is the hardware's.

use lowrank_backend::{Backend, Buffer, DType, Gemm, In, Out, Result};
use wgpu::Features;

use crate::Wgpu;
use crate::adapter::Context;

/// The environment variable that forces a variant: tests and measurements.
const FORCE: &str = "LOWRANK_WGPU";
/// Workgroups below which a tile of 128 × 128 would leave processors of a GPU idle.
const BUSY: usize = 64;

/// A way to compute a product by tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tile {
    /// 64 × 64 elements, 4 × 4 per invocation; 16 and 32 for small sides.
    Four,
    /// 64 × 64 elements, 8 × 8 per invocation; 32 for small sides.
    Eight,
    /// 128 × 128 elements, 8 × 8 per invocation.
    Wide,
    /// 64 × 64 elements, 4 × 4 per invocation, the left operand by shuffles.
    Subgroups,
    /// 32 × 32 elements by a subgroup's matrix unit, 8 × 8 at a time.
    Cooperative,
}

impl Tile {
    const ALL: [Tile; 5] = [Tile::Four, Tile::Eight, Tile::Wide, Tile::Subgroups, Tile::Cooperative];

    /// As `LOWRANK_WGPU` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Tile::Four => "4x4",
            Tile::Eight => "8x8",
            Tile::Wide => "8x8-wide",
            Tile::Subgroups => "subgroups",
            Tile::Cooperative => "cooperative",
        }
    }

    /// The variant that `LOWRANK_WGPU` forces, if this adapter has it.
    pub fn forced(context: &Context) -> Result<Option<Tile>> {
        match std::env::var(FORCE) {
            Ok(name) if !name.is_empty() => Tile::named(&name, context).map(Some),
            _ => Ok(None),
        }
    }

    /// A variant by its name, if this adapter has it.
    pub fn named(name: &str, context: &Context) -> Result<Tile> {
        let Some(tile) = Tile::ALL.into_iter().find(|t| t.name() == name) else {
            let names = Tile::ALL.map(Tile::name).join(", ");
            return Err(context.error(format!("{FORCE}={name}: write one of {names}")));
        };
        tile.missing(context).map_or(Ok(tile), |why| Err(context.error(format!("{FORCE}={name}: {why}"))))
    }

    /// Why this adapter cannot have it.
    fn missing(self, context: &Context) -> Option<String> {
        let (least, most) = context.info.subgroups;
        match self {
            Tile::Four | Tile::Eight | Tile::Wide => None,
            Tile::Subgroups if !context.features.contains(Features::SUBGROUP) => Some("no subgroup operations".into()),
            Tile::Subgroups if least < 4 || most > 128 => Some(format!("subgroups of {least} to {most} invocations")),
            Tile::Subgroups => None,
            Tile::Cooperative if !cfg!(feature = "cooperative") => {
                Some("lowrank-wgpu was built without its feature cooperative".into())
            }
            Tile::Cooperative if !context.features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX) => {
                Some("no products of 8 × 8 matrices in f32 by subgroups".into())
            }
            Tile::Cooperative if least != most => Some(format!("subgroups of {least} to {most}, not of one size")),
            Tile::Cooperative => None,
        }
    }

    /// What is fastest for c `[m,n]`, `batch` times: measured on the software adapter (docs/measurements.md); on a GPU,
    /// unmeasured, 8 × 8 per invocation where there are enough tiles to fill it.
    pub fn choose(context: &Context, [m, n, batch]: [usize; 3]) -> Tile {
        if m.min(n) <= 32 {
            return Tile::Four;
        }
        if context.info.software {
            return Tile::Eight;
        }
        let wide = m.div_ceil(128).saturating_mul(n.div_ceil(128)).saturating_mul(batch);
        if m > 64 && n > 64 && wide >= BUSY { Tile::Wide } else { Tile::Four }
    }

    /// Rows and columns of the tile for c `[m,n]`, and elements of a side per invocation.
    pub fn sizes(self, m: usize, n: usize) -> [usize; 3] {
        let fit = |size: usize, sizes: [usize; 2]| sizes.into_iter().find(|&t| size <= t).unwrap_or(64);
        match self {
            Tile::Four => [fit(m, [16, 32]), fit(n, [16, 32]), 4],
            Tile::Eight => [fit(m, [32, 32]), fit(n, [32, 32]), 8],
            Tile::Wide => [128, 128, 8],
            Tile::Subgroups => [64, 64, 4],
            Tile::Cooperative => [32, 32, 4],
        }
    }

    /// The same for dA with dx, which only go by plain tiles of at least 64.
    pub fn sizes_of_two(self) -> [usize; 2] {
        match self {
            Tile::Eight => [64, 8],
            Tile::Wide => [128, 8],
            Tile::Four | Tile::Subgroups | Tile::Cooperative => [64, 4],
        }
    }
}

/// Matrix units through wgpu are experimental: one product is checked before any other is trusted.
pub(crate) fn check_cooperative(wgpu: &Wgpu) -> Result<()> {
    let [m, n, k] = [33, 40, 20];
    let value = |i: usize, of: usize| ((i * 7 + i / 5) % of) as f32 - 2.0;
    let (a, b): (Vec<f32>, Vec<f32>) =
        ((0..m * k).map(|i| value(i, 5)).collect(), (0..k * n).map(|i| value(i, 4)).collect());
    let held = |values: &[f32]| -> Result<Box<dyn Buffer>> {
        let mut t = wgpu.alloc(values.len() * 4)?;
        wgpu.upload(bytemuck::cast_slice(values), Out::new(&mut *t, DType::F32, values.len()))?;
        Ok(t)
    };
    let (left, right, mut c) = (held(&a)?, held(&b)?, wgpu.alloc(m * n * 4)?);
    let (left, right) = (In::new(&*left, DType::F32, m * k), In::new(&*right, DType::F32, k * n));
    wgpu.gemm(&Gemm::nn(m, n, k), left, right, Out::new(&mut *c, DType::F32, m * n).set())?;
    let got = pollster::block_on(wgpu.download(In::new(&*c, DType::F32, m * n)))?;
    let got: Vec<f32> = bytemuck::pod_collect_to_vec(&got);
    let want = |e: usize| (0..k).map(|l| a[e / n * k + l] * b[l * n + e % n]).sum::<f32>();
    if (0..m * n).all(|e| got[e] == want(e)) {
        return Ok(());
    }
    Err(wgpu.context.error(format!("{FORCE}=cooperative: a product by this adapter's matrix units is wrong")))
}
