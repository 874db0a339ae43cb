//! map, zip, fill and dropout: one word of the result per invocation, any float storage.

use lowrank_backend::{Broadcast, DType, Dropout, Error, In, MAX_RANK, Map, Out, Result, Scalars, Slot, Zip};
use lowrank_shaders as shaders;

use crate::Wgpu;
use crate::launch::{Launch, add, code, volume};

/// The host's half of a dropout site.
pub(crate) fn mask_params(launch: &mut Launch<'_>, op: &Dropout) {
    launch.u32s(&[op.seed as u32, (op.seed >> 32) as u32, op.stream, op.threshold()]).f32s(&[op.keep_scale()]);
}

/// See [`Map`].
pub(crate) fn map(wgpu: &Wgpu, op: Map, x: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "map";
    wgpu.expect_float(OP, "x", x, x.len)?;
    wgpu.expect_float(OP, "y", y.out.as_in(), x.len)?;
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
    let mut y = y;
    for (start, len) in pieces(wgpu, &[x.dtype, y.out.dtype], x.len) {
        let (x, y) = (x.narrow(start, len), y.reborrow());
        let (mode, y) = (y.mode, y.out.narrow(start, len));
        let mut launch = wgpu.launch(OP, &shaders::MAP, "main");
        let y_start = launch.output("y", &y)?;
        let x_start = launch.input("x", x)?;
        launch.sizes(&[len])?.u32s(&[y_start, x_start]).f32s(&[c, d]);
        launch.constant("OP", kind).constant("X_TYPE", code(x.dtype)).constant("Y_TYPE", code(y.dtype));
        launch.constant("ADD", add(mode)).run_elements(&y)?;
    }
    Ok(())
}

/// Cuts `len` elements of the largest of some dtypes into pieces that can be bound, at multiples of 4 elements.
pub(crate) fn pieces(wgpu: &Wgpu, dtypes: &[DType], len: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
    let size = dtypes.iter().map(|d| d.size()).max().unwrap_or(4);
    let most = ((wgpu.max_binding() as usize / size) & !255).max(256);
    (0..len).step_by(most).map(move |start| (start, most.min(len - start)))
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
pub(crate) fn zip(wgpu: &Wgpu, op: Zip, dims: &Broadcast, a: In<'_>, b: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "zip";
    volume(OP, &(0..dims.rank()).map(|i| dims.out(i)).collect::<Vec<_>>())?;
    let (a_len, b_len, len) = dims.lens();
    let indices = op == Zip::Equal && a.dtype == DType::U32 && b.dtype == DType::U32;
    if indices {
        wgpu.expect(OP, "a", a, DType::U32, a_len)?;
        wgpu.expect(OP, "b", b, DType::U32, b_len)?;
    } else {
        wgpu.expect_float(OP, "a", a, a_len)?;
        wgpu.expect_float(OP, "b", b, b_len)?;
    }
    wgpu.expect_float(OP, "y", y.out.as_in(), len)?;
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
    let (mode, y) = (y.mode, y.out);
    let mut launch = wgpu.launch(OP, &shaders::ZIP, "main");
    let y_start = launch.output("y", &y)?;
    let a_start = launch.input("a", a)?;
    let b_start = launch.input("b", b)?;
    launch.sizes(&[len])?.u32s(&[y_start, a_start, b_start, dims.len() as u32, 0, 0, 0]);
    for [size, in_a, in_b] in dims {
        launch.sizes(&[size, in_a, in_b, 0])?;
    }
    launch.constant("OP", kind).constant("A_TYPE", code(a.dtype)).constant("B_TYPE", code(b.dtype));
    launch.constant("Y_TYPE", code(y.dtype)).constant("ADD", add(mode)).run_elements(&y)
}

/// Every element to `value`.
pub(crate) fn fill(wgpu: &Wgpu, value: f64, dst: Out<'_>) -> Result<()> {
    const OP: &str = "fill";
    wgpu.block(OP, "destination", dst.as_in())?;
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
    let mut dst = dst;
    for (start, len) in pieces(wgpu, &[dst.dtype], dst.len) {
        let y = dst.reborrow().narrow(start, len);
        let mut launch = wgpu.launch(OP, &shaders::FILL, "main");
        let y_start = launch.output("destination", &y)?;
        launch.sizes(&[len])?.u32s(&[y_start, bits]);
        launch.constant("Y_TYPE", code(y.dtype)).run_elements(&y)?;
    }
    Ok(())
}

/// See [`Dropout`].
pub(crate) fn dropout(wgpu: &Wgpu, op: &Dropout, scalars: In<'_>, x: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "dropout";
    check_dropout(OP, op)?;
    wgpu.expect_float(OP, "x", x, x.len)?;
    wgpu.expect_float(OP, "y", y.out.as_in(), x.len)?;
    wgpu.expect(OP, "scalars", scalars, DType::F32, Scalars::LEN)?;
    let (mode, y) = (y.mode, y.out);
    let mut launch = wgpu.launch(OP, &shaders::DROPOUT, "main");
    let y_start = launch.output("y", &y)?;
    let x_start = launch.input("x", x)?;
    let scalars_start = launch.input("scalars", scalars)?;
    launch.sizes(&[x.len])?.u32s(&[y_start, x_start, scalars_start]);
    mask_params(&mut launch, op);
    launch.constant("X_TYPE", code(x.dtype)).constant("Y_TYPE", code(y.dtype));
    launch.constant("ADD", add(mode)).run_elements(&y)
}

/// Fails unless 0 ≤ p < 1.
pub(crate) fn check_dropout(op: &'static str, dropout: &Dropout) -> Result<()> {
    if (0.0..1.0).contains(&dropout.p) {
        return Ok(());
    }
    Err(Error::invalid(op, format!("p = {} is not in [0, 1)", dropout.p)))
}
