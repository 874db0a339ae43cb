//! The low-rank linear with an adapter per group of rows, group by group.
//!
//! Batches of at most 16 rows may be summed in an order of their own, so a smaller group of a larger batch is computed among
//! 17 of its neighbours' rows, of which only its own are kept.

use super::temp::{Temp, copy_all};
use crate::{Backend, DECODE_ROWS, Error, In, Linear, Lora, LoraGroup, LoraMulti, Mode, Out, Result, Slot};

/// A group, the rows that are computed for it, and its place in h.
struct Window<'a> {
    group: LoraGroup<'a>,
    start: usize,
    /// Rows of the window, and their first.
    count: usize,
    first: usize,
    h: usize,
}

fn windows<'a>(name: &'static str, op: &LoraMulti<'a>) -> Result<Vec<Window<'a>>> {
    let m = op.base.m;
    let rows = op.groups.iter().try_fold(0usize, |sum, group| sum.checked_add(group.rows));
    if rows != Some(m) {
        return Err(Error::shape(name, format!("the groups' rows do not add up to {m}")));
    }
    let (mut start, mut h) = (0, 0);
    let window = |group: &LoraGroup<'a>| {
        let count = if group.rows <= DECODE_ROWS && m > DECODE_ROWS { DECODE_ROWS + 1 } else { group.rows };
        let window = Window { group: *group, start, count, first: start.min(m - count), h };
        start += group.rows;
        h += group.rows * group.r;
        window
    };
    Ok(op.groups.iter().map(window).collect())
}

impl<'a> Window<'a> {
    /// Rows of the window before the group's.
    fn skip(&self) -> usize {
        self.start - self.first
    }

    fn widened(&self) -> bool {
        self.count != self.group.rows
    }

    fn base(&self, op: &LoraMulti<'a>, m: usize) -> Linear<'a> {
        Linear { m, ..op.base }
    }

    fn lora(&self, op: &LoraMulti<'a>, m: usize) -> Lora<'a> {
        let LoraGroup { r, scale, a, b, .. } = self.group;
        Lora { base: self.base(op, m), r, scale, a, b, dropout: None, scalars: op.scalars }
    }
}

/// See [`Backend::lora_multi_forward`].
pub fn lora_multi_forward<B: Backend + ?Sized>(
    b: &B,
    op: &LoraMulti<'_>,
    x: In<'_>,
    mut y: Out<'_>,
    mut h: Out<'_>,
) -> Result<()> {
    const OP: &str = "lora_multi_forward";
    let (n, k) = (op.base.n, op.base.k);
    x.expect(OP, "x", op.base.m * k)?;
    y.expect(OP, "y", op.base.m * n)?;
    for window in windows(OP, op)?.iter().filter(|w| w.group.rows > 0) {
        let (rows, r, count) = (window.group.rows, window.group.r, window.count);
        let x = x.narrow(window.first * k, count * k);
        let own_y = y.reborrow().narrow(window.start * n, rows * n);
        let own_h = h.reborrow().narrow(window.h, rows * r);
        let forward = |y: Out<'_>, h: Out<'_>| match r {
            0 => b.linear_forward(&window.base(op, count), x, y),
            _ => b.lora_forward(&window.lora(op, count), x, y, h),
        };
        if !window.widened() {
            forward(own_y, own_h)?;
            continue;
        }
        let (mut all_y, mut all_h) = (Temp::new(b, own_y.dtype, count * n)?, Temp::new(b, own_h.dtype, count * r)?);
        forward(all_y.out(), all_h.out())?;
        copy_all(b, all_y.view().narrow(window.skip() * n, rows * n), own_y.set())?;
        if r > 0 {
            copy_all(b, all_h.view().narrow(window.skip() * r, rows * r), own_h.set())?;
        }
    }
    Ok(())
}

/// See [`Backend::lora_multi_backward`].
pub fn lora_multi_backward<B: Backend + ?Sized>(
    b: &B,
    op: &LoraMulti<'_>,
    x: In<'_>,
    h: In<'_>,
    gy: In<'_>,
    mut dx: Option<Slot<'_>>,
    grads: &mut [[Option<Slot<'_>>; 2]],
) -> Result<()> {
    const OP: &str = "lora_multi_backward";
    let (n, k) = (op.base.n, op.base.k);
    x.expect(OP, "x", op.base.m * k)?;
    gy.expect(OP, "gy", op.base.m * n)?;
    if grads.len() != op.groups.len() {
        return Err(Error::shape(OP, format!("{} gradients of {} groups", grads.len(), op.groups.len())));
    }
    for (window, grads) in windows(OP, op)?.iter().zip(grads) {
        let (start, rows, r) = (window.start, window.group.rows, window.group.r);
        let (first, count) = (window.first, window.count);
        let [da, db] = [grads[0].take(), grads[1].take()];
        let mut apart = match &mut dx {
            Some(dx) if window.widened() && rows > 0 => {
                let mut apart = Temp::new(b, dx.out.dtype, count * k)?;
                if dx.mode == Mode::Add {
                    copy_all(b, dx.out.as_in().narrow(first * k, count * k), apart.set())?;
                }
                Some(apart)
            }
            _ => None,
        };
        let own_x = x.narrow(start * k, rows * k);
        let own_gy = gy.narrow(start * n, rows * n);
        let all_gy = gy.narrow(first * n, count * n);
        let direct = match &mut dx {
            Some(dx) if apart.is_none() => {
                Some(Slot { mode: dx.mode, out: dx.out.reborrow().narrow(start * k, rows * k) })
            }
            _ => None,
        };
        if r == 0 {
            if let Some(direct) = direct.filter(|_| rows > 0) {
                b.linear_backward(&window.base(op, rows), own_gy, direct)?;
            }
        } else if direct.is_some() || da.is_some() || db.is_some() {
            let h = h.narrow(window.h, rows * r);
            b.lora_backward(&window.lora(op, rows), own_x, h, own_gy, direct, da, db)?;
        }
        let (Some(apart), Some(dx)) = (&mut apart, &mut dx) else { continue };
        let slot = Slot { out: apart.out(), mode: dx.mode };
        if r == 0 {
            b.linear_backward(&window.base(op, count), all_gy, slot)?;
        } else {
            // dx needs no h.
            let unread = Temp::new(b, h.dtype, count * r)?;
            let all_x = x.narrow(first * k, count * k);
            b.lora_backward(&window.lora(op, count), all_x, unread.view(), all_gy, Some(slot), None, None)?;
        }
        let own = dx.out.reborrow().narrow(start * k, rows * k);
        copy_all(b, apart.view().narrow(window.skip() * k, rows * k), own.set())?;
    }
    Ok(())
}
