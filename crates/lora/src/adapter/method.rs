//! What is trained of a targeted layer if it is no pair: the layer whole, or a bottleneck behind it.

use lowrank_core::Tensor;

use super::Adapter;
use crate::host::Info;
use crate::layer::Bottleneck;
use crate::peft::keys;
use crate::targets::Lookup;
use crate::{Error, Host, Kind, Method, Result, Targets};

/// PEFT's own name for "no layer gets a pair": the targets of an adapter of whole layers.
pub const NO_TARGETS: &str = "dummy-target-modules";

impl Adapter {
    /// The layers trained whole: those of modules_to_save, and with [`Method::Full`] the targeted ones, which the
    /// configuration then lists as such (the form in which PEFT reads them).
    pub(super) fn whole(&mut self, targeted: &[Info], saved: Vec<Info>) -> Vec<Info> {
        let mut all = saved;
        all.extend(targeted.iter().cloned());
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.dedup_by(|a, b| a.name == b.name);
        self.config.targets = Targets::Regex(NO_TARGETS.into());
        self.config.exclude = None;
        (self.config.layers_to_transform, self.config.layers_pattern) = (None, None);
        self.config.modules_to_save = all.iter().map(|m| m.name.clone()).collect();
        all
    }

    /// Fresh bottlenecks behind these layers.
    pub(super) fn add_bottlenecks(&mut self, host: &dyn Host, targeted: &[Info], seed: u64) -> Result<()> {
        let ranks = Lookup::new("rank_pattern", &self.config.rank_pattern)?;
        for m in targeted {
            if m.kind != Kind::Linear {
                let detail = format!("`{}`: method bottleneck is for linear layers, not for an {}", m.name, m.kind);
                return Err(Error::targets(detail));
            }
            let (n, r) = (m.shape[0], ranks.get(&m.name).unwrap_or(self.config.r));
            let (down, up) = crate::init::bottleneck::draw(&m.name, seed, n * r);
            let leaf = |part: &str, data: &[f64], shape: &[usize]| -> Result<Tensor> {
                let t = Tensor::from_f64(data, shape, host.dtype(), host.device())?;
                Ok(t.named(keys::plain(&format!("{}.{part}", m.name))).trainable()?)
            };
            let bottleneck = Bottleneck {
                down: leaf("bottleneck_down.weight", &down, &[r, n])?,
                down_bias: leaf("bottleneck_down.bias", &vec![0.0; r], &[r])?,
                up: leaf("bottleneck_up.weight", &up, &[n, r])?,
                up_bias: leaf("bottleneck_up.bias", &vec![0.0; n], &[n])?,
            };
            self.bottlenecks.insert(m.name.clone(), bottleneck);
        }
        Ok(())
    }

    /// Refuses, by name, what a bottleneck makes impossible.
    pub fn no_bottleneck(&self, what: &str) -> Result<()> {
        match self.bottlenecks.keys().next() {
            Some(layer) => Err(Error::adapter(format!(
                "{what}: adapter {}: `{layer}` has a bottleneck behind it, which is not linear and no change of its weight",
                self.name
            ))),
            None => Ok(()),
        }
    }
}

/// Which settings mean something with which method.
pub(crate) fn check(config: &crate::LoraConfig) -> Result<()> {
    let method = config.method;
    if method == Method::Lora {
        return Ok(());
    }
    let refuse = |field: &str| Err(Error::config(field, format!("means nothing with method {method}")));
    if config.init != crate::Init::Default {
        return refuse("init_lora_weights");
    }
    for (set, field) in [
        (config.use_dora, "use_dora"),
        (config.use_rslora, "use_rslora"),
        (config.freeze_a, "freeze_a"),
        (config.dropout > 0.0, "lora_dropout"),
        (!config.alpha_pattern.is_empty(), "alpha_pattern"),
        (method == Method::Full && !config.rank_pattern.is_empty(), "rank_pattern"),
        (config.bias != crate::Bias::None, "bias"),
        (method == Method::Bottleneck && !config.modules_to_save.is_empty(), "modules_to_save"),
    ] {
        if set {
            return refuse(field);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
