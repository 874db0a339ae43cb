//! The frozen linear layer and the low-rank linear.
//!
//! lora_forward is `h = x̂ Aᵀ` with dropout drawn while x is read, then one product `y = x Wᵀ + s h Bᵀ + bias` whose tiles
//! carry the branch. lora_backward is `u = s gy B` with `db` in one read of gy, `da = uᵀ x̂`, and one product
//! `dx = gy W + (u A) ⊙ mask`. Ranks above 128 sum by plain products, the branch still in the tiles. The precision is that
//! of the products with W, on tensor cores unless it is full; sums into h, u, da and db are of bf16 if it is bf16, else f32.
//!
//! x, y, gy and dx are f32 or bf16, all the same. Where they and W are bf16 their product is exact on tensor cores in every
//! precision; what the precision says is then about the low-rank part alone, which is f32 unless it is bf16.

use lowrank_backend::{
    Buffer, DType, Dropout, Error, Gemm, In, Linear, Lora, Mode, Out, Precision, Result, Slot, Weight,
};
use lowrank_kernels::gemm::{Gemm as Product, Layout, Tail};
use lowrank_kernels::launch::Operand;
use lowrank_kernels::lora::{Plan, Slot as Sum};

use crate::Cuda;
use crate::gemm::{gemm, mask, operand, run, too_large};
use crate::hopper::Rounded;
use crate::launch::volume;

/// The weight's elements.
fn weight(cuda: &Cuda, op: &'static str, w: Weight<'_>, n: usize, k: usize) -> Result<Operand> {
    match w {
        Weight::Dense(w) => Ok(operand(cuda.expect_float(op, "w", w, volume(op, &[n, k])?)?, w.dtype)),
        _ => Err(Error::unsupported(op, cuda.context.name(), "quantised weights")),
    }
}

/// Activations.
fn active(cuda: &Cuda, op: &'static str, what: &str, x: In<'_>, len: usize) -> Result<Operand> {
    Ok(operand(cuda.activation(op, what, x, len)?, x.dtype))
}

/// A view with `len` elements of this dtype.
fn like(cuda: &Cuda, op: &'static str, what: &str, x: In<'_>, dtype: DType, len: usize) -> Result<Operand> {
    Ok(operand(cuda.expect(op, what, x, dtype, len)?, dtype))
}

/// A view of f32 with `len` elements.
fn f32s(cuda: &Cuda, op: &'static str, what: &str, x: In<'_>, len: usize) -> Result<Operand> {
    like(cuda, op, what, x, DType::F32, len)
}

fn forward(cuda: &Cuda, name: &'static str, op: &Linear<'_>, x: In<'_>, y: &Out<'_>) -> Result<Product> {
    let &Linear { m, n, k, .. } = op;
    let bias = match op.bias {
        Some(bias) => Some(operand(cuda.expect_float(name, "bias", bias, n)?, bias.dtype)),
        None => None,
    };
    Ok(Product {
        layout: Layout::NT,
        batch: 1,
        m,
        n,
        k,
        alpha: 1.0,
        add: false,
        a: active(cuda, name, "x", x, volume(name, &[m, k])?)?,
        b: weight(cuda, name, op.w, n, k)?,
        c: like(cuda, name, "y", y.as_in(), x.dtype, volume(name, &[m, n])?)?,
        bias,
        tail: None,
    })
}

fn backward(cuda: &Cuda, name: &'static str, op: &Linear<'_>, gy: In<'_>, dx: &Slot<'_>) -> Result<Product> {
    let &Linear { m, n, k, .. } = op;
    Ok(Product {
        layout: Layout::NN,
        batch: 1,
        m,
        n: k,
        k: n,
        alpha: 1.0,
        add: dx.mode == Mode::Add,
        a: active(cuda, name, "gy", gy, volume(name, &[m, n])?)?,
        b: weight(cuda, name, op.w, n, k)?,
        c: like(cuda, name, "dx", dx.out.as_in(), gy.dtype, volume(name, &[m, k])?)?,
        bias: None,
        tail: None,
    })
}

/// `y = x Wᵀ (+ bias)`.
pub(crate) fn linear_forward(cuda: &Cuda, op: &Linear<'_>, x: In<'_>, y: Out<'_>) -> Result<()> {
    const OP: &str = "linear_forward";
    run(cuda, OP, &forward(cuda, OP, op, x, &y)?, op.precision)
}

/// `dx (+)= gy W`.
pub(crate) fn linear_backward(cuda: &Cuda, op: &Linear<'_>, gy: In<'_>, dx: Slot<'_>) -> Result<()> {
    const OP: &str = "linear_backward";
    run(cuda, OP, &backward(cuda, OP, op, gy, &dx)?, op.precision)
}

/// A and B, checked.
fn factors(cuda: &Cuda, name: &'static str, op: &Lora<'_>) -> Result<(Operand, Operand)> {
    let a = f32s(cuda, name, "a", op.a, volume(name, &[op.r, op.base.k])?)?;
    let b = f32s(cuda, name, "b", op.b, volume(name, &[op.base.n, op.r])?)?;
    Ok((a, b))
}

/// How a sum into rank r over a matrix `[m,c]` is cut, if there is a kernel for it: on tensor cores where products are of
/// bf16, else in f32.
fn plan(op: &Lora<'_>, m: usize, c: usize) -> Option<Plan> {
    let plan = Plan::new(m, c, op.r)?;
    Some(if op.base.precision == Precision::Bf16 { plan.tensor() } else { plan })
}

/// x̂ in memory of its own, where a plain product needs it.
fn dropped(cuda: &Cuda, op: &Lora<'_>, d: &Dropout, x: In<'_>) -> Result<Box<dyn Buffer>> {
    let mut t: Box<dyn Buffer> = Box::new(cuda.scratch(x.len)?);
    crate::elementwise::dropout(cuda, d, op.scalars, x, Out::new(&mut *t, DType::F32, x.len).set())?;
    Ok(t)
}

/// Runs a product with x̂ as its operand.
fn with_dropped(cuda: &Cuda, op: &Lora<'_>, x: In<'_>, f: impl FnOnce(In<'_>) -> Result<()>) -> Result<()> {
    match &op.dropout {
        Some(d) => f(In::new(&*dropped(cuda, op, d, x)?, DType::F32, x.len)),
        None => f(x),
    }
}

/// `h = x̂ Aᵀ`, `y = x Wᵀ + s h Bᵀ (+ bias)`.
pub(crate) fn lora_forward(cuda: &Cuda, op: &Lora<'_>, x: In<'_>, y: Out<'_>, h: Out<'_>) -> Result<()> {
    const OP: &str = "lora_forward";
    let (m, k, r) = (op.base.m, op.base.k, op.r);
    let (a, b) = factors(cuda, OP, op)?;
    let to = f32s(cuda, OP, "h", h.as_in(), volume(OP, &[m, r])?)?;
    let tail = Some(Tail { a: to, b, r, s: op.scale as f32, dropout: None });
    let product = Product { tail, ..forward(cuda, OP, &op.base, x, &y)? };
    let rounded = Rounded::new(cuda, &product, op.base.precision)?;
    let mask = op.dropout.map(|d| mask(cuda, OP, &d, op.scalars)).transpose()?;
    match plan(op, m, k) {
        Some(plan) => {
            let scratch = cuda.memory(plan.scratch())?;
            let plan = plan.copying(rounded.as_ref().map(Rounded::left).unwrap_or_default());
            let launches = plan.h(product.a, a, to, mask, scratch.address()).map_err(too_large(OP))?;
            cuda.run_planned(OP, &launches)?;
        }
        None => with_dropped(cuda, op, x, |x| gemm(cuda, &Gemm::nt(m, r, k), x, op.a, h.set()))?,
    }
    run(cuda, OP, &rounded.as_ref().map_or(product, Rounded::product), op.base.precision)
}

/// `u = s gy B; db (+)= s gyᵀ h; da (+)= uᵀ x̂; dx (+)= gy W + (u A) ⊙ mask`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn lora_backward(
    cuda: &Cuda,
    op: &Lora<'_>,
    x: In<'_>,
    h: In<'_>,
    gy: In<'_>,
    dx: Option<Slot<'_>>,
    da: Option<Slot<'_>>,
    db: Option<Slot<'_>>,
) -> Result<()> {
    const OP: &str = "lora_backward";
    let (m, n, k, r, scale) = (op.base.m, op.base.n, op.base.k, op.r, op.scale);
    let (a, b) = factors(cuda, OP, op)?;
    let x_at = active(cuda, OP, "x", x, volume(OP, &[m, k])?)?;
    let h_at = f32s(cuda, OP, "h", h, volume(OP, &[m, r])?)?;
    let gy_at = like(cuda, OP, "gy", gy, x.dtype, volume(OP, &[m, n])?)?;
    let mask = op.dropout.map(|d| mask(cuda, OP, &d, op.scalars)).transpose()?;
    let sum = |what, slot: &Slot<'_>, len| -> Result<Sum> {
        Ok(Sum { out: f32s(cuda, OP, what, slot.out.as_in(), len)?, add: slot.mode == Mode::Add })
    };
    let wants_u = dx.is_some() || da.is_some();
    if !wants_u && db.is_none() {
        return Ok(());
    }
    let mut u: Box<dyn Buffer> = Box::new(cuda.scratch(if wants_u { m * r } else { 0 })?);
    let u_len = if wants_u { m * r } else { 0 };
    let u_at = f32s(cuda, OP, "u", In::new(&*u, DType::F32, u_len), u_len)?;
    let product = match &dx {
        Some(dx) => {
            let tail = Some(Tail { a: u_at, b: a, r, s: 1.0, dropout: mask });
            Some(Product { tail, ..backward(cuda, OP, &op.base, gy, dx)? })
        }
        None => None,
    };
    let rounded = product.as_ref().map(|p| Rounded::new(cuda, p, op.base.precision)).transpose()?.flatten();
    match plan(op, m, n) {
        Some(plan) => {
            let plan = plan.copying(rounded.as_ref().map(Rounded::left).unwrap_or_default());
            let db = db.as_ref().map(|slot| sum("db", slot, n * r)).transpose()?;
            let scratch = cuda.memory(plan.scratch())?;
            let (u, db) = (wants_u.then_some((b, u_at)), db.map(|slot| (h_at, slot)));
            let launches = plan.u_db(gy_at, u, db, scale as f32, scratch.address()).map_err(too_large(OP))?;
            cuda.run_planned(OP, &launches)?;
        }
        None => {
            if let Some(db) = db {
                gemm(cuda, &Gemm::tn(n, r, m).alpha(scale), gy, h, db)?;
            }
            if wants_u {
                gemm(cuda, &Gemm::nn(m, r, n).alpha(scale), gy, op.b, Out::new(&mut *u, DType::F32, u_len).set())?;
            }
        }
    }
    let u = In::new(&*u, DType::F32, u_len);
    if let Some(da) = da {
        match plan(op, m, k) {
            Some(plan) => {
                let scratch = cuda.memory(plan.scratch())?;
                let da = sum("da", &da, r * k)?;
                let launches = plan.da(x_at, u_at, da, mask, scratch.address()).map_err(too_large(OP))?;
                cuda.run_planned(OP, &launches)?;
            }
            None => with_dropped(cuda, op, x, |x| gemm(cuda, &Gemm::tn(r, k, m), u, x, da))?,
        }
    }
    let Some(product) = product else { return Ok(()) };
    run(cuda, OP, &rounded.as_ref().map_or(product, Rounded::product), op.base.precision)
}
