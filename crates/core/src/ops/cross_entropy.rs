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
        let rows = check::rows_cols(OP, &self)?.0;
        parts(self, targets, &[(rows, denominator)], &[])
    }

    /// Several losses over one batch of logits `[…, vocab]`: part after part, `(rows, denominator)` each; all the rows
    /// belong to a part. The result has shape `[parts]`; each loss, and the gradient of its rows, has the bits of
    /// [`Tensor::cross_entropy`] on those rows alone. Takes the logits as that does.
    pub fn cross_entropy_parts(self, targets: &Tensor, parts: &[(usize, f64)]) -> Result<Tensor> {
        self::parts(self, targets, parts, &[parts.len()])
    }
}

const OP: &str = "cross_entropy";

/// The losses, in a tensor of this shape.
fn parts(logits: Tensor, targets: &Tensor, parts: &[(usize, f64)], shape: &[usize]) -> Result<Tensor> {
    check::same_device(OP, &[&logits, targets])?;
    check::float(OP, &logits)?;
    check::ids(OP, "targets", targets)?;
    let (rows, vocab) = check::rows_cols(OP, &logits)?;
    if targets.len() != rows || vocab == 0 {
        let detail = format!("{} for {}", targets.label("targets"), logits.label("logits"));
        return Err(Error::shape(OP, detail));
    }
    if parts.iter().try_fold(0usize, |sum, part| sum.checked_add(part.0)) != Some(rows) {
        let sizes: Vec<usize> = parts.iter().map(|part| part.0).collect();
        return Err(Error::shape(OP, format!("parts of {sizes:?} rows for {}", logits.label("logits"))));
    }
    if let Some((_, denominator)) = parts.iter().find(|(_, d)| !(d.is_finite() && *d > 0.0)) {
        return Err(Error::invalid(OP, format!("denominator {denominator} is not positive")));
    }
    let mut start = 0;
    let mut pieces = Vec::with_capacity(parts.len());
    for &(rows, denominator) in parts {
        pieces.push(Part { start, op: Op { rows, vocab, denominator } });
        start += rows;
    }
    let loss = Tensor::empty(shape, logits.dtype().wide(), logits.device())?;
    let lse = Tensor::empty(&[rows], logits.dtype().wide(), logits.device())?;
    for (i, &Part { start, op }) in pieces.iter().enumerate() {
        logits.device().backend().cross_entropy_forward(
            &op,
            logits.read().view().narrow(start * vocab, op.rows * vocab),
            targets.read().view().narrow(start, op.rows),
            loss.write().out().narrow(i, 1),
            lse.write().out().narrow(start, op.rows),
        )?;
    }
    let input = logits.clone();
    Ok(loss.with_rule(&[&input], || CrossEntropy { parts: pieces, logits, targets: targets.clone(), lse }))
}

/// Rows with a loss of their own.
struct Part {
    start: usize,
    op: Op,
}

struct CrossEntropy {
    parts: Vec<Part>,
    logits: Tensor,
    targets: Tensor,
    lse: Tensor,
}

impl Rule for CrossEntropy {
    fn name(&self) -> &'static str {
        OP
    }

    fn backward(self: Box<Self>, gy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let Self { parts, logits, targets, lse } = *self;
        let logits = if logits.owns_storage() { logits } else { logits.copy()? };
        for (i, Part { start, op }) in parts.iter().enumerate() {
            gy.device().backend().cross_entropy_backward(
                op,
                logits.write().out().narrow(start * op.vocab, op.rows * op.vocab),
                targets.read().view().narrow(*start, op.rows),
                lse.read().view().narrow(*start, op.rows),
                gy.read().view().narrow(i, 1),
            )?;
        }
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

    /// Each part is what it is alone, whatever stands beside it.
    #[test]
    fn parts_are_losses_of_their_own() -> Result<()> {
        let device = Device::reference()?;
        let (x, w, targets) = setup(&device, DType::F64)?;
        let targets = targets.reshape(&[ROWS])?;
        let logits = || x.reshape(&[ROWS, 4])?.linear(&w, None);
        let sizes = [(5, 4.0), (20, 20.0), (7, 0.5)];
        let losses = logits()?.cross_entropy_parts(&targets, &sizes)?;
        assert_eq!(losses.shape(), [3]);
        losses.sum()?.backward()?;
        let (together, grad) = (losses.to_f64()?, x.grad().expect("trainable").to_f64()?);
        let mut start = 0;
        for (i, (rows, denominator)) in sizes.into_iter().enumerate() {
            x.zero_grad();
            let part = logits()?.slice(0, start, rows)?;
            let alone = part.cross_entropy(&targets.slice(0, start, rows)?, denominator)?;
            assert_eq!(alone.item()?, together[i]);
            alone.backward()?;
            let own = x.grad().expect("trainable").to_f64()?;
            assert_eq!(own[start * 4..(start + rows) * 4], grad[start * 4..(start + rows) * 4]);
            start += rows;
        }
        for bad in [&[(5, 1.0)][..], &[(31, 1.0), (1, 0.0)]] {
            assert!(logits()?.cross_entropy_parts(&targets, bad).is_err());
        }
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
