//! `y = x·Φ(x)`, exact and in its tanh form (Hendrycks & Gimpel 2016, "Gaussian error linear units").

use lowrank_backend::{Map, Result, Zip};

use crate::Tensor;
use crate::ops::unary;

impl Tensor {
    /// `x·Φ(x)` with the error function, elementwise.
    pub fn gelu(&self) -> Result<Tensor> {
        unary::activation("gelu", Map::GeluErf, Zip::GeluErfGrad, self)
    }

    /// `½x(1 + tanh(√(2/π)(x + 0.044715x³)))`, elementwise.
    pub fn gelu_tanh(&self) -> Result<Tensor> {
        unary::activation("gelu_tanh", Map::GeluTanh, Zip::GeluTanhGrad, self)
    }
}
