//! `atom` and `red`: read, modify, write, lane by lane in lane order.

use super::access::By;
use super::{Run, Unit, Warp, lanes};
use crate::ir::*;
use crate::mem::shadow::STRONG;
use crate::num::*;
use crate::report::FindingKind;

impl Unit<'_> {
    pub(super) fn atom(&mut self, w: &mut Warp, x: &Atom, pc: u32, ex: u32) -> Run<()> {
        let l = self.l;
        let addrs = self.addresses(w, x.space, x.addr, x.off, pc, ex);
        if l.count {
            self.count_access(x.space, &addrs, x.size as usize, ex);
        }
        let bad = (w.unknown(x.b) | w.unknown(x.c)) & ex;
        let n = x.size as usize;
        let (mut out, mut unknown) = ([0; 32], 0u32);
        for lane in lanes(ex) {
            let by = By { lane, pc, flags: STRONG };
            let mut buf = [0u8; 8];
            let addr = addrs[lane];
            if !self.read(w, by, x.space, addr, &mut buf[..n])? {
                unknown |= 1 << lane;
            }
            let old = u64::from_le_bytes(buf);
            let (b, c) = (w.get(l, x.b, lane), w.get(l, x.c, lane));
            self.publish(w, x.space, addr, lane, x.order.release);
            self.observe(w, x.space, addr);
            let new = combine(x.kind, x.size * 8, old, b, c);
            let known = (bad | unknown) >> lane & 1 == 0;
            if !known && crate::types::resolve(addr).0 != crate::types::Space::Shared {
                self.note(FindingKind::Uninitialised, w, lane, pc, "an atomic works on an uninitialised value".into());
            }
            self.write(w, by, x.space, addr, &new.to_le_bytes()[..n], known)?;
            if x.kind == AtomKind::Cas && l.races {
                let place = super::ldst::key(x.space, addr, w.cta);
                self.clear_suspect(w.base + lane, place);
            }
            out[lane] = old;
        }
        self.progress += 1;
        if let Some(d) = x.d {
            w.put(d, ex, &out, unknown);
        }
        Ok(())
    }
}

/// The new value of an atomic.
pub(super) fn combine(kind: AtomKind, bits: u32, old: u64, b: u64, c: u64) -> u64 {
    use AtomKind as K;
    let mask = if bits == 64 { !0 } else { (1u64 << bits) - 1 };
    let sx = |v: u64| ((v << (64 - bits)) as i64) >> (64 - bits);
    let (old, b, c) = (old & mask, b & mask, c & mask);
    let half = |f: Format, x: u64, y: u64| {
        narrow(add_odd(widen(x as u32 & 0xffff, f), widen(y as u32 & 0xffff, f)), f, Rnd::Ne) as u64
    };
    let v = match kind {
        K::Add => old.wrapping_add(b),
        K::AddF32 => (f32::from_bits(old as u32) + f32::from_bits(b as u32)).to_bits() as u64,
        K::AddF64 => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        K::AddF16 => half(F16, old, b),
        K::AddBf16 => half(BF16, old, b),
        K::AddF16x2 => half(F16, old, b) | half(F16, old >> 16, b >> 16) << 16,
        K::AddBf16x2 => half(BF16, old, b) | half(BF16, old >> 16, b >> 16) << 16,
        K::And => old & b,
        K::Or => old | b,
        K::Xor => old ^ b,
        K::Exch => b,
        K::Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
        K::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        K::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        K::MinS => sx(old).min(sx(b)) as u64,
        K::MaxS => sx(old).max(sx(b)) as u64,
        K::MinU => old.min(b),
        K::MaxU => old.max(b),
    };
    v & mask
}
