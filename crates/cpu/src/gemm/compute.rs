//! Which kernels a product uses, by path and precision, and how packed f32 values become what they consume.
//!
//! [`Precision::Bf16`] rounds both operands of large products to bf16 (nearest, ties to even) once they are packed; sums are f32.
//! Where the processor multiplies pairs of bf16 that halves the steps; elsewhere the rounded values stay f32, so that the
//! mode means the same on every path. h and u, the gradients of A and B, and products of at most 16 rows or 128 columns keep their f32 operands: they are
//! bound by memory, so rounding would cost accuracy for nothing. Bound: |error| ≤ (2⁻⁸ + k·2⁻²³)·Σ|a||b|.

use half::bf16;
use lowrank_backend::{Error, Precision, Result};

use super::kernel::{Kernel, STRIDE};
use crate::NAME;
use crate::path::Path;

/// How products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compute {
    pub path: Path,
    narrow: Narrow,
}

/// What happens to packed values before they are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Narrow {
    /// Nothing: f32.
    No,
    /// They are rounded to bf16 and stay in f32.
    Round,
    /// They become pairs of bf16 along the depth.
    #[cfg(target_arch = "x86_64")]
    Pairs,
}

impl From<Path> for Compute {
    fn from(path: Path) -> Self {
        Compute { path, narrow: Narrow::No }
    }
}

impl Compute {
    /// The kernels of an operation; a precision that this processor's kernels do not have is refused by name.
    pub(crate) fn new(op: &'static str, path: Path, precision: Precision) -> Result<Self> {
        Compute::check(op, precision)?;
        let narrow = match (precision, path) {
            #[cfg(target_arch = "x86_64")]
            (Precision::Bf16, Path::Avx512Bf16) => Narrow::Pairs,
            (Precision::Bf16, _) => Narrow::Round,
            _ => Narrow::No,
        };
        Ok(Compute { path, narrow })
    }

    /// Refuses a precision by name; for operations whose products are f32 in every mode.
    pub(crate) fn check(op: &'static str, precision: Precision) -> Result<()> {
        match Compute::supports(precision) {
            true => Ok(()),
            false => Err(Error::unsupported(op, NAME, format!("precision {}", precision.name()))),
        }
    }

    /// Whether [`Compute::new`] takes it.
    pub(crate) fn supports(precision: Precision) -> bool {
        matches!(precision, Precision::Full | Precision::Bf16)
    }

    /// The microkernels, which read what `rows` and `columns` leave.
    pub(crate) fn kernel(self) -> &'static Kernel {
        match self.narrow {
            #[cfg(target_arch = "x86_64")]
            Narrow::Pairs => &super::avx512bf16::KERNEL,
            _ => self.path.kernel(),
        }
    }

    /// Packed rows, [`STRIDE`] apart, of `depth` values.
    pub(super) fn rows(self, packed: &mut [f32], depth: usize) {
        match self.narrow {
            Narrow::No => {}
            Narrow::Round => packed.chunks_mut(STRIDE).for_each(|row| round(&mut row[..depth])),
            #[cfg(target_arch = "x86_64")]
            Narrow::Pairs => packed.chunks_mut(STRIDE).for_each(|row| {
                // SAFETY: the path has the instructions.
                unsafe { super::avx512bf16::pair_row(&mut row[..depth]) }
            }),
        }
    }

    /// Packed panels of columns, `depth` × `width` values each.
    pub(super) fn columns(self, packed: &mut [f32], depth: usize, width: usize) {
        match self.narrow {
            Narrow::No => {}
            Narrow::Round => round(packed),
            #[cfg(target_arch = "x86_64")]
            Narrow::Pairs => packed.chunks_exact_mut(depth * width).for_each(|panel| {
                // SAFETY: the path has the instructions.
                unsafe { super::avx512bf16::pair_columns(panel, width) }
            }),
        }
    }
}

fn round(values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
}
