//! Values worked out by hand, so that an error shared by every implementation and its oracle would show.

use lowrank_core::optim::{AdamW, AdamWOptions, Group, Sgd, SgdOptions};
use lowrank_core::{Device, Tensor};

use crate::devices::{Checks, Target};
use crate::report::{Outcome, ensure, equal, within};

/// The trials of this module.
pub const CHECKS: Checks = &[
    ("lora-linear", lora_linear),
    ("softmax-and-cross-entropy", softmax_and_cross_entropy),
    ("norms", norms),
    ("attention", attention),
    ("ties-of-max", ties_of_max),
    ("adamw", adamw),
    ("sgd-and-clipping", sgd_and_clipping),
];

/// Makes tensors for one device.
struct Hand<'a>(&'a Target, Device);

impl<'a> Hand<'a> {
    fn new(target: &'a Target) -> Result<Self, libtest_mimic::Failed> {
        Ok(Hand(target, target.open()?))
    }

    /// A trainable leaf.
    fn leaf(&self, shape: &[usize], values: &[f64]) -> Result<Tensor, libtest_mimic::Failed> {
        Ok(self.frozen(shape, values)?.trainable()?)
    }

    fn frozen(&self, shape: &[usize], values: &[f64]) -> Result<Tensor, libtest_mimic::Failed> {
        Ok(Tensor::from_f64(values, shape, self.0.dtype(), &self.1)?)
    }

    /// To 8 units in the last place of 1.
    fn near(&self, what: &str, got: &Tensor, want: &[f64]) -> Outcome {
        let allowed: Vec<f64> = want.iter().map(|w| 16.0 * self.0.unit() * w.abs().max(1.0)).collect();
        within(what, &got.to_f64()?, want, &allowed).map(|_| ())
    }

    fn exactly(&self, what: &str, got: Option<Tensor>, want: &[f64]) -> Outcome {
        match got {
            Some(got) => equal(what, &got.to_f64()?, want),
            None => crate::report::fail(format!("{what} is not there")),
        }
    }
}

/// x = [1, 2], W = [[1,0],[0,1],[1,1]], A = [[1,−1]], B = [[1],[2],[−1]], s = ½:
/// h = −1, y = [1,2,3] − ½[1,2,−1]; with gy = [1,1,2]: u = ½(1+2−2) = ½, dB = −½[1,1,2], dA = ½[1,2],
/// dx = [1+2, 1+2] + ½[1,−1].
fn lora_linear(target: &Target) -> Outcome {
    let hand = Hand::new(target)?;
    let x = hand.leaf(&[1, 2], &[1.0, 2.0])?;
    let w = hand.frozen(&[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0])?;
    let a = hand.leaf(&[1, 2], &[1.0, -1.0])?;
    let b = hand.leaf(&[3, 1], &[1.0, 2.0, -1.0])?;
    let y = x.lora_linear(&w, None, &a, &b, 0.5, 0.0)?;
    hand.exactly("y", Some(y.clone()), &[0.5, 1.0, 3.5])?;
    y.backward_with(hand.frozen(&[1, 3], &[1.0, 1.0, 2.0])?)?;
    hand.exactly("dB", b.grad(), &[-0.5, -0.5, -1.0])?;
    hand.exactly("dA", a.grad(), &[0.5, 1.0])?;
    hand.exactly("dx", x.grad(), &[3.5, 2.5])?;
    ensure(w.grad().is_none(), || "the frozen W has a gradient".into())
}

/// softmax [0, ln 3] = [¼, ¾]; cross entropy of two equal logits is ln 2, its gradient p − onehot.
fn softmax_and_cross_entropy(target: &Target) -> Outcome {
    let hand = Hand::new(target)?;
    hand.near("softmax", &hand.frozen(&[1, 2], &[0.0, 3f64.ln()])?.softmax()?, &[0.25, 0.75])?;
    let x = hand.leaf(&[2, 2], &[1.0, 1.0, 5.0, 5.0])?;
    let targets = Tensor::from_slice(&[0u32, u32::MAX], &[2], &hand.1)?;
    let loss = x.clone().cross_entropy(&targets, 1.0)?;
    hand.near("loss", &loss, &[2f64.ln()])?;
    loss.backward()?;
    hand.near("dx", &x.grad().ok_or("no gradient")?, &[-0.5, 0.5, 0.0, 0.0])
}

/// [3, 4] has mean square 12½ and [1, 3] has mean 2 and variance 1.
fn norms(target: &Target) -> Outcome {
    let hand = Hand::new(target)?;
    let w = hand.frozen(&[2], &[1.0, 2.0])?;
    let rms = 12.5f64.sqrt();
    hand.near("rms_norm", &hand.frozen(&[1, 2], &[3.0, 4.0])?.rms_norm(&w, 0.0)?, &[3.0 / rms, 8.0 / rms])?;
    let b = hand.frozen(&[2], &[0.5, -1.0])?;
    hand.near("layer_norm", &hand.frozen(&[1, 2], &[1.0, 3.0])?.layer_norm(&w, &b, 0.0)?, &[-0.5, 1.0])
}

/// Keys 0 and ln 3, values 4 and 8, query 1: the second query sees both (¼·4 + ¾·8), the first only the first.
fn attention(target: &Target) -> Outcome {
    let hand = Hand::new(target)?;
    let q = hand.frozen(&[1, 2, 1, 1], &[1.0, 1.0])?;
    let k = hand.frozen(&[1, 2, 1, 1], &[0.0, 3f64.ln()])?;
    let v = hand.frozen(&[1, 2, 1, 1], &[4.0, 8.0])?;
    hand.near("causal", &q.attention(&k, &v, true, Some(1.0))?, &[4.0, 7.0])?;
    hand.near("not causal", &q.attention(&k, &v, false, Some(1.0))?, &[7.0, 7.0])
}

/// Where two are the largest, each gets half.
fn ties_of_max(target: &Target) -> Outcome {
    let hand = Hand::new(target)?;
    let x = hand.leaf(&[3], &[2.0, 2.0, 1.0])?;
    x.max_axis(0, false)?.backward()?;
    hand.exactly("dx", x.grad(), &[0.5, 0.5, 0.0])
}

/// A constant gradient moves AdamW by lr a step, and weight decay by lr · wd · p more.
fn adamw(target: &Target) -> Outcome {
    let hand = Hand::new(target)?;
    for (weight_decay, want) in [(0.0, [0.9, 0.8]), (0.5, [0.85, 0.7075])] {
        let p = hand.leaf(&[1], &[1.0])?;
        let group = Group { params: vec![("p".into(), p.clone())], lr: 0.1, weight_decay };
        let mut optimiser = AdamW::new(vec![group], AdamWOptions::default())?;
        for want in want {
            p.zero_grad();
            p.scale(0.5)?.sum()?.backward()?;
            optimiser.step(1.0, None)?;
            // eps = 1e-8 beside a root of ½, and a learning rate in f32.
            within("p", &p.to_f64()?, &[want], &[1e-6])?;
        }
    }
    Ok(())
}

/// Gradient [3, 4] has norm 5; clipped to 1 it is [0.6, 0.8]. Then momentum ½ makes 1, 1½, 1¾ of it.
fn sgd_and_clipping(target: &Target) -> Outcome {
    let hand = Hand::new(target)?;
    let p = hand.leaf(&[2], &[0.0, 0.0])?;
    let slope = hand.frozen(&[2], &[3.0, 4.0])?;
    let group = Group { params: vec![("p".into(), p.clone())], lr: 1.0, weight_decay: 0.0 };
    let mut optimiser = Sgd::new(vec![group], SgdOptions { momentum: 0.5 })?;
    for far in [1.0, 2.5, 4.25] {
        p.zero_grad();
        p.mul(&slope)?.sum()?.backward()?;
        optimiser.step(1.0, Some(1.0))?;
        within("norm", &[optimiser.norm()?], &[5.0], &[1e-6])?;
        within("p", &p.to_f64()?, &[-0.6 * far, -0.8 * far], &[1e-5; 2])?;
    }
    Ok(())
}
