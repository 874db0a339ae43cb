//! map, zip, fill and dropout: any float storage.

use bytemuck::NoUninit;
use lowrank_backend::{Broadcast, DType, Dropout, Error, In, MAX_RANK, Map, Out, Result, Scalars, Slot, Zip};
use lowrank_kernels as kernels;

use crate::Cuda;
use crate::launch::{add, code, volume};

/// A dropout site as kernels take it: `Dropout` of `philox.cuh`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
pub(crate) struct Site {
    key: [u32; 2],
    stream: u32,
    threshold: u32,
    keep_scale: f32,
}

impl Site {
    pub fn new(op: &Dropout) -> Self {
        Site {
            key: [op.seed as u32, (op.seed >> 32) as u32],
            stream: op.stream,
            threshold: op.threshold(),
            keep_scale: op.keep_scale() as f32,
        }
    }
}

/// See [`Map`].
pub(crate) fn map(cuda: &Cuda, op: Map, x: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "map";
    let from = cuda.expect_float(OP, "x", x, x.len)?;
    let to = cuda.expect_float(OP, "y", y.out.as_in(), x.len)?;
    let (kind, c, d) = match op {
        Map::Copy => (0, 0.0, 0.0),
        Map::Affine(c, d) => (1, c, d),
        Map::Exp => (2, 0.0, 0.0),
        Map::Log => (3, 0.0, 0.0),
        Map::Sqrt => (4, 0.0, 0.0),
        Map::Recip => (5, 0.0, 0.0),
        Map::Square => (6, 0.0, 0.0),
        Map::Tanh => (7, 0.0, 0.0),
        Map::Min(c) => (8, c, 0.0),
        Map::Max(c) => (9, c, 0.0),
        Map::Relu => (10, 0.0, 0.0),
        Map::Silu => (11, 0.0, 0.0),
        Map::GeluErf => (12, 0.0, 0.0),
        Map::GeluTanh => (13, 0.0, 0.0),
    };
    let mut l = cuda.launch(OP, &kernels::MAP, "map");
    l.u64s(&[to, from]).sizes(&[x.len]).u32s(&[code(y.out.dtype), code(x.dtype), add(y.mode), kind]).f32s(&[c, d]);
    l.run_elements(x.len.div_ceil(4))
}

/// The elements of a dense weight in another dtype.
pub(crate) fn cast(cuda: &Cuda, w: In<'_>, out: Out<'_>) -> Result<()> {
    w.expect("dequantise", "w", out.len)?;
    map(cuda, Map::Copy, w, out.set())
}

/// `Dims` of `zip.cu`.
#[derive(Clone, Copy, NoUninit)]
#[repr(C)]
struct Dims {
    size: [u64; MAX_RANK],
    a: [u64; MAX_RANK],
    b: [u64; MAX_RANK],
}

/// A broadcast with neighbouring dimensions merged where both operands allow it: (size, step in a, step in b), the last
/// dimension first.
fn merged(dims: &Broadcast) -> Vec<[usize; 3]> {
    let strides = |shape: &[usize]| {
        let mut steps = [0; MAX_RANK];
        let mut step = 1;
        for i in (0..shape.len()).rev() {
            steps[i] = if shape[i] == 1 { 0 } else { step };
            step *= shape[i];
        }
        steps
    };
    let (a, b) = (strides(dims.a()), strides(dims.b()));
    let mut out: Vec<[usize; 3]> = Vec::new();
    for d in (0..dims.rank()).rev().filter(|&d| dims.out(d) != 1) {
        match out.last_mut() {
            Some(inner) if a[d] == inner[0] * inner[1] && b[d] == inner[0] * inner[2] => inner[0] *= dims.out(d),
            _ => out.push([dims.out(d), a[d], b[d]]),
        }
    }
    out
}

/// See [`Zip`].
pub(crate) fn zip(cuda: &Cuda, op: Zip, dims: &Broadcast, a: In<'_>, b: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "zip";
    volume(OP, &(0..dims.rank()).map(|i| dims.out(i)).collect::<Vec<_>>())?;
    let (a_len, b_len, len) = dims.lens();
    let indices = op == Zip::Equal && a.dtype == DType::U32 && b.dtype == DType::U32;
    let operand = |what, x, n| {
        if indices { cuda.expect(OP, what, x, DType::U32, n) } else { cuda.expect_float(OP, what, x, n) }
    };
    let (a_at, b_at) = (operand("a", a, a_len)?, operand("b", b, b_len)?);
    let to = cuda.expect_float(OP, "y", y.out.as_in(), len)?;
    let kind = match op {
        Zip::Add => 0,
        Zip::Sub => 1,
        Zip::Mul => 2,
        Zip::Div => 3,
        Zip::Equal => 4,
        Zip::ReluGrad => 5,
        Zip::SiluGrad => 6,
        Zip::GeluErfGrad => 7,
        Zip::GeluTanhGrad => 8,
    };
    let dims = merged(dims);
    let same = !indices && (dims.is_empty() || dims.len() == 1 && dims[0][1] == 1 && dims[0][2] == 1);
    let mut l = cuda.launch(OP, &kernels::ZIP, if same { "zip_same" } else { "zip" });
    l.u64s(&[to, a_at, b_at]).sizes(&[len]).u32s(&[code(y.out.dtype), code(a.dtype), code(b.dtype), add(y.mode), kind]);
    if same {
        return l.run_elements(len.div_ceil(4));
    }
    let mut packed = Dims { size: [1; MAX_RANK], a: [0; MAX_RANK], b: [0; MAX_RANK] };
    for (i, [size, in_a, in_b]) in dims.iter().enumerate() {
        (packed.size[i], packed.a[i], packed.b[i]) = (*size as u64, *in_a as u64, *in_b as u64);
    }
    l.u32s(&[dims.len() as u32]).arg(&packed).run_elements(len)
}

/// Every element to `value`.
pub(crate) fn fill(cuda: &Cuda, value: f64, dst: Out<'_>) -> Result<()> {
    const OP: &str = "fill";
    let to = cuda.address(OP, "destination", dst.as_in())?;
    let v = value as f32;
    let bits = match dst.dtype {
        DType::U32 if value.fract() != 0.0 || !(0.0..=f64::from(u32::MAX)).contains(&value) => {
            return Err(Error::invalid(OP, format!("{value} is no u32")));
        }
        DType::U32 => value as u32,
        DType::BF16 => u32::from(half::bf16::from_f32(v).to_bits()),
        DType::F16 => u32::from(half::f16::from_f32(v).to_bits()),
        _ => v.to_bits(),
    };
    let entry = if dst.dtype.size() == 2 { "fill_16" } else { "fill_32" };
    let mut l = cuda.launch(OP, &kernels::COPY, entry);
    l.u64s(&[to]).sizes(&[dst.len]).u32s(&[bits]).run_elements(dst.len)
}

/// See [`Dropout`].
pub(crate) fn dropout(cuda: &Cuda, op: &Dropout, scalars: In<'_>, x: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "dropout";
    check_dropout(OP, op)?;
    let from = cuda.expect_float(OP, "x", x, x.len)?;
    let to = cuda.expect_float(OP, "y", y.out.as_in(), x.len)?;
    let scalars = cuda.expect(OP, "scalars", scalars, DType::F32, Scalars::LEN)?;
    let mut l = cuda.launch(OP, &kernels::DROPOUT, "dropout");
    l.u64s(&[to, from, scalars]).sizes(&[x.len]).u32s(&[code(y.out.dtype), code(x.dtype), add(y.mode)]);
    l.arg(&Site::new(op)).run_elements(x.len.div_ceil(4))
}

/// Fails unless 0 ≤ p < 1.
pub(crate) fn check_dropout(op: &'static str, dropout: &Dropout) -> Result<()> {
    if (0.0..1.0).contains(&dropout.p) {
        return Ok(());
    }
    Err(Error::invalid(op, format!("p = {} is not in [0, 1)", dropout.p)))
}
