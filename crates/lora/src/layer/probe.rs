//! Looking at what flows through a linear layer.

use std::sync::Arc;

use lowrank_core::Tensor;

use crate::{Error, Result};

/// Sees a linear layer's inputs and the gradients of its outputs. Set by what looks at a model (inits from data); it
/// changes nothing that the layer computes.
pub trait Probe: Send + Sync {
    /// In forward, before anything is computed: x `[…, k]`; in f32 where activations have 16 bits, as everything here.
    fn input(&self, x: &Tensor) -> Result<()> {
        let _ = x;
        Ok(())
    }

    /// Whether [`Probe::gradient`] is to be called. Only then does forward keep x and does backward come down here.
    fn wants_gradient(&self) -> bool {
        false
    }

    /// In backward: the layer's input x `[…, k]` and the gradient `[…, n]` of the loss with respect to its output.
    fn gradient(&self, x: &Tensor, gy: &Tensor) -> Result<()> {
        let _ = (x, gy);
        Ok(())
    }
}

/// Activations as what looks at them computes.
pub(super) fn wide(x: &Tensor) -> lowrank_core::Result<Tensor> {
    x.detach().cast(x.dtype().wide())
}

/// Shows a probe the gradient of y, the layer's output for x.
pub(super) fn listen(probe: &Arc<dyn Probe>, x: &Tensor, y: Tensor) -> Tensor {
    if !probe.wants_gradient() {
        return y;
    }
    let (probe, x) = (probe.clone(), x.detach());
    y.tap(move |gy| {
        let [x, gy] = [wide(&x)?, wide(gy)?];
        probe.gradient(&x, &gy).map_err(|e| match e {
            Error::Tensor(e) => e,
            other => lowrank_core::Error::invalid("probe", other.to_string()),
        })
    })
}
