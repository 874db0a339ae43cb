//! Global memory as one CTA (or cluster) sees it during a launch.
//!
//! CTAs that cannot talk to each other run in parallel, each against the memory as it was when its wave began: writes
//! go to private 4 KiB pages that are merged in CTA order afterwards. That makes results and reports independent of
//! the number of threads, even for kernels that race. Kernels with global atomics run one CTA after the other and
//! write straight through.

use super::device::Memory;
use super::shadow::{Cells, Conflict, Stamp, Who};

pub(crate) const PAGE: usize = 4096;

/// What a unit did to one page.
pub(crate) struct Page {
    pub alloc: u32,
    pub index: u32,
    pub cells: Option<Box<Cells>>,
    /// Bytes read before being written here, and bytes written: one bit each.
    pub read: Box<[u64; PAGE / 64]>,
    pub written: Box<[u64; PAGE / 64]>,
    /// Written bytes of an unknown value.
    pub data: Option<Box<[u8; PAGE]>>,
    /// The thread and instruction that read and wrote each word last.
    pub rtag: Box<[Stamp; PAGE / 4]>,
    pub wtag: Option<Box<[Stamp; PAGE / 4]>>,
}

impl Page {
    /// Cells that know the readers so far.
    fn cells_from_tags(&self) -> Box<Cells> {
        let mut cells = Box::new(Cells::new(PAGE));
        for (i, r) in self.rtag.iter().enumerate().filter(|(_, r)| **r != 0) {
            cells.note_reader(i, *r);
        }
        cells
    }
}

/// Where reads that miss the private pages go.
pub(crate) enum Base<'a> {
    Frozen(&'a Memory),
    /// Units that may talk to each other take turns with the memory itself.
    Through(Box<Shared>),
}

/// What units that take turns hand to each other.
#[derive(Default)]
pub(crate) struct Shared {
    pub mem: Memory,
    pub inter: super::inter::Inter,
}

pub(crate) struct View<'a> {
    base: Base<'a>,
    tables: Vec<Vec<u32>>,
    pub pages: Vec<Page>,
    last: usize,
    races: bool,
}

impl<'a> View<'a> {
    pub fn new(base: Base<'a>, races: bool) -> Self {
        View { base, tables: vec![], pages: vec![], last: usize::MAX, races }
    }
    pub fn mem(&self) -> &Memory {
        match &self.base {
            Base::Frozen(m) => m,
            Base::Through(s) => &s.mem,
        }
    }
    /// Hands the memory to this unit for its turn.
    pub fn give(&mut self, s: Box<Shared>) {
        self.base = Base::Through(s);
    }
    /// Takes the memory back after a turn.
    pub fn take(&mut self) -> Option<Box<Shared>> {
        match &mut self.base {
            Base::Through(s) => Some(std::mem::take(s)),
            Base::Frozen(_) => None,
        }
    }
    pub fn inter(&mut self) -> Option<&mut super::inter::Inter> {
        match &mut self.base {
            Base::Through(s) => Some(&mut s.inter),
            Base::Frozen(_) => None,
        }
    }
    pub fn through(&self) -> bool {
        matches!(self.base, Base::Through(_))
    }
    pub fn into_pages(self) -> Vec<Page> {
        self.pages
    }

    #[inline]
    pub fn find(&mut self, addr: u64, n: usize) -> Result<(usize, usize), String> {
        if let Some(a) = self.mem().allocs.get(self.last) {
            let off = addr.wrapping_sub(a.base);
            if !a.freed && off < a.len && off + n as u64 <= a.len {
                return Ok((self.last, off as usize));
            }
        }
        let (i, off) = self.mem().find(addr, n as u64)?;
        self.last = i;
        Ok((i, off))
    }

    #[inline]
    fn page(&mut self, alloc: usize, off: usize) -> usize {
        if self.tables.len() <= alloc {
            self.tables.resize(alloc + 1, vec![]);
        }
        let index = off / PAGE;
        let len = (self.mem().allocs[alloc].len as usize).div_ceil(PAGE);
        let table = &mut self.tables[alloc];
        if table.is_empty() {
            table.resize(len, 0);
        }
        if table[index] == 0 {
            self.pages.push(Page {
                alloc: alloc as u32,
                index: index as u32,
                cells: None,
                read: Box::new([0; PAGE / 64]),
                written: Box::new([0; PAGE / 64]),
                data: None,
                rtag: Box::new([0; PAGE / 4]),
                wtag: None,
            });
            table[index] = self.pages.len() as u32;
        }
        table[index] as usize - 1
    }

    /// Reads bytes of one page; true if all of them were ever written.
    #[inline]
    pub fn read(&mut self, alloc: usize, off: usize, buf: &mut [u8]) -> bool {
        let n = buf.len();
        if !self.through()
            && let Some(&p) = self.tables.get(alloc).and_then(|t| t.get(off / PAGE))
            && p != 0
            && let page = &self.pages[p as usize - 1]
            && let Some(data) = &page.data
        {
            let o = off % PAGE;
            buf.copy_from_slice(&data[o..o + n]);
            let a = &self.mem().allocs[alloc];
            return a.init.is_none()
                || (0..n).all(|i| page.written[(o + i) >> 6] >> ((o + i) & 63) & 1 == 1 || a.is_init(off + i, 1));
        }
        let a = &self.mem().allocs[alloc];
        buf.copy_from_slice(&a.data[off..off + n]);
        a.init.is_none() || a.is_init(off, n)
    }

    /// Writes bytes of one page.
    pub fn write(&mut self, alloc: usize, off: usize, bytes: &[u8]) {
        let n = bytes.len();
        if let Base::Through(m) = &mut self.base {
            let a = &mut m.mem.allocs[alloc];
            a.data[off..off + n].copy_from_slice(bytes);
            if a.init.is_some() {
                a.set_init(off, n);
            }
            return;
        }
        let p = self.page(alloc, off);
        if self.pages[p].data.is_none() {
            let start = off / PAGE * PAGE;
            let src = &self.mem().allocs[alloc].data;
            let end = (start + PAGE).min(src.len());
            let mut d = Box::new([0u8; PAGE]);
            d[..end - start].copy_from_slice(&src[start..end]);
            self.pages[p].data = Some(d);
        }
        let (o, page) = (off % PAGE, &mut self.pages[p]);
        if let Some(d) = &mut page.data {
            d[o..o + n].copy_from_slice(bytes);
        }
        set_bits(&mut page.written, o, n);
    }

    /// Records an access for race checks; returns a conflict inside this unit.
    #[inline]
    pub fn track(&mut self, alloc: usize, off: usize, n: usize, write: bool, who: &Who) -> Option<Conflict> {
        if !self.races {
            return None;
        }
        let p = self.page(alloc, off);
        let page = &mut self.pages[p];
        let o = off % PAGE;
        let words = o / 4..(o + n).div_ceil(4);
        // Tags know one reader a word: accesses to parts of words need cells.
        if page.cells.is_none() && (write || (o | n) & 3 != 0) {
            page.cells = Some(page.cells_from_tags());
        }
        if write {
            page.wtag.get_or_insert_with(|| Box::new([0; PAGE / 4]))[words].fill(who.stamp);
            set_bits(&mut page.written, o, n);
        } else {
            page.rtag[words].fill(who.stamp);
            set_bits(&mut page.read, o, n);
        }
        page.cells.as_mut()?.access(o, n, write, who).map(|(_, c)| c)
    }
}

#[inline]
fn set_bits(bits: &mut [u64; PAGE / 64], o: usize, n: usize) {
    // Accesses are at most a page, and mostly lie inside one 64-byte group.
    if o / 64 == (o + n - 1) / 64 && n < 64 {
        bits[o / 64] |= ((1u64 << n) - 1) << (o % 64);
    } else {
        for i in o..o + n {
            bits[i / 64] |= 1 << (i % 64);
        }
    }
}
