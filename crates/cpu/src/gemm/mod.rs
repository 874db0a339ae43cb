//! Matrix products: the one place that knows how they are computed.
//!
//! | file | what |
//! | --- | --- |
//! | `kernel` | what a microkernel is; `avx512`, `avx512bf16`, `amx`, `avx2`, `neon`, `portable`: one per instruction set |
//! | `compute` | which kernels, by path and precision; `split`: f32 as a sum of two bf16 |
//! | `operand`, `pack`, `pairs` | where operands lie, and how they get into the kernel's order |
//! | `tile` | products inside one task (attention, batches) |
//! | `blocked`, `depths` | large products on all threads, with low-rank branches riding along |
//! | `side` | products with few columns: a branch's h, from rows that are packed anyway |
//! | `gradient` | dB, from rows that are packed anyway |
//! | `few_rows`, `decode`, `dots` | uᵀx with few rows, and at most 16 rows against Wᵀ: no packing |
//!
//! A sum over k is never split between tasks and is taken in blocks of 512, so a row's bits depend on k alone, not on m, its
//! place or the tiling; at most 16 rows against a transposed right operand (decoding) have an order of their own.
//! Floor: 2mnk FLOPs over the multiply-add units; packing adds (m·k + n·k) copies and one read and write of c per 512 of k.
//!
//! Measured on two cores (AMD EPYC, Zen 5, AVX-512), processor time in turns on a shared machine, shares of independent
//! multiply-adds in the same run. Hints for the next packed rows, one run of lines every 16 steps: a low-rank step of
//! 512×2048×2048 r 16 from 74.6 to 80.2 %, of 1024×4096×4096 from 76.2 to 80.3 %. For the next block of b besides: gy W of
//! 512×2048×2048 from 82.1 to 85.6 %, 512×768×768 from 76.5 to 77.7 %. Strips of 128 instead of 256 columns, so that a strip
//! and the next one share the second-level cache: 1 % at 2048 and 4096. Strips that are not cut into rows where there are
//! four a thread (cut, each part packs the strip again): 1 to 2 % at 768. What cost much before: panels of columns copied by
//! `memcpy` in pieces of 128 bytes took 11 % of a training step.
//! Since then, in turns within one program on an idle machine, shares of the time of gy W and x Wᵀ: hints for the next block
//! of b only in the last eighth of a block's calls (sooner, rows of a power of two apart push each other out of the cache
//! again) 0.95 and 0.99 at 512×2048×2048, 0.98 and 1.00 at 1024×4096×4096; whole panels of a straight b packed by the first
//! rows that are multiplied with them (`run_and_pack`, where multiply-adds hide what a copy waits for) another 0.97 to 0.99 of
//! gy W in f32, and 0.90 to 0.95 of a step with W in bf16; phases of 1008 rows instead of 4096, 0.99.
//! What failed: the same for a transposed b, turned between multiply-adds by 7 of the first 14 rows (1.00: turning waits for
//! its shuffles, not for memory); a list of addresses to ask for, one per line (making it cost 390 cycles a call, −6 % at 768); the same with
//! a division for each (−20 %); packing the next block of b in pieces between calls of the microkernel, with two packed
//! blocks (−1.5 to −4 %, though all packing is 5 to 9 % of the time).

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod blocked;
mod cache;
mod compute;
mod decode;
mod depths;
#[cfg(target_arch = "x86_64")]
mod dots;
mod few_rows;
mod gradient;
mod kernel;
#[cfg(target_arch = "aarch64")]
mod neon;
mod operand;
pub(crate) mod pack;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod portable;
mod side;
mod split;
mod tile;

pub(crate) use blocked::{Blocked, Branch, Group};
pub(crate) use compute::Compute;
pub(crate) use few_rows::FEW;
pub(crate) use gradient::Gradient;
pub(crate) use operand::Operand;
pub(crate) use tile::{Product, Start, decodes};

use lowrank_backend::{Error, Gemm, In, Mode, Result, Slot};

use crate::parallel::{Tile, tasks};
use crate::path::Path;
use crate::results::{Results, whole};
use crate::view::{FloatsMut, floats, floats_mut, volume};

/// Columns up to which the right operand is packed once and rows are multiplied as they are packed.
const FEW_COLUMNS: usize = 128;

/// A fixed partition of `batch` matrices `[m,n]` into tiles of at most 256×256, smaller where there would be few.
#[derive(Clone, Copy)]
pub(crate) struct Grid {
    batch: usize,
    m: usize,
    n: usize,
    tile_m: usize,
    tile_n: usize,
}

impl Grid {
    pub(crate) fn new(batch: usize, m: usize, n: usize) -> Self {
        let mut grid = Grid { batch, m, n, tile_m: 256, tile_n: 256 };
        while grid.tiles() < 16 && (grid.tile_m > 32 || grid.tile_n > 64) {
            if grid.tile_m > 32 && m > 32 || grid.tile_n <= 64 {
                grid.tile_m /= 2;
            } else {
                grid.tile_n /= 2;
            }
        }
        grid
    }

    fn tiles(&self) -> usize {
        self.batch * self.m.div_ceil(self.tile_m) * self.n.div_ceil(self.tile_n)
    }

    /// Runs `f(matrix, i0, j0, tile of c)` for every tile, in parallel if `flops` are worth it. With [`Mode::Add`], tiles have
    /// their old content.
    pub(crate) fn run(
        &self,
        flops: usize,
        c: FloatsMut<'_>,
        mode: Mode,
        f: impl Fn(usize, usize, usize, &mut Tile<'_>) + Sync + Send,
    ) {
        let (rows, cols) = (self.m.div_ceil(self.tile_m), self.n.div_ceil(self.tile_n));
        let c = Results::new(c);
        tasks(self.tiles(), flops / 8, |task| {
            let (matrix, task) = (task / (rows * cols), task % (rows * cols));
            let (i0, j0) = (task / cols * self.tile_m, task % cols * self.tile_n);
            let (tm, tn) = (self.tile_m.min(self.m - i0), self.tile_n.min(self.n - j0));
            let start = (matrix * self.m + i0) * self.n + j0;
            // SAFETY: the tiles of the partition do not overlap.
            unsafe { c.lend(start, [tm, tn], self.n, mode == Mode::Add, |tile| f(matrix, i0, j0, tile)) };
        });
    }
}

/// 2mnk without overflow.
pub(crate) fn flops(sizes: [usize; 3]) -> usize {
    sizes.iter().fold(2usize, |n, &size| n.saturating_mul(size))
}

/// `c [m,n] (+)= alpha a b`, contiguous.
pub(crate) fn multiply<'a>(
    compute: impl Into<Compute>,
    [m, n, k]: [usize; 3],
    a: Operand<'_>,
    b: Operand<'_>,
    alpha: f32,
    mode: Mode,
    c: impl Into<FloatsMut<'a>>,
) {
    let (compute, c) = (compute.into(), c.into());
    let path = compute.path;
    if decodes(m, &a, &b) {
        let product = Product::new(path, m, k, a, b);
        return Grid::new(1, m, n).run(flops([m, n, k]), c, mode, |_, i0, j0, tile| {
            product.scaled_tile(i0, j0, alpha, mode, tile);
        });
    }
    if a.trans && !b.trans && m.min(n) <= few_rows::FEW {
        return whole(c, mode == Mode::Add, |c| match m <= n {
            true => few_rows::few_rows(path, [m, n, k], a, b, alpha, mode, false, c),
            false => few_rows::few_rows(path, [n, m, k], b.t(), a.t(), alpha, mode, true, c),
        });
    }
    if n <= FEW_COLUMNS && k > 0 {
        return whole(c, mode == Mode::Add, |c| side::few_columns(path, [m, n, k], a, b, alpha, mode, c));
    }
    let start = if mode == Mode::Add { Start::Old } else { Start::Zero };
    Blocked { compute, m, n, k, a, b, alpha, start, c }.run(None, None);
}

/// See [`Gemm`].
pub(crate) fn gemm(path: Path, op: &Gemm, a: In<'_>, b: In<'_>, c: Slot<'_>) -> Result<()> {
    const OP: &str = "gemm";
    let compute = Compute::new(OP, path, op.precision)?;
    if op.ta && op.tb {
        return Err(Error::invalid(OP, "both operands transposed"));
    }
    let &Gemm { batch, m, n, k, alpha, .. } = op;
    let a = floats(OP, "a", a, volume(OP, &[batch, m, k])?)?;
    let b = floats(OP, "b", b, volume(OP, &[batch, k, n])?)?;
    let mode = c.mode;
    let c = floats_mut(OP, "c", c.out, volume(OP, &[batch, m, n])?)?;
    let operand = |data, trans, rows: usize, cols: usize| {
        if trans { Operand::new(data, rows).t() } else { Operand::new(data, cols) }
    };
    let (a, b) = (operand(a, op.ta, m, k), operand(b, op.tb, k, n));
    if batch == 1 {
        multiply(compute, [m, n, k], a, b, alpha as f32, mode, c);
        return Ok(());
    }
    let work = flops([m, n, k]).saturating_mul(batch);
    Grid::new(batch, m, n).run(work, c, mode, |matrix, i0, j0, tile| {
        let product = Product::new(path, m, k, a.at(matrix * m * k), b.at(matrix * k * n));
        product.scaled_tile(i0, j0, alpha as f32, mode, tile);
    });
    Ok(())
}
