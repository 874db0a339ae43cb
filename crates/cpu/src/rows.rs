//! Rows of a table, picked by indices, and their gradient.

use lowrank_backend::{Error, In, Mode, Result, Rows, Slot};

use crate::parallel::{Shared, rows_per_task, tasks};
use crate::simd;
use crate::view::{BLOCK, Floats, FloatsMut, f32s_mut, floats, floats_mut, u32s, volume};

/// Columns that one task scatters into.
const STRIP: usize = 64;

/// The indices, all of them below `rows`.
pub(crate) fn checked_ids<'a>(op: &'static str, rows: usize, count: usize, ids: In<'a>) -> Result<&'a [u32]> {
    let ids = u32s(op, "ids", ids, count)?;
    match ids.iter().position(|&id| id as usize >= rows) {
        None => Ok(ids),
        Some(i) => Err(Error::invalid(op, format!("ids[{i}] is {}, the table has only {rows} rows", ids[i]))),
    }
}

/// `y[i] (+)= table[ids[i]]`.
pub(crate) fn gather(op: &Rows, table: In<'_>, ids: In<'_>, y: Slot<'_>) -> Result<()> {
    const OP: &str = "gather";
    let &Rows { rows, width, count } = op;
    let table = floats(OP, "table", table, volume(OP, &[rows, width])?)?;
    let ids = checked_ids(OP, rows, count, ids)?;
    let mode = y.mode;
    let y = floats_mut(OP, "y", y.out, volume(OP, &[count, width])?)?;
    // One piece of one row at a time; with many rows in a task.
    let copy = |id: u32, row: FloatsMut<'_>| {
        let mut row = row;
        let from = id as usize * width;
        match (&mut row, table) {
            (FloatsMut::BF16(y), Floats::BF16(x)) if mode == Mode::Set => {
                return y.copy_from_slice(&x[from..from + width]);
            }
            (FloatsMut::F16(y), Floats::F16(x)) if mode == Mode::Set => {
                return y.copy_from_slice(&x[from..from + width]);
            }
            _ => {}
        }
        for start in (0..width).step_by(BLOCK) {
            let piece = row.range(start, BLOCK.min(width - start));
            piece.write(mode, |values| table.load(from + start, values));
        }
    };
    let per_task = rows_per_task(width);
    macro_rules! rows_of {
        ($y:expr, $kind:ident) => {{
            let y = Shared::new($y);
            tasks(count.div_ceil(per_task), count * width, |task| {
                for i in task * per_task..count.min((task + 1) * per_task) {
                    // SAFETY: one row per iteration of one task.
                    copy(ids[i], FloatsMut::$kind(unsafe { y.part(i * width, width) }));
                }
            });
        }};
    }
    match y {
        FloatsMut::F32(y) => rows_of!(y, F32),
        FloatsMut::BF16(y) => rows_of!(y, BF16),
        FloatsMut::F16(y) => rows_of!(y, F16),
    }
    Ok(())
}

/// `table[ids[i]] += x[i]`, in ascending i, in f32: sums in a narrower table would lose what is small.
pub(crate) fn scatter_add(op: &Rows, ids: In<'_>, x: In<'_>, table: Slot<'_>) -> Result<()> {
    const OP: &str = "scatter_add";
    let &Rows { rows, width, count } = op;
    let x = floats(OP, "x", x, volume(OP, &[count, width])?)?;
    let ids = checked_ids(OP, rows, count, ids)?;
    let mode = table.mode;
    let table = f32s_mut(OP, "table", table.out, volume(OP, &[rows, width])?)?;
    if mode == Mode::Set {
        table.fill(0.0);
    }
    let table = Shared::new(table);
    // A task owns columns, so equal ids need no order between tasks.
    tasks(width.div_ceil(STRIP), count * width, |task| {
        let first = task * STRIP;
        let cols = STRIP.min(width - first);
        let mut buffer = [0.0; STRIP];
        for (i, &id) in ids.iter().enumerate() {
            let values = x.block(i * width + first, cols, &mut buffer);
            // SAFETY: inside this task's columns.
            let row = unsafe { table.part(id as usize * width + first, cols) };
            simd::add(values, row);
        }
    });
    Ok(())
}
