//! DoRA's magnitudes: `m = ‖W + sBA‖` of every row, so that the adapted layer starts as the low-rank one.

use lowrank_core::Tensor;

use crate::host::{Info, Module};
use crate::peft::keys;
use crate::{Error, Host, Kind, Result};

/// An embedding with DoRA is refused, whether it is made or read.
pub(crate) fn no_magnitude_on(m: &Info, use_dora: bool) -> Result<()> {
    if use_dora && m.kind == Kind::Embedding {
        return Err(Error::config(
            "use_dora",
            format!("`{}` is an embedding, for which DoRA is not supported", m.name),
        ));
    }
    Ok(())
}

/// A trainable magnitude for the pair of a linear layer. A row of zeros has no direction, and is refused.
pub(super) fn start(host: &dyn Host, layer: &str, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    let mut magnitude = Err(Error::adapter(format!("use_dora: the model has no linear layer `{layer}`")));
    host.visit(&mut |m| {
        if let Module::Linear(l) = m
            && l.name() == layer
        {
            magnitude = of(&l.weight, a, b, scale);
        }
    });
    let magnitude = magnitude?;
    if let Some(i) = magnitude.to_f64()?.iter().position(|&x| !(x.is_finite() && x > 0.0)) {
        let detail = format!("`{layer}`: row {i} of W + sBA is zero or not finite, so it has no direction to train");
        return Err(Error::config("use_dora", detail));
    }
    Ok(magnitude.named(keys::magnitude(layer)).trainable()?)
}

fn of(w: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    Ok(w.dora_norm(&w.row_squares(a.dtype())?, a, b, scale)?)
}
