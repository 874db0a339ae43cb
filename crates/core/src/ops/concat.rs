//! Tensors one after the other along a dimension.

use lowrank_backend::{Block, Error, Result};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// The tensors one after the other along dimension `axis`; their other dimensions are equal.
    pub fn concat(tensors: &[&Tensor], axis: usize) -> Result<Tensor> {
        const OP: &str = "concat";
        let &[first, ..] = tensors else {
            return Err(Error::shape(OP, "no tensors"));
        };
        check::same_device(OP, tensors)?;
        check::same_dtype(OP, tensors)?;
        let [outer, _, inner] = check::around(OP, first, axis)?;
        let mut shape = first.shape().to_vec();
        for t in tensors {
            let fits =
                t.rank() == shape.len() && (0..shape.len()).all(|i| i == axis || t.shape()[i] == first.shape()[i]);
            if !fits {
                let detail = format!("{} does not fit {} along axis {axis}", t.label("one"), first.label("the first"));
                return Err(Error::shape(OP, detail));
            }
        }
        shape[axis] = tensors.iter().map(|t| t.shape()[axis]).sum();
        let y = Tensor::empty(&shape, first.dtype(), first.device())?;
        let rule = Concat {
            outer,
            row: shape[axis] * inner,
            parts: tensors.iter().map(|t| t.shape()[axis] * inner).collect(),
        };
        for (t, (at, cols)) in tensors.iter().zip(rule.places()) {
            if !t.is_empty() {
                let block = Block { rows: outer, cols, src_stride: cols, dst_stride: rule.row };
                let mut y = y.write();
                let part = y.out().narrow(at, block.dst_len()).set();
                first.device().backend().copy(&block, t.read().view(), part)?;
            }
        }
        Ok(y.with_rule(tensors, || rule))
    }
}

struct Concat {
    outer: usize,
    /// Elements of a row of the result, and each tensor's share.
    row: usize,
    parts: Vec<usize>,
}

impl Concat {
    /// Offset and number of each tensor's elements in a row.
    fn places(&self) -> impl Iterator<Item = (usize, usize)> {
        self.parts.iter().scan(0, |at, &cols| {
            *at += cols;
            Some((*at - cols, cols))
        })
    }
}

impl Rule for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        for (i, (at, cols)) in self.places().enumerate() {
            let dx = grads.slot(i)?;
            if let Some(slot) = dx.lock().slot()
                && slot.out.len > 0
            {
                let block = Block { rows: self.outer, cols, src_stride: self.row, dst_stride: cols };
                gy.device().backend().copy(&block, gy.read().view().narrow(at, block.src_len()), slot)?;
            }
            grads.put(dx)?;
        }
        Ok(())
    }
}
