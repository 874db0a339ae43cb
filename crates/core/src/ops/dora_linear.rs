//! `y = g ⊙ (x Wᵀ + s (x Aᵀ) Bᵀ) + bias` with `g = m / ‖W + sBA‖`, the weight-decomposed low-rank linear (Liu et al. 2024,
//! "DoRA", eq. 5), with the norm held constant in backward (section 4.3 there, and PEFT).
//!
//! The norm of row i needs no W + sBA (which would be `[n,k]`):
//! `‖wᵢ + s bᵢA‖² = ‖wᵢ‖² + bᵢ · (2s (W Aᵀ)ᵢ + s² (A Aᵀ) bᵢ)`, of which `‖wᵢ‖²` is computed once for a frozen W.
//! What is left is the low-rank linear's own kernels between two elementwise passes.

use lowrank_backend::{Broadcast, DType, Dropout, Error, Gemm, Linear, Lora, Map, Mode, Reduce, Result, Weight, Zip};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// `‖wᵢ‖²` of every row of this frozen matrix `[n,k]`: a constant `[n]` in the dtype of activations, what
    /// [`Tensor::dora_linear`] wants to know of W.
    pub fn row_squares(&self, dtype: DType) -> Result<Tensor> {
        const OP: &str = "row_squares";
        check::float(OP, self)?;
        let &[n, k] = self.shape() else {
            return Err(Error::shape(OP, format!("{} must be a matrix", self.label("W"))));
        };
        if self.requires_grad() {
            return Err(Error::graph(OP, format!("{} is trainable; the squares would not follow it", self.label("W"))));
        }
        let squares = Tensor::empty(&[n], dtype, self.device())?;
        // A row with itself, n times over: no [n,k] of squares.
        let op = Gemm::nt(1, 1, k).batch(n);
        self.device().backend().gemm(&op, self.read().view(), self.read().view(), squares.write().set())?;
        Ok(squares)
    }

    /// `g ⊙ (x Wᵀ + scale · (x Aᵀ) Bᵀ) + bias`, `g = magnitude / ‖W + scale · BA‖` by rows, the norm without a gradient.
    ///
    /// x is `[…, k]`, W `[n,k]` frozen (any storage dtype), `squares` [`Tensor::row_squares`] of W, A `[r,k]`, B `[n,r]`,
    /// magnitude and bias `[n]`; the result is `[…, n]`. With dropout, x̂ being what is left of x, it is
    /// `x Wᵀ + (g − 1) ⊙ x̂ Wᵀ + g ⊙ scale · (x̂ Aᵀ) Bᵀ + bias`.
    #[allow(clippy::too_many_arguments)]
    pub fn dora_linear(
        &self,
        w: &Tensor,
        squares: &Tensor,
        bias: Option<&Tensor>,
        a: &Tensor,
        b: &Tensor,
        magnitude: &Tensor,
        scale: f64,
        dropout: f64,
    ) -> Result<Tensor> {
        const OP: &str = "dora_linear";
        let mut inputs = vec![self, a, b, magnitude];
        inputs.extend(bias);
        check::same_device(OP, &[&inputs[..], &[w, squares]].concat())?;
        check::float(OP, self)?;
        check::beside(OP, self, &inputs[1..])?;
        check::beside(OP, self, &[squares])?;
        check::weight(OP, "W", w, self.dtype())?;
        if w.requires_grad() || squares.requires_grad() {
            return Err(Error::graph(OP, format!("{} is trainable; DoRA is for a frozen weight", w.label("W"))));
        }
        let (m, k) = check::rows_cols(OP, self)?;
        let (&[n, wk], &[r, ak]) = (w.shape(), a.shape()) else {
            return Err(Error::shape(OP, format!("{} and {} must be matrices", w.label("W"), a.label("A"))));
        };
        if wk != k || ak != k || r == 0 {
            let detail = format!("{} does not fit {} and {}", self.label("x"), w.label("W"), a.label("A"));
            return Err(Error::shape(OP, detail));
        }
        check::shape(OP, "B", b, &[n, r])?;
        for (what, t) in [("squares", Some(squares)), ("magnitude", Some(magnitude)), ("bias", bias)] {
            if let Some(t) = t {
                check::shape(OP, what, t, &[n])?;
            }
        }
        let device = self.device();
        let dropout = if dropout == 0.0 { None } else { Some(device.dropout_site(dropout)?) };
        let pair = Pair { w: w.clone(), a: a.clone(), b: b.clone(), scale, sizes: [m, n, k, r] };
        let norm = pair.norm(squares)?;
        let g = zip(Zip::Div, magnitude, &norm, [n], [n])?;
        let v = Tensor::empty(&[m, n], self.dtype(), device)?;
        let h = Tensor::empty(&[m, r], a.dtype(), device)?;
        let dropped = dropped(&dropout, self)?;
        let seen = dropped.as_ref().unwrap_or(self);
        pair.with_op(|op| device.backend().lora_forward(op, seen.read().view(), v.write().out(), h.write().out()))?;
        let mut shape = self.shape().to_vec();
        *shape.last_mut().expect("rows_cols has seen a dimension") = n;
        let y = Tensor::empty(&shape, self.dtype(), device)?;
        let by_row = Broadcast::new(&[m, n], &[1, n]).expect("both have n columns");
        match &dropped {
            // x Wᵀ − x̂ Wᵀ is one product.
            Some(seen) => {
                let rest = zip(Zip::Sub, self, seen, [m * k], [m * k])?;
                pair.with_base(bias, |op| device.backend().linear_forward(op, rest.read().view(), y.write().out()))?;
                device.backend().zip(Zip::Mul, &by_row, v.read().view(), g.read().view(), y.write().slot(Mode::Add))?;
            }
            None => {
                let backend = device.backend();
                match bias {
                    None => backend.zip(Zip::Mul, &by_row, v.read().view(), g.read().view(), y.write().set())?,
                    Some(bias) => {
                        let scaled = zip_as(g.dtype(), Zip::Mul, &v, &g, [m, n], [1, n])?;
                        backend.zip(Zip::Add, &by_row, scaled.read().view(), bias.read().view(), y.write().set())?;
                    }
                }
            }
        }
        let saved = || DoraLinear {
            x: self.clone(),
            pair,
            h,
            // Only the magnitude's gradient needs it.
            v: magnitude.requires_grad().then_some(v),
            norm,
            g,
            dropout,
            step: device.step(),
            bias: bias.is_some(),
        };
        Ok(y.with_rule(&inputs, saved))
    }

    /// `‖wᵢ + s bᵢA‖` of every row of this frozen matrix `[n,k]`, a constant `[n]`: what a magnitude starts as.
    pub fn dora_norm(&self, squares: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
        const OP: &str = "dora_norm";
        check::same_device(OP, &[self, squares, a, b])?;
        check::same_dtype(OP, &[squares, a, b])?;
        let (&[n, k], &[r, ak]) = (self.shape(), a.shape()) else {
            return Err(Error::shape(OP, format!("{} and {} must be matrices", self.label("W"), a.label("A"))));
        };
        if ak != k {
            return Err(Error::shape(OP, format!("{} does not fit {}", a.label("A"), self.label("W"))));
        }
        check::shape(OP, "B", b, &[n, r])?;
        check::shape(OP, "squares", squares, &[n])?;
        Pair { w: self.clone(), a: a.clone(), b: b.clone(), scale, sizes: [0, n, k, r] }.norm(squares)
    }
}

/// x̂, or nothing without dropout.
fn dropped(dropout: &Option<Dropout>, x: &Tensor) -> Result<Option<Tensor>> {
    let Some(op) = dropout else { return Ok(None) };
    let t = Tensor::empty(x.shape(), x.dtype(), x.device())?;
    x.device().with_scalars(|s| x.device().backend().dropout(op, s, x.read().view(), t.write().set()))?;
    Ok(Some(t))
}

/// `op(x, y)` as a constant of x's shape and dtype, broadcast from these shapes.
fn zip<const N: usize>(op: Zip, x: &Tensor, y: &Tensor, from: [usize; N], with: [usize; N]) -> Result<Tensor> {
    zip_as(x.dtype(), op, x, y, from, with)
}

/// The same of another dtype.
fn zip_as<const N: usize>(
    dtype: DType,
    op: Zip,
    x: &Tensor,
    y: &Tensor,
    from: [usize; N],
    with: [usize; N],
) -> Result<Tensor> {
    let dims = Broadcast::new(&from, &with)
        .ok_or_else(|| Error::shape("dora_linear", format!("{from:?} and {with:?} do not broadcast")))?;
    let t = Tensor::empty(&from, dtype, x.device())?;
    x.device().backend().zip(op, &dims, x.read().view(), y.read().view(), t.write().set())?;
    Ok(t)
}

/// W with its pair.
struct Pair {
    w: Tensor,
    a: Tensor,
    b: Tensor,
    scale: f64,
    sizes: [usize; 4],
}

impl Pair {
    /// `√(‖wᵢ‖² + bᵢ · (2s (W Aᵀ)ᵢ + s² (A Aᵀ) bᵢ))`; temporaries are `[n,r]` and `[r,r]`.
    fn norm(&self, squares: &Tensor) -> Result<Tensor> {
        let [_, n, k, r] = self.sizes;
        let (s, device, dtype) = (self.scale, self.a.device(), self.a.dtype());
        let (backend, precision) = (device.backend(), device.precision());
        let (gram, t) = (Tensor::empty(&[r, r], dtype, device)?, Tensor::empty(&[n, r], dtype, device)?);
        let by_a = |rows| Gemm::nt(rows, r, k).precision(precision);
        backend.gemm(&by_a(r), self.a.read().view(), self.a.read().view(), gram.write().set())?;
        backend.gemm(&by_a(n).alpha(2.0 * s), self.w.read().view(), self.a.read().view(), t.write().set())?;
        let by_gram = Gemm::nn(n, r, r).alpha(s * s).precision(precision);
        backend.gemm(&by_gram, self.b.read().view(), gram.read().view(), t.write().slot(Mode::Add))?;
        let t = zip(Zip::Mul, &t, &self.b, [n * r], [n * r])?;
        let sum = Tensor::empty(&[n], dtype, device)?;
        backend.map(Map::Copy, squares.read().view(), sum.write().set())?;
        backend.reduce(Reduce::Sum, [n, r, 1], t.read().view(), sum.write().slot(Mode::Add))?;
        let norm = Tensor::empty(&[n], dtype, device)?;
        backend.map(Map::Sqrt, sum.read().view(), norm.write().set())?;
        Ok(norm)
    }

    fn with_base<T>(&self, bias: Option<&Tensor>, f: impl FnOnce(&Linear<'_>) -> Result<T>) -> Result<T> {
        let [m, n, k, _] = self.sizes;
        let (w, bias) = (self.w.read(), bias.map(Tensor::read));
        let (w, bias) = (Weight::Dense(w.view()), bias.as_ref().map(|b| b.view()));
        f(&Linear { m, n, k, w, bias, precision: self.w.device().precision() })
    }

    /// The low-rank linear without bias and dropout.
    fn with_op<T>(&self, f: impl FnOnce(&Lora<'_>) -> Result<T>) -> Result<T> {
        let (a, b, r) = (self.a.read(), self.b.read(), self.sizes[3]);
        self.with_base(None, |&base| {
            self.w.device().with_scalars(|scalars| {
                f(&Lora { base, r, scale: self.scale, a: a.view(), b: b.view(), dropout: None, scalars })
            })
        })
    }
}

struct DoraLinear {
    x: Tensor,
    pair: Pair,
    h: Tensor,
    /// `x̂ Wᵀ + s (x̂ Aᵀ) Bᵀ`
    v: Option<Tensor>,
    norm: Tensor,
    g: Tensor,
    dropout: Option<Dropout>,
    step: u32,
    bias: bool,
}

impl Rule for DoraLinear {
    fn name(&self) -> &'static str {
        "dora_linear"
    }

    /// With `t = gy ⊙ g`: A, B and x as in the low-rank linear with t for gy, `dm = Σ gy ⊙ v / ‖W + sBA‖`, and with dropout
    /// `dx = gy W + mask ⊙ (t W + s (t B) A − gy W)`.
    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let device = self.x.device();
        let backend = device.backend();
        let [m, n, k, _] = self.pair.sizes;
        if self.dropout.is_some() {
            check::same_step("dora_linear backward", device, self.step)?;
        }
        let (dx, da, db) = (grads.slot(0)?, grads.slot(1)?, grads.slot(2)?);
        if dx.wanted() || da.wanted() || db.wanted() {
            let t = zip(Zip::Mul, &gy, &self.g, [m, n], [1, n])?;
            let dropped = dropped(&self.dropout, &self.x)?;
            let seen = dropped.as_ref().unwrap_or(&self.x);
            // With dropout, the mask lies between this product and dx.
            let apart = match (&self.dropout, dx.wanted()) {
                (Some(_), true) => Some(Tensor::empty(&[m, k], gy.dtype(), device)?),
                _ => None,
            };
            {
                let (mut into, mut write) = (dx.lock(), apart.as_ref().map(Tensor::write));
                let slot = match &mut write {
                    Some(w) => Some(w.set()),
                    None => into.slot(),
                };
                let (x, h, t) = (seen.read(), self.h.read(), t.read());
                let (mut da, mut db) = (da.lock(), db.lock());
                self.pair.with_op(|op| {
                    backend.lora_backward(op, x.view(), h.view(), t.view(), slot, da.slot(), db.slot())
                })?;
            }
            if let (Some(branch), Some(op), Some(mut slot)) = (apart, &self.dropout, dx.lock().slot()) {
                let base = Tensor::empty(&[m, k], gy.dtype(), device)?;
                self.pair.with_base(None, |op| backend.linear_backward(op, gy.read().view(), base.write().set()))?;
                let through = zip(Zip::Sub, &branch, &base, [m * k], [m * k])?;
                backend.map(Map::Copy, base.read().view(), slot.reborrow())?;
                device.with_scalars(|s| backend.dropout(op, s, through.read().view(), slot.out.add()))?;
            }
        }
        for slot in [dx, da, db] {
            grads.put(slot)?;
        }
        let dm = grads.slot(3)?;
        if let (Some(slot), Some(v)) = (dm.lock().slot(), &self.v) {
            let t = zip_as(self.g.dtype(), Zip::Mul, &gy, v, [m * n], [m * n])?;
            let sum = Tensor::empty(&[n], self.g.dtype(), device)?;
            backend.reduce(Reduce::Sum, [1, m, n], t.read().view(), sum.write().set())?;
            backend.zip(Zip::Div, &Broadcast::same(n), sum.read().view(), self.norm.read().view(), slot)?;
        }
        grads.put(dm)?;
        if self.bias {
            let dbias = grads.slot(4)?;
            if let Some(slot) = dbias.lock().slot() {
                backend.reduce(Reduce::Sum, [1, m, n], gy.read().view(), slot)?;
            }
            grads.put(dbias)?;
        }
        Ok(())
    }
}
