//! Philox 4×32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
//!
//! Element i of a stream is word `i mod 4` of the block with counter (⌊i/4⌋ low, ⌊i/4⌋ high, step, stream) and key =
//! the seed. Any device computes any element alone, so a dropout mask is never stored and never depends on a launch's
//! shape.

/// One block: four words for a counter and a key.
pub fn block(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = u64::from(c0) * 0xD251_1F53;
        let p1 = u64::from(c2) * 0xCD9E_8D57;
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

/// The four words of elements `4·quad .. 4·quad + 4`.
pub fn quad(seed: u64, stream: u32, step: u32, quad: u64) -> [u32; 4] {
    block([quad as u32, (quad >> 32) as u32, step, stream], [seed as u32, (seed >> 32) as u32])
}

/// The word of one element.
pub fn word(seed: u64, stream: u32, step: u32, index: u64) -> u32 {
    quad(seed, stream, step, index / 4)[(index % 4) as usize]
}

/// A host-side sequence of random numbers over [`word`]: inits, shuffles, sampling.
#[derive(Clone, Debug)]
pub struct Rng {
    seed: u64,
    stream: u32,
    next: u64,
    /// The block that `next` lies in, unless it is at its start.
    block: [u32; 4],
}

impl Rng {
    /// The sequence of one stream of a seed, from its start.
    pub fn new(seed: u64, stream: u32) -> Self {
        Rng { seed, stream, next: 0, block: [0; 4] }
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        let at = (self.next % 4) as usize;
        if at == 0 {
            self.block = quad(self.seed, self.stream, 0, self.next / 4);
        }
        self.next += 1;
        self.block[at]
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        let hi = u64::from(self.next_u32() >> 5);
        let lo = u64::from(self.next_u32() >> 6);
        (hi * (1 << 26) + lo) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box–Muller, one value of the pair).
    pub fn normal(&mut self) -> f64 {
        let u = 1.0 - self.uniform();
        let v = self.uniform();
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Uniform in 0 .. n (n ≥ 1), by rejection, so without bias.
    pub fn below(&mut self, n: u32) -> u32 {
        let zone = u32::MAX - (u32::MAX % n + 1) % n;
        loop {
            let w = self.next_u32();
            if w <= zone {
                return w % n;
            }
        }
    }

    /// Fisher–Yates shuffle.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution, kat_vectors, philox4x32-10.
    #[test]
    fn known_answers() {
        assert_eq!(block([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(block([u32::MAX; 4], [u32::MAX; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            block([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn a_sequence_is_the_words_one_after_the_other() {
        let mut rng = Rng::new(7, 3);
        for i in 0..11 {
            assert_eq!(rng.next_u32(), word(7, 3, 0, i));
        }
    }

    #[test]
    fn below_is_in_range_and_hits_everything() {
        let mut rng = Rng::new(7, 0);
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[rng.below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| n > 150), "{seen:?}");
    }
}
