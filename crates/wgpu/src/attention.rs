//! Attention: one kernel forward, three backward. Heads of more than 256 elements are refused by name.

use lowrank_backend::{Attention, Buffer, DType, Error, In, Mode, Out, Result, Slot};
use lowrank_shaders as shaders;

use crate::Wgpu;
use crate::launch::{Launch, volume};

/// Largest head that fits the kernels' workgroup memory.
const MAX_DIM: usize = 256;

struct Sizes {
    op: Attention,
    d4: usize,
    rows: usize,
    cols: usize,
    q_elements: usize,
    kv_elements: usize,
    q_rows: usize,
}

impl Sizes {
    fn new(wgpu: &Wgpu, name: &'static str, op: &Attention) -> Result<Self> {
        let &Attention { batch, q_len, kv_len, heads, kv_heads, dim, causal, .. } = op;
        wgpu.precision(name, op.precision)?;
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            let detail = format!("{heads} query heads are no multiple of {kv_heads} key/value heads");
            return Err(Error::invalid(name, detail));
        }
        if kv_len == 0 || causal && kv_len < q_len {
            let detail = format!("{q_len} queries have only {kv_len} keys (causal: {causal})");
            return Err(Error::invalid(name, detail));
        }
        if dim > MAX_DIM {
            let what = format!("attention heads of {dim} elements, only up to {MAX_DIM}");
            return Err(Error::unsupported(name, wgpu.context.name(), what));
        }
        let d4 = dim.div_ceil(4).max(1);
        // 2·(rows + cols)·4·d4 floats of workgroup memory are at most 12 KiB; rows·d4 invocations at most 128.
        let (rows, cols) = ((128 / d4).clamp(1, 16), (256 / d4).clamp(1, 16));
        Ok(Sizes {
            op: *op,
            d4,
            rows,
            cols,
            q_elements: volume(name, &[batch, q_len, heads, dim])?,
            kv_elements: volume(name, &[batch, kv_len, kv_heads, dim])?,
            q_rows: volume(name, &[batch, heads, q_len])?,
        })
    }

    /// Parameters and constants; `starts` are q, k, v, gy, lse, delta, y, y2.
    fn finish(&self, l: &mut Launch<'_>, starts: [u32; 8], modes: [u32; 2]) -> Result<()> {
        let &Attention { batch, q_len, kv_len, heads, kv_heads, dim, causal, scale, .. } = &self.op;
        l.sizes(&[batch, q_len, kv_len, heads, kv_heads, dim])?.u32s(&[u32::from(causal)]).f32s(&[scale]).u32s(&starts);
        l.constant("D4", self.d4 as u32).constant("ROWS", self.rows as u32).constant("COLS", self.cols as u32);
        for (name, mode) in [("FIRST", modes[0]), ("SECOND", modes[1])] {
            if mode != 0 {
                l.constant(name, mode);
            }
        }
        Ok(())
    }

    fn groups(&self, rows: usize, heads: usize) -> [u64; 3] {
        [rows.div_ceil(self.rows) as u64, heads as u64, self.op.batch as u64]
    }
}

/// See the trait.
pub(crate) fn attention_forward(
    wgpu: &Wgpu,
    op: &Attention,
    q: In<'_>,
    k: In<'_>,
    v: In<'_>,
    y: Out<'_>,
    lse: Out<'_>,
) -> Result<()> {
    const OP: &str = "attention_forward";
    let s = Sizes::new(wgpu, OP, op)?;
    wgpu.expect(OP, "q", q, DType::F32, s.q_elements)?;
    wgpu.expect(OP, "k", k, DType::F32, s.kv_elements)?;
    wgpu.expect(OP, "v", v, DType::F32, s.kv_elements)?;
    wgpu.expect(OP, "y", y.as_in(), DType::F32, s.q_elements)?;
    wgpu.expect(OP, "lse", lse.as_in(), DType::F32, s.q_rows)?;
    let mut l = wgpu.launch(OP, &shaders::ATTENTION, OP);
    let (y_start, lse_start) = (l.output("y", &y)?, l.output("lse", &lse)?);
    let [q, k, v] = [l.input("q", q)?, l.input("k", k)?, l.input("v", v)?];
    for _ in 0..3 {
        l.maybe("absent", None)?;
    }
    s.finish(&mut l, [q, k, v, 0, 0, 0, y_start, lse_start], [0, 0])?;
    l.run_grid(s.groups(op.q_len, op.heads))
}

/// Set, Add or absent, as the kernel counts them.
fn mode(slot: &Option<Slot<'_>>) -> u32 {
    slot.as_ref().map_or(2, |slot| u32::from(slot.mode == Mode::Add))
}

/// See the trait.
#[allow(clippy::too_many_arguments)]
pub(crate) fn attention_backward(
    wgpu: &Wgpu,
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
    let s = Sizes::new(wgpu, OP, op)?;
    for (what, x, len) in [
        ("q", q, s.q_elements),
        ("y", y, s.q_elements),
        ("gy", gy, s.q_elements),
        ("k", k, s.kv_elements),
        ("v", v, s.kv_elements),
        ("lse", lse, s.q_rows),
    ] {
        wgpu.expect(OP, what, x, DType::F32, len)?;
    }
    for (what, slot, len) in [("dq", &dq, s.q_elements), ("dk", &dk, s.kv_elements), ("dv", &dv, s.kv_elements)] {
        if let Some(slot) = slot {
            wgpu.expect(OP, what, slot.out.as_in(), DType::F32, len)?;
        }
    }
    let mut delta: Box<dyn Buffer> = Box::new(wgpu.scratch(s.q_rows)?);
    {
        let out = Out::new(&mut *delta, DType::F32, s.q_rows);
        let mut l = wgpu.launch(OP, &shaders::ATTENTION, "row_products");
        let start = l.output("delta", &out)?;
        l.maybe_output("absent", None)?;
        let y_start = l.input("y", y)?;
        l.maybe("absent", None)?;
        l.maybe("absent", None)?;
        let gy_start = l.input("gy", gy)?;
        l.maybe("absent", None)?;
        l.maybe("absent", None)?;
        s.finish(&mut l, [y_start, 0, 0, gy_start, 0, 0, start, 0], [0, 0])?;
        l.run((s.q_rows as u64).div_ceil(64))?;
    }
    let delta = In::new(&*delta, DType::F32, s.q_rows);
    let pass = |entry, first: Option<&Out<'_>>, second: Option<&Out<'_>>, modes, groups| {
        let mut l = wgpu.launch(OP, &shaders::ATTENTION, entry);
        let (y, y2) = (l.maybe_output("result", first)?, l.maybe_output("result", second)?);
        let [q, k, v] = [l.input("q", q)?, l.input("k", k)?, l.input("v", v)?];
        let [gy, lse, delta] = [l.input("gy", gy)?, l.input("lse", lse)?, l.input("delta", delta)?];
        s.finish(&mut l, [q, k, v, gy, lse, delta, y, y2], modes)?;
        l.run_grid(groups)
    };
    if let Some(dq) = &dq {
        let modes = [u32::from(dq.mode == Mode::Add), 0];
        pass("attention_dq", Some(&dq.out), None, modes, s.groups(op.q_len, op.heads))?;
    }
    if dk.is_none() && dv.is_none() {
        return Ok(());
    }
    let (first, second) = (dk.as_ref().map(|s| &s.out), dv.as_ref().map(|s| &s.out));
    pass("attention_dkv", first, second, [mode(&dk), mode(&dv)], s.groups(op.kv_len, op.kv_heads))
}
