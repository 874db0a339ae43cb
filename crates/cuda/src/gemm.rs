//! Products. Which tiles, and how they are cut, is planned in `kernels/`.

use lowrank_backend::{DType, Dropout, Error, Gemm, In, Precision, Result, Scalars, Slot};
use lowrank_kernels::decode;
use lowrank_kernels::gemm::{Gemm as Product, Layout, Math};
use lowrank_kernels::launch::{Dropout as Mask, Operand, TooLarge, Type};

use crate::Cuda;
use crate::launch::volume;

/// A view of a float dtype as kernels take it.
pub(crate) fn operand(at: u64, dtype: DType) -> Operand {
    let ty = match dtype {
        DType::BF16 => Type::Bf16,
        DType::F16 => Type::F16,
        _ => Type::F32,
    };
    Operand::new(at, ty)
}

/// A dropout site as kernels take it.
pub(crate) fn mask(cuda: &Cuda, op: &'static str, d: &Dropout, scalars: In<'_>) -> Result<Mask> {
    crate::elementwise::check_dropout(op, d)?;
    let scalars = cuda.expect(op, "scalars", scalars, DType::F32, Scalars::LEN)?;
    let (seed, stream) = (d.seed, d.stream);
    Ok(Mask { scalars, seed, stream, threshold: d.threshold(), keep: d.keep_scale() as f32 })
}

/// What is too large for a kernel, as an error.
pub(crate) fn too_large(op: &'static str) -> impl Fn(TooLarge) -> Error {
    move |e| Error::invalid(op, e.to_string())
}

/// See [`Gemm`].
pub(crate) fn gemm(cuda: &Cuda, op: &Gemm, a: In<'_>, b: In<'_>, c: Slot<'_>) -> Result<()> {
    const OP: &str = "gemm";
    let &Gemm { batch, m, n, k, ta, tb, alpha, precision } = op;
    let layout = match (ta, tb) {
        (false, false) => Layout::NN,
        (false, true) => Layout::NT,
        (true, false) => Layout::TN,
        (true, true) => return Err(Error::invalid(OP, "both operands transposed")),
    };
    let a_at = cuda.expect_float(OP, "a", a, volume(OP, &[batch, m, k])?)?;
    let b_at = cuda.expect_float(OP, "b", b, volume(OP, &[batch, k, n])?)?;
    let c_at = cuda.activation(OP, "c", c.out.as_in(), volume(OP, &[batch, m, n])?)?;
    let product = Product {
        layout,
        batch,
        m,
        n,
        k,
        alpha: alpha as f32,
        add: c.mode == lowrank_backend::Mode::Add,
        a: operand(a_at, a.dtype),
        b: operand(b_at, b.dtype),
        c: operand(c_at, c.out.dtype),
        bias: None,
        tail: None,
    };
    run(cuda, OP, &product, precision)
}

/// Whether both operands are bf16: products of two such numbers are exact in f32.
pub(crate) fn native(p: &Product) -> bool {
    p.a.ty == Type::Bf16 && p.b.ty == Type::Bf16
}

/// Whether the kernel for a few rows against a weight takes it.
pub(crate) fn few_rows(p: &Product) -> bool {
    let masked = p.tail.is_some_and(|tail| tail.dropout.is_some());
    p.layout == Layout::NT && p.batch == 1 && p.m <= decode::MAX_ROWS && !masked
}

/// Puts a product on the stream. A few rows against a weight are bound by the bytes of the weight, so they have a kernel of
/// their own, which computes in f32 whatever the precision.
pub(crate) fn run(cuda: &Cuda, op: &'static str, p: &Product, precision: Precision) -> Result<()> {
    if few_rows(p) {
        let tail = p.tail.map(|t| decode::Tail { h: t.a, b: t.b, r: t.r, s: t.s });
        let &Product { m, n, k, alpha, add, a, b, c, bias, .. } = p;
        let few = decode::Decode { m, n, k, x: a, w: b, y: c, bias, tail, alpha, add };
        return cuda.run_planned(op, few.launch().map_err(too_large(op))?.as_slice());
    }
    // Hopper's kernels round the low-rank part.
    if (precision == Precision::Bf16 || native(p) && p.tail.is_none()) && crate::hopper::product(cuda, op, p)? {
        return Ok(());
    }
    let f16 = p.a.ty == Type::F16 && p.b.ty == Type::F16;
    let launches = match precision {
        _ if native(p) => p.tensor(Math::Native),
        Precision::Full if f16 && p.tail.is_none() => p.tensor(Math::Native),
        Precision::Full => p.launches(),
        Precision::Bf16 => p.tensor(Math::Bf16),
        Precision::Bf16x3 => p.tensor(Math::Bf16x3),
        Precision::Tf32 => p.tensor(Math::Tf32),
    };
    cuda.run_planned(op, &launches.map_err(too_large(op))?)
}
