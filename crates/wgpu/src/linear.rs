//! The frozen linear layer and the low-rank linear: products whose tiles carry bias and adapter.
//!
//! lora_forward is two kernels: `h = x̂ Aᵀ` with dropout drawn while x is read, then `y = x Wᵀ + s h Bᵀ + bias`, written
//! once. lora_backward is two: `u = s gy B` with `db`, and `da` with `dx = gy W + (u A) ⊙ mask`, dropout drawn again in
//! each half. Where a weight is larger than one binding, or only some gradients are wanted, each product is its own.

use lowrank_backend::{Buffer, DType, In, Linear, Lora, Mode, Out, Result, Scalars, Slot, Weight};

use crate::Wgpu;
use crate::elementwise::check_dropout;
use crate::gemm::{Branch, Masked, Product, Second};
use crate::launch::volume;

/// The weight's elements.
fn weight<'a>(wgpu: &Wgpu, op: &'static str, w: Weight<'a>, n: usize, k: usize) -> Result<In<'a>> {
    match w {
        Weight::Dense(w) => {
            wgpu.expect_float(op, "w", w, volume(op, &[n, k])?)?;
            Ok(w)
        }
        _ => Err(lowrank_backend::Error::unsupported(op, wgpu.context.name(), "quantised weights")),
    }
}

fn forward<'a>(wgpu: &Wgpu, name: &'static str, op: &Linear<'a>, x: In<'a>, y: &Out<'_>) -> Result<Product<'a>> {
    let &Linear { m, n, k, precision, .. } = op;
    wgpu.precision(name, precision)?;
    let w = weight(wgpu, name, op.w, n, k)?;
    wgpu.expect(name, "x", x, DType::F32, volume(name, &[m, k])?)?;
    wgpu.expect(name, "y", y.as_in(), DType::F32, volume(name, &[m, n])?)?;
    if let Some(bias) = op.bias {
        wgpu.expect_float(name, "bias", bias, n)?;
    }
    Ok(Product { bias: op.bias, ..Product::new(name, [m, n, k], [false, true], x, w) })
}

fn backward<'a>(wgpu: &Wgpu, name: &'static str, op: &Linear<'a>, gy: In<'a>, dx: &Out<'_>) -> Result<Product<'a>> {
    let &Linear { m, n, k, precision, .. } = op;
    wgpu.precision(name, precision)?;
    let w = weight(wgpu, name, op.w, n, k)?;
    wgpu.expect(name, "gy", gy, DType::F32, volume(name, &[m, n])?)?;
    wgpu.expect(name, "dx", dx.as_in(), DType::F32, volume(name, &[m, k])?)?;
    Ok(Product::new(name, [m, k, n], [false, false], gy, w))
}

/// `y = x Wᵀ (+ bias)`.
pub(crate) fn linear_forward(wgpu: &Wgpu, op: &Linear<'_>, x: In<'_>, y: Out<'_>) -> Result<()> {
    forward(wgpu, "linear_forward", op, x, &y)?.run(wgpu, y, Mode::Set)
}

/// `dx (+)= gy W`.
pub(crate) fn linear_backward(wgpu: &Wgpu, op: &Linear<'_>, gy: In<'_>, dx: Slot<'_>) -> Result<()> {
    backward(wgpu, "linear_backward", op, gy, &dx.out)?.run(wgpu, dx.out, dx.mode)
}

fn expect(wgpu: &Wgpu, name: &'static str, op: &Lora<'_>) -> Result<()> {
    wgpu.expect(name, "a", op.a, DType::F32, volume(name, &[op.r, op.base.k])?)?;
    wgpu.expect(name, "b", op.b, DType::F32, volume(name, &[op.base.n, op.r])?)?;
    if let Some(dropout) = &op.dropout {
        check_dropout(name, dropout)?;
        wgpu.expect(name, "scalars", op.scalars, DType::F32, Scalars::LEN)?;
    }
    Ok(())
}

/// `h = x̂ Aᵀ`, `y = x Wᵀ + s h Bᵀ (+ bias)`.
pub(crate) fn lora_forward(wgpu: &Wgpu, op: &Lora<'_>, x: In<'_>, y: Out<'_>, h: Out<'_>) -> Result<()> {
    const OP: &str = "lora_forward";
    let (m, k, r) = (op.base.m, op.base.k, op.r);
    let product = forward(wgpu, OP, &op.base, x, &y)?;
    expect(wgpu, OP, op)?;
    wgpu.expect(OP, "h", h.as_in(), DType::F32, volume(OP, &[m, r])?)?;
    let mut h = h;
    let mask = op.dropout.map(|d| (d, Masked::A, k, op.scalars));
    Product { mask, ..Product::new(OP, [m, r, k], [false, true], x, op.a) }.run(wgpu, h.reborrow(), Mode::Set)?;
    let branch = Some(Branch { p: h.as_in(), q: op.b, transposed: true, r, scale: op.scale });
    Product { branch, ..product }.run(wgpu, y, Mode::Set)
}

/// `u = s gy B; db (+)= s gyᵀ h; da (+)= uᵀ x̂; dx (+)= gy W + (u A) ⊙ mask`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn lora_backward(
    wgpu: &Wgpu,
    op: &Lora<'_>,
    x: In<'_>,
    h: In<'_>,
    gy: In<'_>,
    dx: Option<Slot<'_>>,
    da: Option<Slot<'_>>,
    db: Option<Slot<'_>>,
) -> Result<()> {
    const OP: &str = "lora_backward";
    let (m, n, k, r) = (op.base.m, op.base.n, op.base.k, op.r);
    wgpu.precision(OP, op.base.precision)?;
    expect(wgpu, OP, op)?;
    wgpu.expect(OP, "x", x, DType::F32, volume(OP, &[m, k])?)?;
    wgpu.expect(OP, "h", h, DType::F32, volume(OP, &[m, r])?)?;
    wgpu.expect(OP, "gy", gy, DType::F32, volume(OP, &[m, n])?)?;
    if let Some(db) = &db {
        wgpu.expect(OP, "db", db.out.as_in(), DType::F32, n * r)?;
    }
    if let Some(da) = &da {
        wgpu.expect(OP, "da", da.out.as_in(), DType::F32, r * k)?;
    }
    let only_db = dx.is_none() && da.is_none();
    let mut u: Box<dyn Buffer> = Box::new(wgpu.scratch(if only_db { 0 } else { m * r })?);
    let mut u_out = Out::new(&mut *u, DType::F32, m * r);
    let u_product = Product { alpha: op.scale, as_dots: true, ..Product::new(OP, [m, r, n], [false, false], gy, op.b) };
    let mut db = db;
    let mut has_u = false;
    if !only_db && let Some(slot) = &mut db {
        has_u = u_product.run_with(wgpu, u_out.reborrow(), Mode::Set, Second { slot: slot.reborrow(), operand: h })?;
    }
    if !has_u && let Some(db) = db {
        let product = Product { alpha: op.scale, ..Product::new(OP, [n, r, m], [true, false], gy, h) };
        product.run(wgpu, db.out, db.mode)?;
    }
    if only_db {
        return Ok(());
    }
    if !has_u {
        u_product.run(wgpu, u_out, Mode::Set)?;
    }
    let u = In::new(&*u, DType::F32, m * r);
    let mut da = da;
    let mut dx = dx;
    if let Some(dx) = &mut dx {
        let product = backward(wgpu, OP, &op.base, gy, &dx.out)?;
        let branch = Some(Branch { p: u, q: op.a, transposed: false, r, scale: 1.0 });
        let mask = op.dropout.map(|d| (d, Masked::Branch, k, op.scalars));
        let product = Product { branch, mask, ..product };
        if let Some(slot) = &mut da {
            let second = Second { slot: slot.reborrow(), operand: x };
            if product.run_with(wgpu, dx.out.reborrow(), dx.mode, second)? {
                return Ok(());
            }
        }
        product.run(wgpu, dx.out.reborrow(), dx.mode)?;
    }
    if let Some(da) = da {
        let mask = op.dropout.map(|d| (d, Masked::B, k, op.scalars));
        Product { mask, ..Product::new(OP, [r, k, m], [true, false], u, x) }.run(wgpu, da.out, da.mode)?;
    }
    Ok(())
}
