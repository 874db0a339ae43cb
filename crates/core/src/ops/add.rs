//! `y = a + b`, with broadcasting.

use lowrank_backend::{Broadcast, Result, Zip};

use crate::ops::broadcast;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// `a + b`, elementwise, with broadcasting on trailing dimensions.
    pub fn add(&self, b: &Tensor) -> Result<Tensor> {
        let (y, dims) = broadcast::zip("add", Zip::Add, self, b)?;
        Ok(y.with_rule(&[self, b], || Add { dims }))
    }
}

struct Add {
    dims: Broadcast,
}

impl Rule for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let mut moved = [false; 2];
        for (i, to) in [self.dims.a(), self.dims.b()].into_iter().enumerate() {
            if broadcast::whole(&gy, to) {
                moved[i] = grads.wants(i);
                continue;
            }
            let slot = grads.slot(i)?;
            if let Some(slot) = slot.lock().slot() {
                broadcast::sum_to(&gy, to, slot)?;
            }
            grads.put(slot)?;
        }
        // The gradient itself goes to an operand of the result's shape: moved to the last one, copied for a first one.
        match moved {
            [true, true] => {
                grads.give(0, gy.clone())?;
                grads.give(1, gy)
            }
            [true, false] => grads.give(0, gy),
            [false, true] => grads.give(1, gy),
            [false, false] => Ok(()),
        }
    }
}
