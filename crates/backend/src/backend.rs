//! The trait that a processor implements.

use std::future::Future;
use std::pin::Pin;

use crate::*;

/// Bytes on their way from a device; in a browser nothing may block, so waiting is the caller's.
pub type Readback<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>>> + 'a>>;

/// A processor. The first part is required; the second has definitions that a backend overrides where it pays.
///
/// Rules for every method: lengths and dtypes are checked and answered with an error that names the operation;
/// [`Mode::Set`] must not read the old content; sums are in f32 or wider and in an order that depends on sizes only;
/// only [`Backend::download`] and [`Backend::sync`] may wait.
pub trait Backend: Send + Sync + 'static {
    /// What the device is called in messages and on the command line: `cpu`, `cuda:0`.
    fn name(&self) -> String;

    /// Whether arithmetic on this dtype exists here (storage-only dtypes included: gemm operands and casts).
    fn supports_dtype(&self, dtype: DType) -> bool;

    /// Whether products can be computed in this mode. An operation with another one is refused by name.
    fn supports_precision(&self, precision: Precision) -> bool;

    /// Whether activations may be stored in this dtype: what operations read and write with a row for every token, and the
    /// gradients of it. Parameters, statistics (rstd, lse, h, losses) and gradients of parameters are of [`DType::wide`].
    /// Values are widened when they are read, computed as if they were wide, and each result is rounded once, to nearest
    /// even, also where it is added to what is there.
    fn supports_activations(&self, dtype: DType) -> bool {
        dtype == DType::F32
    }

    /// What has happened so far.
    fn stats(&self) -> Stats;

    /// Sets `bytes_peak` to `bytes_live`.
    fn reset_peak(&self);

    // ---- required: memory -------------------------------------------------------------------------------------

    /// Memory of at least `bytes` bytes, uninitialised (safe to read, with any content).
    fn alloc(&self, bytes: usize) -> Result<Box<dyn Buffer>>;

    /// Copies host bytes to the device.
    fn upload(&self, bytes: &[u8], dst: Out<'_>) -> Result<()>;

    /// Copies to the host; waits for all work before it.
    fn download<'a>(&'a self, src: In<'a>) -> Readback<'a>;

    /// Waits until all work is done.
    fn sync(&self) -> Result<()>;

    /// Copies (or adds) a strided block; equal dtypes; Add only for floats.
    fn copy(&self, op: &Block, src: In<'_>, dst: Slot<'_>) -> Result<()>;

    /// Sets every element to `value`.
    fn fill(&self, value: f64, dst: Out<'_>) -> Result<()>;

    // ---- required: arithmetic ---------------------------------------------------------------------------------

    /// See [`Gemm`].
    fn gemm(&self, op: &Gemm, a: In<'_>, b: In<'_>, c: Slot<'_>) -> Result<()>;

    /// See [`Map`].
    fn map(&self, op: Map, x: In<'_>, y: Slot<'_>) -> Result<()>;

    /// See [`Zip`] and [`Broadcast`].
    fn zip(&self, op: Zip, dims: &Broadcast, a: In<'_>, b: In<'_>, y: Slot<'_>) -> Result<()>;

    /// x `[outer, len, inner]` → y `[outer, inner]`; see [`Reduce`]. Add mode adds the result to y.
    fn reduce(&self, op: Reduce, dims: [usize; 3], x: In<'_>, y: Slot<'_>) -> Result<()>;

    /// Transposes: dimension i of y is dimension `perm[i]` of x, whose shape is `dims`.
    fn permute(&self, dims: &[usize], perm: &[usize], x: In<'_>, y: Slot<'_>) -> Result<()>;

    /// `y[i] (+)= table[ids[i]]`, rows; table and y may differ in float dtype. An id ≥ rows is an error (on a device
    /// that cannot report it without waiting: a row of NaN).
    fn gather(&self, op: &Rows, table: In<'_>, ids: In<'_>, y: Slot<'_>) -> Result<()>;

    /// `table[ids[i]] += x[i]`, rows, in ascending i. With [`Mode::Set`] the table starts from zeros.
    fn scatter_add(&self, op: &Rows, ids: In<'_>, x: In<'_>, table: Slot<'_>) -> Result<()>;

    /// `y (+)= x ⊙ mask`; see [`Dropout`]. The same call with a gradient as x is its backward.
    fn dropout(&self, op: &Dropout, scalars: In<'_>, x: In<'_>, y: Slot<'_>) -> Result<()>;

    // ---- provided: the definition, to be overridden where it pays ---------------------------------------------

    /// Runs `work`, a step that will come again with other values of the same shapes; all its operations are done, or on
    /// their way, when this returns. A device where starting an operation costs time may hold them back until then, and
    /// start as one what it has seen before (a CUDA graph). `work` always runs, nothing in it needs to be the same as
    /// last time, and results have the same bits; reading back inside only loses the advantage.
    fn repeated(&self, work: &mut dyn FnMut()) -> Result<()> {
        work();
        Ok(())
    }

    /// The weight's values as elements of `out`'s dtype.
    fn dequantise(&self, w: Weight<'_>, out: Out<'_>) -> Result<()> {
        default::dequantise(self, w, out)
    }

    /// `y = x Wᵀ (+ bias)`; see [`Linear`].
    fn linear_forward(&self, op: &Linear<'_>, x: In<'_>, y: Out<'_>) -> Result<()> {
        default::linear_forward(self, op, x, y)
    }

    /// `dx (+)= gy W`. A frozen weight has no gradient; a trainable one is a gemm of the rule.
    fn linear_backward(&self, op: &Linear<'_>, gy: In<'_>, dx: Slot<'_>) -> Result<()> {
        default::linear_backward(self, op, gy, dx)
    }

    /// `h = x̂ Aᵀ` (kept for backward), `y = x Wᵀ + s h Bᵀ (+ bias)`; x `[m,k]`, y `[m,n]`, h `[m,r]`; see [`Lora`].
    fn lora_forward(&self, op: &Lora<'_>, x: In<'_>, y: Out<'_>, h: Out<'_>) -> Result<()> {
        default::lora_forward(self, op, x, y, h)
    }

    /// `u = s gy B; db (+)= s gyᵀ h; da (+)= uᵀ x̂; dx (+)= gy W + (u A) ⊙ mask`. There is no dW.
    #[allow(clippy::too_many_arguments)]
    fn lora_backward(
        &self,
        op: &Lora<'_>,
        x: In<'_>,
        h: In<'_>,
        gy: In<'_>,
        dx: Option<Slot<'_>>,
        da: Option<Slot<'_>>,
        db: Option<Slot<'_>>,
    ) -> Result<()> {
        default::lora_backward(self, op, x, h, gy, dx, da, db)
    }

    /// [`lora_forward`](Backend::lora_forward) of every group of rows; h holds the groups' `[rows,r]` one behind the other.
    ///
    /// Each row has the bits of a batch of its adapter alone, of more than 16 rows if m is: backends may read W once for all
    /// groups, but add the branch to the base as they do for one.
    fn lora_multi_forward(&self, op: &LoraMulti<'_>, x: In<'_>, y: Out<'_>, h: Out<'_>) -> Result<()> {
        default::lora_multi_forward(self, op, x, y, h)
    }

    /// [`lora_backward`](Backend::lora_backward) of every group: dx of all rows, and per group `[da, db]`, taken from
    /// `grads`, over its rows alone.
    fn lora_multi_backward(
        &self,
        op: &LoraMulti<'_>,
        x: In<'_>,
        h: In<'_>,
        gy: In<'_>,
        dx: Option<Slot<'_>>,
        grads: &mut [[Option<Slot<'_>>; 2]],
    ) -> Result<()> {
        default::lora_multi_backward(self, op, x, h, gy, dx, grads)
    }

    /// `h = (Aᵀ)[ids]` (kept), `y = W[ids] + s h Bᵀ`; y `[count,dim]`, h `[count,r]`; see [`LoraEmbedding`].
    fn lora_embedding_forward(&self, op: &LoraEmbedding<'_>, y: Out<'_>, h: Out<'_>) -> Result<()> {
        default::lora_embedding_forward(self, op, y, h)
    }

    /// `db (+)= s gyᵀ h; (daᵀ)[ids] += s gy B`.
    fn lora_embedding_backward(
        &self,
        op: &LoraEmbedding<'_>,
        h: In<'_>,
        gy: In<'_>,
        da: Option<Slot<'_>>,
        db: Option<Slot<'_>>,
    ) -> Result<()> {
        default::lora_embedding_backward(self, op, h, gy, da, db)
    }

    /// Attention; y like q; `lse [batch, heads, q_len]` (f32, or f64 with f64 operands) is the log-sum-exp of the
    /// scaled scores, all that backward needs. See [`Attention`].
    fn attention_forward(
        &self,
        op: &Attention,
        q: In<'_>,
        k: In<'_>,
        v: In<'_>,
        y: Out<'_>,
        lse: Out<'_>,
    ) -> Result<()> {
        default::attention_forward(self, op, q, k, v, y, lse)
    }

    /// With P = exp(s q kᵀ − lse): `dv (+)= Pᵀ gy; dS = P ⊙ (gy vᵀ − rowsum(gy ⊙ y)); dq (+)= s dS k; dk (+)= s dSᵀ q`
    /// (Dao et al. 2022, FlashAttention, algorithm 4).
    #[allow(clippy::too_many_arguments)]
    fn attention_backward(
        &self,
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
        default::attention_backward(self, op, q, k, v, y, lse, gy, dq, dk, dv)
    }

    /// `y = exp(x − max) / Σ exp(x − max)` over rows.
    fn softmax_forward(&self, op: &Matrix, x: In<'_>, y: Out<'_>) -> Result<()> {
        default::softmax_forward(self, op, x, y)
    }

    /// `dx (+)= y ⊙ (gy − rowsum(gy ⊙ y))`.
    fn softmax_backward(&self, op: &Matrix, y: In<'_>, gy: In<'_>, dx: Slot<'_>) -> Result<()> {
        default::softmax_backward(self, op, y, gy, dx)
    }

    /// `rstd = 1/√(mean(x²) + eps)` `[rows]` (kept), `y = x·rstd ⊙ w`.
    fn rms_norm_forward(&self, op: &Norm, x: In<'_>, w: In<'_>, y: Out<'_>, rstd: Out<'_>) -> Result<()> {
        default::rms_norm_forward(self, op, x, w, y, rstd)
    }

    /// With x̂ = x·rstd: `dw (+)= Σ_rows gy ⊙ x̂; dx (+)= rstd (gy⊙w − x̂·mean(gy⊙w⊙x̂))`.
    #[allow(clippy::too_many_arguments)]
    fn rms_norm_backward(
        &self,
        op: &Norm,
        x: In<'_>,
        w: In<'_>,
        rstd: In<'_>,
        gy: In<'_>,
        dx: Option<Slot<'_>>,
        dw: Option<Slot<'_>>,
    ) -> Result<()> {
        default::rms_norm_backward(self, op, x, w, rstd, gy, dx, dw)
    }

    /// `y = (x − mean)·rstd ⊙ w + b`; mean and `rstd = 1/√(var + eps)` `[rows]` are kept; var is the biased one.
    #[allow(clippy::too_many_arguments)]
    fn layer_norm_forward(
        &self,
        op: &Norm,
        x: In<'_>,
        w: In<'_>,
        b: In<'_>,
        y: Out<'_>,
        mean: Out<'_>,
        rstd: Out<'_>,
    ) -> Result<()> {
        default::layer_norm_forward(self, op, x, w, b, y, mean, rstd)
    }

    /// With x̂ = (x − mean)·rstd, t = gy⊙w: `db (+)= Σ gy; dw (+)= Σ gy⊙x̂; dx (+)= rstd (t − mean(t) − x̂·mean(t⊙x̂))`.
    #[allow(clippy::too_many_arguments)]
    fn layer_norm_backward(
        &self,
        op: &Norm,
        x: In<'_>,
        w: In<'_>,
        mean: In<'_>,
        rstd: In<'_>,
        gy: In<'_>,
        dx: Option<Slot<'_>>,
        dw: Option<Slot<'_>>,
        db: Option<Slot<'_>>,
    ) -> Result<()> {
        default::layer_norm_backward(self, op, x, w, mean, rstd, gy, dx, dw, db)
    }

    /// See [`Rope`]; with `inverse` this is the gradient.
    fn rope(&self, op: &Rope, x: In<'_>, cos: In<'_>, sin: In<'_>, y: Slot<'_>) -> Result<()> {
        default::rope(self, op, x, cos, sin, y)
    }

    /// `y = silu(gate) ⊙ up`, all of one length.
    fn swiglu_forward(&self, gate: In<'_>, up: In<'_>, y: Out<'_>) -> Result<()> {
        default::swiglu_forward(self, gate, up, y)
    }

    /// `dgate (+)= gy ⊙ up ⊙ silu'(gate); dup (+)= gy ⊙ silu(gate)`.
    fn swiglu_backward(
        &self,
        gate: In<'_>,
        up: In<'_>,
        gy: In<'_>,
        dgate: Option<Slot<'_>>,
        dup: Option<Slot<'_>>,
    ) -> Result<()> {
        default::swiglu_backward(self, gate, up, gy, dgate, dup)
    }

    /// `loss[1]`, and `lse [rows]` kept for backward; targets `[rows]` u32 (an id ≥ vocab other than IGNORE is an
    /// error or NaN, as in gather); see [`CrossEntropy`].
    fn cross_entropy_forward(
        &self,
        op: &CrossEntropy,
        logits: In<'_>,
        targets: In<'_>,
        loss: Out<'_>,
        lse: Out<'_>,
    ) -> Result<()> {
        default::cross_entropy_forward(self, op, logits, targets, loss, lse)
    }

    /// Overwrites the logits with their gradient: `gy/denominator · (exp(logits − lse) − onehot)`, 0 in ignored rows.
    fn cross_entropy_backward(
        &self,
        op: &CrossEntropy,
        logits: Out<'_>,
        targets: In<'_>,
        lse: In<'_>,
        gy: In<'_>,
    ) -> Result<()> {
        default::cross_entropy_backward(self, op, logits, targets, lse, gy)
    }

    /// Writes the 2-norm over all gradients to `Scalars::NORM` and `min(1, max_norm / (norm + 1e-6))` to
    /// `Scalars::CLIP` (1 without `max_norm`). A norm that is not finite gives clip NaN: it is never hidden.
    fn grad_norm(&self, grads: &[In<'_>], max_norm: Option<f64>, scalars: Out<'_>) -> Result<()> {
        default::grad_norm(self, grads, max_norm, scalars)
    }

    /// One step on every parameter, in place; see [`AdamW`].
    fn adamw(&self, op: &AdamW, scalars: In<'_>, params: &mut [AdamWParam<'_>]) -> Result<()> {
        default::adamw(self, op, scalars, params)
    }

    /// One step on every parameter, in place; see [`Sgd`].
    fn sgd(&self, op: &Sgd, scalars: In<'_>, params: &mut [SgdParam<'_>]) -> Result<()> {
        default::sgd(self, op, scalars, params)
    }
}
