//! `y = x Wᵀ + bias`. A frozen W has no gradient: none is computed or allocated.

use lowrank_backend::{Error, Gemm, Linear as Op, Reduce, Result, Weight};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// `x Wᵀ + bias`; x is `[…, k]`, W `[n,k]`, bias `[n]`; the result is `[…, n]`.
    ///
    /// A frozen W may be stored in another float dtype than x; a trainable one, and bias, are of
    /// [`DType::wide`](crate::DType::wide) of x's.
    pub fn linear(&self, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        const OP: &str = "linear";
        let mut inputs = vec![self, w];
        inputs.extend(bias);
        check::same_device(OP, &inputs)?;
        check::float(OP, self)?;
        check::weight(OP, "W", w, self.dtype())?;
        let (m, k) = check::rows_cols(OP, self)?;
        let &[n, wk] = w.shape() else {
            return Err(Error::shape(OP, format!("{} must be a matrix", w.label("W"))));
        };
        if wk != k {
            return Err(Error::shape(OP, format!("{} does not fit {}", self.label("x"), w.label("W"))));
        }
        if let Some(bias) = bias {
            check::shape(OP, "bias", bias, &[n])?;
            check::beside(OP, self, &[bias])?;
        }
        let mut shape = self.shape().to_vec();
        *shape.last_mut().expect("rows_cols has seen a dimension") = n;
        let y = Tensor::empty(&shape, self.dtype(), self.device())?;
        with_op(w, bias, [m, n, k], |op| {
            self.device().backend().linear_forward(op, self.read().view(), y.write().out())
        })?;
        Ok(y.with_rule(&inputs, || Linear {
            // Only the gradient of W needs x.
            x: w.requires_grad().then(|| self.clone()),
            w: w.clone(),
            bias: bias.is_some(),
            sizes: [m, n, k],
        }))
    }
}

fn with_op<T>(
    w: &Tensor,
    bias: Option<&Tensor>,
    [m, n, k]: [usize; 3],
    f: impl FnOnce(&Op<'_>) -> Result<T>,
) -> Result<T> {
    let (weight, bias) = (w.read(), bias.map(Tensor::read));
    let precision = w.device().precision();
    f(&Op { m, n, k, w: Weight::Dense(weight.view()), bias: bias.as_ref().map(|b| b.view()), precision })
}

struct Linear {
    x: Option<Tensor>,
    w: Tensor,
    bias: bool,
    sizes: [usize; 3],
}

impl Rule for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let [m, n, k] = self.sizes;
        let device = gy.device();
        let backend = device.backend();
        let dx = grads.slot(0)?;
        if let Some(slot) = dx.lock().slot() {
            with_op(&self.w, None, self.sizes, |op| backend.linear_backward(op, gy.read().view(), slot))?;
        }
        grads.put(dx)?;
        if let Some(x) = &self.x {
            let dw = grads.slot(1)?;
            if let Some(slot) = dw.lock().slot() {
                let op = Gemm::tn(n, k, m).precision(device.precision());
                backend.gemm(&op, gy.read().view(), x.read().view(), slot)?;
            }
            grads.put(dw)?;
        }
        if self.bias {
            let dbias = grads.slot(2)?;
            if let Some(slot) = dbias.lock().slot() {
                backend.reduce(Reduce::Sum, [1, m, n], gy.read().view(), slot)?;
            }
            grads.put(dbias)?;
        }
        Ok(())
    }
}
