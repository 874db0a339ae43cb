//! QR and SVD on the host, by faer on one thread: Householder reflections, and bidiagonalisation with divide and conquer.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::qr::no_pivoting::factor::{qr_in_place, qr_in_place_scratch, recommended_block_size};
use faer::linalg::svd::{ComputeSvdVectors, svd as faer_svd, svd_scratch};
use faer::linalg::{householder, svd};
use faer::traits::RealField;
use faer::{Conj, Mat, MatRef, Par};

use super::{Matrix, Svd};
use crate::{Error, Result};

/// `A = Q R` of an m×n matrix: Q `[m,p]` with orthonormal columns, R `[p,n]` upper triangular, p = min(m,n).
pub fn thin_qr(a: &Matrix) -> Result<(Matrix, Matrix)> {
    finite(a)?;
    let (q, r) = factor(&a.data, a.rows, a.cols);
    let p = a.rows.min(a.cols);
    Ok((Matrix { rows: a.rows, cols: p, data: q }, Matrix { rows: p, cols: a.cols, data: r }))
}

/// Q and R, row-major.
pub(super) fn factor<T: RealField + Copy>(a: &[T], m: usize, n: usize) -> (Vec<T>, Vec<T>) {
    let p = m.min(n);
    let mut qr = MatRef::from_row_major_slice(a, m, n).to_owned();
    let block = recommended_block_size::<T>(m, n);
    let mut coefficients = Mat::<T>::zeros(block, p);
    let scratch = qr_in_place_scratch::<T>(m, n, block, Par::Seq, Default::default());
    qr_in_place(
        qr.as_mut(),
        coefficients.as_mut(),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    );
    let mut q = Mat::<T>::identity(m, p);
    let scratch = householder::apply_block_householder_sequence_on_the_left_in_place_scratch::<T>(m, block, p);
    householder::apply_block_householder_sequence_on_the_left_in_place_with_conj(
        qr.as_ref().subcols(0, p),
        coefficients.as_ref(),
        Conj::No,
        q.as_mut(),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
    );
    let zero = T::zero_impl();
    let mut r = Vec::with_capacity(p * n);
    for i in 0..p {
        r.extend((0..n).map(|j| if j < i { zero } else { qr[(i, j)] }));
    }
    (rows(q.as_ref()), r)
}

/// The whole thin decomposition of an m×n matrix, min(m,n) triples. In f64; O(m n min(m,n)).
pub fn svd(a: &Matrix) -> Result<Svd> {
    finite(a)?;
    let (m, n) = (a.rows, a.cols);
    let p = m.min(n);
    let (mut u, mut v, mut s) = (Mat::<f64>::zeros(m, p), Mat::<f64>::zeros(n, p), Diag::<f64>::zeros(p));
    let thin = ComputeSvdVectors::Thin;
    let scratch = svd_scratch::<f64>(m, n, thin, thin, Par::Seq, Default::default());
    let a = MatRef::from_row_major_slice(&a.data, m, n).to_owned();
    faer_svd(
        a.as_ref(),
        s.as_mut(),
        Some(u.as_mut()),
        Some(v.as_mut()),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    )
    .map_err(|svd::SvdError::NoConvergence| Error::adapter(format!("the SVD of a {m}×{n} matrix did not converge")))?;
    let s = s.column_vector().iter().copied().collect();
    let matrix = |x: &Mat<f64>| Matrix { rows: x.nrows(), cols: p, data: rows(x.as_ref()) };
    Ok(Svd { u: matrix(&u), s, v: matrix(&v) }.with_fixed_signs())
}

fn rows<T: RealField + Copy>(x: MatRef<'_, T>) -> Vec<T> {
    let mut data = Vec::with_capacity(x.nrows() * x.ncols());
    for i in 0..x.nrows() {
        data.extend((0..x.ncols()).map(|j| x[(i, j)]));
    }
    data
}

fn finite(a: &Matrix) -> Result<()> {
    match a.data.iter().position(|x| !x.is_finite()) {
        Some(i) => Err(Error::adapter(format!("element {i} of a {}×{} matrix is {}", a.rows, a.cols, a.data[i]))),
        None => Ok(()),
    }
}
