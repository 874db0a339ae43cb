//! Attention: one kernel forward, three backward, nothing of size [q_len, kv_len] in memory. Heads of more than 256
//! elements are refused by name. q, k, v, y and their gradients are all f32 or all bf16. Heads of up to 128 elements are on
//! tensor cores if the precision is bf16, and if operands are bf16 (in other precisions without rounding products); the rest is
//! computed in f32.

use lowrank_backend::{Attention, DType, Error, In, Mode, Out, Precision, Result, Slot};
use lowrank_kernels::attention::{Attention as Planned, Gradient, MAX_DIM, Saved};

use crate::Cuda;
use crate::gemm::{operand, too_large};
use crate::launch::volume;

struct Sizes {
    planned: Planned,
    /// Of activations and their gradients.
    dtype: DType,
    q_elements: usize,
    kv_elements: usize,
    q_rows: usize,
}

impl Sizes {
    /// Checked, for queries of this dtype.
    fn new(cuda: &Cuda, name: &'static str, op: &Attention, q: In<'_>) -> Result<Self> {
        let &Attention { batch, q_len, kv_len, heads, kv_heads, dim, scale, causal, .. } = op;
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            let detail = format!("{heads} query heads are no multiple of {kv_heads} key/value heads");
            return Err(Error::invalid(name, detail));
        }
        if kv_len == 0 || causal && kv_len < q_len {
            let detail = format!("{q_len} queries have only {kv_len} keys (causal: {causal})");
            return Err(Error::invalid(name, detail));
        }
        let dtype = q.dtype;
        if ![DType::F32, DType::BF16].contains(&dtype) {
            cuda.address(name, "q", q)?;
            return Err(Error::dtype(name, "q", dtype, "f32 or bf16"));
        }
        let (scale, ty) = (scale as f32, operand(0, dtype).ty);
        let rounded = op.precision == Precision::Bf16;
        let planned = Planned { batch, q_len, kv_len, heads, kv_heads, dim, scale, causal, ty, rounded };
        if !planned.supported() {
            let what = format!("attention heads of {dim} elements, only 1 to {MAX_DIM}");
            return Err(Error::unsupported(name, cuda.context.name(), what));
        }
        Ok(Sizes {
            planned,
            dtype,
            q_elements: volume(name, &[batch, q_len, heads, dim])?,
            kv_elements: volume(name, &[batch, kv_len, kv_heads, dim])?,
            q_rows: volume(name, &[batch, heads, q_len])?,
        })
    }
}

/// See the trait.
pub(crate) fn attention_forward(
    cuda: &Cuda,
    op: &Attention,
    q: In<'_>,
    k: In<'_>,
    v: In<'_>,
    y: Out<'_>,
    lse: Out<'_>,
) -> Result<()> {
    const OP: &str = "attention_forward";
    let s = Sizes::new(cuda, OP, op, q)?;
    let q = cuda.expect(OP, "q", q, s.dtype, s.q_elements)?;
    let k = cuda.expect(OP, "k", k, s.dtype, s.kv_elements)?;
    let v = cuda.expect(OP, "v", v, s.dtype, s.kv_elements)?;
    let y = cuda.expect(OP, "y", y.as_in(), s.dtype, s.q_elements)?;
    let lse = cuda.expect(OP, "lse", lse.as_in(), DType::F32, s.q_rows)?;
    let launch = s.planned.forward([q, k, v], y, lse).map_err(too_large(OP))?;
    cuda.run_planned(OP, launch.as_slice())
}

/// See the trait.
#[allow(clippy::too_many_arguments)]
pub(crate) fn attention_backward(
    cuda: &Cuda,
    op: &Attention,
    q: In<'_>,
    k: In<'_>,
    v: In<'_>,
    y: In<'_>,
    lse: In<'_>,
    gy: In<'_>,
    dq: Option<Slot<'_>>,
    dk: Option<Slot<'_>>,
    dv: Option<Slot<'_>>,
) -> Result<()> {
    const OP: &str = "attention_backward";
    let s = Sizes::new(cuda, OP, op, q)?;
    let saved = Saved {
        q: cuda.expect(OP, "q", q, s.dtype, s.q_elements)?,
        k: cuda.expect(OP, "k", k, s.dtype, s.kv_elements)?,
        v: cuda.expect(OP, "v", v, s.dtype, s.kv_elements)?,
        y: cuda.expect(OP, "y", y, s.dtype, s.q_elements)?,
        lse: cuda.expect(OP, "lse", lse, DType::F32, s.q_rows)?,
        gy: cuda.expect(OP, "gy", gy, s.dtype, s.q_elements)?,
    };
    let gradient = |what, slot: &Option<Slot<'_>>, len| match slot {
        Some(slot) => {
            let at = cuda.expect(OP, what, slot.out.as_in(), s.dtype, len)?;
            Ok(Some(Gradient { at, add: slot.mode == Mode::Add }))
        }
        None => Ok(None),
    };
    let gradients =
        [gradient("dq", &dq, s.q_elements)?, gradient("dk", &dk, s.kv_elements)?, gradient("dv", &dv, s.kv_elements)?];
    let scratch = cuda.memory(s.planned.scratch())?;
    let launches = s.planned.backward(&saved, gradients, scratch.address()).map_err(too_large(OP))?;
    cuda.run_planned(OP, &launches)
}
