//! The low-rank linear for a batch whose rows have adapters of their own: `yᵢ = xᵢ Wᵀ + s (xᵢ Aᵀ) Bᵀ + bias` with the s, A
//! and B of row i's adapter, or without the branch.
//!
//! Rows are brought together by adapter; W is multiplied once with all of them, forward and backward, and each adapter with
//! its own rows. Every sum has the terms and the order it has in [`Tensor::lora_linear`] on that adapter alone, so the bits
//! are the same (in batches above 16 rows, below which devices may sum in another order).

use lowrank_backend::{Block, Error, Gemm, Linear, Map, Mode, Result, Rows, Weight};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

/// Batches of at most this many rows may be summed in an order of their own.
const DECODE: usize = 16;

/// An adapter of some rows: A `[r,k]`, B `[n,r]` and s.
#[derive(Clone, Debug)]
pub struct RowAdapter {
    /// `[r,k]`
    pub a: Tensor,
    /// `[n,r]`
    pub b: Tensor,
    /// s
    pub scale: f64,
}

impl Tensor {
    /// `x Wᵀ + bias`, and for rows with an adapter `scale · (x Aᵀ) Bᵀ` of it.
    ///
    /// x is `[…, k]`, W `[n,k]` frozen (any storage dtype), bias `[n]` frozen. `rows` has an entry for every row of x in its
    /// order, or for every equal block of rows (a sequence): the index of its adapter, or none. Ranks may differ. An
    /// adapter without a row gets a gradient of zero. There is no dropout.
    pub fn lora_linear_multi(
        &self,
        w: &Tensor,
        bias: Option<&Tensor>,
        adapters: &[RowAdapter],
        rows: &[Option<usize>],
    ) -> Result<Tensor> {
        const OP: &str = "lora_linear_multi";
        let mut inputs = vec![self];
        inputs.extend(adapters.iter().flat_map(|l| [&l.a, &l.b]));
        check::same_dtype(OP, &inputs)?;
        let fixed: Vec<&Tensor> = [Some(w), bias].into_iter().flatten().collect();
        check::same_device(OP, &[&inputs[..], &fixed].concat())?;
        check::float(OP, self)?;
        check::weight(OP, "W", w, self.dtype())?;
        if let Some(t) = fixed.iter().find(|t| t.requires_grad()) {
            return Err(Error::graph(OP, format!("{} is trainable; rows share a frozen layer", t.label("W"))));
        }
        let (m, k) = check::rows_cols(OP, self)?;
        let &[n, wk] = w.shape() else {
            return Err(Error::shape(OP, format!("{} must be a matrix", w.label("W"))));
        };
        if wk != k {
            return Err(Error::shape(OP, format!("{} does not fit {}", self.label("x"), w.label("W"))));
        }
        for l in adapters {
            let &[r, _] = l.a.shape() else {
                return Err(Error::shape(OP, format!("{} must be a matrix", l.a.label("A"))));
            };
            if r == 0 {
                return Err(Error::shape(OP, format!("{} has rank 0", l.a.label("A"))));
            }
            check::shape(OP, "A", &l.a, &[r, k])?;
            check::shape(OP, "B", &l.b, &[n, r])?;
        }
        if let Some(bias) = bias {
            check::shape(OP, "bias", bias, &[n])?;
            check::same_dtype(OP, &[self, bias])?;
        }
        let grouped = Grouped::new(m, adapters.len(), rows)?;
        let device = self.device();
        let backend = device.backend();
        let x = grouped.bring_together(self, k)?;
        let y = Tensor::empty(&[m, n], self.dtype(), device)?;
        with_base(w, [m, n, k], |op| backend.linear_forward(op, x.read().view(), y.write().out()))?;
        let mut parts = Vec::new();
        for segment in &grouped.segments {
            parts.push(branch(&adapters[segment.adapter], segment, m, &x, &y)?);
        }
        if let Some(bias) = bias {
            let every_row = Block { rows: m, cols: n, src_stride: 0, dst_stride: n };
            backend.copy(&every_row, bias.read().view(), y.write().slot(Mode::Add))?;
        }
        let mut shape = self.shape().to_vec();
        *shape.last_mut().expect("rows_cols has seen a dimension") = n;
        let y = grouped.send_back(y, &shape, n)?;
        let saved = || Multi { x, w: w.clone(), adapters: adapters.to_vec(), h: parts, grouped, sizes: [m, n, k] };
        Ok(y.with_rule(&inputs, saved))
    }
}

/// `y[segment] += s h Bᵀ` with `h = x[segment] Aᵀ`, which is returned.
fn branch(l: &RowAdapter, segment: &Segment, m: usize, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let device = x.device();
    let (backend, precision) = (device.backend(), device.precision());
    let (n, r, k) = (l.b.shape()[0], l.a.shape()[0], l.a.shape()[1]);
    let Segment { start, len, .. } = *segment;
    // A few rows of a large batch are computed among their neighbours, on the path that large batches take.
    let count = if len <= DECODE && m > DECODE { DECODE + 1 } else { len };
    let first = start.min(m - count);
    let skip = start - first;
    let h = Tensor::empty(&[count, r], x.dtype(), device)?;
    let product = Gemm::nt(count, r, k).precision(precision);
    backend.gemm(&product, x.read().view().narrow(first * k, count * k), l.a.read().view(), h.write().set())?;
    let scaled = Tensor::empty(&[count, r], x.dtype(), device)?;
    backend.map(Map::Affine(l.scale, 0.0), h.read().view(), scaled.write().set())?;
    let product = Gemm::nt(count, n, r).precision(precision);
    if count == len {
        let mut into = y.write();
        backend.gemm(&product, scaled.read().view(), l.b.read().view(), into.out().narrow(start * n, len * n).add())?;
        return Ok(h);
    }
    let copy = |len: usize| Block { rows: 1, cols: len, src_stride: len, dst_stride: len };
    let window = Tensor::empty(&[count, n], x.dtype(), device)?;
    backend.copy(&copy(count * n), y.read().view().narrow(first * n, count * n), window.write().set())?;
    backend.gemm(&product, scaled.read().view(), l.b.read().view(), window.write().slot(Mode::Add))?;
    let mut into = y.write();
    let from = window.read();
    backend.copy(&copy(len * n), from.view().narrow(skip * n, len * n), into.out().narrow(start * n, len * n).set())?;
    let own = Tensor::empty(&[len, r], x.dtype(), device)?;
    backend.copy(&copy(len * r), h.read().view().narrow(skip * r, len * r), own.write().set())?;
    Ok(own)
}

fn with_base<T>(w: &Tensor, [m, n, k]: [usize; 3], f: impl FnOnce(&Linear<'_>) -> Result<T>) -> Result<T> {
    let (weight, precision) = (w.read(), w.device().precision());
    f(&Linear { m, n, k, w: Weight::Dense(weight.view()), bias: None, precision })
}

/// Rows of one adapter, together.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Segment {
    adapter: usize,
    start: usize,
    len: usize,
}

/// How rows are brought together by adapter.
struct Grouped {
    segments: Vec<Segment>,
    /// Which row stands at each place, and the place of each row; none if they stand so already.
    order: Option<(Vec<u32>, Vec<u32>)>,
}

impl Grouped {
    fn new(m: usize, adapters: usize, rows: &[Option<usize>]) -> Result<Self> {
        const OP: &str = "lora_linear_multi";
        if rows.is_empty() && m > 0 || !rows.is_empty() && !m.is_multiple_of(rows.len()) || m > u32::MAX as usize {
            return Err(Error::shape(OP, format!("{} entries name the adapters of {m} rows", rows.len())));
        }
        if let Some(i) = rows.iter().flatten().find(|i| **i >= adapters) {
            return Err(Error::invalid(OP, format!("a row names adapter {i} of {adapters}")));
        }
        let block = if rows.is_empty() { 1 } else { m / rows.len() };
        let mut order: Vec<u32> = (0..m as u32).collect();
        let of = |row: u32| rows[row as usize / block.max(1)];
        // Stable: the rows of an adapter keep their order, and so the sums over them theirs.
        order.sort_by_key(|&row| of(row));
        let mut segments: Vec<Segment> = Vec::new();
        for (place, &row) in order.iter().enumerate() {
            let Some(adapter) = of(row) else { continue };
            match segments.last_mut() {
                Some(last) if last.adapter == adapter => last.len += 1,
                _ => segments.push(Segment { adapter, start: place, len: 1 }),
            }
        }
        if order.is_sorted() {
            return Ok(Grouped { segments, order: None });
        }
        let mut places = vec![0; m];
        for (place, &row) in order.iter().enumerate() {
            places[row as usize] = place as u32;
        }
        Ok(Grouped { segments, order: Some((order, places)) })
    }

    /// x `[m, width]` with rows by adapter.
    fn bring_together(&self, x: &Tensor, width: usize) -> Result<Tensor> {
        match &self.order {
            None => Ok(x.detach()),
            Some((order, _)) => picked(x, order, &[order.len(), width], width),
        }
    }

    /// The inverse, with this shape.
    fn send_back(&self, y: Tensor, shape: &[usize], width: usize) -> Result<Tensor> {
        match &self.order {
            None => Ok(y.into_alias(shape.to_vec())),
            Some((_, places)) => picked(&y, places, shape, width),
        }
    }
}

/// Rows by number.
fn picked(x: &Tensor, ids: &[u32], shape: &[usize], width: usize) -> Result<Tensor> {
    let device = x.device();
    let (picked, index) = (Tensor::empty(shape, x.dtype(), device)?, Tensor::from_slice(ids, &[ids.len()], device)?);
    let op = Rows { rows: ids.len(), width, count: ids.len() };
    device.backend().gather(&op, x.read().view(), index.read().view(), picked.write().set())?;
    Ok(picked)
}

struct Multi {
    /// By adapter, as everything here.
    x: Tensor,
    w: Tensor,
    adapters: Vec<RowAdapter>,
    /// `x Aᵀ` of every segment.
    h: Vec<Tensor>,
    grouped: Grouped,
    sizes: [usize; 3],
}

impl Rule for Multi {
    fn name(&self) -> &'static str {
        "lora_linear_multi"
    }

    /// `dx = gy W + u A` with `u = s gy B` and the A and B of each row; `da = uᵀ x` and `db = s gyᵀ h` over an adapter's rows.
    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let [m, n, k] = self.sizes;
        let device = self.x.device();
        let (backend, precision) = (device.backend(), device.precision());
        let gy = self.grouped.bring_together(&gy, n)?;
        let dx = if grads.wants(0) { Some(Tensor::empty(&[m, k], gy.dtype(), device)?) } else { None };
        if let Some(dx) = &dx {
            with_base(&self.w, self.sizes, |op| backend.linear_backward(op, gy.read().view(), dx.write().set()))?;
        }
        for (i, l) in self.adapters.iter().enumerate() {
            let (da, db) = (grads.slot(1 + 2 * i)?, grads.slot(2 + 2 * i)?);
            let r = l.a.shape()[0];
            let at = self.grouped.segments.iter().position(|s| s.adapter == i);
            // Products over no rows are zero.
            let (start, len) = at.map_or((0, 0), |at| (self.grouped.segments[at].start, self.grouped.segments[at].len));
            let (gy, x) = (gy.read(), self.x.read());
            let (gy, x) = (gy.view().narrow(start * n, len * n), x.view().narrow(start * k, len * k));
            if let Some(slot) = db.lock().slot() {
                let product = Gemm::tn(n, r, len).precision(precision);
                match at {
                    Some(at) => backend.gemm(&product.alpha(l.scale), gy, self.h[at].read().view(), slot)?,
                    None => backend.gemm(&product, gy, gy, slot)?,
                }
            }
            if da.wanted() || dx.is_some() && len > 0 {
                let u = Tensor::empty(&[len, r], l.a.dtype(), device)?;
                let product = Gemm::nn(len, r, n).alpha(l.scale).precision(precision);
                backend.gemm(&product, gy, l.b.read().view(), u.write().set())?;
                if let Some(slot) = da.lock().slot() {
                    backend.gemm(&Gemm::tn(r, k, len).precision(precision), u.read().view(), x, slot)?;
                }
                if let Some(dx) = &dx {
                    let mut into = dx.write();
                    let slot = into.out().narrow(start * k, len * k).add();
                    backend.gemm(
                        &Gemm::nn(len, k, r).precision(precision),
                        u.read().view(),
                        l.a.read().view(),
                        slot,
                    )?;
                }
            }
            grads.put(da)?;
            grads.put(db)?;
        }
        if let Some(dx) = dx {
            grads.give(0, self.grouped.send_back(dx, &[m, k], k)?)?;
        }
        Ok(())
    }
}
