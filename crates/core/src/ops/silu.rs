//! `y = x·σ(x)`.

use lowrank_backend::{Map, Result, Zip};

use crate::Tensor;
use crate::ops::unary;

impl Tensor {
    /// `x·σ(x)`, elementwise (also called swish).
    pub fn silu(&self) -> Result<Tensor> {
        unary::activation("silu", Map::Silu, Zip::SiluGrad, self)
    }
}
