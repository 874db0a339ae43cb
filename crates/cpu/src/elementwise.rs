//! Elementwise functions of one and of two operands, with broadcasting.

use lowrank_backend::{Broadcast, DType, In, MAX_RANK, Map, Result, Slot, Zip};

use crate::math::{exp, silu, silu_grad};
use crate::parallel::float_pieces;
use crate::simd::kernel;
use crate::special::{gelu_erf, gelu_erf_grad, gelu_tanh, gelu_tanh_grad, ln, tanh};
use crate::view::{BLOCK, Floats, floats, floats_mut, u32s};

kernel! {
    /// `x ← f(x)`.
    fn apply[FMA](op: Map, x: &mut [f32]) {
        macro_rules! each {
            ($x:ident => $value:expr) => {
                for y in x.iter_mut() {
                    let $x = *y;
                    *y = $value;
                }
            };
        }
        match op {
            Map::Copy => {}
            Map::Affine(c, d) => {
                let (c, d) = (c as f32, d as f32);
                each!(x => c * x + d);
            }
            Map::Exp => each!(x => exp::<FMA>(x)),
            Map::Log => each!(x => ln::<FMA>(x)),
            Map::Sqrt => each!(x => x.sqrt()),
            Map::Recip => each!(x => 1.0 / x),
            Map::Square => each!(x => x * x),
            Map::Tanh => each!(x => tanh::<FMA>(x)),
            // Comparisons with NaN are false, so NaN stays.
            Map::Min(c) => {
                let c = c as f32;
                each!(x => if x > c { c } else { x });
            }
            Map::Max(c) => {
                let c = c as f32;
                each!(x => if x < c { c } else { x });
            }
            Map::Relu => each!(x => if x < 0.0 { 0.0 } else { x }),
            Map::Silu => each!(x => silu::<FMA>(x)),
            Map::GeluErf => each!(x => gelu_erf::<FMA>(x)),
            Map::GeluTanh => each!(x => gelu_tanh::<FMA>(x)),
        }
    }
}

/// See [`Map`].
pub(crate) fn map(op: Map, x: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "map";
    let len = x.len;
    let x = floats(OP, "x", x, len)?;
    let mode = y.mode;
    let y = floats_mut(OP, "y", y.out, len)?;
    float_pieces(y, |start, piece| {
        piece.write(mode, |values| {
            x.load(start, values);
            apply(op, values);
        });
    });
    Ok(())
}

kernel! {
    /// `a ← f(a, b)`.
    fn combine[FMA](op: Zip, a: &mut [f32], b: &[f32]) {
        macro_rules! each {
            ($a:ident, $b:ident => $value:expr) => {
                for (y, &$b) in a.iter_mut().zip(b) {
                    let $a = *y;
                    *y = $value;
                }
            };
        }
        match op {
            Zip::Add => each!(a, b => a + b),
            Zip::Sub => each!(a, b => a - b),
            Zip::Mul => each!(a, b => a * b),
            Zip::Div => each!(a, b => a / b),
            Zip::Equal => each!(a, b => if a == b { 1.0 } else { 0.0 }),
            Zip::ReluGrad => each!(a, b => if a > 0.0 { b } else { 0.0 }),
            Zip::SiluGrad => each!(a, b => silu_grad::<FMA>(a) * b),
            Zip::GeluErfGrad => each!(a, b => gelu_erf_grad::<FMA>(a) * b),
            Zip::GeluTanhGrad => each!(a, b => gelu_tanh_grad::<FMA>(a) * b),
        }
    }
}

/// A broadcast with neighbouring dimensions merged where both operands allow it: a few outer dimensions, and a last one
/// in which each operand has step 0 or 1.
struct Layout {
    rank: usize,
    dims: [usize; MAX_RANK],
    /// Distance between neighbours in a and b.
    strides: [[usize; MAX_RANK]; 2],
}

impl Layout {
    fn new(dims: &Broadcast) -> Self {
        let mut merged = Layout { rank: 0, dims: [1; MAX_RANK], strides: [[0; MAX_RANK]; 2] };
        let strides = [strides(dims.a()), strides(dims.b())];
        for d in (0..dims.rank()).filter(|&d| dims.out(d) != 1) {
            let (size, step) = (dims.out(d), [strides[0][d], strides[1][d]]);
            let last = merged.rank.wrapping_sub(1);
            if merged.rank > 0 && (0..2).all(|i| merged.strides[i][last] == step[i] * size) {
                merged.dims[last] *= size;
                (merged.strides[0][last], merged.strides[1][last]) = (step[0], step[1]);
            } else {
                merged.dims[merged.rank] = size;
                (merged.strides[0][merged.rank], merged.strides[1][merged.rank]) = (step[0], step[1]);
                merged.rank += 1;
            }
        }
        merged.rank = merged.rank.max(1);
        merged
    }

    /// Calls `f(position in the result, length, offsets of a and b, steps)` for the parts of rows inside
    /// `start .. start + len` of the result.
    fn runs(&self, start: usize, len: usize, mut f: impl FnMut(usize, usize, [usize; 2], [usize; 2])) {
        let last = self.rank - 1;
        let (cols, steps) = (self.dims[last], [self.strides[0][last], self.strides[1][last]]);
        let mut at = start;
        while at < start + len {
            let (mut row, col) = (at / cols, at % cols);
            let mut offsets = steps.map(|step| col * step);
            for d in (0..last).rev() {
                let i = row % self.dims[d];
                row /= self.dims[d];
                (offsets[0], offsets[1]) = (offsets[0] + i * self.strides[0][d], offsets[1] + i * self.strides[1][d]);
            }
            let count = (cols - col).min(start + len - at);
            f(at - start, count, offsets, steps);
            at += count;
        }
    }
}

fn strides(shape: &[usize]) -> [usize; MAX_RANK] {
    let mut strides = [0; MAX_RANK];
    let mut step = 1;
    for (d, &size) in shape.iter().enumerate().rev() {
        strides[d] = if size == 1 { 0 } else { step };
        step *= size;
    }
    strides
}

/// Elements of one run into `out`: consecutive ones, or one repeated.
fn load_run(x: Floats<'_>, offset: usize, step: usize, out: &mut [f32]) {
    if step == 1 {
        return x.load(offset, out);
    }
    let mut one = [0.0];
    x.load(offset, &mut one);
    out.fill(one[0]);
}

/// See [`Zip`] and [`Broadcast`].
pub(crate) fn zip(op: Zip, dims: &Broadcast, a: In<'_>, b: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "zip";
    let (a_len, b_len, len) = dims.lens();
    let mode = y.mode;
    if op == Zip::Equal && a.dtype == DType::U32 && b.dtype == DType::U32 {
        return equal_ids(dims, u32s(OP, "a", a, a_len)?, u32s(OP, "b", b, b_len)?, y);
    }
    let (a, b) = (floats(OP, "a", a, a_len)?, floats(OP, "b", b, b_len)?);
    let y = floats_mut(OP, "y", y.out, len)?;
    let layout = Layout::new(dims);
    float_pieces(y, |start, piece| {
        piece.write(mode, |values| {
            let mut buffer = [0.0; BLOCK];
            let other = &mut buffer[..values.len()];
            layout.runs(start, values.len(), |at, count, [ia, ib], [sa, sb]| {
                load_run(a, ia, sa, &mut values[at..at + count]);
                load_run(b, ib, sb, &mut other[at..at + count]);
            });
            combine(op, values, other);
        });
    });
    Ok(())
}

fn equal_ids(dims: &Broadcast, a: &[u32], b: &[u32], y: Slot<'_>) -> Result<()> {
    let (mode, len) = (y.mode, dims.lens().2);
    let y = floats_mut("zip", "y", y.out, len)?;
    let layout = Layout::new(dims);
    float_pieces(y, |start, piece| {
        piece.write(mode, |values| {
            layout.runs(start, values.len(), |at, count, [ia, ib], [sa, sb]| {
                for (i, value) in values[at..at + count].iter_mut().enumerate() {
                    *value = if a[ia + i * sa] == b[ib + i * sb] { 1.0 } else { 0.0 };
                }
            });
        });
    });
    Ok(())
}
