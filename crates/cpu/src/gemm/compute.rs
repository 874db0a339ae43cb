//! Which kernels a product uses, by path and precision, and how packed f32 values become what they consume.
//!
//! Two modes narrow both operands of large products once they are packed; sums are f32. What a mode means is the same on
//! every path: where the processor does not multiply bf16, or not faster, the narrowed values stay f32.
//!
//! * [`Precision::Bf16`]: rounded to bf16 (nearest, ties to even). AVX512-BF16 multiplies pairs, AMX tiles.
//!   |error| ≤ (2⁻⁷ + k·2⁻²³)·Σ|a||b|, 2⁻⁸ for each operand; random ones stay far below.
//! * [`Precision::Bf16x3`]: rounded to a sum of two bf16 (see `split`). AMX multiplies hi·hi, hi·lo and lo·hi; elsewhere hi + lo is
//!   multiplied in f32, lo·lo included: three `vdpbf16ps` take longer than two multiply-adds (half as fast on Zen 5, whose
//!   `vdpbf16ps` does twice the FLOPs of `vfmadd`). |error| ≤ (2⁻¹⁵ + k·2⁻²³)·Σ|a||b|: 2⁻¹⁶ for lo·lo, 2⁻¹⁷ for the
//!   rest of each operand. Infinities and NaN give what f32 gives.
//!
//! The instructions for bf16 take denormals for zero. Values of more than 2⁻¹¹⁸ keep both parts; below, what is lost is less
//! than 2⁻¹²⁶ of each operand. h and u, the gradients of A and B, attention, batched products, products of at most 16 rows, and
//! those of at most 128 columns that are no linear layer's, keep their f32 operands: they are bound by memory or small, so
//! rounding would cost accuracy for little.

use lowrank_backend::{Error, Precision, Result};

use super::kernel::{DEPTH, Kernel, STRIDE, Unpacked};
use super::operand::Operand;
use super::{pack, split};
use crate::NAME;
use crate::path::Path;
use crate::simd::kernel;
use crate::view::rounded_bits;

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
    /// They are rounded to sums of two bf16 and stay in f32.
    Widen,
    /// They become pairs of bf16 along the depth.
    #[cfg(target_arch = "x86_64")]
    Pairs,
    /// The same for tiles: padded to whole steps.
    #[cfg(target_arch = "x86_64")]
    Tiles,
    /// Pairs of hi and pairs of lo, for tiles.
    #[cfg(target_arch = "x86_64")]
    Split,
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
            #[cfg(target_arch = "x86_64")]
            (Precision::Bf16, Path::Amx) => Narrow::Tiles,
            #[cfg(target_arch = "x86_64")]
            (Precision::Bf16x3, Path::Amx) => Narrow::Split,
            (Precision::Bf16, _) => Narrow::Round,
            (Precision::Bf16x3, _) => Narrow::Widen,
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
        matches!(precision, Precision::Full | Precision::Bf16 | Precision::Bf16x3)
    }

    /// The microkernels, which read what `rows` and `columns` leave.
    pub(crate) fn kernel(self) -> &'static Kernel {
        match self.narrow {
            #[cfg(target_arch = "x86_64")]
            Narrow::Pairs => &super::avx512bf16::KERNEL,
            #[cfg(target_arch = "x86_64")]
            Narrow::Tiles => &super::amx::KERNEL,
            #[cfg(target_arch = "x86_64")]
            Narrow::Split => &super::amx::SPLIT,
            _ => self.path.kernel(),
        }
    }

    /// Depths that a packed block of `depth` takes: whole steps of tiles.
    pub(super) fn padded(self, depth: usize) -> usize {
        match self.narrow {
            #[cfg(target_arch = "x86_64")]
            Narrow::Tiles | Narrow::Split => depth.next_multiple_of(super::amx::STEP),
            _ => depth,
        }
    }

    /// Most depths of a block: padded, it has to end inside its stride.
    pub(super) fn most(self) -> usize {
        if self.padded(1) == 1 { STRIDE } else { DEPTH }
    }

    /// Packed rows, [`STRIDE`] apart, of `depth` values.
    pub(super) fn rows(self, packed: &mut [f32], depth: usize) {
        if self.narrow == Narrow::No {
            return;
        }
        let padded = self.padded(depth);
        for row in packed.chunks_mut(STRIDE) {
            row[depth..padded].fill(0.0);
            let row = &mut row[..padded];
            match self.narrow {
                Narrow::No => {}
                Narrow::Round => round(row),
                Narrow::Widen => split::round(row),
                // SAFETY: the path has the instructions.
                #[cfg(target_arch = "x86_64")]
                Narrow::Pairs | Narrow::Tiles => unsafe { super::avx512bf16::pair_row(row) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Narrow::Split => unsafe { super::amx::split_row(row) },
            }
        }
    }

    /// Whole panels of b that the first rows pack while they are multiplied with them: straight ones, stored in what the kernel
    /// consumes.
    fn unpacked(self, b: &Operand<'_>, at: [usize; 2], [depth, whole]: [usize; 2]) -> Option<Unpacked> {
        if b.trans || depth == 0 || whole == 0 || self.kernel().run_and_pack.is_none() {
            return None;
        }
        match self.narrow {
            Narrow::No => b.plain().map(|data| Unpacked::new(data, b, at, [depth, whole])),
            #[cfg(target_arch = "x86_64")]
            Narrow::Pairs => {
                super::pairs::stored(b, at[0], depth).map(|data| Unpacked::new(data, b, at, [depth, whole]))
            }
            _ => None,
        }
    }

    /// Packs columns of b (see [`pack::columns`]) as far as possible in the form that kernels consume. Returns the depths
    /// that have it, and what is left to the first rows that are multiplied with them.
    pub(super) fn pack(
        self,
        b: &Operand<'_>,
        [p, j]: [usize; 2],
        [depth, cols]: [usize; 2],
        out: &mut [f32],
        distance: usize,
    ) -> (usize, Option<Unpacked>) {
        let kernel = self.kernel();
        let panels = cols / kernel.cols;
        let left = self.unpacked(b, [p, j], [depth, panels * kernel.cols]);
        let done = if left.is_some() { panels } else { 0 };
        let (at, size) = ([p, j + done * kernel.cols], [depth, cols - done * kernel.cols]);
        #[cfg(test)]
        pack::PACKED.set(pack::PACKED.get() + depth * done * kernel.cols);
        let out = &mut out[done * distance..];
        #[cfg(target_arch = "x86_64")]
        if matches!(self.narrow, Narrow::Pairs | Narrow::Tiles)
            && super::pairs::columns(kernel, b, at, size, out, distance)
        {
            return (depth, left);
        }
        pack::columns(kernel, b, at, size, out, distance);
        (0, left)
    }

    /// Packed panels of columns, room for [`Compute::padded`] rows of `width` values each, of which `depth` are there, the
    /// first `done` of them as kernels consume them (the others where they would be without that).
    pub(super) fn columns(self, packed: &mut [f32], depth: usize, width: usize, done: usize) {
        if self.narrow == Narrow::No {
            return;
        }
        for panel in packed.chunks_exact_mut(self.padded(depth) * width) {
            if done > 0 {
                self.rest(panel, [done, depth], width);
                continue;
            }
            panel[depth * width..].fill(0.0);
            match self.narrow {
                Narrow::No => {}
                Narrow::Round => round(panel),
                Narrow::Widen => split::round(panel),
                // SAFETY: the path has the instructions.
                #[cfg(target_arch = "x86_64")]
                Narrow::Pairs | Narrow::Tiles => unsafe { super::avx512bf16::pair_columns(panel, width) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Narrow::Split => unsafe { super::amx::split_columns(panel) },
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Compute {
    fn rest(self, _: &mut [f32], _: [usize; 2], _: usize) {}
}

#[cfg(target_arch = "x86_64")]
impl Compute {
    /// Rows `done .. depth` of a panel become pairs behind those that are there.
    fn rest(self, panel: &mut [f32], [done, depth]: [usize; 2], width: usize) {
        let (pairs, more) = (done / 2, (depth - done).div_ceil(2));
        // SAFETY: the path has the instructions.
        unsafe { super::avx512bf16::pair_columns(&mut panel[done * width..depth * width], width) };
        panel.copy_within(done * width..(done + more) * width, pairs * width);
        panel[(pairs + more) * width..self.padded(depth).div_ceil(2) * width].fill(0.0);
    }
}

kernel! {
    /// To the nearest bf16, still in f32.
    fn round[FMA](values: &mut [f32]) {
        for x in values.iter_mut() {
            *x = f32::from_bits(rounded_bits(*x) & 0xFFFF_0000);
        }
    }
}
