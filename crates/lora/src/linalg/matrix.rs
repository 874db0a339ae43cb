//! A matrix on the host.

use lowrank_core::{DType, Device, Tensor};

use crate::{Error, Result};

/// Row-major f64 values on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// `rows · cols` values, row by row.
    pub data: Vec<f64>,
}

impl Matrix {
    /// From values row by row; `data.len()` must be `rows · cols`.
    pub fn new(rows: usize, cols: usize, data: Vec<f64>) -> Result<Self> {
        if rows.checked_mul(cols) == Some(data.len()) {
            return Ok(Matrix { rows, cols, data });
        }
        Err(Error::adapter(format!("{} values are no {rows}×{cols} matrix", data.len())))
    }

    /// The elements of a tensor of two dimensions; waits for the device.
    pub fn from_tensor(t: &Tensor) -> Result<Self> {
        let &[rows, cols] = t.shape() else {
            return Err(Error::adapter(format!("{} is no matrix", t.label("the tensor"))));
        };
        Ok(Matrix { rows, cols, data: t.to_f64()? })
    }

    /// As a tensor, rounded to `dtype`.
    pub fn to_tensor(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        Ok(Tensor::from_f64(&self.data, &[self.rows, self.cols], dtype, device)?)
    }

    /// Rows and columns exchanged.
    pub fn transposed(&self) -> Matrix {
        self.select(self.cols, self.rows, |i, j| self.at(j, i))
    }

    /// These columns, in this order.
    pub fn columns(&self, which: &[usize]) -> Matrix {
        self.select(self.rows, which.len(), |i, j| self.at(i, which[j]))
    }

    /// Every column times its factor.
    pub fn scale_columns(&self, factors: &[f64]) -> Matrix {
        self.select(self.rows, self.cols, |i, j| self.at(i, j) * factors[j])
    }

    /// Every element times a factor.
    pub fn scaled(&self, factor: f64) -> Matrix {
        Matrix { data: self.data.iter().map(|x| x * factor).collect(), ..*self }
    }

    /// The product with another matrix; plain loops, for small ones.
    pub fn times(&self, other: &Matrix) -> Matrix {
        let mut out = Matrix { rows: self.rows, cols: other.cols, data: vec![0.0; self.rows * other.cols] };
        for i in 0..self.rows {
            let row = &mut out.data[i * other.cols..(i + 1) * other.cols];
            for p in 0..self.cols {
                let factor = self.at(i, p);
                for (sum, x) in row.iter_mut().zip(&other.data[p * other.cols..(p + 1) * other.cols]) {
                    *sum += factor * x;
                }
            }
        }
        out
    }

    /// Σ of squares.
    pub fn squared_norm(&self) -> f64 {
        self.data.iter().map(|x| x * x).sum()
    }

    /// Σ of products of elements at the same place.
    pub fn dot(&self, other: &Matrix) -> f64 {
        self.data.iter().zip(&other.data).map(|(x, y)| x * y).sum()
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        self.data[i * self.cols + j]
    }

    fn select(&self, rows: usize, cols: usize, f: impl Fn(usize, usize) -> f64) -> Matrix {
        let mut data = Vec::with_capacity(rows * cols);
        for i in 0..rows {
            data.extend((0..cols).map(|j| f(i, j)));
        }
        Matrix { rows, cols, data }
    }

    pub(super) fn negate_column(&mut self, j: usize) {
        for i in 0..self.rows {
            let x = &mut self.data[i * self.cols + j];
            *x = -*x;
        }
    }
}
