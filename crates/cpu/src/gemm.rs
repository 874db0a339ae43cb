//! Matrix products: the one place that knows how they are computed.
//!
//! C `[m,n]` is cut into tiles of at most 256×256 (each packs its panels of A and B anew, so smaller ones lose time; they
//! shrink only where there would be fewer than 16). Each tile is one task and one call of matrixmultiply, which sums over
//! k in blocks of 256. k is never split between tasks and alpha is applied to finished sums (matrixmultiply rounds it
//! differently at the edges), so a row's bits depend on k alone, not on m, its place or the tiling.
//! At most 16 rows against a transposed right operand (decoding) are dot products instead: packing W would cost more.
//!
//! Measured with two AVX-512 threads, 512×2048×2048: NT 305, NN 320, NT with bf16 weights 280 GFLOP/s (matrixmultiply
//! alone on one thread: 170); 1×2048×2048 33, in bf16 37 GFLOP/s (memory).

use lowrank_backend::{Error, Gemm, In, Mode, Result, Slot};

use crate::dropout::Mask;
use crate::parallel::{Shared, Tile, tasks, with_scratch};
use crate::simd;
use crate::view::{Floats, f32s_mut, floats, precision, volume};

/// Most rows of the decode path.
const DECODE: usize = 16;
const TILE_M: usize = 256;
const TILE_N: usize = 256;
/// Depth of the panels that are converted to f32 at a time: a multiple of matrixmultiply's block of 256, so that
/// converted operands are summed in the same order as plain ones.
const PANEL: usize = 1024;

/// A matrix in storage of any float dtype: rows of `stride` elements, the first at `start`.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub data: Floats<'a>,
    pub start: usize,
    pub stride: usize,
    /// The matrix meant is the transpose of the stored one.
    pub trans: bool,
    /// Dropout on the stored elements.
    pub mask: Option<Mask>,
}

impl<'a> Operand<'a> {
    /// A stored matrix with rows of `cols` elements.
    pub(crate) fn new(data: Floats<'a>, cols: usize) -> Self {
        Operand { data, start: 0, stride: cols, trans: false, mask: None }
    }

    /// The same in f32.
    pub(crate) fn f32(data: &'a [f32], cols: usize) -> Self {
        Operand::new(Floats::F32(data), cols)
    }

    /// Its transpose.
    pub(crate) fn t(self) -> Self {
        Operand { trans: !self.trans, ..self }
    }

    /// With another start.
    pub(crate) fn at(self, start: usize) -> Self {
        Operand { start, ..self }
    }

    /// With dropout, counted over stored rows of `stride` elements.
    pub(crate) fn masked(self, mask: Option<Mask>) -> Self {
        Operand { mask, ..self }
    }

    /// The f32 elements, if nothing has to be done to them.
    fn plain(&self) -> Option<&'a [f32]> {
        match self.data {
            Floats::F32(x) if self.mask.is_none() => Some(x),
            _ => None,
        }
    }

    /// Stored elements `[row, col .. col + out.len()]` as f32 values.
    fn load(&self, row: usize, col: usize, out: &mut [f32]) {
        self.data.load(self.start + row * self.stride + col, out);
        if let Some(mask) = &self.mask {
            mask.apply((row * self.stride + col) as u64, out);
        }
    }

    /// The block `[i0 .. i0+m, j0 .. j0+n]` of the matrix meant, with the strides of its rows and columns.
    fn block<'s>(&self, [i0, j0]: [usize; 2], [m, n]: [usize; 2], buffer: &'s mut [f32]) -> (&'s [f32], isize, isize)
    where
        'a: 's,
    {
        let ([r0, c0], [rows, cols]) = if self.trans { ([j0, i0], [n, m]) } else { ([i0, j0], [m, n]) };
        let (block, stride) = match self.plain() {
            Some(x) => {
                let start = self.start + r0 * self.stride + c0;
                (&x[start..start + (rows - 1) * self.stride + cols], self.stride)
            }
            None => {
                for (r, out) in buffer[..rows * cols].chunks_exact_mut(cols).enumerate() {
                    self.load(r0 + r, c0, out);
                }
                (&buffer[..rows * cols], cols)
            }
        };
        if self.trans { (block, 1, stride as isize) } else { (block, stride as isize, 1) }
    }
}

/// A product of two matrices, ready to be computed tile by tile.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    a: Operand<'a>,
    b: Operand<'a>,
    k: usize,
    decode: bool,
}

impl<'a> Product<'a> {
    /// `a [m,k] · b [k,n]`; m is that of the whole operation, it decides the path.
    pub(crate) fn new(m: usize, k: usize, a: Operand<'a>, b: Operand<'a>) -> Self {
        Product { a, b, k, decode: m <= DECODE && !a.trans && b.trans }
    }

    /// `c (+)=` the rows from `i0` and columns from `j0` on.
    pub(crate) fn tile(&self, i0: usize, j0: usize, mode: Mode, c: &mut Tile<'_>) {
        let (m, n) = (c.rows(), c.cols());
        if m == 0 || n == 0 {
            return;
        }
        if self.k == 0 {
            if mode == Mode::Set {
                (0..m).for_each(|i| c.row(i).fill(0.0));
            }
            return;
        }
        if self.decode {
            return self.dots(i0, j0, mode, c);
        }
        let plain = [self.a.plain().is_some(), self.b.plain().is_some()];
        let depth = if plain == [true; 2] { self.k } else { PANEL.min(self.k) };
        let a_scratch = if plain[0] { 0 } else { m * depth };
        let b_scratch = if plain[1] { 0 } else { n * depth };
        with_scratch(a_scratch + b_scratch, |scratch| {
            let (a_scratch, b_scratch) = scratch.split_at_mut(a_scratch);
            for p in (0..self.k).step_by(depth) {
                let k = depth.min(self.k - p);
                let (a, rsa, csa) = self.a.block([i0, p], [m, k], a_scratch);
                let (b, rsb, csb) = self.b.block([p, j0], [k, n], b_scratch);
                let beta = if p == 0 && mode == Mode::Set { 0.0 } else { 1.0 };
                let (rsc, pc) = (c.stride() as isize, c.as_mut_ptr());
                // SAFETY: a and b are slices that hold the blocks by their strides, c a tile of m×n to write.
                unsafe {
                    matrixmultiply::sgemm(m, k, n, 1.0, a.as_ptr(), rsa, csa, b.as_ptr(), rsb, csb, beta, pc, rsc, 1);
                }
            }
        });
    }

    /// Rows of a against rows of the stored b.
    fn dots(&self, i0: usize, j0: usize, mode: Mode, c: &mut Tile<'_>) {
        let (m, n, k) = (c.rows(), c.cols(), self.k);
        let convert_a = if self.a.plain().is_some() { 0 } else { m * k };
        with_scratch(convert_a + k, |scratch| {
            let (a_scratch, b_scratch) = scratch.split_at_mut(convert_a);
            let (a, stride, _) = self.a.block([i0, 0], [m, k], a_scratch);
            for j in 0..n {
                let (b, ..) = self.b.block([0, j0 + j], [k, 1], b_scratch);
                let row = |i: usize| &a[i * stride as usize..][..k];
                let mut put = |i: usize, value: f32| {
                    let c = &mut c.row(i)[j];
                    *c = if mode == Mode::Add { *c + value } else { value };
                };
                for i in (1..m).step_by(2) {
                    let (first, second) = simd::dot_pair(row(i - 1), row(i), b);
                    put(i - 1, first);
                    put(i, second);
                }
                if m % 2 == 1 {
                    put(m - 1, simd::dot(row(m - 1), b));
                }
            }
        });
    }
}

/// A fixed partition of `batch` matrices `[m,n]` into tiles.
#[derive(Clone, Copy)]
pub(crate) struct Grid {
    batch: usize,
    m: usize,
    n: usize,
    tile_m: usize,
    tile_n: usize,
}

impl Grid {
    /// Tiles as large as useful, smaller where there would be few.
    pub(crate) fn new(batch: usize, m: usize, n: usize) -> Self {
        let mut grid = Grid { batch, m, n, tile_m: TILE_M, tile_n: TILE_N };
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

    /// Runs `f(matrix, i0, j0, tile of c)` for every tile, in parallel if `flops` are worth it.
    pub(crate) fn run(
        &self,
        flops: usize,
        c: &mut [f32],
        f: impl Fn(usize, usize, usize, &mut Tile<'_>) + Sync + Send,
    ) {
        let (rows, cols) = (self.m.div_ceil(self.tile_m), self.n.div_ceil(self.tile_n));
        let c = Shared::new(c);
        tasks(self.tiles(), flops / 8, |task| {
            let (matrix, task) = (task / (rows * cols), task % (rows * cols));
            let (i0, j0) = (task / cols * self.tile_m, task % cols * self.tile_n);
            let (tm, tn) = (self.tile_m.min(self.m - i0), self.tile_n.min(self.n - j0));
            let start = (matrix * self.m + i0) * self.n + j0;
            // SAFETY: the tiles of the partition do not overlap.
            let mut tile = unsafe { c.tile(start, tm, tn, self.n) };
            f(matrix, i0, j0, &mut tile);
        });
    }
}

/// 2mnk without overflow.
pub(crate) fn flops(sizes: [usize; 3]) -> usize {
    sizes.iter().fold(2usize, |n, &size| n.saturating_mul(size))
}

/// `c [m,n] (+)= alpha a b`, contiguous.
pub(crate) fn multiply([m, n, k]: [usize; 3], a: Operand<'_>, b: Operand<'_>, alpha: f32, mode: Mode, c: &mut [f32]) {
    let product = Product::new(m, k, a, b);
    Grid::new(1, m, n).run(flops([m, n, k]), c, |_, i0, j0, tile| scaled_tile(&product, i0, j0, alpha, mode, tile));
}

/// One tile with a factor on the finished sums.
fn scaled_tile(product: &Product<'_>, i0: usize, j0: usize, alpha: f32, mode: Mode, c: &mut Tile<'_>) {
    let (m, n) = (c.rows(), c.cols());
    if alpha == 1.0 {
        product.tile(i0, j0, mode, c);
    } else if mode == Mode::Set {
        product.tile(i0, j0, mode, c);
        (0..m).for_each(|i| simd::scale(alpha, c.row(i)));
    } else {
        with_scratch(m * n, |scratch| {
            product.tile(i0, j0, Mode::Set, &mut Tile::new(scratch, m, n));
            for i in 0..m {
                simd::axpy(alpha, &scratch[i * n..][..n], c.row(i));
            }
        });
    }
}

/// See [`Gemm`]. The result is f32.
pub(crate) fn gemm(op: &Gemm, a: In<'_>, b: In<'_>, c: Slot<'_>) -> Result<()> {
    const OP: &str = "gemm";
    precision(OP, op.precision)?;
    if op.ta && op.tb {
        return Err(Error::invalid(OP, "both operands transposed"));
    }
    let &Gemm { batch, m, n, k, alpha, .. } = op;
    let a = floats(OP, "a", a, volume(OP, &[batch, m, k])?)?;
    let b = floats(OP, "b", b, volume(OP, &[batch, k, n])?)?;
    let mode = c.mode;
    let c = f32s_mut(OP, "c", c.out, volume(OP, &[batch, m, n])?)?;
    let operand = |data, trans, rows: usize, cols: usize| {
        if trans { Operand::new(data, rows).t() } else { Operand::new(data, cols) }
    };
    let (a, b) = (operand(a, op.ta, m, k), operand(b, op.tb, k, n));
    let work = flops([m, n, k]).saturating_mul(batch);
    Grid::new(batch, m, n).run(work, c, |matrix, i0, j0, tile| {
        let product = Product::new(m, k, a.at(matrix * m * k), b.at(matrix * k * n));
        scaled_tile(&product, i0, j0, alpha as f32, mode, tile);
    });
    Ok(())
}
