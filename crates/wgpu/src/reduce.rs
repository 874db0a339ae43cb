//! Sums and maxima. Rows longer than a chunk are reduced in two passes, so that one long row does not occupy a single
//! workgroup; the cut depends on the length alone.

use lowrank_backend::{Buffer, DType, In, Mode, Out, Reduce, Result, Slot};
use lowrank_shaders as shaders;

use crate::Wgpu;
use crate::launch::{add, code, volume};

/// Elements of a row that one workgroup reduces.
const CHUNK: usize = 16_384;

/// See [`Reduce`]; x `[outer, len, inner]` → y `[outer, inner]`.
pub(crate) fn reduce(wgpu: &Wgpu, op: Reduce, dims: [usize; 3], x: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "reduce";
    let [outer, len, inner] = dims;
    wgpu.expect_float(OP, "x", x, volume(OP, &dims)?)?;
    wgpu.expect_float(OP, "y", y.out.as_in(), volume(OP, &[outer, inner])?)?;
    if outer * inner == 0 {
        return Ok(());
    }
    if y.out.dtype != DType::F32 {
        // A narrow result is a cast of an f32 one.
        let t = wgpu.scratch(outer * inner)?;
        let mut t: Box<dyn Buffer> = Box::new(t);
        stage(wgpu, op, dims, x, Out::new(&mut *t, DType::F32, outer * inner), Mode::Set)?;
        return crate::elementwise::map(wgpu, lowrank_backend::Map::Copy, In::new(&*t, DType::F32, outer * inner), y);
    }
    if inner == 1 && outer == 1 && len > CHUNK {
        let (whole, rest) = (len / CHUNK, len % CHUNK);
        let parts = whole + usize::from(rest > 0);
        let mut t: Box<dyn Buffer> = Box::new(wgpu.scratch(parts)?);
        let mut t_out = Out::new(&mut *t, DType::F32, parts);
        stage(wgpu, op, [whole, CHUNK, 1], x.narrow(0, whole * CHUNK), t_out.reborrow().narrow(0, whole), Mode::Set)?;
        if rest > 0 {
            let tail = x.narrow(whole * CHUNK, rest);
            stage(wgpu, op, [1, rest, 1], tail, t_out.narrow(whole, 1), Mode::Set)?;
        }
        return stage(wgpu, op, [1, parts, 1], In::new(&*t, DType::F32, parts), y.out, y.mode);
    }
    stage(wgpu, op, dims, x, y.out, y.mode)
}

fn stage(wgpu: &Wgpu, op: Reduce, dims: [usize; 3], x: In<'_>, y: Out<'_>, mode: Mode) -> Result<()> {
    let [outer, _, inner] = dims;
    let entry = if inner == 1 { "rows" } else { "columns" };
    let mut launch = wgpu.launch("reduce", &shaders::REDUCE, entry);
    let y_start = launch.output("y", &y)?;
    let x_start = launch.input("x", x)?;
    launch.sizes(&dims)?.u32s(&[x_start, y_start]);
    launch.constant("MAXIMUM", u32::from(op == Reduce::Max)).constant("X_TYPE", code(x.dtype));
    launch.constant("ADD", add(mode));
    launch.run(if inner == 1 { outer as u64 } else { (outer * inner).div_ceil(256) as u64 })
}
