//! Counting of memory traffic: sectors, lines and bank conflicts of one warp-wide access.

use super::{Unit, lanes};
use crate::ir::Lanes;
use crate::types::{Space, resolve};

impl Unit<'_> {
    pub(super) fn count_access(&mut self, space: Space, addrs: &Lanes, n: usize, ex: u32) {
        let first = addrs[ex.trailing_zeros() as usize & 31];
        let space = if space == Space::Generic { resolve(first).0 } else { space };
        match space {
            Space::Global => {
                self.counters.global_accesses += 1;
                self.counters.global_sectors += distinct(addrs, n, ex, 32);
                self.counters.global_lines += distinct(addrs, n, ex, 128);
            }
            Space::Shared => {
                self.counters.shared_accesses += 1;
                self.counters.bank_conflicts += conflicts(addrs, n, ex);
            }
            _ => {}
        }
    }
}

/// Blocks of `unit` bytes that the lanes touch.
fn distinct(addrs: &Lanes, n: usize, ex: u32, unit: u64) -> u64 {
    let mut seen: Vec<u64> = Vec::with_capacity(32);
    for l in lanes(ex) {
        let (a, b) = (addrs[l] / unit, addrs[l].wrapping_add(n as u64 - 1) / unit);
        for x in [a, b] {
            if seen.last() != Some(&x) && !seen.contains(&x) {
                seen.push(x);
            }
        }
    }
    seen.len() as u64
}

/// Extra passes through the 32 banks. Wide accesses go in halves (8 bytes) or quarters (16 bytes) of a warp.
pub(super) fn conflicts(addrs: &Lanes, n: usize, ex: u32) -> u64 {
    let per = match n {
        16.. => 8,
        8.. => 16,
        _ => 32,
    };
    let mut extra = 0;
    for start in (0..32).step_by(per) {
        let mut words: Vec<u64> = Vec::with_capacity(32);
        for l in lanes(ex).filter(|l| (start..start + per).contains(l)) {
            for w in addrs[l] / 4..=(addrs[l].wrapping_add(n as u64 - 1)) / 4 {
                if !words.contains(&w) {
                    words.push(w);
                }
            }
        }
        let mut banks = [0u64; 32];
        words.iter().for_each(|w| banks[(*w % 32) as usize] += 1);
        extra += banks.iter().max().map_or(0, |m| m.saturating_sub(1));
    }
    extra
}
