//! Stochastic gradient descent with momentum and decoupled weight decay.

use lowrank_backend::{Result, Sgd as Op, SgdParam};

use crate::Tensor;
use crate::optim::Group;
use crate::optim::param::{Params, fraction, read, write};

/// Constants of [`Sgd`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SgdOptions {
    /// Decay rate of the velocity, in [0, 1). With 0 no velocity is kept.
    pub momentum: f64,
}

/// SGD: `u ← μu + g; p ← p − lr·(wd·p + u)` with the clipped gradient g.
pub struct Sgd {
    params: Params,
    options: SgdOptions,
    /// Velocities, group by group; none without momentum.
    u: Option<Vec<Vec<Tensor>>>,
    steps: u32,
}

const OP: &str = "sgd";

impl Sgd {
    /// Over trainable leaves of one device. Refused by name: no parameters, one that is not a trainable leaf, two that
    /// are the same memory, constants out of range.
    pub fn new(groups: Vec<Group>, options: SgdOptions) -> Result<Self> {
        fraction(OP, "momentum", options.momentum)?;
        let params = Params::new(OP, groups)?;
        let u = if options.momentum == 0.0 { None } else { Some(params.zeros()?) };
        Ok(Sgd { params, options, u, steps: 0 })
    }

    /// One step; see [`AdamW::step`](crate::optim::AdamW::step).
    pub fn step(&mut self, lr_factor: f64, max_norm: Option<f64>) -> Result<()> {
        let grads = self.params.grads(OP)?;
        self.params.prepare(OP, &grads, lr_factor, max_norm, |_| ())?;
        let device = &self.params.device;
        for (i, group) in self.params.groups.iter().enumerate() {
            let op = Op { momentum: self.options.momentum, weight_decay: group.weight_decay, group: i };
            let mut p = write(group.params.iter().map(|(_, t)| t));
            let mut u = self.u.as_ref().map_or_else(Vec::new, |u| write(&u[i]));
            let g = read(&grads[i]);
            let mut velocities = u.iter_mut();
            let mut all: Vec<SgdParam<'_>> = p
                .iter_mut()
                .zip(&g)
                .map(|(p, g)| SgdParam { p: p.out(), u: velocities.next().map(|u| u.out()), g: g.view() })
                .collect();
            device.with_scalars(|s| device.backend().sgd(&op, s, &mut all))?;
        }
        self.steps += 1;
        Ok(())
    }

    /// Forgets every parameter's gradient.
    pub fn zero_grad(&self) {
        self.params.zero_grad();
    }

    /// Steps made.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// Global 2-norm of the last step's gradients, before clipping. Waits for the device. An error before the first.
    pub fn norm(&self) -> Result<f64> {
        self.norm_tensor()?.item()
    }

    /// The same as an f32 tensor `[1]` on the device, without waiting; later steps leave it as it is.
    pub fn norm_tensor(&self) -> Result<Tensor> {
        self.params.norm(OP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    /// p = 1, g = 2 each step, lr 0.5 (exact in f32), μ 0.5, decay 0.25:
    /// u = 2, p = 1 − 0.5(0.25 + 2) = −0.125; then u = 3, p = −0.125 − 0.5(−0.03125 + 3) = −1.609375.
    #[test]
    fn two_steps_by_hand() -> Result<()> {
        let device = Device::reference()?;
        let p = Tensor::from_slice(&[1.0f64], &[1], &device)?.trainable()?;
        let group = Group { params: vec![("p".into(), p.clone())], lr: 0.5, weight_decay: 0.25 };
        let mut opt = Sgd::new(vec![group.clone()], SgdOptions { momentum: 0.5 })?;
        for want in [-0.125, -1.609375] {
            opt.zero_grad();
            p.scale(2.0)?.backward()?;
            opt.step(1.0, None)?;
            assert_eq!(p.to_f64()?, [want]);
        }
        // Without momentum or decay, and half the rate: p ← p − 0.25·2.
        p.set(&[1.0f64])?;
        let mut opt = Sgd::new(vec![Group { weight_decay: 0.0, ..group }], SgdOptions::default())?;
        opt.step(0.5, None)?;
        assert_eq!(p.to_f64()?, [0.5]);
        assert_eq!(opt.norm()?, 2.0);
        Ok(())
    }
}
