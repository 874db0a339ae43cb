//! The low-rank linear: y = x Wᵀ + s h Bᵀ with h = x̂ Aᵀ.

use super::temp::{Temp, add_row, rounded};
use crate::{Backend, Gemm, In, Linear, Lora, Map, Out, Result, Slot};

fn expect(name: &'static str, op: &Lora<'_>) -> Result<()> {
    op.a.expect(name, "a", op.r * op.base.k)?;
    op.b.expect(name, "b", op.base.n * op.r)
}

/// x̂, or nothing without dropout.
fn dropped<B: Backend + ?Sized>(b: &B, op: &Lora<'_>, x: In<'_>) -> Result<Option<Temp>> {
    let Some(dropout) = &op.dropout else { return Ok(None) };
    let mut t = Temp::new(b, x.dtype.wide(), x.len)?;
    b.dropout(dropout, op.scalars, x, t.set())?;
    Ok(Some(t))
}

pub(crate) fn lora_forward<B: Backend + ?Sized>(
    b: &B,
    op: &Lora<'_>,
    x: In<'_>,
    y: Out<'_>,
    mut h: Out<'_>,
) -> Result<()> {
    const OP: &str = "lora_forward";
    let (m, n, k, r, precision) = (op.base.m, op.base.n, op.base.k, op.r, op.base.precision);
    expect(OP, op)?;
    x.expect(OP, "x", m * k)?;
    h.expect(OP, "h", m * r)?;
    let dropped = dropped(b, op, x)?;
    let xd = dropped.as_ref().map_or(x, Temp::view);
    b.gemm(&Gemm::nt(m, r, k).precision(precision), xd, op.a, h.reborrow().set())?;
    // s on h and the bias last.
    let scaled = h.as_in().map(b, Map::Affine(op.scale, 0.0))?;
    rounded(b, y.set(), |Slot { out: mut y, .. }| {
        b.linear_forward(&Linear { bias: None, ..op.base }, x, y.reborrow())?;
        b.gemm(&Gemm::nt(m, n, r).precision(precision), scaled.view(), op.b, y.reborrow().add())?;
        let Some(bias) = op.base.bias else { return Ok(()) };
        bias.expect(OP, "bias", n)?;
        add_row(b, m, bias, y)
    })
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn lora_backward<B: Backend + ?Sized>(
    b: &B,
    op: &Lora<'_>,
    x: In<'_>,
    h: In<'_>,
    gy: In<'_>,
    dx: Option<Slot<'_>>,
    da: Option<Slot<'_>>,
    db: Option<Slot<'_>>,
) -> Result<()> {
    const OP: &str = "lora_backward";
    let (m, n, k, r, precision) = (op.base.m, op.base.n, op.base.k, op.r, op.base.precision);
    expect(OP, op)?;
    x.expect(OP, "x", m * k)?;
    h.expect(OP, "h", m * r)?;
    gy.expect(OP, "gy", m * n)?;
    if let Some(db) = db {
        b.gemm(&Gemm::tn(n, r, m).alpha(op.scale).precision(precision), gy, h, db)?;
    }
    if dx.is_none() && da.is_none() {
        return Ok(());
    }
    let mut u = Temp::new(b, gy.dtype.wide(), m * r)?;
    b.gemm(&Gemm::nn(m, r, n).alpha(op.scale).precision(precision), gy, op.b, u.set())?;
    if let Some(da) = da {
        let dropped = dropped(b, op, x)?;
        let xd = dropped.as_ref().map_or(x, Temp::view);
        b.gemm(&Gemm::tn(r, k, m).precision(precision), u.view(), xd, da)?;
    }
    let Some(dx) = dx else { return Ok(()) };
    rounded(b, dx, |mut dx| {
        b.linear_backward(&op.base, gy, dx.reborrow())?;
        let branch = Gemm::nn(m, k, r).precision(precision);
        let Some(dropout) = &op.dropout else { return b.gemm(&branch, u.view(), op.a, dx.out.add()) };
        let mut t = Temp::new(b, dx.out.dtype, m * k)?;
        b.gemm(&branch, u.view(), op.a, t.set())?;
        b.dropout(dropout, op.scalars, t.view(), dx.out.add())
    })
}
