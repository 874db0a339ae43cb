//! Device memory and the views of it that operations take.

use std::any::Any;

use crate::{DType, Error, Result};

/// A piece of device memory, owned. Dropping it gives the memory back to its backend's pool.
///
/// A backend finds its own type again through `&dyn Any`.
pub trait Buffer: Any + Send + Sync {
    /// Its size in bytes, as asked for at `alloc`.
    fn bytes(&self) -> usize;
}

/// `len` elements to read, from element `offset` on.
#[derive(Clone, Copy)]
pub struct In<'a> {
    /// The memory.
    pub buffer: &'a dyn Buffer,
    /// Type of the elements.
    pub dtype: DType,
    /// First element.
    pub offset: usize,
    /// Number of elements.
    pub len: usize,
}

/// `len` elements to write, from element `offset` on. The exclusive borrow means no operand aliases it.
pub struct Out<'a> {
    /// The memory.
    pub buffer: &'a mut dyn Buffer,
    /// Type of the elements.
    pub dtype: DType,
    /// First element.
    pub offset: usize,
    /// Number of elements.
    pub len: usize,
}

/// Whether a result replaces what is there or is added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Overwrite; the old content must not be read (it may be uninitialised).
    Set,
    /// Add to the old content.
    Add,
}

/// An output together with its [`Mode`]: where gradients go.
pub struct Slot<'a> {
    /// The memory.
    pub out: Out<'a>,
    /// Replace or accumulate.
    pub mode: Mode,
}

impl<'a> In<'a> {
    /// All elements of a buffer that holds `len` of `dtype`.
    pub fn new(buffer: &'a dyn Buffer, dtype: DType, len: usize) -> Self {
        In { buffer, dtype, offset: 0, len }
    }

    /// Elements `start .. start + len` of this view.
    pub fn narrow(self, start: usize, len: usize) -> Self {
        debug_assert!(start + len <= self.len);
        In { offset: self.offset + start, len, ..self }
    }

    /// Fails unless the view has exactly `len` elements that lie inside its buffer.
    pub fn expect(&self, op: &'static str, what: &str, len: usize) -> Result<()> {
        check(op, what, self.buffer.bytes(), self.dtype, self.offset, self.len, len)
    }
}

impl<'a> Out<'a> {
    /// All elements of a buffer that holds `len` of `dtype`.
    pub fn new(buffer: &'a mut dyn Buffer, dtype: DType, len: usize) -> Self {
        Out { buffer, dtype, offset: 0, len }
    }

    /// Elements `start .. start + len` of this view.
    pub fn narrow(self, start: usize, len: usize) -> Self {
        debug_assert!(start + len <= self.len);
        Out { offset: self.offset + start, len, ..self }
    }

    /// The same view, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> Out<'_> {
        Out { buffer: &mut *self.buffer, dtype: self.dtype, offset: self.offset, len: self.len }
    }

    /// The same elements, to read.
    pub fn as_in(&self) -> In<'_> {
        In { buffer: &*self.buffer, dtype: self.dtype, offset: self.offset, len: self.len }
    }

    /// As a slot that overwrites.
    pub fn set(self) -> Slot<'a> {
        Slot { out: self, mode: Mode::Set }
    }

    /// As a slot that accumulates.
    pub fn add(self) -> Slot<'a> {
        Slot { out: self, mode: Mode::Add }
    }

    /// Fails unless the view has exactly `len` elements that lie inside its buffer.
    pub fn expect(&self, op: &'static str, what: &str, len: usize) -> Result<()> {
        check(op, what, self.buffer.bytes(), self.dtype, self.offset, self.len, len)
    }
}

impl Slot<'_> {
    /// The same slot, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> Slot<'_> {
        Slot { out: self.out.reborrow(), mode: self.mode }
    }
}

fn check(
    op: &'static str,
    what: &str,
    bytes: usize,
    dtype: DType,
    offset: usize,
    len: usize,
    want: usize,
) -> Result<()> {
    if len != want {
        return Err(Error::shape(op, format!("{what} has {len} elements, expected {want}")));
    }
    let end = offset.checked_add(len).and_then(|n| n.checked_mul(dtype.size()));
    if end.is_none_or(|end| end > bytes) {
        return Err(Error::shape(op, format!("{what}: elements {offset}+{len} of {dtype} exceed {bytes} bytes")));
    }
    Ok(())
}
