//! From the trait's untyped views to checked typed slices.

use std::any::Any;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use lowrank_backend::{DType, Element, Error, In, Mode, Out, Result};

use crate::NAME;
use crate::buffer::CpuBuffer;
use crate::parallel::with_scratch;
use crate::simd::kernel;

/// The product of sizes, unless it overflows.
pub(crate) fn volume(op: &'static str, sizes: &[usize]) -> Result<usize> {
    let product = sizes.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
    product.ok_or_else(|| Error::shape(op, format!("sizes {sizes:?} overflow")))
}

fn foreign(op: &'static str) -> Error {
    Error::DeviceMismatch { op, left: NAME.to_string(), right: "another device".to_string() }
}

/// The error for a dtype that is not among `expected`.
pub(crate) fn wrong_dtype(op: &'static str, what: &str, got: DType, expected: &str) -> Error {
    match got {
        DType::F64 => Error::unsupported(op, NAME, format!("f64 ({what}); use the reference device")),
        got => Error::dtype(op, what, got, expected),
    }
}

/// The bytes of a view of `len` elements of any dtype.
pub(crate) fn bytes<'a>(op: &'static str, what: &str, x: In<'a>, len: usize) -> Result<&'a [u8]> {
    let any: &dyn Any = x.buffer;
    let buffer = any.downcast_ref::<CpuBuffer>().ok_or_else(|| foreign(op))?;
    x.expect(op, what, len)?;
    let size = x.dtype.size();
    Ok(&buffer.as_bytes()[x.offset * size..][..len * size])
}

/// The bytes of a view of `len` elements of any dtype, to write.
pub(crate) fn bytes_mut<'a>(op: &'static str, what: &str, y: Out<'a>, len: usize) -> Result<&'a mut [u8]> {
    y.expect(op, what, len)?;
    let any: &mut dyn Any = y.buffer;
    let buffer = any.downcast_mut::<CpuBuffer>().ok_or_else(|| foreign(op))?;
    let size = y.dtype.size();
    Ok(&mut buffer.as_bytes_mut()[y.offset * size..][..len * size])
}

fn typed<'a, T: Element>(op: &'static str, what: &str, x: In<'a>, len: usize) -> Result<&'a [T]> {
    Ok(bytemuck::cast_slice(bytes(op, what, x, len)?))
}

fn typed_mut<'a, T: Element>(op: &'static str, what: &str, y: Out<'a>, len: usize) -> Result<&'a mut [T]> {
    Ok(bytemuck::cast_slice_mut(bytes_mut(op, what, y, len)?))
}

/// A view of `len` f32 elements.
pub(crate) fn f32s<'a>(op: &'static str, what: &str, x: In<'a>, len: usize) -> Result<&'a [f32]> {
    match x.dtype {
        DType::F32 => typed(op, what, x, len),
        other => Err(wrong_dtype(op, what, other, "f32")),
    }
}

/// A view of `len` f32 elements, to write.
pub(crate) fn f32s_mut<'a>(op: &'static str, what: &str, y: Out<'a>, len: usize) -> Result<&'a mut [f32]> {
    match y.dtype {
        DType::F32 => typed_mut(op, what, y, len),
        other => Err(wrong_dtype(op, what, other, "f32")),
    }
}

/// A view of `len` indices.
pub(crate) fn u32s<'a>(op: &'static str, what: &str, x: In<'a>, len: usize) -> Result<&'a [u32]> {
    match x.dtype {
        DType::U32 => typed(op, what, x, len),
        other => Err(Error::dtype(op, what, other, "u32")),
    }
}

/// A view of `len` indices, to write.
pub(crate) fn u32s_mut<'a>(op: &'static str, what: &str, y: Out<'a>, len: usize) -> Result<&'a mut [u32]> {
    match y.dtype {
        DType::U32 => typed_mut(op, what, y, len),
        other => Err(Error::dtype(op, what, other, "u32")),
    }
}

/// A view of `len` elements of a float dtype.
pub(crate) fn floats<'a>(op: &'static str, what: &str, x: In<'a>, len: usize) -> Result<Floats<'a>> {
    Ok(match x.dtype {
        DType::F32 => Floats::F32(typed(op, what, x, len)?),
        DType::BF16 => Floats::BF16(typed(op, what, x, len)?),
        DType::F16 => Floats::F16(typed(op, what, x, len)?),
        other => return Err(wrong_dtype(op, what, other, "f32, bf16 or f16")),
    })
}

/// A view of `len` elements of a float dtype, to write.
pub(crate) fn floats_mut<'a>(op: &'static str, what: &str, y: Out<'a>, len: usize) -> Result<FloatsMut<'a>> {
    Ok(match y.dtype {
        DType::F32 => FloatsMut::F32(typed_mut(op, what, y, len)?),
        DType::BF16 => FloatsMut::BF16(typed_mut(op, what, y, len)?),
        DType::F16 => FloatsMut::F16(typed_mut(op, what, y, len)?),
        other => return Err(wrong_dtype(op, what, other, "f32, bf16 or f16")),
    })
}

/// Elements of any float storage.
#[derive(Clone, Copy)]
pub(crate) enum Floats<'a> {
    F32(&'a [f32]),
    BF16(&'a [bf16]),
    F16(&'a [f16]),
}

impl<'a> Floats<'a> {
    /// Elements from `start` on as f32 values.
    pub(crate) fn load(&self, start: usize, out: &mut [f32]) {
        let range = start..start + out.len();
        match self {
            Floats::F32(x) => out.copy_from_slice(&x[range]),
            Floats::BF16(x) => widen(&x[range], out),
            Floats::F16(x) => x[range].convert_to_f32_slice(out),
        }
    }

    /// `len` elements from `start` on as f32 values, converted into `buffer` if they are stored otherwise.
    pub(crate) fn block<'s>(&self, start: usize, len: usize, buffer: &'s mut [f32]) -> &'s [f32]
    where
        'a: 's,
    {
        match self {
            Floats::F32(x) => &x[start..start + len],
            _ => {
                self.load(start, &mut buffer[..len]);
                &buffer[..len]
            }
        }
    }
}

kernel! {
    /// bf16 is the upper half of an f32.
    fn widen[FMA](x: &[bf16], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }
}

/// The bits of the nearest bf16, ties to even, in the upper half; NaN stays one. (`bf16::from_f32` with a choice in the place
/// of a branch.)
#[inline(always)]
pub(crate) fn rounded_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1));
    let quiet = bits | 0x0040_0000;
    if x.is_nan() { quiet } else { rounded }
}

kernel! {
    fn narrow[FMA](x: &[f32], out: &mut [bf16]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = bf16::from_bits((rounded_bits(*x) >> 16) as u16);
        }
    }
}

/// Elements of any float storage, to write.
pub(crate) enum FloatsMut<'a> {
    F32(&'a mut [f32]),
    BF16(&'a mut [bf16]),
    F16(&'a mut [f16]),
}

impl<'a> From<&'a mut [f32]> for FloatsMut<'a> {
    fn from(y: &'a mut [f32]) -> Self {
        FloatsMut::F32(y)
    }
}

/// Elements that are computed at a time on the way to another storage.
pub(crate) const BLOCK: usize = 4096;

impl FloatsMut<'_> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            FloatsMut::F32(y) => y.len(),
            FloatsMut::BF16(y) => y.len(),
            FloatsMut::F16(y) => y.len(),
        }
    }

    /// Elements `start .. start + len`, borrowed.
    pub(crate) fn range(&mut self, start: usize, len: usize) -> FloatsMut<'_> {
        match self {
            FloatsMut::F32(y) => FloatsMut::F32(&mut y[start..start + len]),
            FloatsMut::BF16(y) => FloatsMut::BF16(&mut y[start..start + len]),
            FloatsMut::F16(y) => FloatsMut::F16(&mut y[start..start + len]),
        }
    }

    /// The same to read.
    pub(crate) fn as_floats(&self) -> Floats<'_> {
        match self {
            FloatsMut::F32(y) => Floats::F32(y),
            FloatsMut::BF16(y) => Floats::BF16(y),
            FloatsMut::F16(y) => Floats::F16(y),
        }
    }

    /// Overwrites all elements with values, rounded to nearest even.
    pub(crate) fn store(&mut self, values: &[f32]) {
        match self {
            FloatsMut::F32(y) => y.copy_from_slice(values),
            FloatsMut::BF16(y) => narrow(values, y),
            FloatsMut::F16(y) => y.convert_from_f32_slice(values),
        }
    }

    /// Puts what `compute` writes here, at most [`BLOCK`] values, rounded to nearest even.
    pub(crate) fn write(self, mode: Mode, compute: impl FnOnce(&mut [f32])) {
        let len = self.len();
        match (self, mode) {
            (FloatsMut::F32(y), Mode::Set) => compute(y),
            (FloatsMut::F32(y), Mode::Add) => with_scratch(len, |values| {
                compute(values);
                crate::simd::add(values, y);
            }),
            (mut y, mode) => with_scratch(len, |values| {
                compute(values);
                if mode == Mode::Add {
                    with_scratch(len, |old| {
                        y.as_floats().load(0, old);
                        crate::simd::add(old, values);
                    });
                }
                y.store(values);
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lowrank_backend::Buffer;

    use super::*;
    use crate::buffer::Pool;

    struct Other;
    impl Buffer for Other {
        fn bytes(&self) -> usize {
            64
        }
    }

    #[test]
    fn views_are_checked() {
        let pool = Arc::new(Pool::default());
        let mut buffer = pool.alloc(40).unwrap();
        buffer.as_f32_mut().copy_from_slice(&[0., 1., 2., 3., 4., 5., 6., 7., 8., 9.]);
        let x = In::new(&buffer, DType::F32, 10);
        assert_eq!(f32s("t", "x", x.narrow(3, 2), 2).unwrap(), &[3.0, 4.0]);
        assert!(matches!(f32s("t", "x", x, 9), Err(Error::Shape { .. })));
        assert!(matches!(f32s("t", "x", In::new(&buffer, DType::F32, 11), 11), Err(Error::Shape { .. })));
        let error = f32s("t", "x", In::new(&buffer, DType::F64, 5), 5).unwrap_err().to_string();
        assert_eq!(error, "t: cpu does not support f64 (x); use the reference device");
        let error = f32s("t", "x", In::new(&buffer, DType::BF16, 5), 5).unwrap_err().to_string();
        assert_eq!(error, "t: x has dtype bf16, expected f32");
        assert!(matches!(floats("t", "x", In::new(&Other, DType::F32, 5), 5), Err(Error::DeviceMismatch { .. })));
    }

    #[test]
    fn conversions_round_to_nearest_even() {
        let mut y = [bf16::ZERO; 3];
        FloatsMut::BF16(&mut y)
            .write(Mode::Set, |v| v.copy_from_slice(&[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, f32::NAN]));
        assert_eq!([y[0].to_f32(), y[1].to_f32()], [1.0, 1.0 + 4.0 / 256.0]);
        assert!(y[2].is_nan());
        FloatsMut::BF16(&mut y[..1]).write(Mode::Add, |v| v[0] = 2.0);
        assert_eq!(y[0].to_f32(), 3.0);
        let mut y = [f16::ONE; 2];
        FloatsMut::F16(&mut y).write(Mode::Add, |v| v.copy_from_slice(&[0.5, 70000.0]));
        assert_eq!([y[0].to_f32(), y[1].to_f32()], [1.5, f32::INFINITY]);
        let mut back = [0.0; 2];
        Floats::F16(&y).load(0, &mut back);
        assert_eq!(back, [1.5, f32::INFINITY]);
    }
}
