//! The small device buffer of values that change every step.
//!
//! Learning rates, bias corrections, the clip factor and the dropout step live on the device, so that gradient norm →
//! clip → optimiser never leave it and a captured launch sequence can be replayed. Layout: [`Scalars::LEN`] f32 words.

/// Host mirror of the per-step scalar buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalars([f32; Scalars::LEN]);

impl Scalars {
    /// Words in the buffer.
    pub const LEN: usize = 64;
    /// Counter that keys dropout, an integer below 2²⁴ (exact in f32).
    pub const STEP: usize = 0;
    /// Factor that gradients are multiplied with; written by `grad_norm`.
    pub const CLIP: usize = 1;
    /// Global 2-norm of the gradients before clipping; written by `grad_norm`.
    pub const NORM: usize = 2;
    /// 1 − β₁ᵗ of Adam.
    pub const CORRECTION1: usize = 3;
    /// 1 − β₂ᵗ of Adam.
    pub const CORRECTION2: usize = 4;
    /// Learning rate of parameter group 0; group g is at `LR + g`.
    pub const LR: usize = 8;
    /// Parameter groups that fit.
    pub const GROUPS: usize = Scalars::LEN - Scalars::LR;

    /// Step 0, clip factor 1, everything else 0.
    pub fn new() -> Self {
        let mut words = [0.0; Scalars::LEN];
        words[Scalars::CLIP] = 1.0;
        words[Scalars::CORRECTION1] = 1.0;
        words[Scalars::CORRECTION2] = 1.0;
        Scalars(words)
    }

    /// The words, for upload.
    pub fn words(&self) -> &[f32; Scalars::LEN] {
        &self.0
    }
}

impl Default for Scalars {
    fn default() -> Self {
        Scalars::new()
    }
}

impl std::ops::Index<usize> for Scalars {
    type Output = f32;
    fn index(&self, i: usize) -> &f32 {
        &self.0[i]
    }
}

impl std::ops::IndexMut<usize> for Scalars {
    fn index_mut(&mut self, i: usize) -> &mut f32 {
        &mut self.0[i]
    }
}
