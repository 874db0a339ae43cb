//! `mma.sync` and `wmma.mma` on doubles and on single bits.

use super::{Unit, Warp};
use crate::ir::*;

/// Row (column for b) and k of element `e` of a lane: the layout of `mma` with `per` elements a register, or this
/// crate's own layout of `wmma` fragments.
fn place(x: &Mma, reg: usize, lane: usize, e: usize, b: bool, per: usize) -> (usize, usize) {
    if x.wmma {
        let i = (reg * per + e) * 32 + lane;
        return (i / x.k as usize, i % x.k as usize);
    }
    let (row, step) = if b { (lane / 4, reg) } else { (lane / 4 + (reg & 1) * 8, reg >> 1) };
    (row, per * (lane % 4) + e + step * 4 * per)
}

/// Row and column of a lane's accumulator.
fn result(x: &Mma, lane: usize, i: usize) -> (usize, usize) {
    if x.wmma {
        let e = i * 32 + lane;
        return (e / x.n as usize, e % x.n as usize);
    }
    (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2)
}

impl Unit<'_> {
    /// The elements of a or b row by row, and the rows with uninitialised ones.
    fn gather<T: Copy>(&self, w: &Warp, x: &Mma, b: bool, zero: T, get: fn(u64, usize) -> T) -> (Vec<T>, u32) {
        let (regs, rows, per) = if b { (&x.b, x.n, x.b_ty) } else { (&x.a, x.m, x.a_ty) };
        let per = (32 / per.bits()).max(1) as usize;
        let (mut out, mut bad) = (vec![zero; (rows * x.k) as usize], 0);
        for (r, reg) in regs.iter().enumerate() {
            let (v, un) = (w.val(self.l, *reg), w.unknown(*reg));
            for lane in 0..32 {
                for e in 0..per {
                    let (row, k) = place(x, r, lane, e, b, per);
                    out[row * x.k as usize + k] = get(v[lane], e);
                    bad |= (un >> lane & 1) << row;
                }
            }
        }
        (out, bad)
    }

    /// Fused multiply-adds in the order of k.
    pub(super) fn mma_f64(&mut self, w: &mut Warp, x: &Mma) {
        let (a, bad_a) = self.gather(w, x, false, 0f64, |v, _| f64::from_bits(v));
        let (b, bad_b) = self.gather(w, x, true, 0f64, |v, _| f64::from_bits(v));
        self.finish_mma(w, x, bad_a, bad_b, |row, col, c| {
            let k = x.k as usize;
            let pairs = a[row * k..][..k].iter().zip(&b[col * k..][..k]);
            pairs.fold(f64::from_bits(c), |s, (a, b)| a.mul_add(*b, s)).to_bits()
        });
    }

    /// Counts the bits of a row combined with a column.
    pub(super) fn mma_bits(&mut self, w: &mut Warp, x: &Mma) {
        let bit = |v: u64, e: usize| v >> e & 1 == 1;
        let (a, bad_a) = self.gather(w, x, false, false, bit);
        let (b, bad_b) = self.gather(w, x, true, false, bit);
        self.finish_mma(w, x, bad_a, bad_b, |row, col, c| {
            let k = x.k as usize;
            let pairs = a[row * k..][..k].iter().zip(&b[col * k..][..k]);
            let n = pairs.filter(|(a, b)| if x.and { **a && **b } else { a != b }).count();
            (c as u32).wrapping_add(n as u32) as u64
        });
    }

    fn finish_mma(&self, w: &mut Warp, x: &Mma, bad_a: u32, bad_b: u32, f: impl Fn(usize, usize, u64) -> u64) {
        for (i, (d, c)) in x.d.iter().zip(&x.c).enumerate() {
            let (c, mut un) = (*w.val(self.l, *c), w.unknown(*c));
            let out = std::array::from_fn(|lane| {
                let (row, col) = result(x, lane, i);
                un |= (bad_a >> row & 1 | bad_b >> col & 1) << lane;
                f(row, col, c[lane])
            });
            w.put(*d, !0, &out, un);
        }
    }
}
