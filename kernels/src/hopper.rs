//! The low-rank linear for Hopper with wgmma and TMA, all operands bf16: `y = h Bᵀ + x Wᵀ + bias`
//! (`cu/lora_forward.sm90a.cu`), `dx (+)= (u A) ⊙ mask + gy W` (`cu/lora_backward.sm90a.cu`), and the copies of f32
//! operands that they read (`cu/bf16_rows.cu`).

use crate::launch::{Dropout, Fields, Launch, Operand, TooLarge, Type, size};

/// What `cuTensorMapEncodeTiled` is asked for: bf16 `[rows, cols]`, boxes of `box_rows` x 64 with 128-byte swizzle,
/// zeros outside. The encoded 128 bytes go to `128 · i` of the launch's parameters, for map i.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Map {
    /// Device address, a multiple of 16.
    pub at: u64,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub cols: usize,
    /// Elements from one row to the next, a multiple of 8.
    pub pitch: usize,
    /// Rows of a box; it has [`BOX_COLS`] columns.
    pub box_rows: u32,
}

/// Columns of a box.
pub const BOX_COLS: u32 = 64;
/// Bytes of an encoded map.
pub const MAP_BYTES: usize = 128;
/// Rows and columns of a tile of the result.
const TILE: [usize; 2] = [128, 256];

/// Elements from one row of an operand to the next: the columns, up to a multiple of 16 bytes.
pub const fn pitch(cols: usize) -> usize {
    cols.next_multiple_of(8)
}

/// A launch whose first parameters are maps, still to be encoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapped {
    /// With zeros in the maps' places.
    pub launch: Launch,
    /// The maps.
    pub maps: [Map; 4],
}

/// The low-rank part: its first operand `[m,r]`, its second, and r.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail {
    /// bf16 `[m,r]`, rows [`pitch`]`(r)` apart: s·h, or u.
    pub a: u64,
    /// bf16: B `[n,r]`, rows [`pitch`]`(r)` apart, or A `[r,k]`.
    pub b: u64,
    /// Rank.
    pub r: usize,
}

/// `y[m,n] = h Bᵀ + x Wᵀ + bias`; h is `s x̂ Aᵀ`, rounded to bf16.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forward {
    /// Rows.
    pub m: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs, a multiple of 8.
    pub k: usize,
    /// `[m,k]` bf16
    pub x: u64,
    /// `[n,k]` bf16
    pub w: u64,
    /// h and B.
    pub tail: Option<Tail>,
    /// `[n]`
    pub bias: Option<Operand>,
    /// `[m,n]`, bf16 or f32.
    pub y: Operand,
}

/// `dx[m,k] (+)= (u A) ⊙ mask + gy W`; u is `s gy B`, rounded to bf16.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backward {
    /// Rows.
    pub m: usize,
    /// Outputs of the layer.
    pub n: usize,
    /// Inputs of the layer, a multiple of 8.
    pub k: usize,
    /// bf16 `[m,n]`, rows [`pitch`]`(n)` apart.
    pub gy: u64,
    /// `[n,k]` bf16
    pub w: u64,
    /// u and A.
    pub tail: Option<Tail>,
    /// Mask over `[m,k]`, of the tail.
    pub dropout: Option<Dropout>,
    /// `[m,k]`, bf16 or f32.
    pub dx: Operand,
    /// += instead of =.
    pub add: bool,
}

impl Forward {
    /// `None` where TMA cannot read the operands or there is nothing to compute. `multiprocessors`: as many blocks at
    /// most, each stays and takes tile after tile.
    ///
    /// # Errors
    /// A dimension of more than 2³¹−1.
    pub fn launch(&self, multiprocessors: usize) -> Result<Option<Mapped>, TooLarge> {
        let Forward { m, n, k, x, w, tail, bias, y } = *self;
        // Without a tail its maps are never used, but must be maps.
        let Tail { a, b, r } = tail.unwrap_or(Tail { a: x, b: w, r: 0 });
        let low = if r == 0 { k } else { r };
        let [x, w] = [map(x, m, k, 128), map(w, n, k, 256)];
        let maps = [x, w, map(a, m, low, 128), map(b, n, low, 256)];
        if y.ty == Type::F16 || !k.is_multiple_of(8) {
            return Ok(None);
        }
        let result = Out { m, n, c: y, bias, add: false, dropout: None };
        result.launch("lora_forward.sm90a", "lora_forward", maps, [k, r], multiprocessors)
    }
}

impl Backward {
    /// As [`Forward::launch`].
    ///
    /// # Errors
    /// A dimension of more than 2³¹−1.
    pub fn launch(&self, multiprocessors: usize) -> Result<Option<Mapped>, TooLarge> {
        let Backward { m, n, k, gy, w, tail, dropout, dx, add } = *self;
        let (low, rows) = tail.map_or((Tail { a: gy, b: w, r: 0 }, n), |t| (t, t.r));
        let [gy, w] = [map(gy, m, n, 128), map(w, n, k, 64)];
        let cols = if low.r == 0 { n } else { low.r };
        let maps = [gy, w, map(low.a, m, cols, 128), map(low.b, rows, k, 64)];
        if dx.ty == Type::F16 || !k.is_multiple_of(8) {
            return Ok(None);
        }
        let dropout = dropout.filter(|_| low.r > 0);
        let result = Out { m, n: k, c: dx, bias: None, add, dropout };
        result.launch("lora_backward.sm90a", "lora_backward", maps, [n, low.r], multiprocessors)
    }
}

fn map(at: u64, rows: usize, cols: usize, box_rows: u32) -> Map {
    Map { at, rows, cols, pitch: pitch(cols), box_rows }
}

/// What a product leaves: `struct Product` of `hopper.cuh` without its operands.
struct Out {
    m: usize,
    n: usize,
    c: Operand,
    bias: Option<Operand>,
    add: bool,
    dropout: Option<Dropout>,
}

impl Out {
    fn launch(
        self,
        module: &'static str,
        entry: &str,
        maps: [Map; 4],
        [k, r]: [usize; 2],
        multiprocessors: usize,
    ) -> Result<Option<Mapped>, TooLarge> {
        let Out { m, n, c, bias, add, dropout } = self;
        if m * n * k == 0 || !maps.iter().all(|map| map.at.is_multiple_of(16)) {
            return Ok(None);
        }
        let tiles = size("tiles", m.div_ceil(TILE[0]) * n.div_ceil(TILE[1]))?;
        let bias = bias.unwrap_or(Operand::new(0, Type::F32));
        let places = (0..maps.len() * MAP_BYTES / 8).fold(Fields::default(), |fields, _| fields.ptr(0));
        let mut params = places
            .ptr(bias.at)
            .ptr(c.at)
            .ptr(dropout.map_or(0, |d| d.scalars))
            .u32s([size("m", m)?, size("n", n)?, size("k", k)?, size("r", r)?])
            .u32s([bias.ty as u32, c.ty as u32, add.into()])
            .dropout(dropout)
            .done();
        // The struct is aligned to 64 bytes for its maps.
        params.resize(params.len().next_multiple_of(64), 0);
        let launch = Launch {
            module,
            entry: entry.into(),
            grid: [tiles.min(multiprocessors.max(1) as u32), 1, 1],
            block: 384,
            // Four stages, and room to align them to 1 KiB.
            shared: 4 * (128 + 256) * 128 + 1024,
            params,
        };
        Ok(Some(Mapped { launch, maps }))
    }
}

/// A matrix for [`bf16_rows`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rows {
    /// `[rows, cols]`
    pub x: Operand,
    /// bf16 `[rows,` [`pitch`]`(cols)]`
    pub y: u64,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Factor.
    pub s: f32,
}

impl Rows {
    /// Bytes of y.
    pub const fn bytes(rows: usize, cols: usize) -> usize {
        rows * pitch(cols) * 2
    }
}

/// `y = bf16(s · x)` for up to three matrices; `None` if they are empty.
///
/// # Errors
/// More elements than 2³³.
///
/// # Panics
/// More than three matrices.
pub fn bf16_rows(jobs: &[Rows]) -> Result<Option<Launch>, TooLarge> {
    assert!(jobs.len() <= 3, "{} matrices in one launch", jobs.len());
    let (mut fields, mut blocks) = (Fields::default(), 0);
    for job in 0..3 {
        let none = Rows { x: Operand::new(0, Type::F32), y: 0, rows: 0, cols: 8, s: 0.0 };
        let Rows { x, y, rows, cols, s } = jobs.get(job).copied().unwrap_or(none);
        let quads = size("elements / 4", rows * pitch(cols) / 4)?;
        let own = quads.div_ceil(256);
        blocks += own;
        fields = fields.ptr(x.at).ptr(y).u32s([size("rows", rows)?, size("columns", cols)?, pitch(cols) as u32, own]);
        fields = fields.u32(x.ty as u32).f32(s);
    }
    let launch = || Launch {
        module: "bf16_rows",
        entry: "bf16_rows".into(),
        grid: [blocks, 1, 1],
        block: 256,
        shared: 0,
        params: fields.done(),
    };
    Ok((blocks > 0).then(launch))
}
