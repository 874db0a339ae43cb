//! Attention forward and backward: in f32 (`cu/attention.cu`), or on tensor cores with operands of products that are bf16, or
//! are rounded to it (`cu/attention_tc.cuh`).

use crate::launch::{Fields, Launch, TooLarge, Type, size};

/// The largest head of these kernels.
pub const MAX_DIM: usize = 256;

/// The largest head of those on tensor cores.
pub const MAX_TENSOR_DIM: usize = 128;

/// Sizes of one attention; q is `[batch, q_len, heads, dim]`, k and v are `[batch, kv_len, kv_heads, dim]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Sequences.
    pub batch: usize,
    /// Query positions.
    pub q_len: usize,
    /// Key positions, ≥ 1, and ≥ q_len when causal.
    pub kv_len: usize,
    /// Query heads, a multiple of kv_heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of a head, 1 to [`MAX_DIM`].
    pub dim: usize,
    /// Factor of q·k.
    pub scale: f32,
    /// Whether later keys are hidden.
    pub causal: bool,
    /// What q, k, v, y and their gradients are in memory: f32 or bf16. lse is f32.
    pub ty: Type,
    /// Whether products may round their operands to bf16.
    pub rounded: bool,
}

/// Addresses of the operands of backward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Saved {
    /// Queries.
    pub q: u64,
    /// Keys.
    pub k: u64,
    /// Values.
    pub v: u64,
    /// Result of forward.
    pub y: u64,
    /// `[batch, heads, q_len]`, f32.
    pub lse: u64,
    /// The result's gradient.
    pub gy: u64,
}

/// A gradient and whether it is added to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gradient {
    /// Address.
    pub at: u64,
    /// += instead of =.
    pub add: bool,
}

/// Everything that `struct Attention` of the kernels holds.
#[derive(Default)]
struct Params {
    q: u64,
    k: u64,
    v: u64,
    y: u64,
    gy: u64,
    lse: u64,
    delta: u64,
    out: u64,
    lse_out: u64,
    grads: [Option<Gradient>; 3],
}

/// A kernel's tiles.
struct Tiles {
    /// Of the result.
    rows: usize,
    threads: u32,
    shared: usize,
}

impl Attention {
    /// True if these kernels can do it.
    pub fn supported(&self) -> bool {
        (1..=MAX_DIM).contains(&self.dim) && self.ty != Type::F16
    }

    /// Whether it is computed on tensor cores: operands that are bf16 already lose nothing there.
    pub fn tensor(&self) -> bool {
        (self.rounded || self.ty == Type::Bf16) && self.dim <= MAX_TENSOR_DIM
    }

    /// The head that the kernel is made for.
    fn padded(&self) -> usize {
        self.dim.next_power_of_two().max(64)
    }

    fn forward_tiles(&self) -> Tiles {
        let d = self.padded();
        if self.tensor() {
            // 128 queries, 16 to 64 keys and values, in bf16.
            let keys = match (d, self.rounded, self.ty) {
                (64, true, _) => 64,
                (64, ..) | (_, true, Type::Bf16) => 32,
                _ => 16,
            };
            return Tiles { rows: 128, threads: 128, shared: (128 + 2 * keys) * d * 2 };
        }
        let (rows, columns) = if d == 256 { (32, 32) } else { (64, 64) };
        Tiles { rows, threads: 256, shared: ((rows + columns) * (d + 4) + rows * p_pitch(columns)) * 4 }
    }

    fn backward_tiles(&self, keys: bool) -> Tiles {
        let d = self.padded();
        if self.tensor() {
            // Two operands of 128 rows; two stages of two of 32 rows, with lse and delta where those are queries.
            let (threads, stats) = (2 * d as u32, if keys { 2 * 2 * 32 * 4 } else { 0 });
            return Tiles { rows: 128, threads, shared: (2 * 128 + 2 * 2 * 32) * d * 2 + stats };
        }
        let rows = 64 * 64 / d;
        Tiles { rows, threads: 256, shared: (4 * rows * (d + 4) + rows * p_pitch(rows)) * 4 }
    }

    /// Bytes of scratch memory of backward: delta.
    pub fn scratch(&self) -> usize {
        self.batch * self.heads * self.q_len * 4
    }

    /// y and `lse [batch, heads, q_len]`. None if there is no query.
    ///
    /// # Errors
    /// A dimension of more than 2³¹−1.
    pub fn forward(&self, [q, k, v]: [u64; 3], y: u64, lse: u64) -> Result<Option<Launch>, TooLarge> {
        let tiles = self.forward_tiles();
        let params = Params { q, k, v, out: y, lse_out: lse, ..Default::default() };
        self.launch("forward", self.q_len.div_ceil(tiles.rows) * self.heads * self.batch, &tiles, &params)
    }

    /// dq, dk and dv, those that are wanted; `scratch` holds [`Attention::scratch`] bytes.
    ///
    /// # Errors
    /// A dimension of more than 2³¹−1.
    pub fn backward(&self, s: &Saved, grads: [Option<Gradient>; 3], scratch: u64) -> Result<Vec<Launch>, TooLarge> {
        let params = Params {
            q: s.q,
            k: s.k,
            v: s.v,
            y: s.y,
            gy: s.gy,
            lse: s.lse,
            delta: scratch,
            grads,
            ..Default::default()
        };
        let mut launches = Vec::new();
        if grads.iter().all(Option::is_none) {
            return Ok(launches);
        }
        let tiles = Tiles { rows: 64, threads: 256, shared: 0 };
        let blocks = self.q_len.div_ceil(tiles.rows) * self.heads * self.batch;
        launches.extend(self.launch("delta", blocks, &tiles, &params)?);
        if grads[0].is_some() {
            let tiles = self.backward_tiles(false);
            let blocks = self.q_len.div_ceil(tiles.rows) * self.heads * self.batch;
            launches.extend(self.launch("dq", blocks, &tiles, &params)?);
        }
        if grads[1].is_some() || grads[2].is_some() {
            let tiles = self.backward_tiles(true);
            let blocks = self.kv_len.div_ceil(tiles.rows) * self.kv_heads * self.batch;
            launches.extend(self.launch("dkv", blocks, &tiles, &params)?);
        }
        Ok(launches)
    }

    fn launch(&self, name: &str, blocks: usize, tiles: &Tiles, p: &Params) -> Result<Option<Launch>, TooLarge> {
        if blocks == 0 {
            return Ok(None);
        }
        let delta = name == "delta";
        let at = |g: Option<Gradient>| g.map_or(0, |g| g.at);
        let sizes = [self.batch, self.q_len, self.kv_len, self.heads, self.kv_heads, self.dim];
        let names = ["batch", "q_len", "kv_len", "heads", "kv_heads", "dim"];
        let mut fields = Fields::default().ptr(p.q).ptr(p.k).ptr(p.v).ptr(p.y).ptr(p.gy);
        fields = fields.ptr(p.lse).ptr(p.delta).ptr(p.out);
        fields = p.grads.iter().fold(fields, |f, g| f.ptr(at(*g)));
        fields = fields.ptr(p.lse_out).ptr(if delta { p.delta } else { 0 });
        for (what, v) in names.into_iter().zip(sizes) {
            fields = fields.u32(size(what, v)?);
        }
        size("elements of a row", self.heads * self.dim)?;
        fields = fields.f32(self.scale).u32(self.causal.into());
        fields = p.grads.iter().fold(fields, |f, g| f.u32(g.is_some_and(|g| g.add).into()));
        fields = fields.u32(self.ty as u32).u32(self.tensor().into());
        let d = self.padded();
        let (module, prefix) = match (delta, self.tensor(), self.ty, self.rounded, d) {
            (true, ..) => ("attention_delta", "attention"),
            (_, false, ..) => ("attention", "attention"),
            (_, _, Type::Bf16, true, 64) => ("attention_tc_64", "attention_tc"),
            (_, _, Type::Bf16, true, _) => ("attention_tc_128", "attention_tc"),
            (_, _, Type::Bf16, false, 64) => ("attention_tc_full_64", "attention_tc_full"),
            (_, _, Type::Bf16, false, _) => ("attention_tc_full_128", "attention_tc_full"),
            (.., 64) => ("attention_tc_f32_64", "attention_tc_f32"),
            _ => ("attention_tc_f32_128", "attention_tc_f32"),
        };
        Ok(Some(Launch {
            module,
            entry: if delta { module.into() } else { format!("{prefix}_{name}_{d}") },
            grid: [size("blocks", blocks)?, 1, 1],
            block: tiles.threads,
            shared: tiles.shared as u32,
            params: fields.done(),
        }))
    }
}

/// Distance between rows of P in shared memory.
fn p_pitch(columns: usize) -> usize {
    match columns {
        64 => 68,
        32 => 40,
        _ => columns,
    }
}
