//! Examples side by side.

use lowrank_core::{Device, IGNORE, Tensor};

use crate::{Example, Result};

/// Examples as two tensors, padded on the right to the longest of them.
///
/// Padding cannot change a result: attention is causal, so no earlier position sees it, and its targets are ignored.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token numbers `[batch, length]`, u32.
    pub ids: Tensor,
    /// Targets `[batch · length]`, u32; `IGNORE` is skipped.
    pub targets: Tensor,
    /// Targets that count.
    pub counted: usize,
    /// Tokens without the padding.
    pub tokens: usize,
}

impl Batch {
    /// Puts examples (at least one) onto a device.
    pub fn new<'a>(examples: impl IntoIterator<Item = &'a Example>, device: &Device) -> Result<Self> {
        let examples: Vec<&Example> = examples.into_iter().collect();
        let (ids, targets, length) = pad(&examples);
        Ok(Batch {
            ids: Tensor::from_slice(&ids, &[examples.len(), length], device)?,
            targets: Tensor::from_slice(&targets, &[targets.len()], device)?,
            counted: examples.iter().map(|e| e.counted()).sum(),
            tokens: examples.iter().map(|e| e.ids.len()).sum(),
        })
    }
}

/// Ids, targets, length of a row.
fn pad(examples: &[&Example]) -> (Vec<u32>, Vec<u32>, usize) {
    let length = examples.iter().map(|e| e.ids.len()).max().unwrap_or(0);
    let (mut ids, mut targets) = (Vec::new(), Vec::new());
    for example in examples {
        ids.extend_from_slice(&example.ids);
        ids.resize(ids.len() + length - example.ids.len(), 0);
        targets.extend_from_slice(&example.targets);
        targets.resize(ids.len(), IGNORE);
    }
    (ids, targets, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_on_the_right_and_ignored() {
        let a = Example { ids: vec![1, 2, 3], targets: vec![2, 3, 4] };
        let b = Example { ids: vec![5], targets: vec![6] };
        let (ids, targets, length) = pad(&[&a, &b, &a]);
        assert_eq!(length, 3);
        assert_eq!(ids, [1, 2, 3, 5, 0, 0, 1, 2, 3]);
        assert_eq!(targets, [2, 3, 4, 6, IGNORE, IGNORE, 2, 3, 4]);
    }
}
