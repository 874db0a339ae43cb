//! The common case of shared memory: whole words of one's own CTA, every address good. One look at all addresses,
//! then a tight loop over the lanes; anything else takes the general path of `access`, which also words the errors.

use super::access::By;
use super::{Unit, Warp, lanes};
use crate::ir::*;
use crate::mem::shadow::{Conflict, Stamp, Who};

/// What the race check objected to: lane, byte, conflict, and whether the store changed nothing.
type Objection = (usize, usize, Conflict, bool);

impl Unit<'_> {
    /// True if every active lane accesses `n` aligned bytes inside its own CTA's shared memory.
    #[inline]
    fn plain(&self, addrs: &Lanes, n: usize, ex: u32) -> bool {
        let (len, low) = (self.l.shared_len as u64, n as u64 - 1);
        (0..32).all(|l| ex >> l & 1 == 0 || (addrs[l] & low == 0 && addrs[l] + (n as u64) <= len))
    }

    /// Loads words into `vals`, element by element; `None` if the general path must do it. Returns the lanes that
    /// read something uninitialised.
    #[allow(clippy::too_many_arguments)]
    #[inline]
    pub(super) fn load_words(
        &mut self,
        w: &Warp,
        addrs: &Lanes,
        n: usize,
        pc: u32,
        ex: u32,
        flags: Stamp,
        vals: &mut [Lanes; 4],
    ) -> Option<u32> {
        if !n.is_multiple_of(4) || !self.plain(addrs, n, ex) {
            return None;
        }
        let (cta, hb) = (&mut self.ctas[w.cta], &self.hb);
        let (mut unknown, mut bad): (u32, Vec<Objection>) = (0, vec![]);
        for l in lanes(ex) {
            let off = addrs[l] as usize;
            if self.l.races {
                let who = Who { stamp: hb.stamp(w.base + l, pc, flags), known: &hb.known[w.id] };
                if let Some((at, c)) = cta.cells.access(off, n, false, &who) {
                    bad.push((l, at, c, false));
                }
            }
            for (e, v) in vals[..n / 4].iter_mut().enumerate() {
                let at = off + 4 * e;
                v[l] = word(&cta.shared, at) as u64;
                unknown |= ((word(&cta.init, at) != 0x0101_0101) as u32) << l;
            }
        }
        self.object(w, bad, false, pc, flags);
        if unknown != 0 && self.uninit_hint.is_none() {
            let l = unknown.trailing_zeros() as usize;
            let line = self.k.insts[pc as usize].line;
            self.uninit_hint = Some((line, format!("shared memory at {:#x}", addrs[l])));
        }
        Some(unknown)
    }

    /// Stores words; false if the general path must do it.
    #[allow(clippy::too_many_arguments)]
    #[inline]
    pub(super) fn store_words(
        &mut self,
        w: &Warp,
        addrs: &Lanes,
        n: usize,
        pc: u32,
        ex: u32,
        unknown: u32,
        vals: &[Lanes; 4],
    ) -> bool {
        if !n.is_multiple_of(4) || !self.plain(addrs, n, ex) {
            return false;
        }
        let (cta, hb) = (&mut self.ctas[w.cta], &self.hb);
        let mut bad: Vec<Objection> = vec![];
        for l in lanes(ex) {
            let off = addrs[l] as usize;
            if self.l.races {
                let who = Who { stamp: hb.stamp(w.base + l, pc, 0), known: &hb.known[w.id] };
                if let Some((at, c)) = cta.cells.access(off, n, true, &who) {
                    let same = (0..n / 4).all(|e| word(&cta.shared, off + 4 * e) == vals[e][l] as u32);
                    bad.push((l, at, c, same));
                }
            }
            let known = if unknown >> l & 1 == 0 { [1u8; 4] } else { [0; 4] };
            for (e, v) in vals[..n / 4].iter().enumerate() {
                let at = off + 4 * e;
                cta.shared[at..at + 4].copy_from_slice(&(v[l] as u32).to_le_bytes());
                cta.init[at..at + 4].copy_from_slice(&known);
            }
        }
        self.object(w, bad, true, pc, 0);
        true
    }

    fn object(&mut self, w: &Warp, bad: Vec<Objection>, write: bool, pc: u32, flags: Stamp) {
        for (lane, at, c, same) in bad {
            let key = (w.cta as u64 + 1) << 24 | at as u64;
            let place = (key, format!("shared byte {at:#x}"));
            self.report_race(w, By { lane, pc, flags }, place, write, c, same);
        }
    }
}

#[inline]
fn word(b: &[u8], at: usize) -> u32 {
    match b.get(at..at + 4).and_then(|b| b.try_into().ok()) {
        Some(b) => u32::from_le_bytes(b),
        None => 0,
    }
}
