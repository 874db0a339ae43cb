//! `st.async` and `red.async`: stores and reductions that land when the mbarrier beside their destination is waited for.

use super::access::By;
use super::bulk::Delivery;
use super::tensormap::Swizzle;
use super::{Run, Unit, Warp, lanes};
use crate::ir::*;
use crate::mem::shadow::{ASYNC, IN_FLIGHT, STRONG};
use crate::report::FindingKind as K;
use crate::types::Space;

impl Unit<'_> {
    /// `st.async` poisons its destination like a load; `red.async` is atomic with its like until it lands.
    pub(super) fn async_update(&mut self, w: &mut Warp, x: &AsyncUpdate, pc: u32, ex: u32) -> Run<()> {
        for lane in lanes(ex) {
            let by = By { lane, pc, flags: 0 };
            let (dst, bar) = (self.operand(w, by, x.dst) & 0xffff_ffff, self.operand(w, by, x.mbar) & 0xffff_ffff);
            let size = x.size as usize;
            let n = size * x.vals.len();
            let data: Vec<u8> =
                x.vals.iter().flat_map(|r| w.get(self.l, *r, lane).to_le_bytes()[..size].to_vec()).collect();
            let known = x.vals.iter().all(|r| w.unknown(*r) >> lane & 1 == 0);
            self.aligned(w, by, dst, n)?;
            let (c, off) = self.shared_at(w, by, dst, n)?;
            let (bc, boff) = self.mbar_at(w, by, Space::Shared, bar)?;
            if bc != c {
                let m = "the mbarrier is in another CTA than the destination".to_string();
                return Err(self.stop(K::Misuse, w, lane, pc, m));
            }
            if self.l.races {
                let flags = if x.red.is_some() { STRONG } else { ASYNC | IN_FLIGHT };
                self.track_shared(w, By { flags, ..by }, c, off, n, Some(&[]));
            }
            if x.red.is_none() {
                self.ctas[c].shared[off..off + n].fill(0xff);
            }
            let red = x.red.map(|k| (k, x.size * 8));
            let d = Delivery { bytes: n, dst: c << 24 | off, data, known, swizzle: Swizzle::None, red, pc };
            let Some(m) = self.ctas[bc].mbars.get_mut(&boff) else { return Err(self.mbar_missing(w, by, boff)) };
            m.queue.push_back(d);
        }
        self.progress += 1;
        Ok(())
    }
}
