//! Small dense symmetric problems on the host, in f64.

/// `X Xᵀ` of X `[rows, cols]`.
pub(super) fn gram_of_rows(x: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    let mut gram = vec![0.0; rows * rows];
    for i in 0..rows {
        for j in 0..=i {
            let (a, b) = (&x[i * cols..(i + 1) * cols], &x[j * cols..(j + 1) * cols]);
            let dot: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            gram[i * rows + j] = dot;
            gram[j * rows + i] = dot;
        }
    }
    gram
}

/// X `[rows, cols]` with rows and columns exchanged.
pub(super) fn transpose(x: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..cols).flat_map(|j| (0..rows).map(move |i| x[i * cols + j])).collect()
}

/// Squares of the singular values of B A, largest first, from B's transpose `[r, n]` and A `[r, k]`; never `[n, k]`.
///
/// With A Aᵀ = L Lᵀ they are the eigenvalues of Lᵀ (BᵀB) L.
pub(super) fn squares_of_product(bt: &[f64], a: &[f64], r: usize) -> Vec<f64> {
    if r == 0 {
        return Vec::new();
    }
    let l = cholesky(gram_of_rows(a, r, a.len() / r), r);
    let gram = gram_of_rows(bt, r, bt.len() / r);
    // (Lᵀ M L)[i, j] = Σ L[p, i] M[p, q] L[q, j]
    let mut ml = vec![0.0; r * r];
    for p in 0..r {
        for q in 0..r {
            for j in 0..=q {
                ml[p * r + j] += gram[p * r + q] * l[q * r + j];
            }
        }
    }
    let mut small = vec![0.0; r * r];
    for p in 0..r {
        for i in 0..=p {
            for j in 0..r {
                small[i * r + j] += l[p * r + i] * ml[p * r + j];
            }
        }
    }
    eigenvalues(small, r)
}

/// L with L Lᵀ = M for a positive semidefinite M `[n, n]`; directions that M has nothing in are zero.
fn cholesky(mut m: Vec<f64>, n: usize) -> Vec<f64> {
    let largest = (0..n).map(|i| m[i * n + i]).fold(0.0, f64::max);
    for j in 0..n {
        for k in 0..j {
            let f = m[j * n + k];
            for i in j..n {
                m[i * n + j] -= m[i * n + k] * f;
            }
        }
        let pivot = m[j * n + j];
        let inverse = if pivot > largest * 1e-15 { 1.0 / pivot.sqrt() } else { 0.0 };
        for i in 0..n {
            if i < j {
                m[i * n + j] = 0.0;
            } else {
                m[i * n + j] *= inverse;
            }
        }
    }
    m
}

/// Eigenvalues of a symmetric matrix `[n, n]`, largest first: Householder's reduction to three diagonals, then QL with
/// implicit shifts (Golub & Van Loan, "Matrix computations", §8.3).
pub(super) fn eigenvalues(mut m: Vec<f64>, n: usize) -> Vec<f64> {
    let (mut d, mut e) = (vec![0.0; n], vec![0.0; n]);
    for k in 0..n.saturating_sub(2) {
        let norm = (k + 1..n).map(|i| m[i * n + k].powi(2)).sum::<f64>().sqrt();
        let head = m[(k + 1) * n + k];
        let alpha = if head > 0.0 { -norm } else { norm };
        (d[k], e[k]) = (m[k * n + k], alpha);
        let mut v: Vec<f64> = (k + 1..n).map(|i| m[i * n + k]).collect();
        v[0] -= alpha;
        let vv: f64 = v.iter().map(|x| x * x).sum();
        if vv == 0.0 {
            continue;
        }
        let rest = k + 1;
        let p: Vec<f64> = (rest..n)
            .map(|i| 2.0 / vv * m[i * n + rest..i * n + n].iter().zip(&v).map(|(m, v)| m * v).sum::<f64>())
            .collect();
        let half = v.iter().zip(&p).map(|(v, p)| v * p).sum::<f64>() / vv;
        let w: Vec<f64> = p.iter().zip(&v).map(|(p, v)| p - half * v).collect();
        for i in rest..n {
            let (vi, wi) = (v[i - rest], w[i - rest]);
            for (x, (v, w)) in m[i * n + rest..i * n + n].iter_mut().zip(v.iter().zip(&w)) {
                *x -= vi * w + wi * v;
            }
        }
    }
    if n >= 2 {
        (d[n - 2], e[n - 2]) = (m[(n - 2) * n + n - 2], m[(n - 1) * n + n - 2]);
    }
    if n >= 1 {
        d[n - 1] = m[n * n - 1];
    }
    ql(&mut d, &mut e);
    d.sort_by(|a, b| b.total_cmp(a));
    d
}

/// Diagonal `d` and the one beside it, `e[i]` between i and i+1, to eigenvalues in `d`.
fn ql(d: &mut [f64], e: &mut [f64]) {
    let n = d.len();
    for l in 0..n {
        // Far more than ever needed; NaN would go on for ever.
        for _ in 0..60 {
            let small = |i: &usize| e[*i].abs() <= f64::EPSILON * (d[*i].abs() + d[i + 1].abs());
            let m = (l..n - 1).find(small).unwrap_or(n - 1);
            if m == l {
                break;
            }
            let mut g = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let r = g.hypot(1.0);
            g = d[m] - d[l] + e[l] / (g + if g >= 0.0 { r } else { -r });
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut whole = true;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    whole = false;
                    break;
                }
                (s, c) = (f / r, g / r);
                g = d[i + 1] - p;
                let r = (d[i] - g) * s + 2.0 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
            }
            if whole {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
}

/// Orthonormal columns that span those of X `[rows, cols]`, given and returned as its transpose; twice, so that they
/// stay orthogonal. A column that adds nothing is zero.
pub(super) fn orthonormal(xt: &mut [f64], rows: usize) {
    for j in 0..xt.len() / rows {
        let (done, rest) = xt.split_at_mut(j * rows);
        let x = &mut rest[..rows];
        let before = x.iter().map(|v| v * v).sum::<f64>().sqrt();
        for _ in 0..2 {
            for q in done.chunks_exact(rows) {
                let dot: f64 = q.iter().zip(&*x).map(|(q, x)| q * x).sum();
                x.iter_mut().zip(q).for_each(|(x, q)| *x -= dot * q);
            }
        }
        let norm = x.iter().map(|v| v * v).sum::<f64>().sqrt();
        let inverse = if norm > before * 1e-12 { 1.0 / norm } else { 0.0 };
        x.iter_mut().for_each(|v| *v *= inverse);
    }
}

#[cfg(test)]
mod tests {
    use lowrank_core::philox::Rng;

    use super::*;

    fn random(len: usize, seed: u64) -> Vec<f64> {
        let mut rng = Rng::new(seed, 0);
        (0..len).map(|_| rng.normal()).collect()
    }

    fn close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        let size = want.iter().fold(1e-300f64, |m, v| m.max(v.abs()));
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() < 1e-10 * size, "{got:?} {want:?}");
        }
    }

    /// Q diag(λ) Qᵀ with Q orthonormal, for sizes around every special case.
    #[test]
    fn planted_eigenvalues() {
        for n in [1, 2, 3, 5, 17, 40] {
            let mut q = random(n * n, n as u64);
            orthonormal(&mut q, n);
            let want: Vec<f64> = (0..n).map(|i| if i % 3 == 2 { 0.0 } else { 4.0 / (i + 1) as f64 }).collect();
            let mut m = vec![0.0; n * n];
            for (k, l) in want.iter().enumerate() {
                for i in 0..n {
                    for j in 0..n {
                        m[i * n + j] += l * q[k * n + i] * q[k * n + j];
                    }
                }
            }
            let mut want = want;
            want.sort_by(|a, b| b.total_cmp(a));
            close(&eigenvalues(m, n), &want);
        }
        assert!(eigenvalues(vec![f64::NAN; 9], 3).len() == 3);
        close(&eigenvalues(vec![0.0; 16], 4), &[0.0; 4]);
    }

    /// B A with orthonormal factors scaled by hand, of ranks below r too.
    #[test]
    fn planted_singular_values() {
        let (n, k, r) = (9, 13, 4);
        let (mut bt, mut a) = (random(r * n, 1), random(r * k, 2));
        orthonormal(&mut bt, n);
        orthonormal(&mut a, k);
        for (i, s) in [3.0, 0.5, 0.0, 2.0].iter().enumerate() {
            bt[i * n..(i + 1) * n].iter_mut().for_each(|v| *v *= s);
        }
        close(&squares_of_product(&bt, &a, r), &[9.0, 4.0, 0.25, 0.0]);
        // Two equal rows of A: rank 1 of 2.
        let a = [a[..k].to_vec(), a[..k].to_vec()].concat();
        close(&squares_of_product(&bt[..2 * n], &a, 2), &[9.25, 0.0]);
        assert!(squares_of_product(&[], &[], 0).is_empty());
    }

    #[test]
    fn transposed() {
        assert_eq!(transpose(&[1., 2., 3., 4., 5., 6.], 2, 3), [1., 4., 2., 5., 3., 6.]);
    }
}
