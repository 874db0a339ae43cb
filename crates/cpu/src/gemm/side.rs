//! Side products with few columns, `h = â inner`, from rows that are packed anyway.

use lowrank_backend::Mode;

use super::kernel::{DEPTH, Kernel, STRIDE};
use super::operand::Operand;
use super::pack;
use super::tile::{PackedColumns, PackedRows, Start, multiply_packed};
use crate::dropout::Mask;
use crate::parallel::{Shared, Tile, tasks, with_scratch, with_shared};
use crate::path::Path;

/// Rows of a task.
pub(super) const GROUP: usize = 28;

/// Its sizes, and dropout on what it multiplies.
#[derive(Clone, Copy)]
pub(super) struct Side {
    pub kernel: &'static Kernel,
    pub r: usize,
    pub k: usize,
    pub mask: Option<Mask>,
}

impl Side {
    fn width(&self) -> usize {
        self.r.next_multiple_of(self.kernel.cols)
    }

    /// Values of the packed right operand.
    pub fn packed(&self) -> usize {
        self.k * self.width()
    }

    /// Packs block `q` of the right operand.
    pub fn pack(&self, q: usize, inner: &Operand<'_>, out: &Shared<'_, f32>, start: usize) {
        let (p, depth, width) = (q * DEPTH, DEPTH.min(self.k - q * DEPTH), self.width());
        // SAFETY: each block is packed by one task.
        let out = unsafe { out.part(start + p * width, depth * width) };
        pack::columns(self.kernel, inner, [p, 0], [depth, self.r], out, depth * self.kernel.cols);
    }

    /// Adds block `p .. p + depth` to the rows of h that belong to packed rows from `i0` on.
    pub fn add(&self, inner: &[f32], [i0, p, depth]: [usize; 3], packed: &[f32], h: &mut Tile<'_>) {
        let columns = self.columns(inner, p, depth);
        let start = if p == 0 { Start::Zero } else { Start::Old };
        let Some(mask) = self.mask else {
            return multiply_packed(self.kernel, PackedRows(packed), columns, start, h);
        };
        with_scratch(h.rows() * STRIDE, |masked| {
            for (i, (out, row)) in masked.chunks_exact_mut(STRIDE).zip(packed.chunks(STRIDE)).enumerate() {
                out[..depth].copy_from_slice(&row[..depth]);
                mask.apply(((i0 + i) * self.k + p) as u64, &mut out[..depth]);
            }
            multiply_packed(self.kernel, PackedRows(masked), columns, start, h);
        });
    }

    fn columns<'p>(&self, packed: &'p [f32], p: usize, depth: usize) -> PackedColumns<'p> {
        let data = &packed[p * self.width()..][..depth * self.width()];
        PackedColumns { data, depth, distance: depth * self.kernel.cols }
    }
}

/// `c [m,r] (+)= alpha a b` for few columns: every task packs its rows and multiplies them at once, b is packed once.
pub(crate) fn few_columns(
    path: Path,
    [m, r, k]: [usize; 3],
    a: Operand<'_>,
    b: Operand<'_>,
    alpha: f32,
    mode: Mode,
    c: &mut [f32],
) {
    let kernel = path.kernel();
    let side = Side { kernel, r, k, mask: None };
    with_shared(side.packed(), |packed| {
        let out = Shared::new(packed);
        tasks(k.div_ceil(DEPTH), k * r, |q| side.pack(q, &b, &out, 0));
        let packed = &*packed;
        let c = Shared::new(c);
        tasks(m.div_ceil(GROUP), m.saturating_mul(k * r) / 4, |task| {
            let (i, rows) = (task * GROUP, GROUP.min(m - task * GROUP));
            // SAFETY: one group of rows per task.
            let mut tile = unsafe { c.tile(i * r, rows, r, r) };
            with_scratch(rows * STRIDE, |out| {
                for p in (0..k).step_by(DEPTH) {
                    let depth = DEPTH.min(k - p);
                    pack::rows(kernel, &a, [i, p], [rows, depth], alpha, out);
                    let start = if p == 0 && mode == Mode::Set { Start::Zero } else { Start::Old };
                    multiply_packed(kernel, PackedRows(out), side.columns(packed, p, depth), start, &mut tile);
                }
            });
        });
    });
}
