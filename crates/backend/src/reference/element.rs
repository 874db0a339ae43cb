//! Elements in and out of memory: widened to f64, rounded once.

use half::{bf16, f16};

use super::memory::{bytes, bytes_mut};
use crate::{DType, Error, In, Mode, Out, Result, Slot};

/// Nearest f32, but with the last bit set when that is not exact ("round to odd"): rounding this again to a type with
/// at least two bits less gives the same as rounding the f64 once. (`from_f64` of the half crate drops the low 32 bits
/// before it rounds and takes what is barely above a tie for the tie.)
fn to_odd_f32(x: f64) -> f32 {
    let nearest = x as f32;
    if nearest.is_nan() || f64::from(nearest) == x {
        return nearest;
    }
    let below = if f64::from(nearest).abs() > x.abs() { nearest.to_bits() - 1 } else { nearest.to_bits() };
    f32::from_bits(below | 1)
}

/// Nearest bf16, ties to even.
pub(super) fn to_bf16(x: f64) -> bf16 {
    bf16::from_f32(to_odd_f32(x))
}

/// Nearest f16, ties to even.
pub(super) fn to_f16(x: f64) -> f16 {
    f16::from_f32(to_odd_f32(x))
}

fn decode<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.as_chunks::<N>().0.iter().map(|&word| f(word)).collect()
}

/// All elements; u32 included, exactly.
pub(super) fn load(op: &'static str, x: In<'_>) -> Result<Vec<f64>> {
    let bytes = bytes(op, x)?;
    Ok(match x.dtype {
        DType::F64 => decode(bytes, f64::from_ne_bytes),
        DType::F32 => decode(bytes, |w| f64::from(f32::from_ne_bytes(w))),
        DType::BF16 => decode(bytes, |w| bf16::from_ne_bytes(w).to_f64()),
        DType::F16 => decode(bytes, |w| f16::from_ne_bytes(w).to_f64()),
        DType::U32 => decode(bytes, |w| f64::from(u32::from_ne_bytes(w))),
    })
}

/// All elements of an operand that must be of a float dtype.
pub(super) fn load_floats(op: &'static str, what: &'static str, x: In<'_>) -> Result<Vec<f64>> {
    if !x.dtype.is_float() {
        return Err(Error::dtype(op, what, x.dtype, "a float dtype"));
    }
    load(op, x)
}

/// All elements of an operand that must be of dtype u32.
pub(super) fn load_ids(op: &'static str, ids: In<'_>) -> Result<Vec<u32>> {
    if ids.dtype != DType::U32 {
        return Err(Error::dtype(op, "ids", ids.dtype, "u32"));
    }
    Ok(bytes(op, ids)?.as_chunks::<4>().0.iter().map(|&word| u32::from_ne_bytes(word)).collect())
}

fn encode<const N: usize>(bytes: &mut [u8], values: &[f64], f: impl Fn(f64) -> [u8; N]) {
    for (word, &value) in bytes.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *word = f(value);
    }
}

/// Overwrites all elements, rounding to nearest even (to whole numbers in u32).
pub(super) fn store(op: &'static str, y: Out<'_>, values: &[f64]) -> Result<()> {
    y.expect(op, "result", values.len())?;
    let dtype = y.dtype;
    let bytes = bytes_mut(op, y)?;
    match dtype {
        DType::F64 => encode(bytes, values, f64::to_ne_bytes),
        DType::F32 => encode(bytes, values, |v| (v as f32).to_ne_bytes()),
        DType::BF16 => encode(bytes, values, |v| to_bf16(v).to_ne_bytes()),
        DType::F16 => encode(bytes, values, |v| to_f16(v).to_ne_bytes()),
        DType::U32 => encode(bytes, values, |v| (v as u32).to_ne_bytes()),
    }
    Ok(())
}

/// Sets or adds all elements of a float slot.
pub(super) fn put(op: &'static str, mut y: Slot<'_>, mut values: Vec<f64>) -> Result<()> {
    y.out.expect(op, "result", values.len())?;
    if !y.out.dtype.is_float() {
        return Err(Error::dtype(op, "result", y.out.dtype, "a float dtype"));
    }
    if y.mode == Mode::Add {
        let old = load(op, y.out.as_in())?;
        values.iter_mut().zip(old).for_each(|(v, old)| *v += old);
    }
    store(op, y.out.reborrow(), &values)
}
