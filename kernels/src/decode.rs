//! `y = s h Bᵀ + x Wᵀ + bias` for a few rows (`cu/decode.cu`), bound by the bytes of W.

use crate::launch::{Fields, Launch, Operand, TooLarge, Type, size};

/// The most rows of these kernels. A row's bits do not depend on how many there are.
pub const MAX_ROWS: usize = 16;
/// Rows of W that a block reads.
const ROWS: usize = 16;

/// `y[m,n] (+)= alpha · (s h Bᵀ + x Wᵀ) + bias`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decode {
    /// Rows, 1 to [`MAX_ROWS`].
    pub m: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// `[m,k]`
    pub x: Operand,
    /// `[n,k]`
    pub w: Operand,
    /// `[m,n]`
    pub y: Operand,
    /// `[n]`
    pub bias: Option<Operand>,
    /// The low-rank part.
    pub tail: Option<Tail>,
    /// Factor of the sums.
    pub alpha: f32,
    /// y += instead of y =.
    pub add: bool,
}

/// `s h Bᵀ`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail {
    /// `[m,r]`
    pub h: Operand,
    /// `[n,r]`
    pub b: Operand,
    /// Rank.
    pub r: usize,
    /// Factor.
    pub s: f32,
}

impl Decode {
    /// The launch; `None` if there is nothing to compute or there are too many rows.
    ///
    /// # Errors
    /// A dimension of more than 2³¹−1.
    pub fn launch(&self) -> Result<Option<Launch>, TooLarge> {
        if self.m == 0 || self.m > MAX_ROWS || self.n == 0 {
            return Ok(None);
        }
        let none = Operand::new(0, Type::F32);
        let bias = self.bias.unwrap_or(none);
        let tail = self.tail.unwrap_or(Tail { h: none, b: none, r: 0, s: 0.0 });
        let (n, k) = (size("n", self.n)?, size("k", self.k)?);
        let params = Fields::default()
            .ptr(self.x.at)
            .ptr(self.w.at)
            .ptr(bias.at)
            .ptr(tail.h.at)
            .ptr(tail.b.at)
            .ptr(self.y.at)
            .u32s([self.m as u32, n, k, size("r", tail.r)?])
            .f32(self.alpha)
            .f32(tail.s)
            .u32s([self.x, self.w, bias, tail.h, tail.b, self.y].map(|x| x.ty as u32))
            .u32(self.add.into())
            .done();
        // The kernels are for 1, 4, 8 and 16 rows.
        let rows = if self.m == 1 { 1 } else { self.m.next_power_of_two().max(4) };
        let bits = if self.w.ty == Type::F32 { "f32" } else { "16bit" };
        Ok(Some(Launch {
            module: "decode",
            entry: format!("decode_{rows}_{bits}"),
            grid: [size("blocks", self.n.div_ceil(ROWS))?, 1, 1],
            block: 256,
            shared: 0,
            params,
        }))
    }
}
