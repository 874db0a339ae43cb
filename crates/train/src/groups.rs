//! Parameters by learning rate.

use lowrank_core::optim::Group;
use lowrank_lora::{Adapter, Kind};

use crate::{Error, Options, Result};

/// One group; with LoRA+ the B of linear layers are a second one, at `lora_plus` times the learning rate.
pub(crate) fn groups(adapter: &Adapter, options: &Options) -> Result<Vec<Group>> {
    let group = |params, lr| Group { params, lr, weight_decay: options.weight_decay };
    if options.lora_plus == 1.0 {
        return Ok(vec![group(adapter.parameters(), options.lr)]);
    }
    let fast: Vec<u64> = adapter.layers.values().filter(|l| l.kind == Kind::Linear).map(|l| l.b.id()).collect();
    let (fast, slow): (Vec<_>, Vec<_>) = adapter.parameters().into_iter().partition(|(_, t)| fast.contains(&t.id()));
    if fast.is_empty() {
        return Err(Error::option("--lora-plus", "the adapter has no linear layer whose B it could speed up"));
    }
    let mut groups = vec![group(fast, options.lr * options.lora_plus)];
    if !slow.is_empty() {
        groups.push(group(slow, options.lr));
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use lowrank_core::{DType, Device};
    use lowrank_lora::LoraConfig;
    use lowrank_models::Mlp;

    use super::*;

    #[test]
    fn b_has_a_rate_of_its_own() {
        let mlp = Mlp::new(4, 8, 3, 0, &Device::cpu().unwrap(), DType::F32).unwrap();
        let of = |freeze_a, lora_plus| {
            let config = LoraConfig { r: 2, freeze_a, ..LoraConfig::default() };
            let adapter = Adapter::create(&mlp, "default", config, 0).unwrap();
            let options = Options { lr: 1e-3, lora_plus, weight_decay: 0.1, ..Options::default() };
            let groups = groups(&adapter, &options).unwrap();
            let names = |g: &Group| g.params.iter().all(|(name, _)| name.contains("lora_B"));
            groups.iter().map(|g| (g.lr, g.weight_decay, g.params.len(), names(g))).collect::<Vec<_>>()
        };
        assert_eq!(of(false, 1.0), [(1e-3, 0.1, 4, false)]);
        assert_eq!(of(false, 16.0), [(1.6e-2, 0.1, 2, true), (1e-3, 0.1, 2, false)]);
        assert_eq!(of(true, 16.0), [(1.6e-2, 0.1, 2, true)]);
    }
}
