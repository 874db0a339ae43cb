//! The low-rank linear for a batch whose rows have adapters of their own: `yᵢ = xᵢ Wᵀ + s (xᵢ Aᵀ) Bᵀ + bias` with the s, A
//! and B of row i's adapter, or without the branch.
//!
//! Rows are brought together by adapter, and each group goes through the device's own low-rank linear, forward and
//! backward: every row is multiplied with W once, and its bits are those of [`Tensor::lora_linear`] on that adapter alone
//! (in batches above 16 rows, below which devices may sum in another order), however a device adds the branch to the base.

use lowrank_backend::{Block, Error, Gemm, Linear, Lora, Mode, Result, Rows, Slot, Weight};

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
        let x = grouped.bring_together(self, k)?;
        let y = Tensor::empty(&[m, n], self.dtype(), device)?;
        let layer = Layer { w: w.clone(), bias: bias.cloned(), adapters: adapters.to_vec(), sizes: [m, n, k] };
        let mut h = Vec::with_capacity(grouped.segments.len());
        for segment in &grouped.segments {
            h.push(layer.forward(segment, &x, &y)?);
        }
        let mut shape = self.shape().to_vec();
        *shape.last_mut().expect("rows_cols has seen a dimension") = n;
        let y = grouped.send_back(y, &shape, n)?;
        let saved = || Multi { x, layer, h, grouped };
        Ok(y.with_rule(&inputs, saved))
    }
}

/// The shared layer and its adapters.
struct Layer {
    w: Tensor,
    bias: Option<Tensor>,
    adapters: Vec<RowAdapter>,
    sizes: [usize; 3],
}

/// The rows that are computed for a segment: itself, or it among its neighbours. A few rows of a large batch take the path
/// that large batches take.
struct Window {
    first: usize,
    count: usize,
    /// Rows of the window before the segment.
    skip: usize,
}

impl Layer {
    fn window(&self, segment: &Segment) -> Window {
        let m = self.sizes[0];
        let count = if segment.len <= DECODE && m > DECODE { DECODE + 1 } else { segment.len };
        let first = segment.start.min(m - count);
        Window { first, count, skip: segment.start - first }
    }

    /// y of a segment's rows; returns `x Aᵀ` of its window's.
    fn forward(&self, segment: &Segment, x: &Tensor, y: &Tensor) -> Result<Option<Tensor>> {
        let [_, n, k] = self.sizes;
        let (device, backend) = (x.device(), x.device().backend());
        let Window { first, count, skip } = self.window(segment);
        let h = match segment.adapter {
            Some(i) => Some(Tensor::empty(&[count, self.adapters[i].a.shape()[0]], x.dtype(), device)?),
            None => None,
        };
        let apart = if count == segment.len { None } else { Some(Tensor::empty(&[count, n], x.dtype(), device)?) };
        {
            let (x, mut out) = (x.read(), apart.as_ref().unwrap_or(y).write());
            let x = x.view().narrow(first * k, count * k);
            let at = if apart.is_some() { 0 } else { first };
            let out = out.out().narrow(at * n, count * n);
            match (segment.adapter, &h) {
                (Some(i), Some(h)) => {
                    self.with_lora(i, count, |op| backend.lora_forward(op, x, out, h.write().out()))?;
                }
                _ => self.with_base(count, |op| backend.linear_forward(op, x, out))?,
            }
        }
        if let Some(apart) = apart {
            let mut y = y.write();
            let slot = y.out().narrow(segment.start * n, segment.len * n).set();
            copy(&apart, skip * n, segment.len * n, slot)?;
        }
        Ok(h)
    }

    /// dx of a segment's rows, and its adapter's gradients over them. What is added to dx is added by the device's own
    /// operation, as it would be for the adapter alone: adding a finished sum rounds elsewhere.
    fn backward(
        &self,
        segment: &Segment,
        (x, h, gy): (&Tensor, &Option<Tensor>, &Tensor),
        dx: Option<(&Tensor, Mode)>,
        (da, db): (Option<Slot<'_>>, Option<Slot<'_>>),
    ) -> Result<()> {
        let [_, n, k] = self.sizes;
        let backend = x.device().backend();
        let Window { first, count, skip } = self.window(segment);
        let (x, gy) = (x.read(), gy.read());
        let apart = match dx {
            Some((dx, mode)) if count != segment.len => {
                let apart = Tensor::empty(&[count, k], dx.dtype(), dx.device())?;
                if mode == Mode::Add {
                    copy(dx, first * k, count * k, apart.write().set())?;
                }
                Some((apart, mode))
            }
            _ => None,
        };
        let (start, len) = (segment.start, segment.len);
        if let (Some(i), Some(h)) = (segment.adapter, h) {
            let r = self.adapters[i].a.shape()[0];
            let h = h.read();
            let direct = dx.filter(|_| apart.is_none());
            let mut into = direct.map(|(dx, mode)| (dx.write(), mode));
            let slot = into.as_mut().map(|(w, mode)| Slot { out: w.out().narrow(start * k, len * k), mode: *mode });
            self.with_lora(i, len, |op| {
                let own = (x.view().narrow(start * k, len * k), gy.view().narrow(start * n, len * n));
                backend.lora_backward(op, own.0, h.view().narrow(skip * r, len * r), own.1, slot, da, db)
            })?;
            if let Some((apart, mode)) = &apart {
                self.with_lora(i, count, |op| {
                    let all = (x.view().narrow(first * k, count * k), gy.view().narrow(first * n, count * n));
                    backend.lora_backward(op, all.0, h.view(), all.1, Some(apart.write().slot(*mode)), None, None)
                })?;
            }
        } else if let Some((dx, mode)) = dx {
            let (mut into, at) = match &apart {
                Some((apart, _)) => (apart.write(), 0),
                None => (dx.write(), first),
            };
            let slot = Slot { out: into.out().narrow(at * k, count * k), mode };
            self.with_base(count, |op| backend.linear_backward(op, gy.view().narrow(first * n, count * n), slot))?;
        }
        if let (Some((apart, _)), Some((dx, _))) = (apart, dx) {
            let mut dx = dx.write();
            copy(&apart, skip * k, len * k, dx.out().narrow(start * k, len * k).set())?;
        }
        Ok(())
    }

    fn with_base<T>(&self, m: usize, f: impl FnOnce(&Linear<'_>) -> Result<T>) -> Result<T> {
        let [_, n, k] = self.sizes;
        let (w, bias) = (self.w.read(), self.bias.as_ref().map(Tensor::read));
        let (w, bias) = (Weight::Dense(w.view()), bias.as_ref().map(|b| b.view()));
        f(&Linear { m, n, k, w, bias, precision: self.w.device().precision() })
    }

    fn with_lora<T>(&self, i: usize, m: usize, f: impl FnOnce(&Lora<'_>) -> Result<T>) -> Result<T> {
        let RowAdapter { a, b, scale } = &self.adapters[i];
        let (r, a, b) = (a.shape()[0], a.read(), b.read());
        self.with_base(m, |&base| {
            self.w.device().with_scalars(|scalars| {
                f(&Lora { base, r, scale: *scale, a: a.view(), b: b.view(), dropout: None, scalars })
            })
        })
    }
}

/// Elements `start .. start + len` of a tensor.
fn copy(from: &Tensor, start: usize, len: usize, slot: Slot<'_>) -> Result<()> {
    let op = Block { rows: 1, cols: len, src_stride: len, dst_stride: len };
    from.device().backend().copy(&op, from.read().view().narrow(start, len), slot)
}

/// Rows of one adapter, or of none, together.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Segment {
    adapter: Option<usize>,
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
            let adapter = of(row);
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
    layer: Layer,
    /// `x Aᵀ` of every segment's window.
    h: Vec<Option<Tensor>>,
    grouped: Grouped,
}

impl Rule for Multi {
    fn name(&self) -> &'static str {
        "lora_linear_multi"
    }

    /// The low-rank linear's, group by group: `dx = gy W + s (gy B) A`, and da and db over an adapter's own rows.
    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let [m, n, k] = self.layer.sizes;
        let device = self.x.device();
        let gy = self.grouped.bring_together(&gy, n)?;
        let dx = match grads.so_far(0)? {
            Some((sum, Mode::Add)) => Some((self.grouped.bring_together(&sum, k)?, Mode::Add)),
            first => first,
        };
        let into = || dx.as_ref().map(|(dx, mode)| (dx, *mode));
        let mut seen = vec![false; self.layer.adapters.len()];
        for (segment, h) in self.grouped.segments.iter().zip(&self.h) {
            let given = (&self.x, h, &gy);
            let Some(i) = segment.adapter else {
                self.layer.backward(segment, given, into(), (None, None))?;
                continue;
            };
            seen[i] = true;
            let (da, db) = (grads.slot(1 + 2 * i)?, grads.slot(2 + 2 * i)?);
            if da.wanted() || db.wanted() || dx.is_some() {
                let (mut a, mut b) = (da.lock(), db.lock());
                self.layer.backward(segment, given, into(), (a.slot(), b.slot()))?;
            }
            grads.put(da)?;
            grads.put(db)?;
        }
        // A product over no rows: zeros, also where the first part of a gradient is this one.
        for i in (0..seen.len()).filter(|&i| !seen[i]) {
            for (input, t) in [(1 + 2 * i, &self.layer.adapters[i].a), (2 + 2 * i, &self.layer.adapters[i].b)] {
                let slot = grads.slot(input)?;
                if let Some(zero) = slot.lock().slot() {
                    let (gy, product) = (gy.read(), Gemm::tn(t.shape()[0], t.shape()[1], 0));
                    device.backend().gemm(&product, gy.view().narrow(0, 0), gy.view().narrow(0, 0), zero)?;
                }
                grads.put(slot)?;
            }
        }
        if let Some((dx, _)) = dx {
            grads.give(0, self.grouped.send_back(dx, &[m, k], k)?)?;
        }
        Ok(())
    }
}
