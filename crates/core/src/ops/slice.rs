//! A range along one dimension, copied.

use lowrank_backend::{Block, Error, Mode, Result, Slot};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// Indices `start .. start + len` of dimension `axis`, as a copy.
    pub fn slice(&self, axis: usize, start: usize, len: usize) -> Result<Tensor> {
        let [outer, dim, inner] = check::around("slice", self, axis)?;
        if start.checked_add(len).is_none_or(|end| end > dim) {
            let detail = format!("{start} .. {start}+{len} exceeds dimension {axis} of {}", self.label("x"));
            return Err(Error::shape("slice", detail));
        }
        let mut shape = self.shape().to_vec();
        shape[axis] = len;
        let y = Tensor::empty(&shape, self.dtype(), self.device())?;
        let (wide, narrow) = (dim * inner, len * inner);
        let (at, block) = (start * inner, Block { rows: outer, cols: narrow, src_stride: wide, dst_stride: narrow });
        if !y.is_empty() {
            let x = self.read();
            self.device().backend().copy(&block, x.view().narrow(at, block.src_len()), y.write().set())?;
        }
        Ok(y.with_rule(&[self], || Slice { at, block }))
    }
}

struct Slice {
    at: usize,
    block: Block,
}

impl Rule for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let backend = gy.device().backend();
        let block = Block { src_stride: self.block.dst_stride, dst_stride: self.block.src_stride, ..self.block };
        let dx = grads.slot(0)?;
        if let Some(Slot { mut out, mode }) = dx.lock().slot() {
            if mode == Mode::Set {
                backend.fill(0.0, out.reborrow())?;
            }
            if !gy.is_empty() {
                let part = Slot { out: out.narrow(self.at, block.dst_len()), mode };
                backend.copy(&block, gy.read().view(), part)?;
            }
        }
        grads.put(dx)
    }
}
