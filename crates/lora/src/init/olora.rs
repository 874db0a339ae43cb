//! From the weight's QR decomposition: `B = Q[:, :r]`, `A = R[:r]`, and the frozen weight is `W − s B A` (Büyükakyüz 2024,
//! "OLoRA", section 3). The first r columns of Q depend on the first r columns of W only, and `R[:r] = Q[:, :r]ᵀ W`, so
//! the rest is never factored. Columns of Q are turned so that their largest entry is positive; B A does not see that.

use lowrank_core::Tensor;

use super::{Pair, Sizes, fits};
use crate::linalg::{Matrix, svd, thin_qr, tn};
use crate::{Error, Result};

pub(super) fn from_weight(w: &Tensor, s: &Sizes) -> Result<Pair> {
    fits("olora", s.r, s)?;
    let columns: Vec<usize> = (0..s.r).collect();
    let first = Matrix::from_tensor(w)?.columns(&columns);
    let (mut q, r) = thin_qr(&first)?;
    if svd(&r)?.rank(1e-7) < s.r {
        return Err(Error::adapter(format!("olora: the weight's first {} columns are linearly dependent", s.r)));
    }
    for j in 0..s.r {
        let column = || (0..s.n).map(|i| q.data[i * s.r + j]);
        let largest = column().fold(0.0f64, |max, x| if x.abs() > max.abs() { x } else { max });
        if largest < 0.0 {
            (0..s.n).for_each(|i| q.data[i * s.r + j] *= -1.0);
        }
    }
    let dtype = if w.dtype() == lowrank_core::DType::F64 { w.dtype() } else { lowrank_core::DType::F32 };
    let a = Matrix::from_tensor(&tn(&q.to_tensor(dtype, w.device())?, w)?)?;
    Ok(Pair { a: a.data, b: q.data, offset: true })
}
