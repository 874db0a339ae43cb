//! `loss = Σ (lse(row) − row[target]) / denominator` over the rows that count. There is never a second copy of the
//! logits: they are handed over, and backward turns them into their gradient where they lie.

use lowrank_backend::{CrossEntropy as Op, Error, Result};

use crate::ops::check;
use crate::{Grads, Rule, Tensor};

impl Tensor {
    /// Cross entropy of logits `[…, vocab]` with one u32 target a row; rows whose target is
    /// [`IGNORE`](crate::IGNORE) do not count. The sum is divided by `denominator`, usually the number of rows that
    /// count in the whole batch; the result has shape `[]`. Make targets with [`Tensor::targets`].
    ///
    /// Takes the logits, as backward overwrites them with their gradient. If anything else still uses their memory (a
    /// handle the caller kept, a reshape or the backward rule of another operation), it works on a copy instead: for
    /// the least memory, pass them as they come out of the last linear, in any shape.
    pub fn cross_entropy(self, targets: &Tensor, denominator: f64) -> Result<Tensor> {
        const OP: &str = "cross_entropy";
        check::same_device(OP, &[&self, targets])?;
        check::float(OP, &self)?;
        check::ids(OP, "targets", targets)?;
        let (rows, vocab) = check::rows_cols(OP, &self)?;
        if targets.len() != rows || vocab == 0 {
            let detail = format!("{} for {}", targets.label("targets"), self.label("logits"));
            return Err(Error::shape(OP, detail));
        }
        if !(denominator.is_finite() && denominator > 0.0) {
            return Err(Error::invalid(OP, format!("denominator {denominator} is not positive")));
        }
        let op = Op { rows, vocab, denominator };
        let loss = Tensor::empty(&[], self.dtype(), self.device())?;
        let lse = Tensor::empty(&[rows], self.dtype(), self.device())?;
        self.device().backend().cross_entropy_forward(
            &op,
            self.read().view(),
            targets.read().view(),
            loss.write().out(),
            lse.write().out(),
        )?;
        let input = self.clone();
        Ok(loss.with_rule(&[&input], || CrossEntropy { op, logits: self, targets: targets.clone(), lse }))
    }
}

struct CrossEntropy {
    op: Op,
    logits: Tensor,
    targets: Tensor,
    lse: Tensor,
}

impl Rule for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let Self { op, logits, targets, lse } = *self;
        let logits = if logits.owns_storage() { logits } else { logits.copy()? };
        gy.device().backend().cross_entropy_backward(
            &op,
            logits.write().out(),
            targets.read().view(),
            lse.read().view(),
            gy.read().view(),
        )?;
        grads.give(0, logits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Device, IGNORE};

    const ROWS: usize = 32;
    const VOCAB: usize = 256;

    fn values(n: usize) -> Vec<f64> {
        (0..n).map(|i| ((i * 7919) % 101) as f64 / 50.0 - 1.0).collect()
    }

    fn setup(device: &Device, dtype: DType) -> Result<(Tensor, Tensor, Tensor)> {
        let x = Tensor::from_f64(&values(ROWS * 4), &[2, ROWS / 2, 4], dtype, device)?.trainable()?;
        let w = Tensor::from_f64(&values(VOCAB * 4), &[VOCAB, 4], dtype, device)?;
        let ids: Vec<u32> = (0..ROWS).map(|i| if i == 3 { IGNORE } else { (i * 13 % VOCAB) as u32 }).collect();
        Ok((x, w, Tensor::targets(&ids, &[2, ROWS / 2], VOCAB, device)?))
    }

    /// Two rows by hand: ln(1 + e^-1) with the larger one as target, and an ignored one.
    #[test]
    fn by_hand() -> Result<()> {
        let device = Device::reference()?;
        let x = Tensor::from_slice(&[2.0, 1.0, 5.0, 5.0], &[2, 2], &device)?.trainable()?;
        let loss = x.scale(1.0)?.cross_entropy(&Tensor::targets(&[0, IGNORE], &[2], 2, &device)?, 2.0)?;
        assert!((loss.item()? - (1.0 + (-1f64).exp()).ln() / 2.0).abs() < 1e-12);
        loss.backward()?;
        let p = 1.0 / (1.0 + 1f64.exp());
        for (got, want) in x.grad().expect("trainable").to_f64()?.iter().zip([-p / 2.0, p / 2.0, 0.0, 0.0]) {
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
        assert!(Tensor::targets(&[2], &[1], 2, &device).is_err());
        assert!(Tensor::ids(&[IGNORE], &[1], 2, &device).is_err());
        Ok(())
    }

    /// Largest memory of linear, cross entropy and backward, beyond what was there before.
    fn peak(device: &Device, dtype: DType, keep: bool) -> Result<u64> {
        let (x, w, targets) = setup(device, dtype)?;
        let before = device.stats().bytes_live;
        device.backend().reset_peak();
        let logits = x.linear(&w, None)?;
        let kept = keep.then(|| logits.clone());
        logits.cross_entropy(&targets, 31.0)?.backward()?;
        drop(kept);
        Ok(device.stats().bytes_peak - before)
    }

    /// On any device, also where the definition needs temporaries: only logits that are kept are copied.
    #[test]
    fn copied_only_if_kept() -> Result<()> {
        let device = Device::reference()?;
        let (free, kept) = (peak(&device, DType::F64, false)?, peak(&device, DType::F64, true)?);
        assert_eq!(kept - free, (ROWS * VOCAB * 8) as u64);
        Ok(())
    }

    #[cfg(feature = "cpu")]
    #[test]
    fn no_second_copy_of_the_logits() -> Result<()> {
        let peak = peak(&Device::cpu()?, DType::F32, false)?;
        let logits = (ROWS * VOCAB * 4) as u64;
        assert!(peak >= logits && peak < logits * 5 / 4, "{peak} bytes for logits of {logits}");
        Ok(())
    }

    #[test]
    fn logits_that_are_kept_stay() -> Result<()> {
        let device = Device::reference()?;
        let (x, w, targets) = setup(&device, DType::F64)?;
        x.linear(&w, None)?.cross_entropy(&targets, 31.0)?.backward()?;
        let want = x.grad().expect("trainable").to_f64()?;

        let logits = x.linear(&w, None)?;
        let old = logits.to_f64()?;
        x.zero_grad();
        logits.clone().cross_entropy(&targets, 31.0)?.backward()?;
        assert_eq!(logits.to_f64()?, old);
        assert_eq!(x.grad().expect("trainable").to_f64()?, want);

        // A view, and a rule of another operation that has yet to run, are users as well.
        let view = x.linear(&w, None)?.detach();
        x.zero_grad();
        let logits = x.linear(&w, None)?;
        let (alias, exp) = (logits.detach(), logits.exp()?);
        let loss = logits.cross_entropy(&targets, 31.0)?;
        loss.add(&exp.log()?.sum()?.scale(0.0)?)?.backward()?;
        assert_eq!(alias.to_f64()?, view.to_f64()?);
        for (got, want) in x.grad().expect("trainable").to_f64()?.iter().zip(&want) {
            assert!((got - want).abs() < 1e-12);
        }
        Ok(())
    }
}
