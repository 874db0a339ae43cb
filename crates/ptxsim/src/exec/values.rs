//! Reading operands and writing results of a warp, with the marks of uninitialised values.

use super::{Launch, Warp, lanes};
use crate::ir::*;

impl Warp {
    #[inline]
    pub fn val<'b>(&'b self, l: &'b Launch, r: Reg) -> &'b Lanes {
        match self.regs.get(r as usize) {
            Some(v) => v,
            None => &l.consts[r as usize - self.regs.len()],
        }
    }
    /// Lanes in which an operand is uninitialised.
    #[inline]
    pub fn unknown(&self, r: Reg) -> u32 {
        self.un.get(r as usize).copied().unwrap_or(0)
    }
    #[inline]
    pub fn get(&self, l: &Launch, r: Reg, lane: usize) -> u64 {
        self.val(l, r)[lane]
    }
    /// Writes lanes of a register; `unknown` marks the uninitialised ones.
    #[inline]
    pub fn put(&mut self, r: Reg, mask: u32, v: &Lanes, unknown: u32) {
        let (Some(d), Some(u)) = (self.regs.get_mut(r as usize), self.un.get_mut(r as usize)) else { return };
        *u = *u & !mask | unknown & mask;
        if mask == !0 {
            *d = *v;
        } else {
            for i in 0..32 {
                if mask >> i & 1 == 1 {
                    d[i] = v[i];
                }
            }
        }
    }
    #[inline]
    pub fn put_lane(&mut self, r: Reg, lane: usize, v: u64) {
        if let (Some(d), Some(u)) = (self.regs.get_mut(r as usize), self.un.get_mut(r as usize)) {
            d[lane] = v;
            *u &= !(1 << lane);
        }
    }
    #[inline]
    pub fn pred(&self, p: Pred, neg: bool) -> u32 {
        let v = self.preds[p as usize];
        if neg { !v } else { v }
    }
    #[inline]
    pub fn put_pred(&mut self, p: Pred, mask: u32, v: u32, unknown: u32) {
        let (d, u) = (&mut self.preds[p as usize], &mut self.pun[p as usize]);
        *d = *d & !mask | v & mask;
        *u = *u & !mask | unknown & mask;
    }
    /// The value of an operand that should be the same in all lanes, taken from the first.
    pub fn first(&self, l: &Launch, r: Reg, mask: u32) -> u64 {
        let lane = lanes(mask).next().unwrap_or(0);
        self.get(l, r, lane)
    }
}
