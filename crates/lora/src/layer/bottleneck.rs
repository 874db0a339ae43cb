//! The bottleneck adapter (Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", §2.1): the comparison that
//! the literature on LoRA makes.
//!
//! `y ← y + W_up φ(W_down y + b_d) + b_u` behind a layer, with φ = GELU as in the authors' code. Not a change of the layer's
//! weight: it cannot be merged, costs two products and an elementwise pass in inference too, and its gradient passes
//! through them on the way down.

use lowrank_core::Tensor;

use crate::Result;

/// The two small layers behind a layer with n outputs. Clones are handles on the same tensors.
#[derive(Clone, Debug)]
pub struct Bottleneck {
    /// W_down `[r,n]`.
    pub down: Tensor,
    /// b_d `[r]`.
    pub down_bias: Tensor,
    /// W_up `[n,r]`.
    pub up: Tensor,
    /// b_u `[n]`.
    pub up_bias: Tensor,
}

impl Bottleneck {
    /// y `[…, n]` → the same shape.
    pub(super) fn forward(&self, y: &Tensor) -> Result<Tensor> {
        let h = y.linear(&self.down, Some(&self.down_bias))?.gelu()?;
        Ok(y.add(&h.linear(&self.up, Some(&self.up_bias))?)?)
    }

    /// r
    pub fn width(&self) -> usize {
        self.down.shape().first().copied().unwrap_or(0)
    }

    /// Its tensors, with the ends of their names in files.
    pub fn tensors(&self) -> [(&'static str, &Tensor); 4] {
        let Bottleneck { down, down_bias, up, up_bias } = self;
        [
            ("bottleneck_down.weight", down),
            ("bottleneck_down.bias", down_bias),
            ("bottleneck_up.weight", up),
            ("bottleneck_up.bias", up_bias),
        ]
    }
}
