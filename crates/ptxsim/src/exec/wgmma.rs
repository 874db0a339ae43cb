//! `wgmma`: each warp of the warpgroup computes its 16 rows when the group is waited for.
//!
//! Until then its accumulators are poisoned. Operands in shared memory are read at the wait, through descriptors, in
//! 16-byte chunks; each chunk is checked like any read, and stores by threads must have passed a proxy fence.

use super::access::By;
use super::mma::{element, product};
use super::tensormap::Swizzle;
use super::{Run, Unit, Warp, WgOp};
use crate::ir::*;
use crate::num::*;
use crate::report::FindingKind;

/// Fields of a shared-memory matrix descriptor.
struct Desc {
    start: usize,
    leading: usize,
    stride: usize,
    swizzle: Swizzle,
}

impl Desc {
    fn new(d: u64) -> Self {
        let field = |s: u32| ((d >> s & 0x3fff) << 4) as usize;
        let swizzle = [Swizzle::None, Swizzle::B128, Swizzle::B64, Swizzle::B32][(d >> 62) as usize];
        Desc { start: field(0), leading: field(16), stride: field(32), swizzle }
    }

    /// Address of the 16-byte chunk with element (mn, k): along k (K-major) or along mn (transposed). `t` elements
    /// make a chunk.
    fn chunk(&self, mn: usize, k: usize, t: usize, trans: bool) -> usize {
        let w = match self.swizzle {
            Swizzle::None => 16,
            s => s.width() as usize,
        };
        let at = match (trans, self.swizzle) {
            (false, Swizzle::None) => self.start + mn / 8 * self.stride + mn % 8 * 16 + k / t * self.leading,
            (false, _) => self.start + mn / 8 * self.stride + mn % 8 * w + k / t * 16,
            (true, Swizzle::None) => self.start + mn / t * self.stride + k % 8 * 16 + k / 8 * self.leading,
            (true, _) => {
                let (c, per) = (mn / t, w / 16);
                self.start + c % per * 16 + c / per * self.leading + k % 8 * w + k / 8 * self.stride
            }
        };
        self.swizzle.apply(at)
    }
}

/// Bytes of an element.
fn size(t: MatTy) -> usize {
    (t.bits() / 8).max(1) as usize
}

impl Unit<'_> {
    pub(super) fn wgmma_issue(&mut self, w: &mut Warp, x: &Wgmma, pc: u32) -> Run<()> {
        let l = self.l;
        let unknown = w.unknown(x.b) | if x.a_desc { w.unknown(x.a[0]) } else { 0 } | w.pun[x.scale_d.0 as usize];
        if unknown != 0 {
            self.uninit(w, unknown, pc, "a descriptor or scale of wgmma");
        }
        let bad = match &w.wg_fence {
            None => Some("the first wgmma of a warp"),
            Some(dirty) => {
                let d = x.d.iter().filter(|_| w.pred(x.scale_d.0, x.scale_d.1) & 1 == 1);
                let a = x.a.iter().filter(|_| !x.a_desc);
                d.chain(a).any(|r| dirty.contains(r)).then_some("a wgmma whose registers were just written")
            }
        };
        if let Some(what) = bad {
            let m = format!("{what} needs wgmma.fence in front of it");
            return Err(self.stop(FindingKind::Misuse, w, 0, pc, m));
        }
        let a = (!x.a_desc).then(|| x.a.iter().map(|r| *w.val(l, *r)).collect());
        let op = WgOp {
            pc,
            a,
            desc_a: if x.a_desc { w.get(l, x.a[0], 0) } else { 0 },
            desc_b: w.get(l, x.b, 0),
            scale_d: w.pred(x.scale_d.0, x.scale_d.1) & 1 == 1,
        };
        w.wg_regs.extend(x.d.iter().copied());
        w.wg_open.push(op);
        Ok(())
    }

    pub(super) fn wg_commit(&mut self, w: &mut Warp) {
        let open = std::mem::take(&mut w.wg_open);
        w.wg_groups.push_back(open);
    }

    pub(super) fn wg_wait(&mut self, w: &mut Warp, n: usize) -> Run<()> {
        // Each lane waits for the whole warpgroup's work: what the warp read is ordered for all its lanes.
        let some = w.wg_groups.len() > n;
        while w.wg_groups.len() > n {
            for op in w.wg_groups.pop_front().unwrap_or_default() {
                self.wgmma_run(w, &op)?;
            }
        }
        if some && self.l.races {
            self.hb.warp_sync(w.id, w.base, !0);
        }
        self.wg_refresh(w);
        Ok(())
    }

    /// Recomputes which registers are still to be written.
    fn wg_refresh(&self, w: &mut Warp) {
        w.wg_regs.clear();
        for op in w.wg_groups.iter().flatten().chain(&w.wg_open) {
            if let Some(Op::Wgmma(x)) = self.k.insts.get(op.pc as usize).map(|i| &i.op) {
                w.wg_regs.extend(x.d.iter().copied());
            }
        }
    }

    /// An instruction while `wgmma` is in flight: accumulators must not be touched. A plain move is what compilers
    /// put around inline assembly; the hardware compiler serialises there, and so do we.
    pub(super) fn check_accumulators(&mut self, w: &mut Warp, op: &Op, pc: u32, ex: u32) -> Run<()> {
        let k = self.k;
        if let Some(dirty) = &mut w.wg_fence {
            dirty.extend(k.wg_writes[pc as usize].iter());
        }
        if w.wg_regs.is_empty()
            || matches!(op, Op::Wgmma(_) | Op::WgCommit | Op::WgWait(_) | Op::WgFence | Op::Bra(_) | Op::Nop)
        {
            return Ok(());
        }
        if !k.regs_of[pc as usize].iter().any(|r| w.wg_regs.contains(r)) {
            return Ok(());
        }
        if !matches!(op, Op::Mov(..)) {
            let m = "uses an accumulator of a wgmma that has not been waited for".to_string();
            self.note(FindingKind::InFlight, w, ex.trailing_zeros() as usize, pc, m);
        }
        self.wg_commit(w);
        self.wg_wait(w, 0)
    }

    /// Reads one operand as rows of k elements.
    #[allow(clippy::too_many_arguments)]
    fn wg_operand(
        &mut self,
        w: &Warp,
        pc: u32,
        d: &Desc,
        ty: MatTy,
        trans: bool,
        rows: std::ops::Range<usize>,
        k: usize,
        out: &mut [f32],
    ) -> Run<bool> {
        let es = size(ty);
        let t = 16 / es;
        let by = By { lane: 0, pc, flags: 0 };
        let (outer, inner) = if trans { (k, rows.len()) } else { (rows.len(), k) };
        let mut known = true;
        for o in 0..outer {
            for i in (0..inner).step_by(t) {
                let (r, c) = if trans { (i, o) } else { (o, i) };
                let at = d.chunk(rows.start + r, c, t, trans);
                let (cta, off) = self.shared_at(w, by, at as u64, 16)?;
                self.check_source(w, by, cta, off, 16, Swizzle::None);
                let bytes = &self.ctas[cta].shared[off..off + 16];
                known &= self.ctas[cta].init[off..off + 16].iter().all(|x| *x == 1);
                for e in 0..t {
                    let v = bytes[e * es..(e + 1) * es].iter().rev().fold(0u64, |v, b| v << 8 | *b as u64);
                    let at = if trans { (r + e) * k + c } else { r * k + c + e };
                    if let Some(o) = out.get_mut(at) {
                        *o = element(ty, v);
                    }
                }
            }
        }
        Ok(known)
    }

    fn wgmma_run(&mut self, w: &mut Warp, op: &WgOp) -> Run<()> {
        let kernel = self.k;
        let Some(Op::Wgmma(x)) = kernel.insts.get(op.pc as usize).map(|i| &i.op) else { return Ok(()) };
        let (n, k) = (x.n as usize, x.k as usize);
        let first = (w.index % 4) as usize * 16;
        let (mut a, mut b) = (vec![0f32; 16 * k], vec![0f32; n * k]);
        let mut known = true;
        match &op.a {
            Some(regs) => {
                let per = 4 / size(x.ty);
                for (r, v) in regs.iter().enumerate() {
                    for lane in 0..32 {
                        for e in 0..per {
                            let (row, col) = (lane / 4 + (r & 1) * 8, per * (lane % 4) + e + (r >> 1) * 4 * per);
                            a[row * k + col] = element(x.ty, v[lane] >> (e * 8 * size(x.ty)));
                        }
                    }
                }
            }
            None => {
                let d = Desc::new(op.desc_a);
                known &= self.wg_operand(w, op.pc, &d, x.ty, x.trans_a, first..first + 16, k, &mut a)?;
            }
        }
        let d = Desc::new(op.desc_b);
        known &= self.wg_operand(w, op.pc, &d, x.b_ty, x.trans_b, 0..n, k, &mut b)?;
        let sign = if x.neg_a != x.neg_b { -1.0 } else { 1.0 };
        let mut prod = vec![0f32; 16 * n];
        product(&a, &b, k, 16, n, &mut prod);
        let halves = x.acc == AccTy::F16;
        for (i, reg) in x.d.iter().enumerate() {
            let old = *w.val(self.l, *reg);
            let mut un = if op.scale_d { w.unknown(*reg) } else { 0 };
            if !known {
                un = !0;
            }
            let mut out = [0u64; 32];
            for (lane, o) in out.iter_mut().enumerate() {
                let per = if halves { 2 } else { 1 };
                for h in 0..per {
                    let e = i * per + h;
                    let (row, col) = (lane / 4 + 8 * (e % 4 / 2), e / 4 * 8 + 2 * (lane % 4) + e % 2);
                    let p = sign * prod[row * n + col];
                    *o |= match x.acc {
                        AccTy::S32 => {
                            let c = if op.scale_d { old[lane] as i32 } else { 0 };
                            c.wrapping_add(p as i32) as u32 as u64
                        }
                        AccTy::F16 => {
                            let c = if op.scale_d { h2f((old[lane] >> (16 * h)) as u16) } else { 0.0 };
                            (narrow((c + p) as f64, F16, Rnd::Ne) as u64) << (16 * h)
                        }
                        _ => {
                            let c = if op.scale_d { f32::from_bits(old[lane] as u32) } else { 0.0 };
                            (c + p).to_bits() as u64
                        }
                    };
                }
            }
            w.put(*reg, !0, &out, un);
        }
        Ok(())
    }
}
