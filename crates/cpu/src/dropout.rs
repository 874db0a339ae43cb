//! Dropout masks, recomputed from Philox wherever they are needed.

use lowrank_backend::{Dropout, Error, In, Result, Scalars, Slot, philox};

use crate::parallel::float_pieces;
use crate::simd::kernel;
use crate::view::{f32s, floats, floats_mut};

/// A dropout site in one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mask {
    seed: u64,
    stream: u32,
    step: u32,
    threshold: u32,
    keep: f32,
}

impl Mask {
    fn new(op: Dropout, step: u32) -> Self {
        let (threshold, keep) = (op.threshold(), op.keep_scale() as f32);
        Mask { seed: op.seed, stream: op.stream, step, threshold, keep }
    }

    /// x or 0, by its word.
    #[inline(always)]
    fn drop(&self, x: f32, word: u32) -> f32 {
        if word >= self.threshold { x * self.keep } else { 0.0 }
    }

    /// Applies the mask to the elements from `index` on.
    pub(crate) fn apply(&self, index: u64, values: &mut [f32]) {
        // Single words up to a group of four, eight groups at a time, then single words again.
        let head = ((4 - index % 4) % 4).min(values.len() as u64) as usize;
        let (head, rest) = values.split_at_mut(head);
        self.apply_single(index, head);
        let index = index + head.len() as u64;
        let (blocks, tail) = rest.as_chunks_mut::<32>();
        let mut words = [0; 32];
        for (i, block) in blocks.iter_mut().enumerate() {
            words32(self.seed, self.stream, self.step, index / 4 + 8 * i as u64, &mut words);
            for (x, &word) in block.iter_mut().zip(&words) {
                *x = self.drop(*x, word);
            }
        }
        self.apply_single(index + 32 * blocks.len() as u64, tail);
    }

    fn apply_single(&self, index: u64, values: &mut [f32]) {
        for (i, x) in values.iter_mut().enumerate() {
            *x = self.drop(*x, philox::word(self.seed, self.stream, self.step, index + i as u64));
        }
    }
}

kernel! {
    /// The words of elements `4·quad .. 4·quad + 32`: eight blocks of Philox side by side.
    fn words32[FMA](seed: u64, stream: u32, step: u32, quad: u64, out: &mut [u32; 32]) {
        const N: usize = 8;
        let (mut c0, mut c1, mut c2, mut c3) = ([0u32; N], [0u32; N], [step; N], [stream; N]);
        for l in 0..N {
            let quad = quad.wrapping_add(l as u64);
            (c0[l], c1[l]) = (quad as u32, (quad >> 32) as u32);
        }
        let (mut k0, mut k1) = (seed as u32, (seed >> 32) as u32);
        for _ in 0..10 {
            for l in 0..N {
                let p0 = u64::from(c0[l]) * 0xD251_1F53;
                let p1 = u64::from(c2[l]) * 0xCD9E_8D57;
                (c0[l], c2[l]) = ((p1 >> 32) as u32 ^ c1[l] ^ k0, (p0 >> 32) as u32 ^ c3[l] ^ k1);
                (c1[l], c3[l]) = (p1 as u32, p0 as u32);
            }
            k0 = k0.wrapping_add(0x9E37_79B9);
            k1 = k1.wrapping_add(0xBB67_AE85);
        }
        for l in 0..N {
            (out[4 * l], out[4 * l + 1], out[4 * l + 2], out[4 * l + 3]) = (c0[l], c1[l], c2[l], c3[l]);
        }
    }
}

/// The current step, read from the scalar buffer.
fn step(op: &'static str, scalars: In<'_>) -> Result<u32> {
    Ok(f32s(op, "scalars", scalars, Scalars::LEN)?[Scalars::STEP] as u32)
}

/// `y (+)= x ⊙ mask`; see [`Dropout`].
pub(crate) fn dropout(op: &Dropout, scalars: In<'_>, x: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "dropout";
    check(OP, op)?;
    let mask = Mask::new(*op, step(OP, scalars)?);
    let len = x.len;
    let x = floats(OP, "x", x, len)?;
    let mode = y.mode;
    let y = floats_mut(OP, "y", y.out, len)?;
    float_pieces(y, |start, piece| {
        piece.write(mode, |values| {
            x.load(start, values);
            mask.apply(start as u64, values);
        });
    });
    Ok(())
}

/// The mask of an optional dropout at the current step; the scalar buffer is read only if there is one.
pub(crate) fn mask(op: &'static str, dropout: &Option<Dropout>, scalars: In<'_>) -> Result<Option<Mask>> {
    let Some(dropout) = dropout else { return Ok(None) };
    check(op, dropout)?;
    Ok(Some(Mask::new(*dropout, step(op, scalars)?)))
}

/// Fails unless 0 ≤ p < 1.
fn check(op: &'static str, dropout: &Dropout) -> Result<()> {
    if (0.0..1.0).contains(&dropout.p) {
        return Ok(());
    }
    Err(Error::invalid(op, format!("dropout p = {} is not in [0, 1)", dropout.p)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_philox_at_any_start_and_length() {
        let op = Dropout { p: 0.3, seed: 0x1234_5678_9abc, stream: 5 };
        let mask = Mask::new(op, 9);
        // The third start carries into the counter's upper half in the middle of a block.
        for start in [0u64, 3, 4 * 0xFFFF_FFFA + 1, 1_000_001] {
            for len in [0usize, 1, 2, 5, 31, 32, 33, 64, 131] {
                let mut x = vec![1.0f32; len];
                mask.apply(start, &mut x);
                for (i, &x) in x.iter().enumerate() {
                    let kept = philox::word(op.seed, 5, 9, start + i as u64) >= op.threshold();
                    assert_eq!(x, if kept { (1.0 / 0.7) as f32 } else { 0.0 }, "{start} {i} of {len}");
                }
            }
        }
    }
}
