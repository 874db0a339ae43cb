//! `ldmatrix`, `stmatrix`, `movmatrix` and the loads and stores of `wmma`.

use super::access::By;
use super::{Run, Unit, Warp};
use crate::ir::*;
use crate::types::Space;

impl Unit<'_> {
    /// 8×8 matrices of 16-bit elements: lane `8 i + r` gives the address of row r of matrix i; lane l holds elements
    /// (l / 4, 2 (l % 4)) and the next, or with `.trans` the transposed pair.
    pub(super) fn matrix(&mut self, w: &mut Warp, x: &Matrix, pc: u32) -> Run<()> {
        let rows = self.addresses(w, x.space, x.addr, x.off, pc, if x.num == 4 { !0 } else { (1 << (8 * x.num)) - 1 });
        for i in 0..x.num as usize {
            if self.l.count {
                let mut part = [0; 32];
                part[..8].copy_from_slice(&rows[8 * i..8 * i + 8]);
                self.count_access(Space::Shared, &part, 16, 0xff);
            }
            let mut tile = [[0u16; 8]; 8];
            let mut bad_rows = 0u32;
            if x.store {
                let v = w.val(self.l, x.regs[i]);
                let un = w.unknown(x.regs[i]);
                for l in 0..32 {
                    for h in 0..2 {
                        let e = (v[l] >> (16 * h)) as u16;
                        let (r, c) = (l / 4, 2 * (l % 4) + h);
                        let (r, c) = if x.trans { (c, r) } else { (r, c) };
                        tile[r][c] = e;
                        bad_rows |= (un >> l & 1) << r;
                    }
                }
            }
            for (r, row) in tile.iter_mut().enumerate() {
                let by = By { lane: 8 * i + r, pc, flags: 0 };
                let mut bytes = [0u8; 16];
                if x.store {
                    for (c, e) in row.iter().enumerate() {
                        bytes[2 * c..2 * c + 2].copy_from_slice(&e.to_le_bytes());
                    }
                    self.write(w, by, x.space, rows[by.lane], &bytes, bad_rows >> r & 1 == 0)?;
                } else {
                    if !self.read(w, by, x.space, rows[by.lane], &mut bytes)? {
                        bad_rows |= 1 << r;
                    }
                    for (c, e) in row.iter_mut().enumerate() {
                        *e = u16::from_le_bytes([bytes[2 * c], bytes[2 * c + 1]]);
                    }
                }
            }
            if !x.store {
                let (out, un) = fragment(&tile, x.trans, bad_rows);
                w.put(x.regs[i], !0, &out, un);
            }
        }
        if x.store {
            self.progress += 1;
        }
        Ok(())
    }

    pub(super) fn mov_matrix(&mut self, w: &mut Warp, d: Reg, a: Reg) {
        let v = *w.val(self.l, a);
        let mut tile = [[0u16; 8]; 8];
        for l in 0..32 {
            tile[l / 4][2 * (l % 4)] = v[l] as u16;
            tile[l / 4][2 * (l % 4) + 1] = (v[l] >> 16) as u16;
        }
        let (out, _) = fragment(&tile, true, 0);
        let un = if w.unknown(a) != 0 { !0 } else { 0 };
        w.put(d, !0, &out, un);
    }

    /// Fragment element `e` of a lane is element `e * 32 + lane` of the tile in its own order: row-major for a and
    /// the accumulators, column-major for b.
    pub(super) fn wmma(&mut self, w: &mut Warp, x: &Wmma, pc: u32) -> Run<()> {
        let l = self.l;
        let base = self.addresses(w, x.space, x.addr, x.off, pc, !0)[0];
        let (rows, cols) = match x.frag {
            Frag::A => (x.m, x.k),
            Frag::B => (x.k, x.n),
            Frag::C => (x.m, x.n),
        };
        let stride = match x.stride {
            Some(r) => w.get(l, r, 0) as u32 as u64,
            None => {
                if x.col {
                    rows as u64
                } else {
                    cols as u64
                }
            }
        };
        let elems = (rows * cols) as usize / 32;
        let per = (32 / x.bits).max(1) as usize;
        // Elements smaller than a byte are loaded with the byte they lie in.
        let n = x.bits.div_ceil(8) as usize;
        let mut out = vec![[0u64; 32]; x.regs.len()];
        let mut un = vec![0u32; x.regs.len()];
        for e in 0..elems {
            for lane in 0..32usize {
                let i = (e * 32 + lane) as u32;
                let (r, c) = if x.frag == Frag::B { (i % rows, i / rows) } else { (i / cols, i % cols) };
                let at = if x.col { c as u64 * stride + r as u64 } else { r as u64 * stride + c as u64 };
                let addr = base.wrapping_add(at * x.bits as u64 / 8);
                // The warp acts as one: which lane holds an element is open, so lane 0 stands for all.
                let by = By { lane: 0, pc, flags: 0 };
                let (reg, sub) = (e / per, (e % per) as u32 * x.bits);
                let mut b = [0u8; 8];
                if x.store {
                    let v = w.get(l, x.regs[reg], lane) >> sub;
                    let known = w.unknown(x.regs[reg]) >> lane & 1 == 0;
                    self.write(w, by, x.space, addr, &v.to_le_bytes()[..n], known)?;
                } else {
                    if !self.read(w, by, x.space, addr, &mut b[..n])? {
                        un[reg] |= 1 << lane;
                    }
                    let v = u64::from_le_bytes(b) >> (at * x.bits as u64 % 8);
                    let mask = if x.bits == 64 { !0 } else { (1 << x.bits) - 1 };
                    out[reg][lane] |= (v & mask) << sub;
                }
            }
        }
        if x.store {
            self.progress += 1;
        } else {
            for (i, r) in x.regs.iter().enumerate() {
                w.put(*r, !0, &out[i], un[i]);
            }
        }
        Ok(())
    }
}

/// An 8×8 tile as the register of a warp, and its uninitialised lanes.
fn fragment(tile: &[[u16; 8]; 8], trans: bool, bad_rows: u32) -> (Lanes, u32) {
    let mut un = 0;
    let out = std::array::from_fn(|l| {
        let (r, c) = (l / 4, 2 * (l % 4));
        let (lo, hi, bad) = if trans {
            (tile[c][r], tile[c + 1][r], bad_rows >> c & 3)
        } else {
            (tile[r][c], tile[r][c + 1], bad_rows >> r & 1)
        };
        un |= ((bad != 0) as u32) << l;
        lo as u64 | (hi as u64) << 16
    });
    (out, un)
}
