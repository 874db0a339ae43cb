//! Temporaries, so that a definition reads like its formula.

use crate::{Backend, Block, Broadcast, Buffer, DType, Error, In, Map, Mode, Out, Reduce, Result, Slot, Zip};

/// A buffer that lives as long as one operation needs it.
pub(super) struct Temp {
    buffer: Box<dyn Buffer>,
    dtype: DType,
    len: usize,
}

impl Temp {
    /// `len` elements with any content.
    pub fn new<B: Backend + ?Sized>(b: &B, dtype: DType, len: usize) -> Result<Self> {
        let bytes = len.checked_mul(dtype.size());
        let bytes = bytes.ok_or_else(|| Error::invalid("alloc", format!("{len} elements of {dtype} overflow")))?;
        Ok(Temp { buffer: b.alloc(bytes)?, dtype, len })
    }

    /// Constants of a float dtype, from the host.
    pub fn floats<B: Backend + ?Sized>(b: &B, dtype: DType, values: &[f64]) -> Result<Self> {
        let mut t = Temp::new(b, if dtype == DType::F64 { DType::F64 } else { DType::F32 }, values.len())?;
        if dtype == DType::F64 {
            b.upload(bytemuck::cast_slice(values), t.out())?;
            return Ok(t);
        }
        let words: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        b.upload(bytemuck::cast_slice(&words), t.out())?;
        if dtype == DType::F32 { Ok(t) } else { t.view().cast(b, dtype) }
    }

    /// Indices from the host.
    pub fn indices<B: Backend + ?Sized>(b: &B, values: &[u32]) -> Result<Self> {
        let mut t = Temp::new(b, DType::U32, values.len())?;
        b.upload(bytemuck::cast_slice(values), t.out())?;
        Ok(t)
    }

    pub fn view(&self) -> In<'_> {
        In::new(&*self.buffer, self.dtype, self.len)
    }

    pub fn out(&mut self) -> Out<'_> {
        Out::new(&mut *self.buffer, self.dtype, self.len)
    }

    pub fn set(&mut self) -> Slot<'_> {
        self.out().set()
    }

    pub fn add(&mut self) -> Slot<'_> {
        self.out().add()
    }
}

/// Activations in the dtype that they are computed in: themselves, or a copy that `keep` holds.
pub(super) fn wide<'a, B: Backend + ?Sized>(b: &B, x: In<'a>, keep: &'a mut Option<Temp>) -> Result<In<'a>> {
    if x.dtype.wide() == x.dtype {
        return Ok(x);
    }
    Ok(keep.insert(x.cast(b, x.dtype.wide())?).view())
}

/// Runs `f` on a slot of the dtype that is computed in, and rounds what it left there into `slot`, once.
pub(super) fn rounded<B: Backend + ?Sized>(
    b: &B,
    slot: Slot<'_>,
    f: impl FnOnce(Slot<'_>) -> Result<()>,
) -> Result<()> {
    if slot.out.dtype.wide() == slot.out.dtype {
        return f(slot);
    }
    let mut t = Temp::new(b, slot.out.dtype.wide(), slot.out.len)?;
    f(t.set())?;
    b.map(Map::Copy, t.view(), slot)
}

/// Operations whose result is a temporary of the operand's dtype.
impl In<'_> {
    pub(super) fn cast<B: Backend + ?Sized>(self, b: &B, dtype: DType) -> Result<Temp> {
        let mut t = Temp::new(b, dtype, self.len)?;
        b.map(Map::Copy, self, t.set())?;
        Ok(t)
    }

    pub(super) fn map<B: Backend + ?Sized>(self, b: &B, op: Map) -> Result<Temp> {
        let mut t = Temp::new(b, self.dtype, self.len)?;
        b.map(op, self, t.set())?;
        Ok(t)
    }

    pub(super) fn reduce<B: Backend + ?Sized>(self, b: &B, op: Reduce, dims: [usize; 3]) -> Result<Temp> {
        let mut t = Temp::new(b, self.dtype, dims[0] * dims[2])?;
        b.reduce(op, dims, self, t.set())?;
        Ok(t)
    }

    pub(super) fn permute<B: Backend + ?Sized>(self, b: &B, dims: &[usize], perm: &[usize]) -> Result<Temp> {
        let mut t = Temp::new(b, self.dtype, self.len)?;
        b.permute(dims, perm, self, t.set())?;
        Ok(t)
    }
}

/// An operand with the shape that it is broadcast from.
pub(super) type Shaped<'a, const N: usize> = (In<'a>, [usize; N]);

fn broadcast<const N: usize>(x: &[usize; N], y: &[usize; N]) -> Result<Broadcast> {
    Broadcast::new(x, y).ok_or_else(|| Error::shape("zip", format!("{x:?} and {y:?} do not broadcast")))
}

/// `op(x, y)` as a temporary of x's dtype.
pub(super) fn zip<const N: usize, B: Backend + ?Sized>(
    b: &B,
    op: Zip,
    x: Shaped<'_, N>,
    y: Shaped<'_, N>,
) -> Result<Temp> {
    let dims = broadcast(&x.1, &y.1)?;
    let mut t = Temp::new(b, x.0.dtype, dims.lens().2)?;
    b.zip(op, &dims, x.0, y.0, t.set())?;
    Ok(t)
}

/// `slot (+)= op(x, y)`.
pub(super) fn zip_into<const N: usize, B: Backend + ?Sized>(
    b: &B,
    op: Zip,
    x: Shaped<'_, N>,
    y: Shaped<'_, N>,
    slot: Slot<'_>,
) -> Result<()> {
    b.zip(op, &broadcast(&x.1, &y.1)?, x.0, y.0, slot)
}

/// `op(x, y)` of two operands of one length.
pub(super) fn zip_same<B: Backend + ?Sized>(b: &B, op: Zip, x: In<'_>, y: In<'_>) -> Result<Temp> {
    zip(b, op, (x, [x.len]), (y, [y.len]))
}

/// 1 where two index operands agree, else 0, as floats of `dtype`.
pub(super) fn equal<const N: usize, B: Backend + ?Sized>(
    b: &B,
    dtype: DType,
    x: Shaped<'_, N>,
    y: Shaped<'_, N>,
) -> Result<Temp> {
    let dims = broadcast(&x.1, &y.1)?;
    let mut t = Temp::new(b, dtype, dims.lens().2)?;
    b.zip(Zip::Equal, &dims, x.0, y.0, t.set())?;
    Ok(t)
}

/// Copies all elements.
pub(super) fn copy_all<B: Backend + ?Sized>(b: &B, src: In<'_>, dst: Slot<'_>) -> Result<()> {
    b.copy(&Block { rows: 1, cols: src.len, src_stride: src.len, dst_stride: src.len }, src, dst)
}

/// Adds `row` to each of `rows` rows of `dst`.
pub(super) fn add_row<B: Backend + ?Sized>(b: &B, rows: usize, row: In<'_>, dst: Out<'_>) -> Result<()> {
    if rows == 0 {
        return Ok(());
    }
    let block = Block { rows, cols: row.len, src_stride: 0, dst_stride: row.len };
    if row.dtype == dst.dtype {
        return b.copy(&block, row, Slot { out: dst, mode: Mode::Add });
    }
    let row = row.cast(b, dst.dtype)?;
    b.copy(&block, row.view(), Slot { out: dst, mode: Mode::Add })
}
