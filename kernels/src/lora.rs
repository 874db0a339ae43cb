//! The rank-r sums of the low-rank linear (`cu/lora.cu`): h = x̂ Aᵀ, u = s gy B, db = s gyᵀ h, da = uᵀ x̂.
//!
//! Each is a first pass that reads x or gy once and leaves partial sums in scratch memory, and a second that adds them
//! in a fixed order. y and dx are products with a tail: [`crate::gemm::Tail`].

use crate::launch::{Dropout, Fields, Launch, Operand, TooLarge, Type, size};

/// The largest rank of these kernels; beyond it, use plain products.
pub const MAX_RANK: usize = 128;
/// Blocks that fill a large GPU.
const BLOCKS: usize = 256;
/// Rows of a block are a multiple of this.
const ROWS: usize = 32;

/// How a matrix x̂ `[m,c]` is cut up for rank r.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Rows of the matrix.
    pub m: usize,
    /// Columns of the matrix.
    pub c: usize,
    /// Rank.
    pub r: usize,
    /// The rank that the kernel is made for.
    padded: usize,
    /// Slices of columns; they depend on c and r only, so that the sums of a row do.
    slices: usize,
    /// Rows of a block.
    rows: usize,
    /// Tensor cores instead of FMA units.
    tensor: bool,
    /// What is left in bf16 on the way.
    copies: Copies,
}

/// Operands of a later product in bf16, made where their numbers pass through registers anyway: nothing is read again.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Copies {
    /// x̂ without its mask `[m,c]`; on tensor cores only, where x is f32 with rows of whole 16 bytes.
    pub x: Option<u64>,
    /// The sum over columns times a factor `[m,r]`.
    pub u: Option<(u64, f32)>,
    /// Any f32 numbers: from, to, how many.
    pub other: Option<(u64, u64, usize)>,
}

/// A result and whether it is added to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slot {
    /// Where it goes.
    pub out: Operand,
    /// += instead of =.
    pub add: bool,
}

/// What is summed over columns: `u = s · x̂ · op(b)` `[m,r]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OverColumns {
    /// `[c,r]`, or `[r,c]` if `along`.
    pub b: Operand,
    /// b is `[r,c]`.
    pub along: bool,
    /// The result.
    pub out: Slot,
    /// Factor.
    pub s: f32,
}

/// What is summed over rows: `v = s · x̂ᵀ · h` `[c,r]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OverRows {
    /// `[m,r]`
    pub h: Operand,
    /// The result is `[r,c]`.
    pub across: bool,
    /// The result.
    pub out: Slot,
    /// Factor.
    pub s: f32,
}

impl Plan {
    /// `None` if the rank is 0 or above [`MAX_RANK`], or the matrix is empty.
    pub fn new(m: usize, c: usize, r: usize) -> Option<Plan> {
        if r == 0 || r > MAX_RANK || m == 0 || c == 0 {
            return None;
        }
        let padded = r.next_power_of_two().max(16);
        let slices = c.div_ceil(8192 / padded);
        let blocks = (BLOCKS / slices).clamp(1, m.div_ceil(ROWS));
        let rows = m.div_ceil(blocks).next_multiple_of(ROWS);
        Some(Plan { m, c, r, padded, slices, rows, tensor: false, copies: Copies::default() })
    }

    /// The same with this many blocks of rows, or a few less.
    pub fn cut(self, blocks: usize) -> Plan {
        Plan { rows: self.m.div_ceil(blocks.max(1)).next_multiple_of(ROWS), ..self }
    }

    /// The same on tensor cores (`cu/lora_tc.cuh`): operands are rounded to bf16, sums are f32.
    pub fn tensor(self) -> Plan {
        Plan { tensor: true, ..self }
    }

    /// The same, leaving copies; in [`Plan::h`] and [`Plan::u_db`].
    pub fn copying(self, copies: Copies) -> Plan {
        Plan { copies, ..self }
    }

    fn blocks(&self) -> usize {
        self.m.div_ceil(self.rows)
    }

    /// Bytes of scratch memory for both sums at once.
    pub fn scratch(&self) -> usize {
        (self.slices * self.m + self.blocks() * self.c) * self.r * 4
    }

    /// `h = x̂ Aᵀ` `[m,r]`, with a `[r,k]`.
    ///
    /// # Errors
    /// A dimension of more than 2³¹−1.
    pub fn h(
        &self,
        x: Operand,
        a: Operand,
        h: Operand,
        dropout: Option<Dropout>,
        scratch: u64,
    ) -> Result<[Launch; 2], TooLarge> {
        let u = OverColumns { b: a, along: true, out: Slot { out: h, add: false }, s: 1.0 };
        self.launches(x, Some(u), None, dropout, scratch)
    }

    /// `u = s gy B` `[m,r]` and `db (+)= s gyᵀ h` `[n,r]` in one read of gy, or one of both.
    ///
    /// # Errors
    /// A dimension of more than 2³¹−1.
    pub fn u_db(
        &self,
        gy: Operand,
        u: Option<(Operand, Operand)>,
        db: Option<(Operand, Slot)>,
        s: f32,
        scratch: u64,
    ) -> Result<[Launch; 2], TooLarge> {
        let u = u.map(|(b, out)| OverColumns { b, along: false, out: Slot { out, add: false }, s });
        let db = db.map(|(h, out)| OverRows { h, across: false, out, s });
        self.launches(gy, u, db, None, scratch)
    }

    /// `da (+)= uᵀ x̂` `[r,k]`.
    ///
    /// # Errors
    /// A dimension of more than 2³¹−1.
    pub fn da(
        &self,
        x: Operand,
        u: Operand,
        da: Slot,
        dropout: Option<Dropout>,
        scratch: u64,
    ) -> Result<[Launch; 2], TooLarge> {
        self.launches(x, None, Some(OverRows { h: u, across: true, out: da, s: 1.0 }), dropout, scratch)
    }

    /// The first pass and the second.
    fn launches(
        &self,
        x: Operand,
        u: Option<OverColumns>,
        v: Option<OverRows>,
        dropout: Option<Dropout>,
        scratch: u64,
    ) -> Result<[Launch; 2], TooLarge> {
        let none = Operand::new(0, Type::F32);
        let (name, over_u, over_v) = match (u, v) {
            (Some(_), Some(_)) => ("uv", 1, 1),
            (_, None) => ("u", 1, 0),
            (None, _) => ("v", 0, 1),
        };
        let (part_u, part_v) = (scratch, scratch + (over_u * self.slices * self.m * self.r * 4) as u64);
        let (b, h) = (u.map_or(none, |u| u.b), v.map_or(none, |v| v.h));
        let (m, c, rows) = (size("m", self.m)?, size("columns", self.c)?, size("rows", self.rows)?);
        let params = Fields::default()
            .ptr(x.at)
            .ptr(b.at)
            .ptr(h.at)
            .ptr(part_u)
            .ptr(part_v)
            .ptr(dropout.map_or(0, |d| d.scalars))
            .u32s([m, c, self.r as u32, rows])
            .u32s([x.ty as u32, b.ty as u32, h.ty as u32])
            .u32s([u.is_some_and(|u| u.along).into(), v.is_some_and(|v| v.across).into()])
            .dropout(dropout);
        let params =
            if self.tensor { params.ptr(self.copies.x.filter(|_| over_u == 1).unwrap_or(0)) } else { params }.done();
        let first = Launch {
            module: self.module(),
            entry: self.entry(name, x.ty),
            grid: [self.slices as u32, self.blocks() as u32, 1],
            block: 256,
            shared: (self.shared(over_u, over_v, v.is_some_and(|v| v.across))) as u32,
            params,
        };
        // The kernels on tensor cores leave 1/(1−p) to the second pass.
        let keep = if self.tensor { dropout.map_or(1.0, |d| d.keep) } else { 1.0 };
        let job = |part, out: Slot, len, parts, s| Job { part, out: out.out, add: out.add, copy: None, len, parts, s };
        let v = v.map(|v| job(part_v, v.out, self.c * self.r, self.blocks(), v.s * keep));
        let other = self.copies.other.filter(|_| over_u == 1);
        let other = other.map(|(from, to, len)| Job { part: from, copy: Some((to, 1.0)), len, parts: 1, ..Job::NONE });
        let u = u.map(|u| Job { copy: self.copies.u, ..job(part_u, u.out, self.m * self.r, self.slices, u.s * keep) });
        Ok([first, sum([u, v, other].map(|job| job.unwrap_or(Job::NONE)))?])
    }
}

impl Plan {
    fn module(&self) -> &'static str {
        match (self.tensor, self.padded) {
            (false, _) => "lora",
            (true, 16) => "lora_tc_16",
            (true, 32) => "lora_tc_32",
            (true, 64) => "lora_tc_64",
            (true, _) => "lora_tc_128",
        }
    }

    fn entry(&self, name: &str, x: Type) -> String {
        let bits = if x == Type::F32 { "f32" } else { "16bit" };
        match self.tensor {
            true => format!("lora_tc_{name}_{}_{bits}", self.padded),
            false => format!("lora_{name}_{}", self.padded),
        }
    }

    /// Bytes of shared memory of the first pass: the shapes of cu/lora.cu and cu/lora_tc.cuh.
    fn shared(&self, u: usize, v: usize, across: bool) -> usize {
        let (slice, r) = (8192 / self.padded, self.padded);
        if self.tensor {
            let operands = 32 * slice * 2 + v * 32 * r * 2 + u * slice / 64 * 32 * (r + 8) * 4;
            let result = v * 4 * if across { r * (slice + 4) } else { slice * (r + 8) };
            return operands.max(result);
        }
        let operands = 16 * (slice + 4) + u * (slice * r + slice / 64 * 16 * r) + v * 16 * r;
        operands.max(v * slice * r) * 4
    }
}

/// One result of the second pass.
#[derive(Clone, Copy)]
struct Job {
    part: u64,
    out: Operand,
    add: bool,
    /// Where a copy in bf16 goes, and its factor.
    copy: Option<(u64, f32)>,
    len: usize,
    parts: usize,
    s: f32,
}

impl Job {
    const NONE: Job =
        Job { part: 0, out: Operand::new(0, Type::F32), add: false, copy: None, len: 0, parts: 0, s: 1.0 };
}

/// The second pass: `out (+)= s · Σ part[i]`.
fn sum(jobs: [Job; 3]) -> Result<Launch, TooLarge> {
    let (mut fields, mut blocks) = (Fields::default(), 0);
    for Job { part, out, add, copy, len, parts, s } in jobs {
        let own = size("blocks", len.div_ceil(4 * 256))?;
        let (to, factor) = copy.unwrap_or((0, 1.0));
        fields = fields.ptr(part).ptr(out.at).ptr(to).ptr(len as u64).u32(size("partial sums", parts)?).f32(s);
        fields = fields.f32(factor).u32s([out.ty as u32, add.into(), own]);
        blocks += own;
    }
    Ok(Launch {
        module: "lora",
        entry: "lora_sum".into(),
        grid: [blocks, 1, 1],
        block: 256,
        shared: 0,
        params: fields.done(),
    })
}
