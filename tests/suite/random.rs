//! Test data: splitmix64, so that nothing under test makes its own inputs.

/// A seeded sequence.
pub struct Random(u64);

impl Random {
    /// The sequence that belongs to a text, such as the name of a case.
    pub fn of(text: &str) -> Self {
        // FNV-1a
        Random(text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [low, high), a value that f32 has.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        f64::from((low + (high - low) * unit) as f32)
    }

    /// An integer in low ..= high.
    pub fn integer(&mut self, low: i64, high: i64) -> i64 {
        low + (self.next() % (high - low + 1) as u64) as i64
    }

    /// `n` values from [-1, 1).
    pub fn vec(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.uniform(-1.0, 1.0)).collect()
    }

    /// `n` integers of -2 ..= 2.
    pub fn small_integers(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.integer(-2, 2) as f64).collect()
    }
}
