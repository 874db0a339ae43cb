//! `cp.async.bulk` and `cp.async.bulk.tensor` (TMA): loads that signal mbarriers, stores in bulk groups.
//!
//! Loads poison their destination at issue and land when the mbarrier is tested. Stores check their source at issue
//! (order and proxy fence) and read it when they are waited for; a source that changed in between is reported.

use super::access::By;
use super::tensormap::{Swizzle, TensorMap};
use super::{Run, Unit, Warp, lanes};
use crate::ir::*;
use crate::mem::shadow::{ASYNC, IN_FLIGHT, STRONG, Stamp, clock, tid};
use crate::report::FindingKind as K;
use crate::types::{PARAM_WINDOW, Space, Ty, resolve};

/// A load on its way.
pub(crate) struct Delivery {
    pub bytes: usize,
    dst: usize,
    data: Vec<u8>,
    known: bool,
    swizzle: Swizzle,
    /// Combines with what is there instead of replacing it: operation and bits.
    red: Option<(AtomKind, u32)>,
    pc: u32,
}

/// A store that has been issued.
pub(crate) struct Store {
    lane: usize,
    pc: u32,
    cta: usize,
    src: usize,
    len: usize,
    swizzle: Swizzle,
    pieces: Vec<(u64, usize, usize)>,
    red: Option<(RedOp, Ty)>,
    stamps: Vec<Stamp>,
}

/// A stretch of a box: global address (or `None` outside the tensor), offset in the dense box, bytes.
type Piece = (Option<u64>, usize, usize);

impl Unit<'_> {
    pub(super) fn bulk(&mut self, w: &mut Warp, x: &Bulk, pc: u32, ex: u32) -> Run<()> {
        for lane in lanes(ex) {
            let by = By { lane, pc, flags: 0 };
            match x.kind {
                BulkKind::SharedToGlobal => self.bulk_store(w, x, by)?,
                _ => self.bulk_load(w, x, by)?,
            }
        }
        self.progress += 1;
        Ok(())
    }

    fn operand(&mut self, w: &Warp, by: By, (r, off): (Reg, i64)) -> u64 {
        if w.unknown(r) >> by.lane & 1 == 1 {
            self.uninit(w, 1 << by.lane, by.pc, "an address");
        }
        w.get(self.l, r, by.lane).wrapping_add(off as u64)
    }

    fn tensor_map(&mut self, w: &Warp, by: By, x: &Bulk) -> Run<Option<TensorMap>> {
        let Some(m) = x.map else { return Ok(None) };
        let addr = self.operand(w, by, m);
        let mut bytes = [0u8; 128];
        for i in 0..4 {
            let at = addr.wrapping_add(32 * i as u64);
            let space = if addr < self.l.params.len() as u64 { Space::Param } else { Space::Generic };
            let chunk = &mut bytes[32 * i..32 * i + 32];
            match (space, resolve(at)) {
                (Space::Generic, (Space::Global, _)) => {
                    let (a, o) = self.global_at(w, by, at, 32)?;
                    self.view.read(a, o, chunk);
                }
                (Space::Generic, (Space::Param, _)) => {
                    self.read(w, by, Space::Param, at - PARAM_WINDOW, chunk)?;
                }
                _ => {
                    self.read(w, by, Space::Param, at, chunk)?;
                }
            }
        }
        match TensorMap::decode(&bytes) {
            Some(t) if t.dims.len() == x.coords.len() && t.element_size().is_some() => Ok(Some(t)),
            Some(t) => {
                let m = format!("tensor map of {} dimensions used with {}", t.dims.len(), x.coords.len());
                Err(self.stop(K::Misuse, w, by.lane, by.pc, m))
            }
            None => Err(self.stop(K::Misuse, w, by.lane, by.pc, format!("no tensor map at {addr:#x}"))),
        }
    }

    /// The pieces of the box of a tensor copy, or of a linear copy of `global`.
    fn pieces(&mut self, w: &Warp, by: By, x: &Bulk, map: Option<&TensorMap>, global: u64) -> Run<(Vec<Piece>, usize)> {
        if let Some(t) = map {
            let coords: Vec<i64> = x.coords.iter().map(|r| w.get(self.l, *r, by.lane) as u32 as i32 as i64).collect();
            return Ok(box_pieces(t, &coords));
        }
        let n = x.size.map_or(0, |r| w.get(self.l, r, by.lane) as u32 as usize);
        if !n.is_multiple_of(16) || !global.is_multiple_of(16) {
            let m = format!("bulk copy of {n} bytes at global address {global:#x}: both must be multiples of 16");
            return Err(self.stop(K::Misaligned, w, by.lane, by.pc, m));
        }
        Ok((vec![(Some(global), 0, n)], n))
    }

    fn bulk_load(&mut self, w: &mut Warp, x: &Bulk, by: By) -> Run<()> {
        let dst = self.operand(w, by, x.dst) & 0xffff_ffff;
        let bar = match x.mbar {
            Some(b) => self.operand(w, by, b) & 0xffff_ffff,
            None => 0,
        };
        let map = self.tensor_map(w, by, x)?;
        let (swizzle, nan) = map.as_ref().map_or((Swizzle::None, false), |m| (m.swizzle, m.nan_fill));
        let (mut data, mut known) = (Vec::new(), true);
        if x.kind == BulkKind::SharedToCluster {
            let n = x.size.map_or(0, |r| w.get(self.l, r, by.lane) as u32 as usize);
            let src = self.operand(w, by, x.src) & 0xffff_ffff;
            let (c, off) = self.shared_at(w, by, src, n)?;
            if !n.is_multiple_of(16) {
                return Err(self.stop(K::Misaligned, w, by.lane, by.pc, format!("bulk copy of {n} bytes")));
            }
            self.check_source(w, by, c, off, n, Swizzle::None);
            data = self.ctas[c].shared[off..off + n].to_vec();
            known = self.ctas[c].init[off..off + n].iter().all(|i| *i == 1);
        } else {
            let src = if map.is_some() { 0 } else { self.operand(w, by, x.src) };
            let src = match resolve(src) {
                (Space::Global, a) => a,
                _ => src,
            };
            let (pieces, n) = self.pieces(w, by, x, map.as_ref(), src)?;
            data.resize(n, if nan { 0xff } else { 0 });
            for (addr, off, n) in pieces {
                let Some(addr) = addr else { continue };
                known &= self.read_global(w, by, addr, &mut data[off..off + n])?;
            }
        }
        let targets = match x.multicast {
            None => vec![None],
            Some(r) => {
                let mask = w.get(self.l, r, by.lane);
                (0..self.ctas.len()).filter(|c| mask >> c & 1 == 1).map(Some).collect()
            }
        };
        for t in targets {
            let place = |a: u64| match t {
                Some(c) => (c as u64 + 1) << 24 | a & 0xff_ffff,
                None => a,
            };
            let n = data.len();
            let align = if map.is_some() { 128 } else { 16 };
            self.aligned(w, by, dst, align)?;
            let (c, off) = self.shared_at(w, by, place(dst), n)?;
            let (bc, boff) = self.mbar_at(w, by, Space::Shared, place(bar))?;
            if self.l.races {
                let by = By { flags: ASYNC | IN_FLIGHT, ..by };
                self.track_shared(w, by, c, off, n, Some(&[]));
            }
            self.ctas[c].shared[off..off + n].fill(0xff);
            let d = Delivery { bytes: n, dst: c << 24 | off, data: data.clone(), known, swizzle, red: None, pc: by.pc };
            let Some(m) = self.ctas[bc].mbars.get_mut(&boff) else { return Err(self.mbar_missing(w, by, boff)) };
            m.queue.push_back(d);
        }
        Ok(())
    }

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

    /// Lands a load; `pseudo` is the thread that counts as its writer.
    pub(super) fn land(&mut self, _cta: usize, d: &Delivery, pseudo: usize) {
        let (c, off) = (d.dst >> 24, d.dst & 0xff_ffff);
        if let Some((kind, bits)) = d.red {
            let word = |b: &[u8]| b.iter().rev().fold(0u64, |v, x| v << 8 | *x as u64);
            let place = &mut self.ctas[c].shared[off..off + d.bytes];
            let v = super::atomics::combine(kind, bits, word(place), word(&d.data), 0);
            place.copy_from_slice(&v.to_le_bytes()[..d.bytes]);
        } else {
            self.place(c, off, d);
        }
        if self.l.races {
            let stamp = self.hb.stamp(pseudo, d.pc, ASYNC);
            self.ctas[c].cells.arrive(off, d.bytes, stamp);
        }
    }

    fn place(&mut self, c: usize, off: usize, d: &Delivery) {
        for (i, chunk) in d.data.chunks(16).enumerate() {
            // A swizzle may leave the checked stretch at its ends; what would lie outside is clipped.
            let len = self.ctas[c].shared.len();
            let at = d.swizzle.apply(off + 16 * i).min(len);
            let n = chunk.len().min(len - at);
            self.ctas[c].shared[at..at + n].copy_from_slice(&chunk[..n]);
            self.ctas[c].init[at..at + n].fill(d.known as u8);
        }
    }

    fn bulk_store(&mut self, w: &mut Warp, x: &Bulk, by: By) -> Run<()> {
        let src = self.operand(w, by, x.src) & 0xffff_ffff;
        let map = self.tensor_map(w, by, x)?;
        let swizzle = map.as_ref().map_or(Swizzle::None, |m| m.swizzle);
        let global = if map.is_some() { 0 } else { self.operand(w, by, x.dst) };
        let (pieces, len) = self.pieces(w, by, x, map.as_ref(), global)?;
        self.aligned(w, by, src, if map.is_some() { 128 } else { 16 })?;
        let (cta, off) = self.shared_at(w, by, src, len)?;
        let red = x.red.map(|r| (r, map.as_ref().map_or(x.red_ty.unwrap_or(Ty::U32), TensorMap::reduce_ty)));
        self.check_source(w, by, cta, off, len, swizzle);
        let pieces: Vec<(u64, usize, usize)> =
            pieces.into_iter().filter_map(|(a, o, n)| a.map(|a| (a, o, n))).collect();
        if self.ctas[cta].init[off..off + len].contains(&0) && swizzle == Swizzle::None {
            let bad = pieces.iter().any(|(_, o, n)| self.ctas[cta].init[off + o..off + o + n].contains(&0));
            if bad {
                self.uninit(w, 1 << by.lane, by.pc, "shared memory that this copy stores");
            }
        }
        let stamps = if self.l.races { self.writers(cta, off, len) } else { vec![] };
        w.bulk_open.push(Store { lane: by.lane, pc: by.pc, cta, src: off, len, swizzle, pieces, red, stamps });
        Ok(())
    }

    fn writers(&self, cta: usize, off: usize, len: usize) -> Vec<Stamp> {
        (off..off + len).step_by(4).map(|o| self.ctas[cta].cells.writer(o)).collect()
    }

    /// Order and proxy fence of shared memory that the async proxy is about to read.
    pub(super) fn check_source(&mut self, w: &Warp, by: By, c: usize, off: usize, n: usize, _s: Swizzle) {
        if !self.l.races || n == 0 {
            return;
        }
        self.track_shared(w, by, c, off, n, None);
        for o in (off..off + n).step_by(4) {
            let s = self.ctas[c].cells.writer(o);
            if s != 0 && s & ASYNC == 0 && tid(s) < self.hb.threads && clock(s) >= self.hb.proxy[tid(s)] {
                let m = format!(
                    "the async proxy reads shared byte {o:#x}, stored by {} without fence.proxy.async in between",
                    self.describe(s)
                );
                self.note(K::MissingProxyFence, w, by.lane, by.pc, m);
                return;
            }
        }
    }

    pub(super) fn bulk_commit(&mut self, w: &mut Warp, ex: u32) {
        for lane in lanes(ex) {
            let (mine, rest) = std::mem::take(&mut w.bulk_open).into_iter().partition(|s| s.lane == lane);
            w.bulk_open = rest;
            w.bulk_groups.push_back((lane, mine));
        }
    }

    pub(super) fn bulk_wait(&mut self, w: &mut Warp, n: usize, ex: u32, _pc: u32) -> Run<()> {
        for lane in lanes(ex) {
            let have = w.bulk_groups.iter().filter(|(l, _)| *l == lane).count();
            let mut done = have.saturating_sub(n);
            let mut i = 0;
            while done > 0 && i < w.bulk_groups.len() {
                if w.bulk_groups[i].0 != lane {
                    i += 1;
                    continue;
                }
                done -= 1;
                if let Some((_, stores)) = w.bulk_groups.remove(i) {
                    for s in stores {
                        self.perform_store(w, s)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// At the end of a block: stores that nobody waited for.
    pub(super) fn finish_stores(&mut self, w: &mut Warp) -> Run<()> {
        let groups = std::mem::take(&mut w.bulk_groups);
        let open = std::mem::take(&mut w.bulk_open);
        for s in groups.into_iter().flat_map(|g| g.1).chain(open) {
            let m = "the block ends while this copy may still read its shared memory (no cp.async.bulk.wait_group)";
            self.note(K::InFlight, w, s.lane, s.pc, m.into());
            self.perform_store(w, s)?;
        }
        Ok(())
    }

    fn perform_store(&mut self, w: &mut Warp, s: Store) -> Run<()> {
        let by = By { lane: s.lane, pc: s.pc, flags: 0 };
        if self.l.races && self.writers(s.cta, s.src, s.len) != s.stamps {
            let m = "the source of this copy was overwritten before the copy was waited for".to_string();
            self.note(K::InFlight, w, s.lane, s.pc, m);
        }
        let mut data = vec![0u8; s.len];
        for (i, chunk) in data.chunks_mut(16).enumerate() {
            let len = self.ctas[s.cta].shared.len();
            let at = s.swizzle.apply(s.src + 16 * i).min(len);
            let n = chunk.len().min(len - at);
            chunk[..n].copy_from_slice(&self.ctas[s.cta].shared[at..at + n]);
        }
        for (addr, off, n) in s.pieces {
            let mut bytes = data[off..off + n].to_vec();
            if let Some((op, ty)) = s.red {
                let mut old = vec![0u8; n];
                self.read_global(w, By { flags: STRONG, ..by }, addr, &mut old)?;
                reduce(op, ty, &old, &mut bytes);
            }
            self.write_global(w, by, addr, &bytes, s.red.is_some())?;
        }
        Ok(())
    }

    fn read_global(&mut self, w: &Warp, by: By, addr: u64, buf: &mut [u8]) -> Run<bool> {
        let (a, off) = self.global_at(w, by, addr, buf.len())?;
        let (mut at, mut known) = (0, true);
        while at < buf.len() {
            let n = (4096 - (off + at) % 4096).min(buf.len() - at);
            if self.l.races {
                self.track_global(w, by, a, off + at, n, false, None);
            }
            known &= self.view.read(a, off + at, &mut buf[at..at + n]);
            at += n;
        }
        Ok(known)
    }

    fn write_global(&mut self, w: &Warp, by: By, addr: u64, bytes: &[u8], strong: bool) -> Run<()> {
        let (a, off) = self.global_at(w, by, addr, bytes.len())?;
        let by = By { flags: if strong { STRONG } else { ASYNC }, ..by };
        let mut at = 0;
        while at < bytes.len() {
            let n = (4096 - (off + at) % 4096).min(bytes.len() - at);
            if self.l.races {
                self.track_global(w, by, a, off + at, n, true, Some(&[]));
            }
            self.view.write(a, off + at, &bytes[at..at + n]);
            at += n;
        }
        Ok(())
    }
}

/// Rows of the box at `coords`, clipped to the tensor.
fn box_pieces(t: &TensorMap, coords: &[i64]) -> (Vec<Piece>, usize) {
    let size = t.element_size().unwrap_or(1) as usize;
    let rank = t.dims.len();
    let row = t.boxes[0] as usize * size;
    let rows: usize = t.boxes[1..].iter().map(|b| *b as usize).product();
    let mut out = Vec::with_capacity(rows);
    for r in 0..rows {
        let (mut rest, mut addr, mut inside) = (r, t.base, true);
        for d in 1..rank {
            let i = coords[d] + (rest % t.boxes[d] as usize) as i64;
            rest /= t.boxes[d] as usize;
            inside &= i >= 0 && (i as u64) < t.dims[d];
            addr = addr.wrapping_add((i as u64).wrapping_mul(t.strides[d - 1]));
        }
        let lo = coords[0].max(0);
        let hi = (coords[0] + t.boxes[0] as i64).min(t.dims[0] as i64);
        if inside && lo < hi {
            let skip = (lo - coords[0]) as usize * size;
            out.push((Some(addr.wrapping_add(lo as u64 * size as u64)), r * row + skip, (hi - lo) as usize * size));
        } else {
            out.push((None, r * row, row));
        }
    }
    (out, rows * row)
}

/// bytes = old op bytes, element by element.
fn reduce(op: RedOp, ty: Ty, old: &[u8], bytes: &mut [u8]) {
    let n = ty.size() as usize;
    let kind = match (op, ty) {
        (RedOp::Add, Ty::F32) => AtomKind::AddF32,
        (RedOp::Add, Ty::F64) => AtomKind::AddF64,
        (RedOp::Add, Ty::F16) => AtomKind::AddF16,
        (RedOp::Add, Ty::BF16) => AtomKind::AddBf16,
        (RedOp::Add, _) => AtomKind::Add,
        (RedOp::Min, t) if t.signed() => AtomKind::MinS,
        (RedOp::Max, t) if t.signed() => AtomKind::MaxS,
        (RedOp::Min, _) => AtomKind::MinU,
        (RedOp::Max, _) => AtomKind::MaxU,
        (RedOp::Inc, _) => AtomKind::Inc,
        (RedOp::Dec, _) => AtomKind::Dec,
        (RedOp::And, _) => AtomKind::And,
        (RedOp::Or, _) => AtomKind::Or,
        (RedOp::Xor, _) => AtomKind::Xor,
    };
    let get = |b: &[u8]| b.iter().rev().fold(0u64, |v, x| v << 8 | *x as u64);
    for (o, b) in old.chunks_exact(n).zip(bytes.chunks_exact_mut(n)) {
        let v = super::atomics::combine(kind, n as u32 * 8, get(o), get(b), 0);
        b.copy_from_slice(&v.to_le_bytes()[..n]);
    }
}
