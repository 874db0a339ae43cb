//! The low-rank linear for a batch whose rows have adapters of their own: `yᵢ = xᵢ Wᵀ + s (xᵢ Aᵀ) Bᵀ + bias` with the s, A
//! and B of row i's adapter, or without the branch.
//!
//! Rows are brought together by adapter, and the groups go through the device as one operation, forward and backward, so that
//! it can read W once for all of them. A row's bits are those of [`Tensor::lora_linear`] on that adapter alone (in batches
//! above 16 rows, below which devices may sum in another order), however a device adds the branch to the base.

use lowrank_backend::{Error, Gemm, Linear, LoraGroup, LoraMulti, Mode, Result, Rows, Weight};

use crate::ops::check;
use crate::{GradSlot, Grads, Rule, SlotLock, Tensor};

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
        check::beside(OP, self, &inputs[1..])?;
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
            check::beside(OP, self, &[bias])?;
        }
        let grouped = Grouped::new(m, adapters.len(), rows)?;
        let device = self.device();
        let x = grouped.bring_together(self, k)?;
        let y = Tensor::empty(&[m, n], self.dtype(), device)?;
        let layer = Layer { w: w.clone(), bias: bias.cloned(), adapters: adapters.to_vec(), sizes: [m, n, k] };
        let h = Tensor::empty(&[layer.kept(&grouped.segments)], self.dtype().wide(), device)?;
        layer.with(&grouped.segments, |op| {
            device.backend().lora_multi_forward(op, x.read().view(), y.write().out(), h.write().out())
        })?;
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

impl Layer {
    /// Runs `f` with the operation over these segments.
    fn with<T>(&self, segments: &[Segment], f: impl FnOnce(&LoraMulti<'_>) -> Result<T>) -> Result<T> {
        let [m, n, k] = self.sizes;
        let (w, bias) = (self.w.read(), self.bias.as_ref().map(Tensor::read));
        let factors: Vec<_> = self.adapters.iter().map(|l| (l.a.shape()[0], l.scale, l.a.read(), l.b.read())).collect();
        let none = w.view().narrow(0, 0);
        let group = |segment: &Segment| match segment.adapter.map(|i| &factors[i]) {
            Some((r, scale, a, b)) => LoraGroup { rows: segment.len, r: *r, scale: *scale, a: a.view(), b: b.view() },
            None => LoraGroup { rows: segment.len, r: 0, scale: 0.0, a: none, b: none },
        };
        let groups: Vec<_> = segments.iter().map(group).collect();
        let (weight, bias) = (Weight::Dense(w.view()), bias.as_ref().map(|b| b.view()));
        let device = self.w.device();
        let base = Linear { m, n, k, w: weight, bias, precision: device.precision() };
        device.with_scalars(|scalars| f(&LoraMulti { base, groups: &groups, scalars }))
    }

    /// Elements of h: every row's `x Aᵀ`, of its own rank.
    fn kept(&self, segments: &[Segment]) -> usize {
        segments.iter().filter_map(|s| s.adapter.map(|i| s.len * self.adapters[i].a.shape()[0])).sum()
    }
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
    /// `x Aᵀ` of every segment with an adapter.
    h: Tensor,
    grouped: Grouped,
}

impl Rule for Multi {
    fn name(&self) -> &'static str {
        "lora_linear_multi"
    }

    /// The low-rank linear's, of every group: `dx = gy W + s (gy B) A`, and da and db over an adapter's own rows.
    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let [m, n, k] = self.layer.sizes;
        let device = self.x.device();
        let gy = self.grouped.bring_together(&gy, n)?;
        let dx = match grads.so_far(0)? {
            Some((sum, Mode::Add)) => Some((self.grouped.bring_together(&sum, k)?, Mode::Add)),
            first => first,
        };
        let mut seen = vec![false; self.layer.adapters.len()];
        let mut slots = Vec::with_capacity(self.grouped.segments.len());
        for segment in &self.grouped.segments {
            slots.push(match segment.adapter {
                Some(i) => {
                    seen[i] = true;
                    Some([grads.slot(1 + 2 * i)?, grads.slot(2 + 2 * i)?])
                }
                None => None,
            });
        }
        {
            let mut locks: Vec<_> =
                slots.iter().map(|s| s.as_ref().map(|s| s.each_ref().map(GradSlot::lock))).collect();
            let mut own: Vec<_> = locks
                .iter_mut()
                .map(|l| l.as_mut().map_or([None, None], |l| l.each_mut().map(SlotLock::slot)))
                .collect();
            let mut into = dx.as_ref().map(|(dx, mode)| (dx.write(), *mode));
            let into = into.as_mut().map(|(dx, mode)| dx.slot(*mode));
            self.layer.with(&self.grouped.segments, |op| {
                let backend = device.backend();
                backend.lora_multi_backward(
                    op,
                    self.x.read().view(),
                    self.h.read().view(),
                    gy.read().view(),
                    into,
                    &mut own,
                )
            })?;
        }
        for slot in slots.into_iter().flatten().flatten() {
            grads.put(slot)?;
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
