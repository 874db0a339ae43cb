//! Rotary position embedding (Su et al. 2021, RoFormer), in the half-split layout.

use super::temp::{Temp, rounded, wide, zip, zip_into};
use crate::{Backend, Block, Error, In, Result, Rope, Slot, Zip};

pub(crate) fn rope<B: Backend + ?Sized>(
    b: &B,
    op: &Rope,
    x: In<'_>,
    cos: In<'_>,
    sin: In<'_>,
    y: Slot<'_>,
) -> Result<()> {
    const OP: &str = "rope";
    let &Rope { batch, seq, heads, dim, start, positions, .. } = op;
    if dim % 2 != 0 {
        return Err(Error::invalid(OP, format!("head dimension {dim} is odd")));
    }
    if start.checked_add(seq).is_none_or(|end| end > positions) {
        let detail = format!("positions {start}..{start}+{seq} exceed the tables' {positions}");
        return Err(Error::invalid(OP, detail));
    }
    let (half, rows) = (dim / 2, batch * seq * heads);
    x.expect(OP, "x", rows * dim)?;
    y.out.expect(OP, "y", rows * dim)?;
    cos.expect(OP, "cos", positions * half)?;
    sin.expect(OP, "sin", positions * half)?;
    if rows * half == 0 {
        return Ok(());
    }
    let mut x_t = None;
    let x = wide(b, x, &mut x_t)?;
    rounded(b, y, |y| turn(b, op, x, cos, sin, y))
}

fn turn<B: Backend + ?Sized>(b: &B, op: &Rope, x: In<'_>, cos: In<'_>, sin: In<'_>, mut y: Slot<'_>) -> Result<()> {
    let &Rope { batch, seq, heads, dim, start, inverse, .. } = op;
    let (half, rows) = (dim / 2, batch * seq * heads);
    let split = Block { rows, cols: half, src_stride: dim, dst_stride: half };
    let join = Block { rows, cols: half, src_stride: half, dst_stride: dim };
    let (shape, table) = ([batch, seq, heads, half], [1, seq, 1, half]);
    let cos = (cos.narrow(start * half, seq * half), table);
    let sin = (sin.narrow(start * half, seq * half), table);
    let mut halves = [Temp::new(b, x.dtype, rows * half)?, Temp::new(b, x.dtype, rows * half)?];
    for (i, t) in halves.iter_mut().enumerate() {
        b.copy(&split, x.narrow(i * half, split.src_len()), t.set())?;
    }
    // y₁ = x₁ cos ∓ x₂ sin, y₂ = x₂ cos ± x₁ sin
    let signs = if inverse { [Zip::Add, Zip::Sub] } else { [Zip::Sub, Zip::Add] };
    let mut t = Temp::new(b, x.dtype, rows * half)?;
    for (i, sign) in signs.into_iter().enumerate() {
        let straight = zip(b, Zip::Mul, (halves[i].view(), shape), cos)?;
        let crossed = zip(b, Zip::Mul, (halves[1 - i].view(), shape), sin)?;
        zip_into(b, sign, (straight.view(), shape), (crossed.view(), shape), t.set())?;
        let Slot { out, mode } = y.reborrow();
        b.copy(&join, t.view(), Slot { out: out.narrow(i * half, join.dst_len()), mode })?;
    }
    Ok(())
}
