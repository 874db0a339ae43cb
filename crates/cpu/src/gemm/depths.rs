//! The order in which a product's columns are summed.

use super::kernel::DEPTH;

/// Blocks of depth, in the order in which they are summed: those of a, then the branch's, whose first part shares the last
/// block of a where it fits (a block of its own would read and write all of c again).
#[derive(Clone, Copy)]
pub(super) struct Depths {
    pub k: usize,
    pub r: usize,
    /// Most columns of a block that the branch shares.
    pub most: usize,
}

/// One block: `depth` columns of a from `p` on, then `rank` columns of h from `q` on.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub p: usize,
    pub depth: usize,
    pub q: usize,
    pub rank: usize,
}

impl Block {
    pub fn total(&self) -> usize {
        self.depth + self.rank
    }
}

impl Depths {
    /// Blocks of a.
    pub fn main(&self) -> usize {
        self.k.div_ceil(DEPTH)
    }

    /// Columns of h in the last block of a.
    fn shared(&self) -> usize {
        let last = self.k - DEPTH * self.main().saturating_sub(1);
        if self.k > 0 && last + self.r <= self.most { self.r } else { 0 }
    }

    pub fn count(&self) -> usize {
        self.main() + (self.r - self.shared()).div_ceil(DEPTH)
    }

    pub fn block(&self, i: usize) -> Block {
        if let Some(i) = i.checked_sub(self.main()) {
            let q = self.shared() + i * DEPTH;
            return Block { p: self.k, depth: 0, q, rank: DEPTH.min(self.r - q) };
        }
        let rank = if i + 1 == self.main() { self.shared() } else { 0 };
        Block { p: i * DEPTH, depth: DEPTH.min(self.k - i * DEPTH), q: 0, rank }
    }

    /// Block `i`, empty if there are fewer.
    pub fn block_or_none(&self, i: usize) -> Block {
        if i < self.count() { self.block(i) } else { Block { p: self.k, depth: 0, q: self.r, rank: 0 } }
    }
}
