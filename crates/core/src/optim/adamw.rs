//! AdamW (Loshchilov & Hutter 2019, algorithm 2), as PyTorch computes it.

use lowrank_backend::{AdamW as Op, AdamWParam, Result, Scalars};

use crate::Tensor;
use crate::optim::Group;
use crate::optim::param::{Params, fraction, not_negative, read, write};

/// Constants of [`AdamW`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    /// Decay rate of the first moment, in [0, 1).
    pub beta1: f64,
    /// Decay rate of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        AdamWOptions { beta1: 0.9, beta2: 0.999, eps: 1e-8 }
    }
}

/// AdamW: `p ← p(1 − lr·wd) − lr·m̂/(√v̂ + eps)` with bias-corrected moments of the clipped gradient.
pub struct AdamW {
    params: Params,
    options: AdamWOptions,
    /// First and second moments, group by group.
    m: Vec<Vec<Tensor>>,
    v: Vec<Vec<Tensor>>,
    steps: u32,
}

const OP: &str = "adamw";

impl AdamW {
    /// Over trainable leaves of one device; the moments start at 0. Refused by name: no parameters, one that is not a
    /// trainable leaf, two that are the same memory, constants out of range.
    pub fn new(groups: Vec<Group>, options: AdamWOptions) -> Result<Self> {
        fraction(OP, "beta1", options.beta1)?;
        fraction(OP, "beta2", options.beta2)?;
        not_negative(OP, "eps", options.eps)?;
        let params = Params::new(OP, groups)?;
        Ok(AdamW { m: params.zeros()?, v: params.zeros()?, params, options, steps: 0 })
    }

    /// One step with every group's learning rate times `lr_factor`, after scaling all gradients down to a global 2-norm
    /// of at most `max_norm`. Does not wait for the device.
    ///
    /// A parameter without a gradient is an error that names it, and every other such one. A norm that is not finite
    /// makes all parameters NaN.
    pub fn step(&mut self, lr_factor: f64, max_norm: Option<f64>) -> Result<()> {
        let grads = self.params.grads(OP)?;
        let AdamWOptions { beta1, beta2, eps } = self.options;
        let t = f64::from(self.steps) + 1.0;
        self.params.prepare(OP, &grads, lr_factor, max_norm, |s| {
            s[Scalars::CORRECTION1] = (1.0 - beta1.powf(t)) as f32;
            s[Scalars::CORRECTION2] = (1.0 - beta2.powf(t)) as f32;
        })?;
        let device = &self.params.device;
        for (i, group) in self.params.groups.iter().enumerate() {
            let op = Op { beta1, beta2, eps, weight_decay: group.weight_decay, group: i };
            let mut p = write(group.params.iter().map(|(_, t)| t));
            let (mut m, mut v, g) = (write(&self.m[i]), write(&self.v[i]), read(&grads[i]));
            let mut all: Vec<AdamWParam<'_>> = p
                .iter_mut()
                .zip(&mut m)
                .zip(&mut v)
                .zip(&g)
                .map(|(((p, m), v), g)| AdamWParam { p: p.out(), m: m.out(), v: v.out(), g: g.view() })
                .collect();
            device.with_scalars(|s| device.backend().adamw(&op, s, &mut all))?;
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
    use crate::{DType, Device};

    fn leaf(values: &[f64], device: &Device) -> Result<Tensor> {
        Tensor::from_f64(values, &[values.len()], DType::F64, device)?.trainable()
    }

    fn group(params: &[(&str, &Tensor)], lr: f64, weight_decay: f64) -> Group {
        Group { params: params.iter().map(|&(n, t)| (n.to_string(), t.clone())).collect(), lr, weight_decay }
    }

    /// Loss Σ cᵢ pᵢ²/2, so gᵢ = cᵢ pᵢ, over two groups; the same in plain scalars.
    #[test]
    fn equals_a_scalar_loop() -> Result<()> {
        let device = Device::reference()?;
        let c = [0.5, 3.0, -2.0];
        let (a, b) = (leaf(&[1.0, -2.0], &device)?, leaf(&[0.7], &device)?);
        let (ca, cb) = (leaf(&c[..2], &device)?.detach(), leaf(&c[2..], &device)?.detach());
        let mut opt =
            AdamW::new(vec![group(&[("a", &a)], 0.1, 0.01), group(&[("b", &b)], 0.02, 0.0)], AdamWOptions::default())?;
        let (lr, wd) = ([0.1f64, 0.1, 0.02], [0.01, 0.01, 0.0]);
        let (mut p, mut m, mut v) = ([1.0, -2.0, 0.7], [0.0; 3], [0.0; 3]);
        for t in 1..=5 {
            opt.zero_grad();
            let loss = a.square()?.mul(&ca)?.sum()?.add(&b.square()?.mul(&cb)?.sum()?)?.scale(0.5)?;
            loss.backward()?;
            let factor = 1.0 / f64::from(t);
            let waits = device.stats().waits;
            opt.step(factor, Some(2.0))?;
            assert_eq!(device.stats().waits, waits, "a step waited");

            let norm = (0..3).map(|i| (c[i] * p[i]).powi(2)).sum::<f64>().sqrt();
            let clip = (2.0 / (norm + 1e-6)).min(1.0);
            for i in 0..3 {
                let g = clip * c[i] * p[i];
                (m[i], v[i]) = (0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g * g);
                let (mh, vh) = (m[i] / (1.0 - 0.9f64.powi(t)), v[i] / (1.0 - 0.999f64.powi(t)));
                p[i] = p[i] * (1.0 - lr[i] * factor * wd[i]) - lr[i] * factor * mh / (vh.sqrt() + 1e-8);
            }
            assert!((opt.norm()? - norm).abs() < 1e-5 * norm);
            for (got, want) in a.to_f64()?.into_iter().chain(b.to_f64()?).zip(p) {
                // Rates, corrections and the clip factor are f32.
                assert!((got - want).abs() < 1e-6, "step {t}: {got} {want}");
            }
        }
        assert_eq!(opt.steps(), 5);
        Ok(())
    }

    #[test]
    fn says_who_got_no_gradient() -> Result<()> {
        let device = Device::reference()?;
        let [a, b, c] = [leaf(&[1.0], &device)?, leaf(&[1.0], &device)?, leaf(&[1.0], &device)?];
        let mut opt = AdamW::new(vec![group(&[("a", &a), ("b", &b), ("c", &c)], 0.1, 0.0)], AdamWOptions::default())?;
        b.square()?.backward()?;
        let detail = opt.step(1.0, None).unwrap_err().to_string();
        assert!(detail.ends_with("2 parameters: a, c"), "{detail}");
        assert_eq!(b.to_f64()?, [1.0]);
        Ok(())
    }

    #[test]
    fn refuses_what_it_cannot_train() -> Result<()> {
        let device = Device::reference()?;
        let a = leaf(&[1.0], &device)?;
        let refused =
            |groups| AdamW::new(groups, AdamWOptions::default()).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(refused(vec![]).contains("no parameters"));
        assert!(refused(vec![group(&[("a", &a.detach())], 0.1, 0.0)]).contains("not a trainable leaf"));
        assert!(refused(vec![group(&[("a", &a.square()?)], 0.1, 0.0)]).contains("not a trainable leaf"));
        assert!(refused(vec![group(&[("a", &a), ("b", &a.trainable()?)], 0.1, 0.0)]).contains("a and b are the same"));
        assert!(refused(vec![group(&[("a", &a)], -0.1, 0.0)]).contains("lr = -0.1"));
        Ok(())
    }
}
