//! The low-rank linear of a batch whose rows, group after group, have adapters of their own: W is packed once for all groups,
//! forward and backward. See `lora` for the formulas; each row's bits are those it has with its adapter alone.

use lowrank_backend::{Error, In, LoraGroup, LoraMulti, Mode, Out, Result, Slot, by_group};

use crate::Cpu;
use crate::gemm::{Blocked, Branch, Compute, Gradient, Group, Operand, Start, decodes, multiply};
use crate::linear::{bias, start, weight};
use crate::lora::along_with_u;
use crate::parallel::Shared;
use crate::view::{f32s, f32s_mut, floats, floats_mut, volume};

/// A group with its factors as operands, and where its part of h begins.
struct Part<'a> {
    start: usize,
    h: usize,
    group: LoraGroup<'a>,
    a: Operand<'a>,
    b: Operand<'a>,
}

impl Part<'_> {
    /// Elements of its rows of h.
    fn kept(&self) -> usize {
        self.group.rows * self.group.r
    }
}

fn parts<'a>(name: &'static str, op: &LoraMulti<'a>) -> Result<(Vec<Part<'a>>, usize)> {
    let (n, k) = (op.base.n, op.base.k);
    let (mut parts, mut start, mut h) = (Vec::with_capacity(op.groups.len()), 0usize, 0usize);
    for &group in op.groups {
        let LoraGroup { rows, r, .. } = group;
        let (a, b) = match r {
            0 => (Operand::f32(&[], k), Operand::f32(&[], 0)),
            _ => (
                Operand::f32(f32s(name, "a", group.a, volume(name, &[r, k])?)?, k),
                Operand::f32(f32s(name, "b", group.b, volume(name, &[n, r])?)?, r),
            ),
        };
        parts.push(Part { start, h, group, a, b });
        start = start.saturating_add(rows);
        h = h.saturating_add(volume(name, &[rows, r])?);
    }
    if start != op.base.m {
        return Err(Error::shape(name, format!("the groups have {start} rows of {}", op.base.m)));
    }
    Ok((parts, h))
}

/// The groups of a product whose branches are `inner` and `outer` of each part; h is written part by part. Gradients that
/// ride along are those of the first parts, in order.
fn groups<'a>(
    parts: &[Part<'a>],
    mut h: &'a mut [f32],
    keep_scaled: bool,
    factors: impl Fn(&Part<'a>) -> (Operand<'a>, Operand<'a>),
    gradients: Vec<Option<Gradient<'a>>>,
) -> Vec<Group<'a>> {
    let mut gradients = gradients.into_iter();
    let mut groups = Vec::with_capacity(parts.len());
    for part in parts {
        let (own, rest) = std::mem::take(&mut h).split_at_mut(part.kept());
        h = rest;
        let (inner, outer) = factors(part);
        let LoraGroup { rows, r, scale, .. } = part.group;
        let (scale, h) = (scale as f32, Shared::new(own));
        let (outer, gradient) = (Some(outer), gradients.next().flatten());
        let branch = Branch { r, inner, mask: None, scale, keep_scaled, h, outer, gradient };
        let branch = (r > 0).then_some(branch);
        groups.push(Group::new(part.start, rows, branch));
    }
    groups
}

/// See the trait's `lora_multi_forward`.
pub(crate) fn lora_multi_forward(cpu: &Cpu, op: &LoraMulti<'_>, x: In<'_>, y: Out<'_>, h: Out<'_>) -> Result<()> {
    const OP: &str = "lora_multi_forward";
    let (m, n, k) = (op.base.m, op.base.n, op.base.k);
    let w = weight(OP, &op.base.w, n, k)?;
    if decodes(m, &Operand::f32(&[], k), &w.t()) {
        return by_group::lora_multi_forward(cpu, op, x, y, h);
    }
    cpu.launch();
    let compute = Compute::new(OP, cpu.path, op.base.precision)?;
    let bias = bias(OP, &op.base)?;
    let (parts, kept) = parts(OP, op)?;
    let x = Operand::new(floats(OP, "x", x, volume(OP, &[m, k])?)?, k);
    let y = floats_mut(OP, "y", y, volume(OP, &[m, n])?)?;
    let h = f32s_mut(OP, "h", h, kept)?;
    let mut groups = groups(&parts, h, false, |part| (part.a.t(), part.b.t()), Vec::new());
    Blocked { compute, m, n, k, a: x, b: w.t(), alpha: 1.0, start: start(bias), c: y }.run_groups(&mut groups, None);
    Ok(())
}

/// See the trait's `lora_multi_backward`.
pub(crate) fn lora_multi_backward(
    cpu: &Cpu,
    op: &LoraMulti<'_>,
    x: In<'_>,
    h: In<'_>,
    gy: In<'_>,
    dx: Option<Slot<'_>>,
    grads: &mut [[Option<Slot<'_>>; 2]],
) -> Result<()> {
    const OP: &str = "lora_multi_backward";
    let (m, n, k) = (op.base.m, op.base.n, op.base.k);
    let Some(dx) = dx else {
        // W is not read.
        return by_group::lora_multi_backward(cpu, op, x, h, gy, None, grads);
    };
    let pool = cpu.launch();
    let compute = Compute::new(OP, cpu.path, op.base.precision)?;
    let w = weight(OP, &op.base.w, n, k)?;
    let (parts, kept) = parts(OP, op)?;
    if grads.len() != parts.len() {
        return Err(Error::shape(OP, format!("{} gradients of {} groups", grads.len(), parts.len())));
    }
    let (x, h) = (floats(OP, "x", x, volume(OP, &[m, k])?)?, f32s(OP, "h", h, kept)?);
    let gy = floats(OP, "gy", gy, volume(OP, &[m, n])?)?;
    let mut u = pool.scratch(kept)?;
    let from = if dx.mode == Mode::Add { Start::Old } else { Start::Zero };
    let c = floats_mut(OP, "dx", dx.out, volume(OP, &[m, k])?)?;
    let mut gradients = Vec::with_capacity(parts.len());
    for (part, grads) in parts.iter().zip(&mut *grads) {
        // As with the adapter alone, whose bits these are.
        let LoraGroup { rows, r, scale, .. } = part.group;
        let h = Operand::f32(h, r).at(part.h);
        gradients.push(along_with_u(OP, h, scale as f32, &mut grads[1], [rows, n, r])?);
    }
    let mut groups = groups(&parts, u.as_f32_mut(), true, |part| (part.b, part.a), gradients);
    let base = Blocked { compute, m, n: k, k: n, a: Operand::new(gy, n), b: w, alpha: 1.0, start: from, c };
    base.run_groups(&mut groups, None);
    drop(groups);
    let u = &*u.as_f32_mut();
    for (part, grads) in parts.iter().zip(grads).filter(|(part, _)| part.group.r > 0) {
        let LoraGroup { rows, r, scale, .. } = part.group;
        let [da, db] = [grads[0].take(), grads[1].take()];
        if let Some(db) = db {
            let (gy, h) = (Operand::new(gy, n).at(part.start * n), Operand::f32(h, r).at(part.h));
            let out = f32s_mut(OP, "db", db.out, volume(OP, &[n, r])?)?;
            multiply(cpu.path, [n, r, rows], gy.t(), h, scale as f32, db.mode, out);
        }
        if let Some(da) = da {
            let (u, x) = (Operand::f32(u, r).at(part.h), Operand::new(x, k).at(part.start * k));
            let out = f32s_mut(OP, "da", da.out, volume(OP, &[r, k])?)?;
            multiply(cpu.path, [r, k, rows], u.t(), x, 1.0, da.mode, out);
        }
    }
    Ok(())
}
