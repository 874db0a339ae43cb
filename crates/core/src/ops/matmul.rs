//! Products of matrices, one by one in a batch: `c = a b` and `c = a bᵀ`.

use lowrank_backend::{Error, Gemm, Result, Slot};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// `a b`: a is `[…, m, k]`, b is `[…, k, n]` with the same leading dimensions, or one matrix `[k, n]` for all.
    pub fn matmul(&self, b: &Tensor) -> Result<Tensor> {
        matmul("matmul", self, b, false)
    }

    /// `a bᵀ`: a is `[…, m, k]`, b is `[…, n, k]` with the same leading dimensions, or one matrix `[n, k]` for all.
    pub fn matmul_t(&self, b: &Tensor) -> Result<Tensor> {
        matmul("matmul_t", self, b, true)
    }
}

fn matmul(name: &'static str, a: &Tensor, b: &Tensor, tb: bool) -> Result<Tensor> {
    check::same_device(name, &[a, b])?;
    check::float(name, a)?;
    check::same_dtype(name, &[a, b])?;
    let misfit = || Error::shape(name, format!("{} does not fit {}", a.label("a"), b.label("b")));
    let ([lead @ .., m, k], [b_lead @ .., rows, cols]) = (a.shape(), b.shape()) else {
        return Err(misfit());
    };
    let (&bk, &n) = if tb { (cols, rows) } else { (rows, cols) };
    if bk != *k || !(b_lead.is_empty() || b_lead == lead) {
        return Err(misfit());
    }
    let count: usize = lead.iter().product();
    // One matrix for all is one product with all rows of a.
    let (batch, rows) = if b_lead.is_empty() { (1, count * m) } else { (count, *m) };
    let op = Gemm { tb, ..Gemm::nn(rows, n, *k) }.batch(batch).precision(a.device().precision());
    let y = Tensor::empty(&[lead, &[*m, n]].concat(), a.dtype(), a.device())?;
    a.device().backend().gemm(&op, a.read().view(), b.read().view(), y.write().set())?;
    Ok(y.with_rule(&[a, b], || Matmul { name, op, a: a.clone(), b: b.clone() }))
}

struct Matmul {
    name: &'static str,
    op: Gemm,
    a: Tensor,
    b: Tensor,
}

impl Rule for Matmul {
    fn name(&self) -> &'static str {
        self.name
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let Gemm { batch, m, n, k, tb, precision, .. } = self.op;
        let backend = gy.device().backend();
        let run = |op: Gemm, x: &Tensor, y: &Tensor, slot: Slot<'_>| {
            backend.gemm(&op.batch(batch).precision(precision), x.read().view(), y.read().view(), slot)
        };
        let da = grads.slot(0)?;
        if let Some(slot) = da.lock().slot() {
            let op = if tb { Gemm::nn(m, k, n) } else { Gemm::nt(m, k, n) };
            run(op, &gy, &self.b, slot)?;
        }
        grads.put(da)?;
        let db = grads.slot(1)?;
        if let Some(slot) = db.lock().slot() {
            if tb {
                run(Gemm::tn(n, k, m), &gy, &self.a, slot)?;
            } else {
                run(Gemm::tn(k, n, m), &self.a, &gy, slot)?;
            }
        }
        grads.put(db)
    }
}
