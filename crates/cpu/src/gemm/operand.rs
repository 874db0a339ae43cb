//! Operands of products: any float storage, any place, either orientation.

use super::kernel::{Ahead, LINE};
use crate::dropout::Mask;
use crate::view::Floats;

/// A matrix in storage of any float dtype: rows of `stride` elements, the first at `start`.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub data: Floats<'a>,
    pub start: usize,
    pub stride: usize,
    /// The matrix meant is the transpose of the stored one.
    pub trans: bool,
    /// Dropout on the stored elements.
    pub mask: Option<Mask>,
}

impl<'a> Operand<'a> {
    /// A stored matrix with rows of `cols` elements.
    pub(crate) fn new(data: Floats<'a>, cols: usize) -> Self {
        Operand { data, start: 0, stride: cols, trans: false, mask: None }
    }

    /// The same in f32.
    pub(crate) fn f32(data: &'a [f32], cols: usize) -> Self {
        Operand::new(Floats::F32(data), cols)
    }

    /// Its transpose.
    pub(crate) fn t(self) -> Self {
        Operand { trans: !self.trans, ..self }
    }

    /// With another start.
    pub(crate) fn at(self, start: usize) -> Self {
        Operand { start, ..self }
    }

    /// With dropout, counted over stored rows of `stride` elements.
    pub(crate) fn masked(self, mask: Option<Mask>) -> Self {
        Operand { mask, ..self }
    }

    /// The f32 elements, if nothing has to be done to them.
    pub(super) fn plain(&self) -> Option<&'a [f32]> {
        match self.data {
            Floats::F32(x) if self.mask.is_none() => Some(x),
            _ => None,
        }
    }

    /// Where the stored block `[r0 .. r0 + rows, c0 .. c0 + cols]` lies.
    pub(super) fn ahead(&self, [r0, c0]: [usize; 2], [rows, cols]: [usize; 2]) -> Ahead {
        let (start, size) = match self.data {
            Floats::F32(x) => (x.as_ptr().cast::<u8>(), 4),
            Floats::BF16(x) => (x.as_ptr().cast(), 2),
            Floats::F16(x) => (x.as_ptr().cast(), 2),
        };
        let start = start.wrapping_add((self.start + r0 * self.stride + c0) * size);
        Ahead { start, stride: self.stride * size, rows, lines: (cols * size).div_ceil(LINE) }
    }

    /// Stored elements `[row, col .. col + out.len()]` as f32 values.
    pub(super) fn load(&self, row: usize, col: usize, out: &mut [f32]) {
        self.data.load(self.start + row * self.stride + col, out);
        if let Some(mask) = &self.mask {
            mask.apply((row * self.stride + col) as u64, out);
        }
    }

    /// The stored row `row` from column `col` on as f32, converted into `buffer` if need be.
    pub(super) fn row<'s>(&self, row: usize, col: usize, len: usize, buffer: &'s mut [f32]) -> &'s [f32]
    where
        'a: 's,
    {
        match self.plain() {
            Some(x) => &x[self.start + row * self.stride + col..][..len],
            None => {
                self.load(row, col, &mut buffer[..len]);
                &buffer[..len]
            }
        }
    }
}
