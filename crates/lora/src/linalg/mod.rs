//! Singular value and QR decompositions. Products with large matrices run on the device; what is left (tall and thin, or
//! small) is factored on the host by faer, on one thread and in an order that depends on sizes only, so that the same
//! input gives the same bits for any number of threads.
//!
//! * [`svd`]: exact, for matrices of moderate size. * [`svd_lowrank`]: the leading part, by a randomised range finder.
//! * [`thin_qr`]. * [`Matrix`]: what they return.

mod host;
mod matrix;
mod product;
mod randomised;

pub use host::{svd, thin_qr};
pub use matrix::Matrix;
pub(crate) use product::{add_tn, nn, nt, tn};
pub use randomised::svd_lowrank;
pub(crate) use randomised::{factored, gaussian, orthonormal};

/// `U diag(s) Vᵀ` with singular values in falling order. In every column of U the entry of largest magnitude (the first
/// of equals) is positive, which makes the decomposition unique where the singular values differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Svd {
    /// Left singular vectors `[m,q]`.
    pub u: Matrix,
    /// Singular values, q of them.
    pub s: Vec<f64>,
    /// Right singular vectors `[n,q]`.
    pub v: Matrix,
}

impl Svd {
    /// Turns columns round so that U's follow the convention.
    pub(crate) fn with_fixed_signs(mut self) -> Self {
        for j in 0..self.s.len() {
            let mut largest: f64 = 0.0;
            for i in 0..self.u.rows {
                let x = self.u.data[i * self.u.cols + j];
                largest = if x.abs() > largest.abs() { x } else { largest };
            }
            if largest < 0.0 {
                self.u.negate_column(j);
                self.v.negate_column(j);
            }
        }
        self
    }

    /// Number of singular values above `tolerance` times the largest.
    pub fn rank(&self, tolerance: f64) -> usize {
        let largest = self.s.first().copied().unwrap_or(0.0);
        self.s.iter().take_while(|&&s| s > 0.0 && s > tolerance * largest).count()
    }
}

#[cfg(test)]
mod tests;
