//! Products on the device: which kernel, which tile, and slices of operands that are larger than one binding.

use lowrank_backend::{DType, Dropout, Error, Gemm, In, Mode, Out, Result, Slot};
use lowrank_shaders::{self as shaders, Shader};

use crate::Wgpu;
use crate::elementwise::mask_params;
use crate::launch::{Launch, add, code, volume};
use crate::tile::Tile;

/// Rows up to which a product with a transposed right operand is a set of dot products.
const DECODE: usize = 8;
/// Columns up to which it is one too, if the sum is long: everything of rank r.
const SKINNY: usize = 64;
/// A sum that is worth sharing between the invocations of a workgroup.
const LONG: usize = 128;

/// What dropout is applied to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Masked {
    A = 1,
    B = 2,
    Branch = 3,
}

/// The adapter's part `scale · p qᵀ` (or `scale · p q`), p `[m,r]`.
#[derive(Clone, Copy)]
pub(crate) struct Branch<'a> {
    pub p: In<'a>,
    pub q: In<'a>,
    /// q is `[n,r]`, else `[r,n]`.
    pub transposed: bool,
    pub r: usize,
    pub scale: f64,
}

/// `alpha · op(a) op(b) (+ branch) (+ bias)`.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub name: &'static str,
    pub batch: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: In<'a>,
    pub ta: bool,
    pub b: In<'a>,
    pub tb: bool,
    pub alpha: f64,
    pub branch: Option<Branch<'a>>,
    pub bias: Option<In<'a>>,
    /// Dropout, what it is applied to, the elements of a row of that, and the scalar buffer.
    pub mask: Option<(Dropout, Masked, usize, In<'a>)>,
    /// Distance between rows of a and of c; slices are narrower than the whole.
    pub a_step: usize,
    pub c_step: usize,
    /// By dot products whatever the sizes: u has the same bits with and without dB beside it.
    pub as_dots: bool,
}

/// A product that rides in the kernel of another one, and the operand that it does not share.
pub(crate) struct Second<'a> {
    pub slot: Slot<'a>,
    pub operand: In<'a>,
}

impl<'a> Product<'a> {
    /// Contiguous matrices.
    pub fn new(name: &'static str, [m, n, k]: [usize; 3], [ta, tb]: [bool; 2], a: In<'a>, b: In<'a>) -> Self {
        Product {
            name,
            batch: 1,
            m,
            n,
            k,
            a,
            ta,
            b,
            tb,
            alpha: 1.0,
            branch: None,
            bias: None,
            mask: None,
            a_step: if ta { m } else { k },
            c_step: n,
            as_dots: false,
        }
    }

    fn dots(&self) -> bool {
        self.as_dots || !self.ta && (self.m <= DECODE && self.tb || self.n <= SKINNY && self.k >= LONG)
    }

    /// Computes `c (+)=` it.
    pub fn run(&self, wgpu: &Wgpu, c: Out<'_>, mode: Mode) -> Result<()> {
        if self.m == 0 || self.n == 0 || self.batch == 0 {
            return Ok(());
        }
        let size = |x: In<'_>| x.len as u64 * x.dtype.size() as u64;
        let most = wgpu.max_binding();
        if self.batch == 1 && size(self.b) > most {
            return if self.tb { self.by_columns(wgpu, c, mode) } else { self.by_depth(wgpu, c, mode) };
        }
        if self.batch == 1 && self.mask.is_none() && !self.ta && size(self.a).max(size(c.as_in())) > most && self.m > 1
        {
            return self.by_rows(wgpu, c, mode);
        }
        self.launch(wgpu, c, mode)
    }

    /// b `[n,k]` in slices of rows: columns of c.
    fn by_columns(&self, wgpu: &Wgpu, mut c: Out<'_>, mode: Mode) -> Result<()> {
        let per = (wgpu.max_binding() as usize / (self.k * self.b.dtype.size())).max(1);
        for first in (0..self.n).step_by(per) {
            let n = per.min(self.n - first);
            let branch = self
                .branch
                .map(|b| Branch { q: if b.transposed { b.q.narrow(first * b.r, n * b.r) } else { b.q }, ..b });
            let part = Product {
                n,
                b: self.b.narrow(first * self.k, n * self.k),
                bias: self.bias.map(|b| b.narrow(first, n)),
                branch,
                ..*self
            };
            let len = c.len - first;
            part.run(wgpu, c.reborrow().narrow(first, len), mode)?;
        }
        Ok(())
    }

    /// b `[k,n]` in slices of rows: parts of the sum.
    fn by_depth(&self, wgpu: &Wgpu, mut c: Out<'_>, mode: Mode) -> Result<()> {
        let per = ((wgpu.max_binding() as usize / (self.n * self.b.dtype.size())) & !3).max(4);
        for first in (0..self.k).step_by(per) {
            let k = per.min(self.k - first);
            let start = if self.ta { first * self.a_step } else { first };
            let part = Product {
                k,
                a: self.a.narrow(start, self.a.len - start),
                b: self.b.narrow(first * self.n, k * self.n),
                bias: self.bias.filter(|_| first == 0),
                branch: self.branch.filter(|_| first == 0),
                ..*self
            };
            part.run(wgpu, c.reborrow(), if first == 0 { mode } else { Mode::Add })?;
        }
        Ok(())
    }

    /// Rows of a and c in two halves.
    fn by_rows(&self, wgpu: &Wgpu, mut c: Out<'_>, mode: Mode) -> Result<()> {
        let half = self.m / 2;
        for (first, m) in [(0, half), (half, self.m - half)] {
            let a_end = if first == 0 { half * self.a_step } else { self.a.len };
            let c_end = if first == 0 { half * self.c_step } else { c.len };
            let branch = self.branch.map(|b| Branch { p: b.p.narrow(first * b.r, m * b.r), ..b });
            let part =
                Product { m, a: self.a.narrow(first * self.a_step, a_end - first * self.a_step), branch, ..*self };
            part.run(wgpu, c.reborrow().narrow(first * self.c_step, c_end - first * self.c_step), mode)?;
        }
        Ok(())
    }

    fn launch(&self, wgpu: &Wgpu, c: Out<'_>, mode: Mode) -> Result<()> {
        let &Product { m, n, batch, .. } = self;
        let groups = |size: usize, tile: usize| size.div_ceil(tile) as u64;
        if self.dots() {
            return self.prepare(wgpu, (&shaders::GEMM, "dot_product"), &c, mode, None)?.run_grid([
                groups(n, 4),
                groups(m, 4),
                batch as u64,
            ]);
        }
        let tile = wgpu.tile([m, n, batch]);
        let (shader, entry) = match tile {
            Tile::Subgroups => (&shaders::GEMM_SUBGROUPS, "tiled_subgroups"),
            Tile::Cooperative => (&shaders::GEMM_COOPERATIVE, "tiled_cooperative"),
            _ => (&shaders::GEMM, "tiled"),
        };
        let [bm, bn, side] = tile.sizes(m, n);
        let mut l = self.prepare(wgpu, (shader, entry), &c, mode, None)?;
        l.constant("TA", u32::from(self.ta)).constant("BM", bm as u32).constant("BN", bn as u32);
        if tile == Tile::Cooperative {
            l.constant("LANES", wgpu.context.info.subgroups.1);
        }
        l.constant("T", side as u32).run_grid([groups(n, bn), groups(m, bm), batch as u64])
    }

    /// Computes it together with a second product, if both fit one kernel; else says so.
    pub fn run_with(&self, wgpu: &Wgpu, c: Out<'_>, mode: Mode, second: Second<'_>) -> Result<bool> {
        let &Product { m, n, k, .. } = self;
        let size = |x: In<'_>| x.len as u64 * x.dtype.size() as u64;
        let (d, d_mode) = (&second.slot.out, second.slot.mode);
        let largest = [self.a, self.b, c.as_in(), d.as_in()].map(size).into_iter().max();
        let groups = |rows: usize, bm: usize, cols: usize, bn: usize| rows.div_ceil(bm) * cols.div_ceil(bn);
        // lora_u_db: u by dot products, dB [k,n] by tiles. lora_da_dx: dA [r,n] and dx [m,n] by tiles.
        let (entry, [bm, bn, side], split, rest) = match self.branch.map(|b| b.r) {
            None => {
                let tile = if n <= 16 { [64, 16] } else { [32, 32] };
                ("lora_u_db", [tile[0], tile[1], 4], groups(m, 4, n, 4), groups(k, tile[0], n, tile[1]))
            }
            Some(r) => {
                let [tile, side] = wgpu.tile([m, n, 1]).sizes_of_two();
                ("lora_da_dx", [tile, tile, side], groups(r, tile, n, tile), groups(m, tile, n, tile))
            }
        };
        if m == 0 || n == 0 || k == 0 || split + rest > 65535 || largest.is_none_or(|l| l > wgpu.max_binding()) {
            return Ok(false);
        }
        let mut l = self.prepare(wgpu, (&shaders::GEMM, entry), &c, mode, Some((d, second.operand, split as u32)))?;
        l.constant("BM", bm as u32).constant("BN", bn as u32).constant("T", side as u32);
        l.constant("ADD2", add(d_mode));
        l.run_grid([(split + rest) as u64, 1, 1])?;
        Ok(true)
    }

    /// Bindings, parameters and the constants that every kernel of the file has.
    fn prepare<'l>(
        &self,
        wgpu: &'l Wgpu,
        (shader, entry): (&'static Shader, &'static str),
        c: &'l Out<'_>,
        mode: Mode,
        second: Option<(&'l Out<'_>, In<'a>, u32)>,
    ) -> Result<Launch<'l>>
    where
        'a: 'l,
    {
        let &Product { m, n, k, batch, .. } = self;
        let mut l = wgpu.launch(self.name, shader, entry);
        let c_start = l.output("c", c)?;
        let d_start = l.maybe_output("second result", second.map(|s| s.0))?;
        let a_start = l.input("a", self.a)?;
        let b_start = l.input("b", self.b)?;
        // The second product's own operand takes a place that the first one does not need.
        let (h, x) = match (second, self.branch) {
            (Some((_, operand, _)), None) => (Some(operand), None),
            (Some((_, operand, _)), Some(_)) => (None, Some(operand)),
            (None, _) => (None, None),
        };
        let p_start = l.maybe("p", self.branch.map(|b| b.p).or(h))?;
        let q_start = l.maybe("q", self.branch.map(|b| b.q))?;
        let bias_start = l.maybe("bias", self.bias.or(x))?;
        let scalars_start = l.maybe("scalars", self.mask.map(|m| m.3))?;
        let b_step = if self.tb { k } else { n };
        let (r, scale) = self.branch.map_or((if h.is_some() { n } else { 0 }, 0.0), |b| (b.r, b.scale));
        let q_step = self.branch.map_or(0, |b| if b.transposed { r } else { n });
        l.sizes(&[m, n, k, r, self.a_step, b_step, self.c_step, r, q_step])?;
        l.u32s(&[a_start, b_start, c_start, p_start, q_start, bias_start, scalars_start]);
        l.sizes(&[m * k, k * n, m * n])?.f32s(&[self.alpha, scale]);
        l.sizes(&[self.mask.map_or(0, |m| m.2)])?.u32s(&[d_start, second.map_or(0, |s| s.2)]);
        if let Some((dropout, ..)) = &self.mask {
            mask_params(&mut l, dropout);
        }
        let aligned = |start: u32, steps: [usize; 2]| {
            u32::from(start.is_multiple_of(4) && steps.iter().all(|s| s.is_multiple_of(4)))
        };
        let batch_step = |n: usize| if batch == 1 { 0 } else { n };
        l.constant("A_VEC", aligned(a_start, [self.a_step, batch_step(m * k)]));
        l.constant("B_VEC", aligned(b_start, [b_step, batch_step(k * n)]));
        l.constant("TB", u32::from(self.tb))
            .constant("A_TYPE", code(self.a.dtype))
            .constant("B_TYPE", code(self.b.dtype));
        l.constant("ADD", add(mode)).constant("MASK", self.mask.map_or(0, |m| m.1 as u32));
        l.constant("BRANCH", self.branch.map_or(0, |b| if b.transposed { 1 } else { 2 }));
        l.constant("BIAS", u32::from(self.bias.is_some()));
        l.constant("BIAS_TYPE", self.bias.map_or(0, |b| code(b.dtype)));
        Ok(l)
    }
}

/// See [`Gemm`].
pub(crate) fn gemm(wgpu: &Wgpu, op: &Gemm, a: In<'_>, b: In<'_>, c: Slot<'_>) -> Result<()> {
    const OP: &str = "gemm";
    wgpu.precision(OP, op.precision)?;
    if op.ta && op.tb {
        return Err(Error::invalid(OP, "both operands transposed"));
    }
    let &Gemm { batch, m, n, k, ta, tb, alpha, .. } = op;
    wgpu.expect_float(OP, "a", a, volume(OP, &[batch, m, k])?)?;
    wgpu.expect_float(OP, "b", b, volume(OP, &[batch, k, n])?)?;
    wgpu.expect(OP, "c", c.out.as_in(), DType::F32, volume(OP, &[batch, m, n])?)?;
    let whole = Product { alpha, ..Product::new(OP, [m, n, k], [ta, tb], a, b) };
    let Slot { mut out, mode } = c;
    // A dimension of the grid holds 65535 workgroups.
    for first in (0..batch).step_by(65535) {
        let batch = 65535.min(batch - first);
        let part = Product {
            batch,
            a: a.narrow(first * m * k, batch * m * k),
            b: b.narrow(first * k * n, batch * k * n),
            ..whole
        };
        part.run(wgpu, out.reborrow().narrow(first * m * n, batch * m * n), mode)?;
    }
    Ok(())
}
