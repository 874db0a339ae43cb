//! In which order examples are trained on.

use lowrank_core::philox::Rng;

/// Stream of the seed's random numbers of epoch 0; epoch e uses the e-th after it.
const SHUFFLE: u32 = 0x5348_0000;

/// Every example once an epoch, in an order drawn for that epoch.
pub(crate) struct Sampler {
    seed: u64,
    epoch: u32,
    order: Vec<usize>,
    next: usize,
}

impl Sampler {
    pub fn new(examples: usize, seed: u64) -> Self {
        let mut sampler = Sampler { seed, epoch: 0, order: (0..examples).collect(), next: 0 };
        sampler.shuffle();
        sampler
    }

    /// The next `n` examples, fewer at the end of an epoch, never none.
    pub fn take(&mut self, n: usize) -> &[usize] {
        if self.next == self.order.len() {
            self.epoch += 1;
            self.shuffle();
        }
        let start = self.next;
        self.next = (start + n).min(self.order.len());
        &self.order[start..self.next]
    }

    /// From the identity, so that an epoch's order depends on (seed, epoch) only.
    fn shuffle(&mut self) {
        self.order.sort_unstable();
        Rng::new(self.seed, SHUFFLE.wrapping_add(self.epoch)).shuffle(&mut self.order);
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_once_an_epoch() {
        let mut sampler = Sampler::new(7, 3);
        let mut epochs = Vec::new();
        for _ in 0..3 {
            let mut epoch = Vec::new();
            assert_eq!(sampler.take(3).len(), 3);
            sampler.next = 0;
            for want in [3, 3, 1] {
                let part = sampler.take(3);
                assert_eq!(part.len(), want);
                epoch.extend_from_slice(part);
            }
            epochs.push(epoch);
        }
        assert!(epochs[0] != epochs[1] || epochs[1] != epochs[2]);
        for mut epoch in epochs {
            epoch.sort_unstable();
            assert_eq!(epoch, (0..7).collect::<Vec<_>>());
        }
    }
}
