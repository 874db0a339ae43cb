//! Gradient norm and optimiser steps. Everything that changes from step to step comes from the scalar buffer.

use lowrank_backend::{AdamW, AdamWParam, Buffer, DType, Error, In, Out, Result, Scalars, Sgd, SgdParam};
use lowrank_shaders::{self as shaders, Shader};

use crate::Wgpu;

/// Gradients whose squares one workgroup adds up.
const CHUNK: usize = 65_536;
/// Gradients whose squares one kernel adds up, and the kernel, if it has the storage buffers.
const NORMS: [(usize, &Shader); 2] = [(24, &shaders::SQUARES_MANY), (7, &shaders::SQUARES)];
/// Tensors that one kernel updates, likewise.
const UPDATES: [(usize, &Shader); 2] = [(6, &shaders::ADAMW_MANY), (1, &shaders::ADAMW)];
/// Storage buffers of the first of either.
pub(crate) const MANY: u32 = 25;

/// How many go together on this adapter, and by which kernel: a few have more buffers than they need in the larger one.
fn together(wgpu: &Wgpu, [many, few]: [(usize, &'static Shader); 2], count: usize) -> (usize, &'static Shader) {
    if wgpu.storage_buffers >= MANY && count > few.0 { many } else { few }
}

/// The 2-norm over all gradients to `Scalars::NORM` and the clip factor to `Scalars::CLIP`.
pub(crate) fn grad_norm<'a>(wgpu: &Wgpu, grads: &[In<'a>], max_norm: Option<f64>, scalars: Out<'_>) -> Result<()> {
    const OP: &str = "grad_norm";
    wgpu.expect(OP, "scalars", scalars.as_in(), DType::F32, Scalars::LEN)?;
    if let Some(max) = max_norm.filter(|max| max.is_nan() || *max <= 0.0) {
        return Err(Error::invalid(OP, format!("max_norm {max} is not positive")));
    }
    let chunks: usize = grads.iter().map(|g| g.len.div_ceil(CHUNK)).sum();
    let mut parts: Box<dyn Buffer> = Box::new(wgpu.scratch(chunks.max(1))?);
    for (i, &g) in grads.iter().enumerate() {
        wgpu.expect(OP, &format!("gradient {i}"), g, DType::F32, g.len)?;
    }
    // Whole chunks of one that is larger than a binding.
    let most = (wgpu.max_binding() as usize / (4 * CHUNK)).max(1) * CHUNK;
    let pieces = |g: &In<'a>| -> Vec<In<'a>> {
        (0..g.len).step_by(most).map(|first| g.narrow(first, most.min(g.len - first))).collect()
    };
    let grads: Vec<In<'a>> = grads.iter().flat_map(pieces).collect();
    let mut first = 0;
    let (together, shader) = together(wgpu, NORMS, grads.len());
    for group in grads.chunks(together) {
        let count: usize = group.iter().map(|g| g.len.div_ceil(CHUNK)).sum();
        let out = Out::new(&mut *parts, DType::F32, chunks).narrow(first, count);
        first += count;
        let mut l = wgpu.launch(OP, shader, "main");
        let parts_start = l.output("parts", &out)?;
        l.u32s(&[parts_start]).sizes(&[count, 0, 0])?;
        for i in 0..together {
            let start = l.maybe("gradient", group.get(i).copied())?;
            l.sizes(&[group.get(i).map_or(0, |g| g.len)])?.u32s(&[start]);
        }
        l.run(count as u64)?;
    }
    let mut l = wgpu.launch(OP, &shaders::OPTIM, "grad_norm");
    let start = l.output("scalars", &scalars)?;
    l.maybe_output("m", None)?;
    l.maybe_output("v", None)?;
    let parts_start = l.input("parts", In::new(&*parts, DType::F32, chunks))?;
    l.maybe("scalars", None)?;
    l.sizes(&[chunks])?.u32s(&[start, 0, 0, parts_start, 0, 0, 0]);
    l.f32s(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, max_norm.unwrap_or(0.0)]);
    l.constant("HAS", u32::from(max_norm.is_some())).run(1)
}

fn expect(wgpu: &Wgpu, op: &'static str, group: usize, scalars: In<'_>) -> Result<()> {
    wgpu.expect(op, "scalars", scalars, DType::F32, Scalars::LEN)?;
    if group >= Scalars::GROUPS {
        return Err(Error::invalid(op, format!("parameter group {group}, there are {}", Scalars::GROUPS)));
    }
    Ok(())
}

/// See [`AdamW`]. Many small tensors in one kernel; one that is larger than a binding in slices.
pub(crate) fn adamw(wgpu: &Wgpu, op: &AdamW, scalars: In<'_>, params: &mut [AdamWParam<'_>]) -> Result<()> {
    const OP: &str = "adamw";
    expect(wgpu, OP, op.group, scalars)?;
    for AdamWParam { p, m, v, g } in params.iter() {
        wgpu.expect(OP, "g", *g, DType::F32, g.len)?;
        for (what, x) in [("p", p), ("m", m), ("v", v)] {
            wgpu.expect(OP, what, x.as_in(), DType::F32, g.len)?;
        }
    }
    let most = wgpu.max_binding() as usize / 4;
    let (large, small): (Vec<_>, Vec<_>) = params.iter().partition(|param| param.g.len > most);
    for AdamWParam { p, m, v, g } in large {
        for first in (0..g.len).step_by(most) {
            let len = most.min(g.len - first);
            let part = [p.as_in(), m.as_in(), v.as_in(), *g].map(|x| x.narrow(first, len));
            update(wgpu, op, scalars, UPDATES[1], &[part])?;
        }
    }
    let (together, shader) = together(wgpu, UPDATES, small.len());
    for group in small.chunks(together) {
        let tensors: Vec<_> = group.iter().map(|t| [t.p.as_in(), t.m.as_in(), t.v.as_in(), t.g]).collect();
        update(wgpu, op, scalars, (together, shader), &tensors)?;
    }
    Ok(())
}

/// One kernel over at most `together` tensors p, m, v, g, whose first three the caller holds exclusively.
fn update(
    wgpu: &Wgpu,
    op: &AdamW,
    scalars: In<'_>,
    (together, shader): (usize, &'static Shader),
    tensors: &[[In<'_>; 4]],
) -> Result<()> {
    let mut l = wgpu.launch("adamw", shader, "main");
    let mut starts = [[0; 4]; UPDATES[0].0];
    for (which, what) in ["p", "m", "v"].into_iter().enumerate() {
        for (i, start) in starts.iter_mut().enumerate().take(together) {
            start[which] = l.maybe_output_view(what, tensors.get(i).map(|t| t[which]))?;
        }
    }
    for (i, start) in starts.iter_mut().enumerate().take(together) {
        start[3] = l.maybe("g", tensors.get(i).map(|t| t[3]))?;
    }
    let scalars_start = l.input("scalars", scalars)?;
    l.f32s(&[op.beta1, 1.0 - op.beta1, op.beta2, 1.0 - op.beta2, op.eps, op.weight_decay]);
    l.u32s(&[scalars_start]).sizes(&[op.group])?;
    let mut groups = 0;
    for (i, start) in starts.iter().enumerate().take(together) {
        let len = tensors.get(i).map_or(0, |t| t[3].len);
        l.sizes(&[len, groups])?.u32s(start).u32s(&[0, 0]);
        groups += len.div_ceil(256);
    }
    l.run(groups as u64)
}

/// See [`Sgd`].
pub(crate) fn sgd(wgpu: &Wgpu, op: &Sgd, scalars: In<'_>, params: &mut [SgdParam<'_>]) -> Result<()> {
    const OP: &str = "sgd";
    expect(wgpu, OP, op.group, scalars)?;
    for SgdParam { p, u, g } in params {
        wgpu.expect(OP, "g", *g, DType::F32, g.len)?;
        wgpu.expect(OP, "p", p.as_in(), DType::F32, g.len)?;
        if let Some(u) = u {
            wgpu.expect(OP, "u", u.as_in(), DType::F32, g.len)?;
        } else if op.momentum != 0.0 {
            return Err(Error::invalid(OP, format!("momentum {} needs a momentum buffer", op.momentum)));
        }
        let most = wgpu.max_binding() as usize / 4;
        for first in (0..g.len).step_by(most) {
            let len = most.min(g.len - first);
            let mut l = wgpu.launch(OP, &shaders::OPTIM, "sgd");
            let p_start = l.maybe_output_view("p", Some(p.as_in().narrow(first, len)))?;
            let u_start = l.maybe_output_view("u", u.as_ref().map(|u| u.as_in().narrow(first, len)))?;
            l.maybe_output("v", None)?;
            let g_start = l.input("g", g.narrow(first, len))?;
            let scalars_start = l.input("scalars", scalars)?;
            l.sizes(&[len])?.u32s(&[p_start, u_start, 0, g_start, scalars_start]).sizes(&[op.group, 0])?;
            l.f32s(&[op.momentum, 0.0, 0.0, 0.0, 0.0, op.weight_decay, 0.0]);
            l.constant("HAS", u32::from(u.is_some())).run((len as u64).div_ceil(256))?;
        }
    }
    Ok(())
}
