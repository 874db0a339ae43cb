//! Results of any storage, lent to tasks as f32: what is stored so is written where it lies; of anything else a task gets a
//! copy in its own scratch memory, which is rounded once, when the task is done with it.

use half::{bf16, f16};

use crate::parallel::{Shared, Tile, float_pieces, pieces, rows_per_task, with_scratch, with_shared};
use crate::view::{BLOCK, Floats, FloatsMut};

/// Floats that tasks write disjoint parts of.
pub(crate) enum Results<'a> {
    F32(Shared<'a, f32>),
    BF16(Shared<'a, bf16>),
    F16(Shared<'a, f16>),
}

impl<'a> Results<'a> {
    pub(crate) fn new(y: FloatsMut<'a>) -> Self {
        match y {
            FloatsMut::F32(y) => Results::F32(Shared::new(y)),
            FloatsMut::BF16(y) => Results::BF16(Shared::new(y)),
            FloatsMut::F16(y) => Results::F16(Shared::new(y)),
        }
    }

    /// Lends the matrix of `rows` rows of `cols` elements that lie `stride` apart, the first at `start`; `old`: with the
    /// content that is there, otherwise with any.
    ///
    /// # Safety
    /// No two parts that are lent at the same time may overlap.
    pub(crate) unsafe fn lend<R>(
        &self,
        start: usize,
        [rows, cols]: [usize; 2],
        stride: usize,
        old: bool,
        f: impl FnOnce(&mut Tile<'_>) -> R,
    ) -> R {
        if let Results::F32(y) = self {
            // SAFETY: the caller's promise.
            return f(&mut unsafe { y.tile(start, rows, cols, stride) });
        }
        // SAFETY: as above; rows of one matrix do not overlap.
        let row = |i: usize| unsafe { self.row(start + i * stride, cols) };
        with_scratch(rows * cols, |scratch| {
            if old {
                for (i, values) in scratch.chunks_exact_mut(cols.max(1)).enumerate().take(rows) {
                    row(i).as_floats().load(0, values);
                }
            }
            let result = f(&mut Tile::new(scratch, rows, cols));
            for (i, values) in scratch.chunks_exact(cols.max(1)).enumerate().take(rows) {
                row(i).store(values);
            }
            result
        })
    }

    /// # Safety
    /// No two rows that are alive at the same time may overlap.
    unsafe fn row(&self, start: usize, len: usize) -> FloatsMut<'_> {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Results::F32(y) => FloatsMut::F32(y.part(start, len)),
                Results::BF16(y) => FloatsMut::BF16(y.part(start, len)),
                Results::F16(y) => FloatsMut::F16(y.part(start, len)),
            }
        }
    }
}

/// Runs `f(start, values)` for pieces of whole rows of `cols` elements, in parallel if `work` is worth it; `old`: with the
/// content that is there, otherwise with any.
pub(crate) fn row_pieces(
    y: FloatsMut<'_>,
    cols: usize,
    work: usize,
    old: bool,
    f: impl Fn(usize, &mut [f32]) + Sync + Send,
) {
    let size = rows_per_task(cols) * cols;
    let narrow = |start: usize, mut y: FloatsMut<'_>| {
        with_scratch(y.len(), |values| {
            if old {
                y.as_floats().load(0, values);
            }
            f(start, values);
            y.store(values);
        });
    };
    match y {
        FloatsMut::F32(y) => pieces(y, size, work, &f),
        FloatsMut::BF16(y) => pieces(y, size, work, |start, y| narrow(start, FloatsMut::BF16(y))),
        FloatsMut::F16(y) => pieces(y, size, work, |start, y| narrow(start, FloatsMut::F16(y))),
    }
}

/// Runs `f` with all of a result in f32; `old`: with the content that is there, otherwise with any.
pub(crate) fn whole<R>(y: FloatsMut<'_>, old: bool, f: impl FnOnce(&mut [f32]) -> R) -> R {
    match y {
        FloatsMut::F32(y) => f(y),
        y => with_shared(y.len(), |values| {
            if old {
                pieces(values, BLOCK, y.len(), |start, values| y.as_floats().load(start, values));
            }
            let result = f(values);
            let values = &*values;
            float_pieces(y, |start, mut y| y.store(&values[start..start + y.len()]));
            result
        }),
    }
}

impl<'a> Floats<'a> {
    /// Runs `f` with `len` elements from `start` on as f32.
    pub(crate) fn with<R>(&self, start: usize, len: usize, f: impl FnOnce(&[f32]) -> R) -> R {
        match self {
            Floats::F32(x) => f(&x[start..start + len]),
            _ => with_scratch(len, |values| {
                self.load(start, values);
                f(values)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tile of two rows inside three: added to once, rounded once, and nothing beside it touched.
    #[test]
    fn a_tile_is_rounded_once_and_alone() {
        let mut y: Vec<bf16> = (0..9).map(|i| bf16::from_f32(i as f32)).collect();
        let results = Results::new(FloatsMut::BF16(&mut y));
        // Between 4 and 8 neighbours are 2⁻⁵ apart: each 2⁻⁷ alone would be rounded away, three of them round up.
        // SAFETY: lent once at a time.
        unsafe {
            results.lend(4, [2, 2], 3, true, |tile| {
                assert_eq!((tile.row(0).to_vec(), tile.row(1).to_vec()), (vec![4.0, 5.0], vec![7.0, 8.0]));
                for _ in 0..3 {
                    tile.row(0)[0] += 2f32.powi(-7);
                }
            });
            results.lend(0, [1, 2], 3, false, |tile| tile.row(0).copy_from_slice(&[1.0 + 3.0 * 2f32.powi(-9), -0.5]));
        }
        let got: Vec<f32> = y.iter().map(|y| y.to_f32()).collect();
        assert_eq!(got, [1.0 + 2f32.powi(-7), -0.5, 2.0, 3.0, 4.0 + 2f32.powi(-5), 5.0, 6.0, 7.0, 8.0]);
    }

    #[test]
    fn pieces_are_whole_rows_with_their_old_content() {
        let mut y = [f16::from_f32(1.5); 21];
        row_pieces(FloatsMut::F16(&mut y), 7, 1 << 20, true, |start, piece| {
            assert!(start.is_multiple_of(7) && piece.len().is_multiple_of(7));
            piece.iter_mut().enumerate().for_each(|(i, y)| *y += (start + i) as f32);
        });
        assert!(y.iter().enumerate().all(|(i, y)| y.to_f32() == 1.5 + i as f32));
    }
}
