//! Gradient norm and optimiser steps. All parameters are cut into chunks of fixed size and share the threads.

use lowrank_backend::{AdamW, AdamWParam, Error, In, Out, Result, Scalars, Sgd, SgdParam};
use rayon::prelude::*;

use crate::parallel::{each, with_shared_f64};
use crate::simd::{dot_wide, kernel};
use crate::view::{f32s, f32s_mut};

/// Elements of a chunk.
const CHUNK: usize = 16_384;

/// The 2-norm over all gradients to `Scalars::NORM` and the clip factor to `Scalars::CLIP`.
pub(crate) fn grad_norm(grads: &[In<'_>], max_norm: Option<f64>, scalars: Out<'_>) -> Result<()> {
    const OP: &str = "grad_norm";
    if let Some(max) = max_norm.filter(|max| max.is_nan() || *max <= 0.0) {
        return Err(Error::invalid(OP, format!("max_norm {max} is not positive")));
    }
    let scalars = f32s_mut(OP, "scalars", scalars, Scalars::LEN)?;
    for (i, g) in grads.iter().enumerate() {
        f32s(OP, "gradient", *g, g.len).or_else(|_| f32s(OP, &format!("gradient {i}"), *g, g.len))?;
    }
    let chunks = grads.iter().map(|g| g.len.div_ceil(CHUNK)).sum();
    let norm = with_shared_f64(chunks, |squares| {
        sums_of_squares(grads, squares)?;
        Ok(squares.iter().sum::<f64>().sqrt())
    })?;
    let clip = match max_norm {
        _ if !norm.is_finite() => f64::NAN,
        None => 1.0,
        Some(max) => (max / (norm + 1e-6)).min(1.0),
    };
    (scalars[Scalars::NORM], scalars[Scalars::CLIP]) = (norm as f32, clip as f32);
    Ok(())
}

/// Σ g² of every chunk of every gradient.
fn sums_of_squares(grads: &[In<'_>], squares: &mut [f64]) -> Result<()> {
    match grads {
        [] => {}
        [g] => {
            let chunks = f32s("grad_norm", "gradient", *g, g.len)?.par_chunks(CHUNK);
            squares.par_iter_mut().zip(chunks).for_each(|(square, g)| *square = dot_wide(g, g));
        }
        _ => {
            let (left, right) = grads.split_at(grads.len() / 2);
            let first = left.iter().map(|g| g.len.div_ceil(CHUNK)).sum();
            let (first, rest) = squares.split_at_mut(first);
            let (left, right) = rayon::join(|| sums_of_squares(left, first), || sums_of_squares(right, rest));
            left.and(right)?;
        }
    }
    Ok(())
}

/// The scalar buffer and the learning rate of a group.
fn learning_rate<'a>(op: &'static str, group: usize, scalars: In<'a>) -> Result<(&'a [f32], f32)> {
    if group >= Scalars::GROUPS {
        return Err(Error::invalid(op, format!("parameter group {group}, there are {}", Scalars::GROUPS)));
    }
    let scalars = f32s(op, "scalars", scalars, Scalars::LEN)?;
    Ok((scalars, scalars[Scalars::LR + group]))
}

/// The constants of one AdamW step.
#[derive(Clone, Copy)]
pub(crate) struct AdamWStep {
    clip: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    correction1: f32,
    correction2: f32,
    eps: f32,
    decay: f32,
    lr: f32,
}

kernel! {
    fn adamw_chunk[FMA](s: AdamWStep, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
        for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
            let g = s.clip * *g;
            *m = s.beta1 * *m + s.rest1 * g;
            *v = s.beta2 * *v + s.rest2 * (g * g);
            let update = (*m / s.correction1) / ((*v / s.correction2).sqrt() + s.eps);
            *p -= s.lr * (s.decay * *p + update);
        }
    }
}

/// p, m, v and g.
fn adamw_views<'a>(param: &'a mut AdamWParam<'_>) -> Result<AdamWViews<'a>> {
    const OP: &str = "adamw";
    let len = param.g.len;
    let AdamWParam { p, m, v, g } = param;
    let (p, m) = (f32s_mut(OP, "p", p.reborrow(), len)?, f32s_mut(OP, "m", m.reborrow(), len)?);
    Ok((p, m, f32s_mut(OP, "v", v.reborrow(), len)?, f32s(OP, "g", *g, len)?))
}

type AdamWViews<'a> = (&'a mut [f32], &'a mut [f32], &'a mut [f32], &'a [f32]);

/// See [`AdamW`].
pub(crate) fn adamw(op: &AdamW, scalars: In<'_>, params: &mut [AdamWParam<'_>]) -> Result<()> {
    const OP: &str = "adamw";
    let (words, lr) = learning_rate(OP, op.group, scalars)?;
    let step = AdamWStep {
        clip: words[Scalars::CLIP],
        beta1: op.beta1 as f32,
        rest1: (1.0 - op.beta1) as f32,
        beta2: op.beta2 as f32,
        rest2: (1.0 - op.beta2) as f32,
        correction1: words[Scalars::CORRECTION1],
        correction2: words[Scalars::CORRECTION2],
        eps: op.eps as f32,
        decay: op.weight_decay as f32,
        lr,
    };
    // All are checked before one changes.
    params.iter_mut().try_for_each(|param| adamw_views(param).map(drop))?;
    each(params, &|param| {
        let (p, m, v, g) = adamw_views(param)?;
        let (p, m, v) = (p.par_chunks_mut(CHUNK), m.par_chunks_mut(CHUNK), v.par_chunks_mut(CHUNK));
        let g = g.par_chunks(CHUNK);
        p.zip(m).zip(v).zip(g).for_each(|(((p, m), v), g)| adamw_chunk(step, p, m, v, g));
        Ok(())
    })
}

kernel! {
    fn sgd_chunk[FMA](
        clip: f32, momentum: f32, decay: f32, lr: f32, p: &mut [f32], u: Option<&mut [f32]>, g: &[f32],
    ) {
        match u {
            Some(u) => {
                for ((p, u), g) in p.iter_mut().zip(u).zip(g) {
                    *u = momentum * *u + clip * *g;
                    *p -= lr * (decay * *p + *u);
                }
            }
            None => {
                for (p, g) in p.iter_mut().zip(g) {
                    *p -= lr * (decay * *p + clip * *g);
                }
            }
        }
    }
}

/// See [`Sgd`].
pub(crate) fn sgd(op: &Sgd, scalars: In<'_>, params: &mut [SgdParam<'_>]) -> Result<()> {
    const OP: &str = "sgd";
    let (words, lr) = learning_rate(OP, op.group, scalars)?;
    let (clip, momentum, decay) = (words[Scalars::CLIP], op.momentum as f32, op.weight_decay as f32);
    // All are checked before one changes.
    for param in &mut *params {
        if param.u.is_none() && op.momentum != 0.0 {
            return Err(Error::invalid(OP, format!("momentum {} needs a momentum buffer", op.momentum)));
        }
        sgd_views(param)?;
    }
    each(params, &|param| {
        let (p, u, g) = sgd_views(param)?;
        let (p, g) = (p.par_chunks_mut(CHUNK), g.par_chunks(CHUNK));
        match u {
            Some(u) => {
                let u = u.par_chunks_mut(CHUNK);
                p.zip(u).zip(g).for_each(|((p, u), g)| sgd_chunk(clip, momentum, decay, lr, p, Some(u), g));
            }
            None => p.zip(g).for_each(|(p, g)| sgd_chunk(clip, momentum, decay, lr, p, None, g)),
        }
        Ok(())
    })
}

/// p, u and g.
fn sgd_views<'a>(param: &'a mut SgdParam<'_>) -> Result<SgdViews<'a>> {
    const OP: &str = "sgd";
    let len = param.g.len;
    let SgdParam { p, u, g } = param;
    let u = u.as_mut().map(|u| f32s_mut(OP, "u", u.reborrow(), len)).transpose()?;
    Ok((f32s_mut(OP, "p", p.reborrow(), len)?, u, f32s(OP, "g", *g, len)?))
}

type SgdViews<'a> = (&'a mut [f32], Option<&'a mut [f32]>, &'a [f32]);
