//! Memory of repeated steps: a step that asks for the same sizes in the same order gets the same addresses, so that what
//! was recorded of the one before can be started again.
//!
//! Large blocks come from chunks, best fit first. Small ones (a loss, a norm, a row's statistics) come in order from a
//! bank, and a bank is used again only when nothing of it is alive: what a caller keeps of a step until the next one is
//! under way then moves nothing of that step, which takes another bank.

use std::collections::BTreeMap;

/// Sizes are multiples of this, so that addresses are.
const UNIT: usize = 256;
/// Blocks up to this size are small.
const SMALL: usize = 4 << 10;
/// Bytes of each piece of a bank.
const SLAB: usize = 256 << 10;
/// Banks at most: a caller who keeps more steps than this has their small results in memory of their own.
const BANKS: usize = 16;
/// Bytes of a chunk at least.
const CHUNK: usize = 8 << 20;

/// Where a block goes when it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// To the driver's pool.
    Pool,
    /// To the chunk that it lies in; the size taken.
    Chunk(usize),
    /// To this bank.
    Bank(usize),
}

/// What a request comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// An address.
    At(u64, Home),
    /// Another chunk is needed: as many bytes as one would like, and as few as do.
    Chunk(usize, usize),
    /// Another piece of a bank is needed, of this many bytes.
    Slab(usize),
    /// All banks are taken.
    Pool,
}

struct Chunk {
    at: u64,
    size: usize,
    /// Free parts, none beside another.
    free: BTreeMap<u64, usize>,
}

#[derive(Default)]
struct Bank {
    slabs: Vec<u64>,
    /// Bytes handed out since it was empty.
    used: usize,
    alive: usize,
}

/// All of it.
#[derive(Default)]
pub(crate) struct Arena {
    chunks: Vec<Chunk>,
    banks: Vec<Bank>,
    /// The bank of the step under way.
    bank: Option<usize>,
    /// What one chunk in place of many would have to hold.
    wanted: usize,
}

impl Arena {
    /// A step begins.
    pub fn open(&mut self) {
        self.bank = self.banks.iter().position(|b| b.alive == 0);
        if self.bank.is_none() && self.banks.len() < BANKS {
            self.bank = Some(self.banks.len());
            self.banks.push(Bank::default());
        }
        if let Some(i) = self.bank {
            self.banks[i].used = 0;
        }
    }

    /// A block, or what has to be added first.
    pub fn take(&mut self, bytes: usize) -> Taken {
        let size = bytes.max(1).next_multiple_of(UNIT);
        if size <= SMALL {
            let Some(i) = self.bank else { return Taken::Pool };
            let bank = &mut self.banks[i];
            // A block that does not fit the rest of a piece starts the next one.
            if bank.used % SLAB + size > SLAB {
                bank.used = bank.used.next_multiple_of(SLAB);
            }
            let Some(slab) = bank.slabs.get(bank.used / SLAB) else { return Taken::Slab(SLAB) };
            let at = slab + (bank.used % SLAB) as u64;
            bank.used += size;
            bank.alive += 1;
            return Taken::At(at, Home::Bank(i));
        }
        let fits =
            self.chunks.iter().enumerate().flat_map(|(i, c)| c.free.iter().map(move |(&at, &have)| (have, i, at)));
        let Some((have, i, at)) = fits.filter(|&(have, ..)| have >= size).min() else {
            return Taken::Chunk(size.max(CHUNK).max(std::mem::take(&mut self.wanted)), size);
        };
        let free = &mut self.chunks[i].free;
        free.remove(&at);
        if have > size {
            free.insert(at + size as u64, have - size);
        }
        Taken::At(at, Home::Chunk(size))
    }

    /// Memory for [`Taken::Chunk`].
    pub fn add_chunk(&mut self, at: u64, size: usize) {
        self.chunks.push(Chunk { at, size, free: BTreeMap::from([(at, size)]) });
    }

    /// Memory for [`Taken::Slab`].
    pub fn add_slab(&mut self, at: u64) {
        if let Some(i) = self.bank {
            self.banks[i].slabs.push(at);
        }
    }

    /// A block is dropped.
    pub fn give_back(&mut self, at: u64, home: Home) {
        match home {
            Home::Pool => {}
            Home::Bank(i) => self.banks[i].alive -= 1,
            Home::Chunk(size) => {
                let of = self.chunks.iter_mut().find(|c| (c.at..c.at + c.size as u64).contains(&at));
                let Some(Chunk { free, .. }) = of else { return };
                let (mut at, mut size) = (at, size);
                if let Some(after) = free.remove(&(at + size as u64)) {
                    size += after;
                }
                if let Some((&before, &length)) = free.range(..at).next_back()
                    && before + length as u64 == at
                {
                    (at, size) = (before, length + size);
                }
                free.insert(at, size);
            }
        }
    }

    /// A step has ended. Returns chunks to be freed: many are to become one, which wastes less.
    pub fn close(&mut self) -> Vec<u64> {
        self.bank = None;
        let unused = self.chunks.iter().all(Chunk::unused);
        if self.chunks.len() < 2 || !unused {
            return Vec::new();
        }
        self.wanted = self.chunks.iter().map(|c| c.size).sum();
        self.chunks.drain(..).map(|c| c.at).collect()
    }

    /// Gives up what nothing uses; returns the addresses to be freed.
    pub fn trim(&mut self) -> Vec<u64> {
        let mut unused = Vec::new();
        self.chunks.retain(|c| {
            let keep = !c.unused();
            unused.extend((!keep).then_some(c.at));
            keep
        });
        for (i, bank) in self.banks.iter_mut().enumerate() {
            if bank.alive == 0 && self.bank != Some(i) {
                unused.append(&mut bank.slabs);
            }
        }
        unused
    }

    /// Everything, to be freed at the end.
    pub fn all(&mut self) -> Vec<u64> {
        let chunks = self.chunks.drain(..).map(|c| c.at);
        chunks.chain(self.banks.drain(..).flat_map(|b| b.slabs)).collect()
    }

    /// Bytes that nothing uses.
    pub fn unused(&self) -> usize {
        self.chunks.iter().flat_map(|c| c.free.values()).sum()
    }
}

impl Chunk {
    fn unused(&self) -> bool {
        self.free.get(&self.at) == Some(&self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes, and adds memory at made-up addresses where it is missing.
    fn take(arena: &mut Arena, next: &mut u64, bytes: usize) -> (u64, Home) {
        loop {
            match arena.take(bytes) {
                Taken::At(at, home) => return (at, home),
                Taken::Chunk(size, _) => {
                    arena.add_chunk(*next, size);
                    // Chunks that touch must not grow together: they are freed one by one.
                    *next += size as u64;
                }
                Taken::Slab(size) => {
                    arena.add_slab(*next);
                    *next += size as u64;
                }
                Taken::Pool => panic!("no bank"),
            }
        }
    }

    /// One step: large blocks that come and go, and a small one that is kept.
    fn step(arena: &mut Arena, next: &mut u64) -> (Vec<u64>, (u64, Home)) {
        arena.open();
        let a = take(arena, next, 100_000);
        let b = take(arena, next, 5_000_000);
        arena.give_back(a.0, a.1);
        let c = take(arena, next, 6_000_000);
        let kept = take(arena, next, 4);
        let d = take(arena, next, 50_000);
        for block in [d, b, c] {
            arena.give_back(block.0, block.1);
        }
        (vec![a.0, b.0, c.0, d.0], kept)
    }

    #[test]
    fn equal_steps_get_equal_addresses() {
        let (mut arena, mut next) = (Arena::default(), 1 << 20);
        step(&mut arena, &mut next);
        assert_eq!(arena.close().len(), 2, "two chunks become one");
        let (first, mut kept) = step(&mut arena, &mut next);
        assert_eq!(arena.close().len(), 0);
        let mut small = Vec::new();
        for _ in 0..4 {
            let (again, keep) = step(&mut arena, &mut next);
            assert_eq!(again, first);
            small.push(keep.0);
            arena.give_back(kept.0, kept.1);
            kept = keep;
            arena.close();
        }
        assert!(small[0] == small[2] && small[1] == small[3] && small[0] != small[1], "{small:?}");
        assert_eq!(arena.unused(), arena.chunks[0].size);
    }

    #[test]
    fn blocks_do_not_overlap_and_join_again() {
        let (mut arena, mut next) = (Arena::default(), 1 << 20);
        arena.open();
        let mut held: Vec<(u64, Home, usize)> = Vec::new();
        for i in 0..2000usize {
            let x = i.wrapping_mul(2_654_435_761) >> 7;
            if x % 3 == 0 && !held.is_empty() {
                let (at, home, _) = held.swap_remove(x % held.len());
                arena.give_back(at, home);
                continue;
            }
            let size = 1 + x % 60_000;
            let (at, home) = take(&mut arena, &mut next, size);
            assert!(at.is_multiple_of(UNIT as u64));
            let apart =
                |&(other, _, length): &(u64, Home, usize)| at + size as u64 <= other || other + length as u64 <= at;
            assert!(held.iter().all(apart), "block {i}");
            held.push((at, home, size));
        }
        held.into_iter().for_each(|(at, home, _)| arena.give_back(at, home));
        assert!(arena.chunks.iter().all(Chunk::unused) && arena.chunks.len() > 1);
        let chunks = arena.chunks.len();
        assert!(arena.trim().len() >= chunks);
        assert_eq!(arena.unused(), 0);
    }

    #[test]
    fn a_bank_in_use_is_left_alone() {
        let (mut arena, mut next) = (Arena::default(), 1 << 20);
        let mut held = Vec::new();
        for _ in 0..BANKS {
            arena.open();
            held.push(take(&mut arena, &mut next, 4));
            arena.close();
        }
        arena.open();
        assert_eq!(arena.take(4), Taken::Pool);
        arena.close();
        arena.give_back(held[3].0, held[3].1);
        arena.open();
        assert_eq!(arena.take(4), Taken::At(held[3].0, held[3].1));
        // More than a piece holds.
        for _ in 0..SLAB / UNIT + 10 {
            take(&mut arena, &mut next, 200);
        }
        assert_eq!(arena.banks[3].slabs.len(), 2);
    }
}
