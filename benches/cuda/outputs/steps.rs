//! Training steps: optimisers with clipped gradients, kernel by kernel and replayed as a graph.

use lowrank_core::optim::{AdamW, AdamWOptions, Group, Sgd, SgdOptions};
use lowrank_core::{DType, Precision, Tensor};

use super::{Outcome, Results};

/// Enough for a graph to be recorded for both places of results, replayed, and updated.
const STEPS: u32 = 6;
/// Steps add up what one of them rounds.
const MOST: f32 = 1e-4;

/// A low-rank layer, a norm and a loss.
struct Net {
    x: Tensor,
    w: Tensor,
    targets: Tensor,
    leaves: [Tensor; 3],
}

impl Net {
    fn new(all: &Results, dtype: DType) -> Outcome<Net> {
        let [m, n, k, r] = [24, 40, 32, 8];
        let targets: Vec<u32> = (0..m as u32).map(|i| i * 7 % 40).collect();
        let leaves =
            [all.leaf(&[r, k], 32, DType::F32)?, all.leaf(&[n, r], 33, DType::F32)?, all.leaf(&[k], 34, DType::F32)?];
        let targets = Tensor::targets(&targets, &[m], n, all.device)?;
        Ok(Net { x: all.on(&[m, k], 30, dtype)?, w: all.on(&[n, k], 31, dtype)?, targets, leaves })
    }

    fn group(&self, which: &[(&str, usize)]) -> Group {
        let params = which.iter().map(|&(name, i)| (name.to_string(), self.leaves[i].clone())).collect();
        Group { params, lr: 0.02, weight_decay: 0.1 }
    }

    fn loss(&self) -> Outcome<Tensor> {
        let [a, b, norm] = &self.leaves;
        let x = self.x.rms_norm(norm, 1e-6)?;
        let loss = x.lora_linear(&self.w, None, a, b, 2.0, 0.2)?.cross_entropy(&self.targets, 24.0)?;
        loss.backward()?;
        Ok(loss)
    }

    fn push(&self, all: &mut Results, name: &str, losses: &[Tensor], norms: &[Tensor], most: f32) -> Outcome {
        for (i, (loss, norm)) in losses.iter().zip(norms).enumerate() {
            all.push(format!("{name}, step {i}: loss"), loss, most)?;
            all.push(format!("{name}, step {i}: norm"), norm, most)?;
        }
        for (what, leaf) in ["a", "b", "norm"].iter().zip(&self.leaves) {
            all.push(format!("{name}: {what}"), leaf, most)?;
        }
        Ok(())
    }
}

/// AdamW, all of a step in `Device::repeated`.
pub fn repeated(all: &mut Results, dtype: DType) -> Outcome {
    let precision = if dtype == DType::F32 { Precision::Full } else { Precision::Bf16 };
    all.device.set_precision(precision)?;
    let net = Net::new(all, dtype)?;
    let groups = vec![net.group(&[("a", 0), ("b", 1)]), net.group(&[("norm", 2)])];
    let mut optimiser = AdamW::new(groups, AdamWOptions::default())?;
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    let before = all.device.stats();
    for step in 0..STEPS {
        let (loss, norm) = all.device.repeated(|| -> Outcome<_> {
            all.device.begin_step(step)?;
            optimiser.zero_grad();
            let loss = net.loss()?;
            optimiser.step(1.0 / f64::from(step + 1), Some(0.5))?;
            // Results of a step are kept by copies: their places are taken again two steps later.
            Ok((loss.detach(), optimiser.norm_tensor()?))
        })?;
        losses.push(loss.scale(1.0)?);
        norms.push(norm.scale(1.0)?);
    }
    let launched = all.device.stats().graph_launches - before.graph_launches;
    println!("graph launches in {STEPS} repeated steps, activations {}: {launched}", dtype.name());
    // AdamW's first steps divide by the gradient's own size: bf16 shows in every element that is near none.
    let most = if dtype == DType::F32 { MOST } else { 5e-2 };
    net.push(all, &format!("repeated steps {}", dtype.name()), &losses, &norms, most)?;
    Ok(all.device.set_precision(Precision::Full)?)
}

/// SGD with momentum, kernel by kernel.
pub fn sgd(all: &mut Results) -> Outcome {
    let net = Net::new(all, DType::F32)?;
    let mut optimiser = Sgd::new(vec![net.group(&[("a", 0), ("b", 1), ("norm", 2)])], SgdOptions { momentum: 0.9 })?;
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for step in 0..3 {
        all.device.begin_step(step)?;
        optimiser.zero_grad();
        losses.push(net.loss()?);
        optimiser.step(1.0, Some(0.5))?;
        norms.push(optimiser.norm_tensor()?.scale(1.0)?);
    }
    net.push(all, "sgd", &losses, &norms, MOST)
}
