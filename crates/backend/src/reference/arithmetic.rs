//! Products, elementwise functions, reductions, dropout.

use super::NAME;
use super::element::{load, load_floats, put, store};
use crate::*;

pub(super) fn fill(value: f64, dst: Out<'_>) -> Result<()> {
    if dst.dtype == DType::U32 && (value.fract() != 0.0 || !(0.0..=f64::from(u32::MAX)).contains(&value)) {
        return Err(Error::invalid("fill", format!("{value} is no u32")));
    }
    let values = vec![value; dst.len];
    store("fill", dst, &values)
}

pub(super) fn gemm(op: &Gemm, a: In<'_>, b: In<'_>, c: Slot<'_>) -> Result<()> {
    const OP: &str = "gemm";
    let &Gemm { batch, m, n, k, ta, tb, alpha, precision } = op;
    if precision != Precision::Full {
        return Err(Error::unsupported(OP, NAME, format!("precision {}", precision.name())));
    }
    if ta && tb {
        return Err(Error::unsupported(OP, NAME, "a product of two transposed matrices"));
    }
    a.expect(OP, "a", batch * m * k)?;
    b.expect(OP, "b", batch * k * n)?;
    c.out.expect(OP, "c", batch * m * n)?;
    let (a, b) = (load_floats(OP, "a", a)?, load_floats(OP, "b", b)?);
    // (distance between rows, distance between columns)
    let (ai, ap) = if ta { (1, m) } else { (k, 1) };
    let (bp, bj) = if tb { (1, k) } else { (n, 1) };
    let mut out = Vec::with_capacity(batch * m * n);
    for z in 0..batch {
        let (a, b) = (&a[z * m * k..][..m * k], &b[z * k * n..][..k * n]);
        for i in 0..m {
            for j in 0..n {
                let sum: f64 = (0..k).map(|p| a[i * ai + p * ap] * b[p * bp + j * bj]).sum();
                // `Sum` starts from −0.
                out.push(alpha * (sum + 0.0));
            }
        }
    }
    put(OP, c, out)
}

fn apply(op: Map, x: f64) -> f64 {
    match op {
        Map::Copy => x,
        Map::Affine(c, d) => c * x + d,
        Map::Exp => x.exp(),
        Map::Log => x.ln(),
        Map::Sqrt => x.sqrt(),
        Map::Recip => 1.0 / x,
        Map::Square => x * x,
        Map::Tanh => x.tanh(),
        // In this order a NaN fails the comparison and stays.
        Map::Min(c) => {
            if x > c {
                c
            } else {
                x
            }
        }
        Map::Max(c) => {
            if x < c {
                c
            } else {
                x
            }
        }
        Map::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Map::Silu => math::silu(x),
        Map::GeluErf => math::gelu_erf(x),
        Map::GeluTanh => math::gelu_tanh(x),
    }
}

pub(super) fn map(op: Map, x: In<'_>, y: Slot<'_>) -> Result<()> {
    y.out.expect("map", "y", x.len)?;
    let mut values = load_floats("map", "x", x)?;
    values.iter_mut().for_each(|v| *v = apply(op, *v));
    put("map", y, values)
}

fn combine(op: Zip, a: f64, b: f64) -> f64 {
    match op {
        Zip::Add => a + b,
        Zip::Sub => a - b,
        Zip::Mul => a * b,
        Zip::Div => a / b,
        Zip::Equal => f64::from(u8::from(a == b)),
        Zip::ReluGrad => {
            if a > 0.0 {
                b
            } else {
                0.0
            }
        }
        Zip::SiluGrad => math::silu_grad(a) * b,
        Zip::GeluErfGrad => math::gelu_erf_grad(a) * b,
        Zip::GeluTanhGrad => math::gelu_tanh_grad(a) * b,
    }
}

/// Distance of each dimension's neighbours in a contiguous tensor; 0 where it is broadcast.
fn broadcast_strides(shape: &[usize]) -> [usize; MAX_RANK] {
    let mut strides = [0; MAX_RANK];
    let mut step = 1;
    for (i, &n) in shape.iter().enumerate().rev() {
        strides[i] = if n == 1 { 0 } else { step };
        step *= n;
    }
    strides
}

pub(super) fn zip(op: Zip, dims: &Broadcast, a: In<'_>, b: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "zip";
    let (a_len, b_len, len) = dims.lens();
    a.expect(OP, "a", a_len)?;
    b.expect(OP, "b", b_len)?;
    y.out.expect(OP, "y", len)?;
    let indices = a.dtype == DType::U32 && b.dtype == DType::U32;
    let (a, b) = if op == Zip::Equal && indices {
        (load(OP, a)?, load(OP, b)?)
    } else {
        (load_floats(OP, "a", a)?, load_floats(OP, "b", b)?)
    };
    let (sa, sb) = (broadcast_strides(dims.a()), broadcast_strides(dims.b()));
    let values = (0..len).map(|flat| {
        let (mut rest, mut ia, mut ib) = (flat, 0, 0);
        for d in (0..dims.rank()).rev() {
            let at = rest % dims.out(d);
            rest /= dims.out(d);
            ia += at * sa[d];
            ib += at * sb[d];
        }
        combine(op, a[ia], b[ib])
    });
    let values = values.collect();
    put(OP, y, values)
}

pub(super) fn reduce(op: Reduce, dims: [usize; 3], x: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "reduce";
    let [outer, len, inner] = dims;
    x.expect(OP, "x", outer * len * inner)?;
    y.out.expect(OP, "y", outer * inner)?;
    let x = load_floats(OP, "x", x)?;
    let mut values = Vec::with_capacity(outer * inner);
    for o in 0..outer {
        for i in 0..inner {
            let column = (0..len).map(|l| x[(o * len + l) * inner + i]);
            values.push(match op {
                Reduce::Sum => column.fold(0.0, |sum, v| sum + v),
                Reduce::Max => column.fold(f64::NEG_INFINITY, |max, v| if v.is_nan() || v > max { v } else { max }),
            });
        }
    }
    put(OP, y, values)
}

pub(super) fn dropout(op: &Dropout, scalars: In<'_>, x: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "dropout";
    if !(0.0..1.0).contains(&op.p) {
        return Err(Error::invalid(OP, format!("probability {} is not in [0, 1)", op.p)));
    }
    scalars.expect(OP, "scalars", Scalars::LEN)?;
    y.out.expect(OP, "y", x.len)?;
    let step = load_floats(OP, "scalars", scalars)?[Scalars::STEP] as u32;
    let mut values = load_floats(OP, "x", x)?;
    for (i, v) in values.iter_mut().enumerate() {
        let keep = philox::word(op.seed, op.stream, step, i as u64) >= op.threshold();
        *v = if keep { *v * op.keep_scale() } else { 0.0 };
    }
    put(OP, y, values)
}
