//! A result unchanged, and a listener to its gradient.

use lowrank_backend::Result;

use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// The same elements in the same memory; in backward, `listener` is shown the gradient of the loss with respect to
    /// them, before it goes on to what this tensor was made of.
    ///
    /// The result requires a gradient (while recording is on) even if nothing below it is trainable: backward comes as far
    /// down as its lowest tap, and no gradient of a frozen weight is allocated.
    pub fn tap(self, listener: impl Fn(&Tensor) -> Result<()> + Send + Sync + 'static) -> Tensor {
        let shape = self.shape().to_vec();
        let y = self.alias(shape, self.offset());
        y.with_rule_always(&[&self], || Tap(Box::new(listener)))
    }
}

type Listener = dyn Fn(&Tensor) -> Result<()> + Send + Sync;

struct Tap(Box<Listener>);

impl Rule for Tap {
    fn name(&self) -> &'static str {
        "tap"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        (self.0)(&gy)?;
        grads.give(0, gy)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{Device, no_grad};

    /// d(Σ 3y²)/dy = 6y, seen although nothing is trainable; without recording nothing is kept.
    #[test]
    fn the_gradient_is_seen_on_frozen_ground() -> Result<()> {
        let device = Device::reference()?;
        let x = Tensor::from_slice(&[1.0, -2.0], &[2], &device)?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let tapped = || {
            let seen = seen.clone();
            x.clone().tap(move |gy| {
                seen.lock().expect("not poisoned").push(gy.to_f64()?);
                Ok(())
            })
        };
        tapped().square()?.scale(3.0)?.sum()?.backward()?;
        assert_eq!(*seen.lock().expect("not poisoned"), [[6.0, -12.0]]);
        assert!(!no_grad(tapped).requires_grad());
        Ok(())
    }
}
