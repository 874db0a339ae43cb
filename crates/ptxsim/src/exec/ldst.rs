//! `ld` and `st`.

use super::access::By;
use super::{Run, Unit, Warp, lanes};
use crate::ir::*;
use crate::mem::shadow::STRONG;
use crate::types::{Space, resolve};

impl Unit<'_> {
    pub(super) fn load(&mut self, w: &mut Warp, x: &Access, pc: u32, ex: u32) -> Run<()> {
        let l = self.l;
        let (size, n) = (x.size as usize, (x.size * x.vec) as usize);
        let addrs = self.addresses(w, x.space, x.addr, x.off, pc, ex);
        if l.count {
            self.count_access(x.space, &addrs, n, ex);
        }
        let flags = if x.order.strong { STRONG } else { 0 };
        if x.space == Space::Param {
            // All lanes mostly read one parameter.
            if let Some(v) = self.uniform_param(&addrs, ex, n) {
                for (e, r) in x.regs.iter().enumerate() {
                    let v = extend(&v[e * size..][..size], x.sext);
                    w.put(*r, ex, &[v; 32], 0);
                }
                return Ok(());
            }
        }
        let mut vals = [[0u64; 32]; 4];
        let mut unknown = 0u32;
        if x.space == Space::Shared
            && size == 4
            && !x.order.strong
            && (x.sext.is_none() || x.sext == Some(32))
            && let Some(unknown) = self.load_words(w, &addrs, n, pc, ex, flags, &mut vals)
        {
            for (e, r) in x.regs.iter().enumerate() {
                w.put(*r, ex, &vals[e], unknown);
            }
            return Ok(());
        }
        for lane in lanes(ex) {
            let by = By { lane, pc, flags };
            let mut buf = [0u8; 32];
            let addr = addrs[lane];
            if !self.read(w, by, x.space, addr, &mut buf[..n])? {
                unknown |= 1 << lane;
            }
            if x.order.strong {
                self.observe(w, x.space, addr);
            }
            for e in 0..x.regs.len() {
                vals[e][lane] = extend(&buf[e * size..][..size], x.sext);
            }
        }
        for (e, r) in x.regs.iter().enumerate() {
            w.put(*r, ex, &vals[e], unknown);
        }
        Ok(())
    }

    pub(super) fn store(&mut self, w: &mut Warp, x: &Access, pc: u32, ex: u32) -> Run<()> {
        let l = self.l;
        let (size, n) = (x.size as usize, (x.size * x.vec) as usize);
        let addrs = self.addresses(w, x.space, x.addr, x.off, pc, ex);
        if l.count {
            self.count_access(x.space, &addrs, n, ex);
        }
        let unknown = x.regs.iter().fold(0, |m, r| m | w.unknown(*r));
        let flags = if x.order.strong { STRONG } else { 0 };
        let vals: [Lanes; 4] = std::array::from_fn(|e| x.regs.get(e).map_or([0; 32], |r| *w.val(l, *r)));
        if x.space == Space::Shared
            && size == 4
            && !x.order.strong
            && self.store_words(w, &addrs, n, pc, ex, unknown, &vals)
        {
            self.progress += 1;
            return Ok(());
        }
        for lane in lanes(ex) {
            let mut buf = [0u8; 32];
            for e in 0..x.regs.len() {
                buf[e * size..][..size].copy_from_slice(&vals[e][lane].to_le_bytes()[..size]);
            }
            if x.order.strong {
                self.publish(w, x.space, addrs[lane], lane, x.order.release);
            }
            let by = By { lane, pc, flags };
            self.write(w, by, x.space, addrs[lane], &buf[..n], unknown >> lane & 1 == 0)?;
        }
        let first = addrs[ex.trailing_zeros() as usize & 31];
        if x.space != Space::Local && !(x.space == Space::Generic && resolve(first).0 == Space::Local) {
            self.progress += 1;
        }
        Ok(())
    }

    /// The addresses of all lanes; 32-bit spaces wrap.
    pub(super) fn addresses(&mut self, w: &Warp, space: Space, r: Reg, off: i64, pc: u32, ex: u32) -> Lanes {
        let bad = w.unknown(r) & ex;
        if bad != 0 {
            self.uninit(w, bad, pc, "an address");
        }
        let v = w.val(self.l, r);
        if space == Space::Shared {
            std::array::from_fn(|i| v[i].wrapping_add(off as u64) as u32 as u64)
        } else {
            std::array::from_fn(|i| v[i].wrapping_add(off as u64))
        }
    }

    fn uniform_param(&self, addrs: &Lanes, ex: u32, n: usize) -> Option<Vec<u8>> {
        let a = addrs[ex.trailing_zeros() as usize & 31];
        if lanes(ex).any(|l| addrs[l] != a) || !a.is_multiple_of(n as u64) {
            return None;
        }
        let a = usize::try_from(a).ok()?;
        self.l.params.get(a..a.checked_add(n)?).map(<[u8]>::to_vec)
    }

    /// A strong write or atomic publishes what its thread did before its last fence.
    pub(super) fn publish(&mut self, w: &Warp, space: Space, addr: u64, lane: usize, release: bool) {
        if !self.l.races || !(release || self.hb.any_fence) {
            return;
        }
        let addr = key(space, addr, w.cta);
        let mut at = self.published.remove(&addr).unwrap_or_default();
        let fence = if release {
            self.hb.release(w.id, w.base, 1 << lane, &mut at);
            self.view.inter().map_or(0, |i| i.fence())
        } else {
            self.hb.release_fenced(w.id, w.base + lane, &mut at)
        };
        self.published.insert(addr, at);
        let me = self.number;
        if let Some(i) = self.view.inter().filter(|_| release || fence > 0) {
            i.release(me, addr, fence);
        }
    }

    /// A strong read or atomic takes over what was published at its address.
    pub(super) fn observe(&mut self, w: &Warp, space: Space, addr: u64) {
        if !self.l.races {
            return;
        }
        let addr = key(space, addr, w.cta);
        if let Some(from) = self.published.get(&addr) {
            self.hb.acquire(w.id, from);
        }
        let me = self.number;
        if let Some(i) = self.view.inter() {
            i.acquire(me, addr);
        }
    }
}

/// Shared addresses of different CTAs are different places.
pub(super) fn key(space: Space, addr: u64, cta: usize) -> u64 {
    let (space, addr) = if space == Space::Generic { resolve(addr) } else { (space, addr) };
    match space {
        Space::Shared if addr >> 24 == 0 => (cta as u64 + 1) << 24 | addr,
        _ => addr,
    }
}

#[inline]
fn extend(b: &[u8], sext: Option<u32>) -> u64 {
    let mut x = [0u8; 8];
    x[..b.len()].copy_from_slice(b);
    let v = u64::from_le_bytes(x);
    match sext {
        None => v,
        Some(bits) => {
            let s = 64 - b.len() as u32 * 8;
            let v = (((v << s) as i64) >> s) as u64;
            if bits >= 64 { v } else { v & ((1 << bits) - 1) }
        }
    }
}
