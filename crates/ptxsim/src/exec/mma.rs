//! `mma.sync` and `wmma.mma`: fragments to plain matrices, a triple loop, and back.
//!
//! Products are exact in f32 (f64 for tf32 is not needed: 11 × 11 bits); sums run in f32 in the order of k, then the
//! accumulator is added. Tensor cores round otherwise in the last bits, so results agree only within tolerance.

use super::{Unit, Warp};
use crate::ir::*;
use crate::num::*;

/// Row and column of each of a lane's accumulators in m16n8.
fn acc_at(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2)
}

/// Decodes one element.
#[inline]
pub(super) fn element(t: MatTy, v: u64) -> f32 {
    match t {
        MatTy::F16 => h2f(v as u16),
        MatTy::Bf16 => b2f(v as u16),
        // Tensor cores ignore the low 13 bits of a tf32 operand.
        MatTy::Tf32 => f32::from_bits(v as u32 & !0x1fff),
        MatTy::S8 => v as i8 as f32,
        MatTy::U8 => v as u8 as f32,
        MatTy::E4m3 => from_f8(v as u8, true),
        MatTy::E5m2 => from_f8(v as u8, false),
        MatTy::S4 => ((v as i8) << 4 >> 4) as f32,
        MatTy::U4 => (v & 15) as f32,
        // These have loops of their own.
        MatTy::F64 | MatTy::B1 => 0.0,
    }
}

/// d = a · bᵀ over k, with b given row by row of n.
pub(super) fn product(a: &[f32], b: &[f32], k: usize, m: usize, n: usize, out: &mut [f32]) {
    // b transposed, so that the inner loop runs over n and vectorises.
    let mut bt = vec![0f32; k * n];
    for j in 0..n {
        for t in 0..k {
            bt[t * n + j] = b[j * k + t];
        }
    }
    out[..m * n].fill(0.0);
    for i in 0..m {
        let row = &mut out[i * n..(i + 1) * n];
        for t in 0..k {
            let x = a[i * k + t];
            for (o, y) in row.iter_mut().zip(&bt[t * n..(t + 1) * n]) {
                *o += x * y;
            }
        }
    }
}

impl Unit<'_> {
    pub(super) fn mma(&mut self, w: &mut Warp, x: &Mma) {
        match x.a_ty {
            MatTy::F64 => self.mma_f64(w, x),
            MatTy::B1 => self.mma_bits(w, x),
            _ if x.k > 32 => self.mma_with(w, x, &mut [0.0; 16 * 64], &mut [0.0; 16 * 64]),
            _ => self.mma_with(w, x, &mut [0.0; 16 * 32], &mut [0.0; 32 * 16]),
        }
    }

    fn mma_with<const N: usize>(&mut self, w: &mut Warp, x: &Mma, a: &mut [f32; N], b: &mut [f32; N]) {
        let l = self.l;
        let (m, n, k) = (x.m as usize, x.n as usize, x.k as usize);
        let int = x.acc == AccTy::S32;
        let (mut bad_row, mut bad_col) = (0u32, 0u32);
        let (ab, bb) = (x.a_ty.bits() as usize, x.b_ty.bits() as usize);
        let clean = x.a.iter().chain(&x.b).chain(&x.c).all(|r| w.unknown(*r) == 0);
        if x.wmma {
            for (regs, t, out, rows, bad) in
                [(&x.a, x.a_ty, &mut *a, m, &mut bad_row), (&x.b, x.b_ty, &mut *b, n, &mut bad_col)]
            {
                let bits = t.bits() as usize;
                let per = 32 / bits;
                for e in 0..rows * k / 32 {
                    let v = w.val(l, regs[e / per]);
                    let un = w.unknown(regs[e / per]);
                    for lane in 0..32 {
                        let i = e * 32 + lane;
                        out[i] = element(t, v[lane] >> (e % per * bits));
                        *bad |= (un >> lane & 1) << (i / k);
                    }
                }
            }
        } else if k == 16 && ab == 16 {
            // The common shape, without the index arithmetic.
            for (r, reg) in x.a.iter().enumerate() {
                let v = w.val(l, *reg);
                for lane in 0..32 {
                    let at = (lane / 4 + (r & 1) * 8) * 16 + 2 * (lane % 4) + (r >> 1) * 8;
                    a[at] = element(x.a_ty, v[lane]);
                    a[at + 1] = element(x.a_ty, v[lane] >> 16);
                }
            }
            for (r, reg) in x.b.iter().enumerate() {
                let v = w.val(l, *reg);
                for lane in 0..32 {
                    let at = (lane / 4) * 16 + 2 * (lane % 4) + r * 8;
                    b[at] = element(x.b_ty, v[lane]);
                    b[at + 1] = element(x.b_ty, v[lane] >> 16);
                }
            }
        } else {
            let per = 32 / ab;
            for (r, reg) in x.a.iter().enumerate() {
                let v = w.val(l, *reg);
                for lane in 0..32 {
                    for e in 0..per {
                        let (row, col) = (lane / 4 + (r & 1) * 8, per * (lane % 4) + e + (r >> 1) * 4 * per);
                        a[row * k + col] = element(x.a_ty, v[lane] >> (e * ab));
                    }
                }
            }
            let per = 32 / bb;
            for (r, reg) in x.b.iter().enumerate() {
                let v = w.val(l, *reg);
                for lane in 0..32 {
                    for e in 0..per {
                        let col = per * (lane % 4) + e + r * 4 * per;
                        b[(lane / 4) * k + col] = element(x.b_ty, v[lane] >> (e * bb));
                    }
                }
            }
        }
        if !clean && !x.wmma {
            for (r, reg) in x.a.iter().enumerate() {
                let un = w.unknown(*reg);
                (0..32).filter(|i| un >> i & 1 == 1).for_each(|i| bad_row |= 1 << (i / 4 + (r & 1) * 8));
            }
            for reg in &x.b {
                let un = w.unknown(*reg);
                (0..32).filter(|i| un >> i & 1 == 1).for_each(|i| bad_col |= 1 << (i / 4));
            }
        }
        let mut prod = [0f32; 32 * 32];
        product(&a[..m * k], &b[..n * k], k, m, n, &mut prod);
        let halves = x.acc == AccTy::F16;
        let per = m * n / 32;
        let at = |lane: usize, i: usize| {
            if x.wmma {
                let e = i * 32 + lane;
                (e / n, e % n)
            } else {
                acc_at(lane, i)
            }
        };
        let mut out = vec![[0u64; 32]; x.d.len()];
        let mut un = vec![0u32; x.d.len()];
        for i in 0..per {
            let (cr, cs) = if x.c_acc == AccTy::F16 { (i / 2, i % 2 * 16) } else { (i, 0) };
            let (dr, ds) = if halves { (i / 2, i % 2 * 16) } else { (i, 0) };
            let c = w.val(l, x.c[cr]);
            un[dr] |= w.unknown(x.c[cr]);
            for lane in 0..32 {
                let (row, col) = at(lane, i);
                let p = prod[row * n + col];
                if !clean {
                    un[dr] |= (bad_row >> row & 1 | bad_col >> col & 1) << lane;
                }
                let v = if int {
                    // Sums of 64 products of bytes are exact in f32.
                    let (c, p) = (c[lane] as i32, p as i32);
                    (if x.sat { c.saturating_add(p) } else { c.wrapping_add(p) }) as u32 as u64
                } else {
                    let c = if x.c_acc == AccTy::F16 {
                        h2f((c[lane] >> cs) as u16)
                    } else {
                        f32::from_bits(c[lane] as u32)
                    };
                    let s = c + p;
                    if halves { narrow(s as f64, F16, Rnd::Ne) as u64 } else { s.to_bits() as u64 }
                };
                out[dr][lane] |= v << ds;
            }
        }
        for (i, r) in x.d.iter().enumerate() {
            w.put(*r, !0, &out[i], un[i]);
        }
    }
}
