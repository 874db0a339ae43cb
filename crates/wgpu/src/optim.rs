//! Gradient norm and optimiser steps. Everything that changes from step to step comes from the scalar buffer.

use lowrank_backend::{AdamW, AdamWParam, Buffer, DType, Error, In, Out, Result, Scalars, Sgd, SgdParam};
use lowrank_shaders as shaders;

use crate::Wgpu;

/// Gradients whose squares one workgroup adds up.
const CHUNK: usize = 65_536;
/// Gradients that one kernel takes.
const TOGETHER: usize = 7;

/// The 2-norm over all gradients to `Scalars::NORM` and the clip factor to `Scalars::CLIP`.
pub(crate) fn grad_norm(wgpu: &Wgpu, grads: &[In<'_>], max_norm: Option<f64>, scalars: Out<'_>) -> Result<()> {
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
    let mut first = 0;
    for group in grads.chunks(TOGETHER) {
        let count: usize = group.iter().map(|g| g.len.div_ceil(CHUNK)).sum();
        let out = Out::new(&mut *parts, DType::F32, chunks).narrow(first, count);
        first += count;
        let mut l = wgpu.launch(OP, &shaders::SQUARES, "main");
        let parts_start = l.output("parts", &out)?;
        let mut starts = [0; TOGETHER];
        for (i, start) in starts.iter_mut().enumerate() {
            *start = l.maybe("gradient", group.get(i).copied())?;
        }
        l.u32s(&[parts_start]).sizes(&[count, 0, 0])?;
        let mut chunk = 0;
        for (i, &start) in starts.iter().enumerate() {
            // A gradient that is not there begins after the last chunk.
            let len = group.get(i).map_or(0, |g| g.len);
            l.sizes(&[len, start as usize, chunk, 0])?;
            chunk += len.div_ceil(CHUNK);
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

/// See [`AdamW`].
pub(crate) fn adamw(wgpu: &Wgpu, op: &AdamW, scalars: In<'_>, params: &mut [AdamWParam<'_>]) -> Result<()> {
    const OP: &str = "adamw";
    expect(wgpu, OP, op.group, scalars)?;
    for AdamWParam { p, m, v, g } in params {
        wgpu.expect(OP, "g", *g, DType::F32, g.len)?;
        for (what, x) in [("p", &*p), ("m", &*m), ("v", &*v)] {
            wgpu.expect(OP, what, x.as_in(), DType::F32, g.len)?;
        }
        let mut l = wgpu.launch(OP, &shaders::OPTIM, "adamw");
        let starts = [l.output("p", p)?, l.output("m", m)?, l.output("v", v)?];
        let g_start = l.input("g", *g)?;
        let scalars_start = l.input("scalars", scalars)?;
        l.sizes(&[g.len])?.u32s(&starts).u32s(&[g_start, scalars_start]).sizes(&[op.group, 0])?;
        l.f32s(&[op.beta1, 1.0 - op.beta1, op.beta2, 1.0 - op.beta2, op.eps, op.weight_decay, 0.0]);
        l.run((g.len as u64).div_ceil(256))?;
    }
    Ok(())
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
        let mut l = wgpu.launch(OP, &shaders::OPTIM, "sgd");
        let p_start = l.output("p", p)?;
        let u_start = l.maybe_output("u", u.as_ref())?;
        l.maybe_output("v", None)?;
        let g_start = l.input("g", *g)?;
        let scalars_start = l.input("scalars", scalars)?;
        l.sizes(&[g.len])?.u32s(&[p_start, u_start, 0, g_start, scalars_start]).sizes(&[op.group, 0])?;
        l.f32s(&[op.momentum, 0.0, 0.0, 0.0, 0.0, op.weight_decay, 0.0]);
        l.constant("HAS", u32::from(u.is_some())).run((g.len as u64).div_ceil(256))?;
    }
    Ok(())
}
