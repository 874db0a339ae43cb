//! Rows of a buffer that grows, such as a key/value cache: views and writes along the first dimension, outside of the
//! graph.

use lowrank_backend::{Block, Error, Result};

use crate::Tensor;
use crate::ops::check;

impl Tensor {
    /// Rows `start .. start + len` of the first dimension, in the same memory: no copy, no gradient. A tensor that
    /// requires a gradient is refused ([`Tensor::slice`] has one).
    pub fn rows_view(&self, start: usize, len: usize) -> Result<Tensor> {
        const OP: &str = "rows_view";
        no_gradient(OP, self)?;
        let row = rows(OP, self, start, len)?;
        let mut shape = self.shape().to_vec();
        shape[0] = len;
        Ok(self.alias(shape, self.offset() + start * row))
    }

    /// Overwrites the rows from `start` on with `src`, whose other dimensions and dtype are this tensor's. Refused if
    /// either requires a gradient, or if they are the same memory.
    pub fn write_rows(&self, start: usize, src: &Tensor) -> Result<()> {
        const OP: &str = "write_rows";
        no_gradient(OP, self)?;
        no_gradient(OP, src)?;
        check::same_device(OP, &[self, src])?;
        check::same_dtype(OP, &[self, src])?;
        let (Some((&len, inner)), Some((_, own))) = (src.shape().split_first(), self.shape().split_first()) else {
            return Err(Error::shape(OP, format!("{} to {}", src.label("src"), self.label("x"))));
        };
        let row = rows(OP, self, start, len)?;
        if inner != own {
            return Err(Error::shape(OP, format!("{} does not fit {}", src.label("src"), self.label("x"))));
        }
        if self.shares_storage(src) {
            return Err(Error::invalid(OP, format!("{} is part of {}", src.label("src"), self.label("x"))));
        }
        let n = src.len();
        let block = Block { rows: 1, cols: n, src_stride: n, dst_stride: n };
        let mut all = self.write();
        self.device().backend().copy(&block, src.read().view(), all.out().narrow(start * row, n).set())
    }
}

/// Elements of a row, if `start .. start + len` are rows.
fn rows(op: &'static str, x: &Tensor, start: usize, len: usize) -> Result<usize> {
    let [_, count, row] = check::around(op, x, 0)?;
    if start.checked_add(len).is_none_or(|end| end > count) {
        return Err(Error::shape(op, format!("rows {start} .. {start}+{len} of {}", x.label("x"))));
    }
    Ok(row)
}

fn no_gradient(op: &'static str, x: &Tensor) -> Result<()> {
    if x.requires_grad() {
        return Err(Error::graph(op, format!("{} requires a gradient, rows are outside of the graph", x.label("x"))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn a_cache_that_fills() -> Result<()> {
        let device = Device::reference()?;
        let cache = Tensor::zeros(&[4, 2], crate::DType::F64, &device)?;
        cache.write_rows(1, &Tensor::from_slice(&[1.0, 2.0, 3.0, 4.0], &[2, 2], &device)?)?;
        assert_eq!(cache.to_f64()?, [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0]);
        let view = cache.rows_view(2, 2)?;
        assert_eq!((view.shape(), view.to_f64()?), (&[2, 2][..], vec![3.0, 4.0, 0.0, 0.0]));
        assert_eq!(view.rows_view(0, 1)?.to_f64()?, [3.0, 4.0]);
        assert!(cache.rows_view(3, 2).is_err());
        assert!(cache.write_rows(0, &view).unwrap_err().to_string().contains("is part of"));
        assert!(cache.trainable()?.rows_view(0, 1).is_err());
        Ok(())
    }
}
