//! The low-rank linear's forward pass for Hopper (`cu/lora_forward.sm90a.cu`): `y = x Wᵀ + h Bᵀ + bias` with wgmma and
//! TMA, all operands bf16.

use crate::launch::{Fields, Launch, Operand, TooLarge, Type, size};

/// What `cuTensorMapEncodeTiled` is asked for: bf16 `[rows, cols]`, boxes of `box_rows` x 64 with 128-byte swizzle,
/// zeros outside. The encoded 128 bytes go to `128 · i` of the launch's parameters, for map i.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Device address, a multiple of 16.
    pub at: u64,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix, a multiple of 8.
    pub cols: usize,
    /// Rows of a box; it has [`BOX_COLS`] columns.
    pub box_rows: u32,
}

/// Columns of a box.
pub const BOX_COLS: u32 = 64;
/// Bytes of an encoded map.
pub const MAP_BYTES: usize = 128;

/// `y[m,n] = x Wᵀ + h Bᵀ + bias`; h is `s x̂ Aᵀ`, rounded to bf16.
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
    /// h `[m,r]` and B `[n,r]`, bf16, and r, a multiple of 8.
    pub tail: Option<(u64, u64, usize)>,
    /// `[n]`
    pub bias: Option<Operand>,
    /// `[m,n]`, bf16 or f32.
    pub y: Operand,
}

impl Forward {
    /// The launch and the maps of its first parameters; `None` where TMA cannot read the operands or there is nothing
    /// to compute. `multiprocessors`: as many blocks at most, each stays and takes tile after tile.
    ///
    /// # Errors
    /// A dimension of more than 2³¹−1.
    pub fn launch(&self, multiprocessors: usize) -> Result<Option<(Launch, [Map; 4])>, TooLarge> {
        let Forward { m, n, k, x, w, tail, bias, y } = *self;
        // Without a tail its maps are never used, but must be maps.
        let (h, b, r) = tail.unwrap_or((x, w, 0));
        let aligned = [x, w, h, b].iter().all(|at| at.is_multiple_of(16)) && k.is_multiple_of(8) && r.is_multiple_of(8);
        if m == 0 || n == 0 || k == 0 || !aligned || y.ty == Type::F16 {
            return Ok(None);
        }
        let cols = if r == 0 { k } else { r };
        let map = |at, rows, cols, box_rows| Map { at, rows, cols, box_rows };
        let maps = [map(x, m, k, 128), map(w, n, k, 256), map(h, m, cols, 128), map(b, n, cols, 256)];
        let tiles = size("tiles", m.div_ceil(128) * n.div_ceil(256))?;
        let bias = bias.unwrap_or(Operand::new(0, Type::F32));
        let mut fields = Fields::default();
        for _ in 0..4 * MAP_BYTES / 8 {
            fields = fields.ptr(0);
        }
        let mut params = fields
            .ptr(bias.at)
            .ptr(y.at)
            .u32s([size("m", m)?, size("n", n)?, size("k", k)?, size("r", r)?])
            .u32s([bias.ty as u32, y.ty as u32])
            .done();
        // The struct is aligned to 64 bytes for its maps.
        params.resize(params.len().next_multiple_of(64), 0);
        let launch = Launch {
            module: "lora_forward.sm90a",
            entry: "lora_forward".into(),
            grid: [tiles.min(multiprocessors.max(1) as u32), 1, 1],
            block: 384,
            // Four stages, and room to align them to 1 KiB.
            shared: 4 * (128 + 256) * 128 + 1024,
            params,
        };
        Ok(Some((launch, maps)))
    }
}
