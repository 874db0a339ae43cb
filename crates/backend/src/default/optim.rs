//! Gradient norm and the optimisers. Everything that changes from step to step comes from the scalar buffer.

use super::temp::{Temp, copy_all, zip, zip_into, zip_same};
use crate::{AdamW, AdamWParam, Backend, DType, Error, In, Map, Out, Reduce, Result, Scalars, Sgd, SgdParam, Zip};

pub(crate) fn grad_norm<B: Backend + ?Sized>(
    b: &B,
    grads: &[In<'_>],
    max_norm: Option<f64>,
    mut scalars: Out<'_>,
) -> Result<()> {
    const OP: &str = "grad_norm";
    scalars.expect(OP, "scalars", Scalars::LEN)?;
    if let Some(max) = max_norm.filter(|max| max.is_nan() || *max <= 0.0) {
        return Err(Error::invalid(OP, format!("max_norm {max} is not positive")));
    }
    let dtype = if grads.iter().any(|g| g.dtype == DType::F64) { DType::F64 } else { DType::F32 };
    let mut total = Temp::new(b, dtype, 1)?;
    b.fill(0.0, total.out())?;
    for g in grads {
        g.expect(OP, "gradient", g.len)?;
        let mut squares = Temp::new(b, dtype, g.len)?;
        b.map(Map::Square, *g, squares.set())?;
        b.reduce(Reduce::Sum, [1, g.len, 1], squares.view(), total.add())?;
    }
    let norm = total.view().map(b, Map::Sqrt)?;
    b.map(Map::Copy, norm.view(), scalars.reborrow().narrow(Scalars::NORM, 1).set())?;
    // norm − norm is 0, or NaN for a norm that is not finite: added to the clip factor, it lets no such norm pass.
    let mut clip = zip_same(b, Zip::Sub, norm.view(), norm.view())?;
    match max_norm {
        None => {
            let zero = clip;
            clip = zero.view().map(b, Map::Affine(1.0, 1.0))?;
        }
        Some(max) => {
            let inverse = norm.view().map(b, Map::Affine(1.0, 1e-6))?.view().map(b, Map::Recip)?;
            let factor = inverse.view().map(b, Map::Affine(max, 0.0))?;
            b.map(Map::Min(1.0), factor.view(), clip.add())?;
        }
    }
    b.map(Map::Copy, clip.view(), scalars.narrow(Scalars::CLIP, 1).set())
}

/// One word of the scalar buffer, in the parameters' dtype.
fn scalar<B: Backend + ?Sized>(b: &B, scalars: In<'_>, index: usize, dtype: DType) -> Result<Temp> {
    scalars.narrow(index, 1).cast(b, dtype)
}

fn expect(name: &'static str, group: usize, scalars: In<'_>) -> Result<()> {
    scalars.expect(name, "scalars", Scalars::LEN)?;
    if group >= Scalars::GROUPS {
        return Err(Error::invalid(name, format!("parameter group {group}, there are {}", Scalars::GROUPS)));
    }
    Ok(())
}

/// x ⊙ one element.
fn times<B: Backend + ?Sized>(b: &B, x: In<'_>, factor: &Temp) -> Result<Temp> {
    zip(b, Zip::Mul, (x, [x.len]), (factor.view(), [1]))
}

/// `decay·old + weight·new`, written back to `old`; also returned.
fn average<B: Backend + ?Sized>(b: &B, decay: f64, old: Out<'_>, weight: f64, new: In<'_>) -> Result<Temp> {
    let mut t = old.as_in().map(b, Map::Affine(decay, 0.0))?;
    b.map(Map::Affine(weight, 0.0), new, t.add())?;
    copy_all(b, t.view(), old.set())?;
    Ok(t)
}

/// `p ← p − lr·(wd·p + update)`.
fn descend<B: Backend + ?Sized>(b: &B, p: Out<'_>, mut update: Temp, wd: f64, lr: &Temp) -> Result<()> {
    b.map(Map::Affine(wd, 0.0), p.as_in(), update.add())?;
    let step = times(b, update.view(), lr)?;
    let mut new = update;
    let len = [p.len];
    zip_into(b, Zip::Sub, (p.as_in(), len), (step.view(), len), new.set())?;
    copy_all(b, new.view(), p.set())
}

pub(crate) fn adamw<B: Backend + ?Sized>(
    b: &B,
    op: &AdamW,
    scalars: In<'_>,
    params: &mut [AdamWParam<'_>],
) -> Result<()> {
    const OP: &str = "adamw";
    expect(OP, op.group, scalars)?;
    for AdamWParam { p, m, v, g } in params {
        p.expect(OP, "p", g.len)?;
        m.expect(OP, "m", g.len)?;
        v.expect(OP, "v", g.len)?;
        let scalar = |index| scalar(b, scalars, index, p.dtype);
        let g = times(b, *g, &scalar(Scalars::CLIP)?)?;
        let squares = g.view().map(b, Map::Square)?;
        let m = average(b, op.beta1, m.reborrow(), 1.0 - op.beta1, g.view())?;
        let v = average(b, op.beta2, v.reborrow(), 1.0 - op.beta2, squares.view())?;
        let len = g.view().len;
        let m = zip(b, Zip::Div, (m.view(), [len]), (scalar(Scalars::CORRECTION1)?.view(), [1]))?;
        let v = zip(b, Zip::Div, (v.view(), [len]), (scalar(Scalars::CORRECTION2)?.view(), [1]))?;
        let root = v.view().map(b, Map::Sqrt)?.view().map(b, Map::Affine(1.0, op.eps))?;
        let update = zip_same(b, Zip::Div, m.view(), root.view())?;
        let lr = scalar(Scalars::LR + op.group)?;
        descend(b, p.reborrow(), update, op.weight_decay, &lr)?;
    }
    Ok(())
}

pub(crate) fn sgd<B: Backend + ?Sized>(b: &B, op: &Sgd, scalars: In<'_>, params: &mut [SgdParam<'_>]) -> Result<()> {
    const OP: &str = "sgd";
    expect(OP, op.group, scalars)?;
    for SgdParam { p, u, g } in params {
        p.expect(OP, "p", g.len)?;
        let g = times(b, *g, &scalar(b, scalars, Scalars::CLIP, p.dtype)?)?;
        let update = match u {
            Some(u) => {
                u.expect(OP, "u", g.view().len)?;
                average(b, op.momentum, u.reborrow(), 1.0, g.view())?
            }
            None if op.momentum != 0.0 => {
                return Err(Error::invalid(OP, format!("momentum {} needs a momentum buffer", op.momentum)));
            }
            None => g,
        };
        let lr = scalar(b, scalars, Scalars::LR + op.group, p.dtype)?;
        descend(b, p.reborrow(), update, op.weight_decay, &lr)?;
    }
    Ok(())
}
