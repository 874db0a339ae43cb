//! Matrix products with f32 sums: on FMA units (`cu/gemm.cu`), or on tensor cores (`cu/gemm_tc.cuh`) where that is asked
//! for. Operands are f32, bf16 or f16 in any mixture.

use crate::launch::{Dropout, Fields, Launch, Operand, TooLarge, Type, size};

/// How the operands are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// a `[m,k]`, b `[k,n]`
    NN,
    /// a `[m,k]`, b `[n,k]`
    NT,
    /// a `[k,m]`, b `[k,n]`
    TN,
}

impl Layout {
    fn name(self) -> &'static str {
        match self {
            Layout::NN => "nn",
            Layout::NT => "nt",
            Layout::TN => "tn",
        }
    }
}

/// What tensor cores multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Math {
    /// a and b as they are, both bf16 or both f16; the tail as [`Math::Bf16x3`].
    Native,
    /// Everything rounded to bf16.
    Bf16,
    /// Everything as the sum of two bf16, three products: about 2⁻¹⁶ relative.
    Bf16x3,
    /// Everything rounded to 10 bits of mantissa.
    Tf32,
}

/// The low-rank part of a product, summed before the rest: `s · a2 · op(b2) ⊙ mask`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail {
    /// `[m,r]`
    pub a: Operand,
    /// As b of the layout, with r in the place of k.
    pub b: Operand,
    /// Rank.
    pub r: usize,
    /// Factor.
    pub s: f32,
    /// Mask over `[m,n]`.
    pub dropout: Option<Dropout>,
}

/// `c[i] (+)= alpha · (tail + op(a[i]) · op(b[i])) + bias` for `batch` contiguous matrices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gemm {
    /// Storage of the operands.
    pub layout: Layout,
    /// Number of matrices; 1 with a tail.
    pub batch: usize,
    /// Rows of c.
    pub m: usize,
    /// Columns of c.
    pub n: usize,
    /// Summed dimension.
    pub k: usize,
    /// Factor.
    pub alpha: f32,
    /// c += instead of c =.
    pub add: bool,
    /// First operand.
    pub a: Operand,
    /// Second operand.
    pub b: Operand,
    /// Result `[m,n]`.
    pub c: Operand,
    /// `[n]`
    pub bias: Option<Operand>,
    /// The low-rank part.
    pub tail: Option<Tail>,
}

/// Matrices of one launch; the z dimension of a grid ends at 65535.
const MAX_BATCH: usize = 65_535;
/// Fewer tiles of 128 x 128 than this leave a large GPU idle; then they are 64 x 64.
const ENOUGH_TILES: usize = 128;

impl Gemm {
    /// The launches, usually one. None if there is nothing to compute.
    ///
    /// # Errors
    /// A dimension of more than 2³¹−1.
    pub fn launches(&self) -> Result<Vec<Launch>, TooLarge> {
        let large = self.m.div_ceil(128) * self.n.div_ceil(128) * self.batch >= ENOUGH_TILES;
        self.tiled(if large { 128 } else { 64 })
    }

    /// The same with tiles of 64 x 64 or 128 x 128; the sums are the same.
    ///
    /// # Errors
    /// As [`Gemm::launches`].
    pub fn tiled(&self, tile: usize) -> Result<Vec<Launch>, TooLarge> {
        self.grid(tile, "gemm", format!("gemm_{}_{tile}", self.layout.name()), 0)
    }

    /// The launches on tensor cores.
    ///
    /// # Errors
    /// As [`Gemm::launches`].
    ///
    /// # Panics
    /// [`Math::Native`] with operands that are not both bf16 or both f16.
    pub fn tensor(&self, math: Math) -> Result<Vec<Launch>, TooLarge> {
        let (module, parts) = match (math, self.a.ty, self.b.ty) {
            (Math::Native, Type::Bf16, Type::Bf16) => ("gemm_tc_bf16_bf16", 2),
            (Math::Native, Type::F16, Type::F16) => ("gemm_tc_f16_f16", 2),
            (Math::Native, a, b) => panic!("no native product of {a:?} and {b:?}"),
            (Math::Bf16, ..) => ("gemm_tc_bf16", 1),
            (Math::Bf16x3, ..) => ("gemm_tc_bf16x3", 2),
            (Math::Tf32, ..) => ("gemm_tc_tf32", 1),
        };
        let name = module.trim_start_matches("gemm_tc_");
        // Two stages of both operands' tiles, 8 KiB a part, or four of 16-bit operands; then 64 rows of the result.
        let shared = (parts * 32 * 1024).max(64 * 136 * 4);
        self.grid(128, module, format!("gemm_tc_{}_{name}", self.layout.name()), shared)
    }

    fn grid(&self, tile: usize, module: &'static str, entry: String, shared: u32) -> Result<Vec<Launch>, TooLarge> {
        if self.m * self.n * self.batch == 0 {
            return Ok(Vec::new());
        }
        let blocks = size("tiles", self.m.div_ceil(tile) * self.n.div_ceil(tile))?;
        let launch = |first: usize| {
            let grid = [blocks, 1, (self.batch - first).min(MAX_BATCH) as u32];
            Ok(Launch { module, entry: entry.clone(), grid, block: 256, shared, params: self.params(first)? })
        };
        (0..self.batch).step_by(MAX_BATCH).map(launch).collect()
    }

    fn params(&self, first: usize) -> Result<Vec<u8>, TooLarge> {
        let at = |x: Operand, len: usize| x.at + (first * len * x.ty.size()) as u64;
        let none = Operand::new(0, Type::F32);
        let tail = self.tail.unwrap_or(Tail { a: none, b: none, r: 0, s: 0.0, dropout: None });
        let bias = self.bias.unwrap_or(none);
        let (m, n, k) = (size("m", self.m)?, size("n", self.n)?, size("k", self.k)?);
        let types = [self.a, self.b, self.c, bias, tail.a, tail.b].map(|x| x.ty as u32);
        Ok(Fields::default()
            .ptr(at(self.a, self.m * self.k))
            .ptr(at(self.b, self.k * self.n))
            .ptr(bias.at)
            .ptr(tail.a.at)
            .ptr(tail.b.at)
            .ptr(tail.dropout.map_or(0, |d| d.scalars))
            .ptr(at(self.c, self.m * self.n))
            .u32s([m, n, k, size("r", tail.r)?])
            .f32(self.alpha)
            .f32(tail.s)
            .u32s(types)
            .u32(self.add.into())
            .dropout(tail.dropout)
            .done())
    }
}
