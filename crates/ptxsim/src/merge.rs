//! The deterministic merge of what units did, and the races between them.
//!
//! Where two units touched one byte of global memory, at least one of them writing, nothing can have ordered them:
//! units of a wave cannot talk to each other.

use std::collections::HashMap;

use crate::exec;
use crate::mem::device::Memory;
use crate::mem::shadow::{STRONG, Stamp, pc, tid};
use crate::mem::view::{PAGE, Page};
use crate::report::{Finding, FindingKind};

/// Copies the written bytes of private pages into memory.
pub(crate) fn write_back(mem: &mut Memory, pages: &[Page]) {
    for p in pages {
        let Some(data) = &p.data else { continue };
        let a = &mut mem.allocs[p.alloc as usize];
        let start = p.index as usize * PAGE;
        for i in 0..PAGE / 64 {
            let mut bits = p.written[i];
            if bits == !0 {
                let at = start + i * 64;
                a.data[at..at + 64].copy_from_slice(&data[i * 64..i * 64 + 64]);
                if a.init.is_some() {
                    a.set_init(at, 64);
                }
                continue;
            }
            while bits != 0 {
                let b = i * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                a.data[start + b] = data[b];
                if a.init.is_some() {
                    a.set_init(start + b, 1);
                }
            }
        }
    }
}

/// Which units touched a page so far.
#[derive(Default)]
pub(crate) struct Touched {
    pages: HashMap<(u32, u32), Box<Joint>>,
}

/// All units together on one page: bytes, and per word who did it.
struct Joint {
    read: [u64; PAGE / 64],
    written: [u64; PAGE / 64],
    readers: Vec<(u32, Stamp)>,
    writers: Vec<(u32, Stamp)>,
    /// Bytes read by more than one unit.
    shared: [u64; PAGE / 64],
}

impl Touched {
    /// Enters one unit, in order, and reports what it clashes with.
    pub(crate) fn merge(&mut self, l: &exec::Launch, unit: u32, pages: &[Page], mem: &Memory, out: &mut Vec<Finding>) {
        for p in pages {
            let j = self.pages.entry((p.alloc, p.index)).or_insert_with(|| {
                Box::new(Joint {
                    read: [0; PAGE / 64],
                    written: [0; PAGE / 64],
                    readers: vec![],
                    writers: vec![],
                    shared: [0; PAGE / 64],
                })
            });
            for i in 0..PAGE / 64 {
                let (r, w) = (p.read[i], p.written[i]);
                if r | w == 0 {
                    continue;
                }
                let clash = w & (j.written[i] | j.read[i]) | r & j.written[i];
                if clash != 0 {
                    let byte = i * 64 + clash.trailing_zeros() as usize;
                    if let Some(f) = clash_finding(l, unit, p, j, byte, mem) {
                        out.push(f);
                    }
                }
                if r != 0 {
                    note(&mut j.readers, r & !j.read[i], i, unit, &p.rtag[..]);
                    j.shared[i] |= r & j.read[i];
                    j.read[i] |= r;
                }
                if w != 0
                    && let Some(t) = &p.wtag
                {
                    note(&mut j.writers, w, i, unit, &t[..]);
                    j.written[i] |= w;
                }
            }
        }
    }
}

fn note(who: &mut Vec<(u32, Stamp)>, bits: u64, group: usize, unit: u32, tags: &[Stamp]) {
    if bits == 0 {
        return;
    }
    if who.is_empty() {
        who.resize(PAGE / 4, (0, 0));
    }
    for word in 0..16 {
        if bits >> (4 * word) & 15 != 0 {
            who[group * 16 + word] = (unit, tags[group * 16 + word]);
        }
    }
}

fn clash_finding(l: &exec::Launch, unit: u32, p: &Page, j: &Joint, byte: usize, mem: &Memory) -> Option<Finding> {
    let (i, bit, word) = (byte / 64, byte % 64, byte / 4);
    let wrote = p.written[i] >> bit & 1 == 1;
    let prev_wrote = j.written[i] >> bit & 1 == 1;
    let mine = if wrote { p.wtag.as_ref().map_or(0, |t| t[word]) } else { p.rtag[word] };
    let (other, theirs) = *if prev_wrote { j.writers.get(word) } else { j.readers.get(word) }?;
    if mine & theirs & STRONG != 0 {
        return None;
    }
    let k = l.kernel;
    let line = |s: Stamp| k.insts.get(pc(s) as usize).map_or(0, |i| i.line);
    let [bx, by, _] = l.block;
    let per = ((l.block[0] * l.block[1] * l.block[2]).div_ceil(32) * 32) as usize;
    let place = |unit: u32, s: Stamp| {
        let [cx, cy, cz] = l.cluster;
        let (c, t) = ((tid(s) / per) as u32, (tid(s) % per) as u32);
        let g = [l.grid[0] / cx, l.grid[1] / cy];
        let cta = [
            unit % g[0] * cx + c % cx,
            unit / g[0] % g[1] * cy + c / cx % cy,
            unit / (g[0] * g[1]) * cz + c / (cx * cy),
        ];
        (cta, [t % bx, t / bx % by, t / (bx * by)])
    };
    let (cta, thread) = place(unit, mine);
    let (oc, ot) = place(other, theirs);
    let base = mem.allocs[p.alloc as usize].base;
    let off = p.index as usize * PAGE + byte;
    Some(Finding {
        kind: FindingKind::RaceBetweenCtas,
        kernel: k.name.clone(),
        line: line(mine),
        cta,
        thread,
        message: format!(
            "{} offset {off} of the allocation at {base:#x}, {} by block {oc:?} thread {ot:?} at line {}",
            if wrote { "writes" } else { "reads" },
            if prev_wrote { "written" } else { "read" },
            line(theirs)
        ),
    })
}
