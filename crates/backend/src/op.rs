//! The descriptions of operations: sizes and constants, without memory. Constants are f64 so that the reference backend
//! computes with the exact value; devices round them to f32.

use crate::In;

/// How products are computed. Accumulation is f32 or wider in every mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// The operands' own precision.
    #[default]
    Full,
    /// f32 operands split into two bf16 parts, three products: within (2⁻¹⁵ + k·2⁻²³)·Σ|a||b|.
    Bf16x3,
    /// Operands rounded to 10 bits of mantissa: within (2⁻¹⁰ + k·2⁻²³)·Σ|a||b|.
    Tf32,
    /// Operands rounded to bf16: within (2⁻⁷ + k·2⁻²³)·Σ|a||b|, half of that if one of them is bf16 already.
    Bf16,
}

impl Precision {
    /// The name used on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::Full => "full",
            Precision::Bf16x3 => "bf16x3",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        }
    }
}

/// `c[i] (+)= alpha · op(a[i]) · op(b[i])` for `batch` contiguous matrices; c is `[m,n]`.
///
/// a is `[m,k]`, or `[k,m]` with `ta`; b is `[k,n]`, or `[n,k]` with `tb`. Both transposed is refused.
/// a and b may have different float dtypes (an f32 activation against a bf16 weight).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gemm {
    /// Number of matrices.
    pub batch: usize,
    /// Rows of c.
    pub m: usize,
    /// Columns of c.
    pub n: usize,
    /// Summed dimension. 0 gives zeros.
    pub k: usize,
    /// a is stored transposed.
    pub ta: bool,
    /// b is stored transposed.
    pub tb: bool,
    /// Factor of the product.
    pub alpha: f64,
    /// How products are computed.
    pub precision: Precision,
}

impl Gemm {
    /// `a[m,k] · b[k,n]`.
    pub fn nn(m: usize, n: usize, k: usize) -> Self {
        Gemm { batch: 1, m, n, k, ta: false, tb: false, alpha: 1.0, precision: Precision::Full }
    }

    /// `a[m,k] · b[n,k]ᵀ`.
    pub fn nt(m: usize, n: usize, k: usize) -> Self {
        Gemm { tb: true, ..Gemm::nn(m, n, k) }
    }

    /// `a[k,m]ᵀ · b[k,n]`.
    pub fn tn(m: usize, n: usize, k: usize) -> Self {
        Gemm { ta: true, ..Gemm::nn(m, n, k) }
    }

    /// The same for a batch of matrices.
    pub fn batch(self, batch: usize) -> Self {
        Gemm { batch, ..self }
    }

    /// The same with a factor.
    pub fn alpha(self, alpha: f64) -> Self {
        Gemm { alpha, ..self }
    }

    /// The same in another precision.
    pub fn precision(self, precision: Precision) -> Self {
        Gemm { precision, ..self }
    }
}

/// Elementwise functions of one operand: `y (+)= f(x)`. x and y may have different float dtypes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Map {
    /// x; between dtypes this is the cast (round to nearest even).
    Copy,
    /// c·x + d
    Affine(f64, f64),
    /// eˣ
    Exp,
    /// ln x
    Log,
    /// √x
    Sqrt,
    /// 1/x
    Recip,
    /// x²
    Square,
    /// tanh x
    Tanh,
    /// min(x, c); NaN stays NaN
    Min(f64),
    /// max(x, c); NaN stays NaN
    Max(f64),
    /// max(x, 0); NaN stays NaN
    Relu,
    /// x·σ(x)
    Silu,
    /// x·Φ(x)
    GeluErf,
    /// ½x(1 + tanh(√(2/π)(x + 0.044715x³)))
    GeluTanh,
}

/// Elementwise functions of two operands: `y (+)= f(a, b)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Zip {
    /// a + b
    Add,
    /// a − b
    Sub,
    /// a · b
    Mul,
    /// a / b
    Div,
    /// 1 if a = b, else 0; the only one that also takes u32 operands (both of them)
    Equal,
    /// b where a > 0, else 0: gradient of ReLU at a times b
    ReluGrad,
    /// gradient of SiLU at a times b
    SiluGrad,
    /// gradient of GELU (erf) at a times b
    GeluErfGrad,
    /// gradient of GELU (tanh) at a times b
    GeluTanhGrad,
}

/// Largest number of dimensions of a tensor.
pub const MAX_RANK: usize = 6;

/// The shapes of a [`Zip`]: equal rank, every dimension equal or 1; the result has the larger one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Broadcast {
    rank: usize,
    a: [usize; MAX_RANK],
    b: [usize; MAX_RANK],
}

impl Broadcast {
    /// Shapes of equal rank ≤ 6 in which every dimension is equal or 1 on one side; `None` otherwise.
    pub fn new(a: &[usize], b: &[usize]) -> Option<Self> {
        let fits =
            a.len() == b.len() && a.len() <= MAX_RANK && a.iter().zip(b).all(|(&x, &y)| x == y || x == 1 || y == 1);
        fits.then(|| {
            let mut s = Broadcast { rank: a.len(), a: [1; MAX_RANK], b: [1; MAX_RANK] };
            s.a[..a.len()].copy_from_slice(a);
            s.b[..b.len()].copy_from_slice(b);
            s
        })
    }

    /// Two operands of `len` elements each.
    pub fn same(len: usize) -> Self {
        let mut s = Broadcast { rank: 1, a: [1; MAX_RANK], b: [1; MAX_RANK] };
        (s.a[0], s.b[0]) = (len, len);
        s
    }

    /// Shape of the first operand.
    pub fn a(&self) -> &[usize] {
        &self.a[..self.rank]
    }

    /// Shape of the second operand.
    pub fn b(&self) -> &[usize] {
        &self.b[..self.rank]
    }

    /// Dimension i of the result.
    pub fn out(&self, i: usize) -> usize {
        if self.a[i] == 1 { self.b[i] } else { self.a[i] }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Elements of (a, b, result).
    pub fn lens(&self) -> (usize, usize, usize) {
        (self.a().iter().product(), self.b().iter().product(), (0..self.rank).map(|i| self.out(i)).product())
    }
}

/// What a reduction computes over the middle of `[outer, len, inner]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Σ; 0 for len 0
    Sum,
    /// The largest; NaN if any is NaN; −∞ for len 0
    Max,
}

/// A strided two-dimensional block: `rows` rows of `cols` contiguous elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub cols: usize,
    /// Distance between rows in the source, in elements (≥ cols; 0 repeats one row).
    pub src_stride: usize,
    /// Distance between rows in the destination, in elements (≥ cols).
    pub dst_stride: usize,
}

impl Block {
    /// Elements the source view must have.
    pub fn src_len(&self) -> usize {
        if self.rows == 0 { 0 } else { (self.rows - 1) * self.src_stride + self.cols }
    }

    /// Elements the destination view must have.
    pub fn dst_len(&self) -> usize {
        if self.rows == 0 { 0 } else { (self.rows - 1) * self.dst_stride + self.cols }
    }
}

/// Rows of a table `[rows, width]` picked by `count` indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Rows of the table.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// Number of indices.
    pub count: usize,
}

/// Inverted dropout: element i is multiplied with 1/(1−p) if its Philox word ≥ p·2³², else with 0.
///
/// The step of the Philox counter is `Scalars::STEP` of the scalar buffer, read on the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of a zero, 0 ≤ p < 1.
    pub p: f64,
    /// Key.
    pub seed: u64,
    /// One number per dropout site.
    pub stream: u32,
}

impl Dropout {
    /// An element is kept iff its word is at least this.
    pub fn threshold(&self) -> u32 {
        (self.p * 4_294_967_296.0).round().min(4_294_967_295.0) as u32
    }

    /// What kept elements are multiplied with.
    pub fn keep_scale(&self) -> f64 {
        1.0 / (1.0 - self.p)
    }
}

/// A linear layer's weight `[n,k]`, dense or (later) in quantised blocks. Accepted only by `linear_forward`,
/// `linear_backward`, `lora_forward`, `lora_backward` and `dequantise`.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Weight<'a> {
    /// Row-major elements of a float dtype.
    Dense(In<'a>),
}

/// A linear layer `y[m,n] = x[m,k] Wᵀ (+ bias)`.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    /// Rows of x.
    pub m: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// `[n,k]`
    pub w: Weight<'a>,
    /// `[n]`
    pub bias: Option<In<'a>>,
    /// How products are computed.
    pub precision: Precision,
}

/// The low-rank linear `y = x Wᵀ + s (x̂ Aᵀ) Bᵀ (+ bias)` with `x̂ = x ⊙ dropout mask`.
#[derive(Clone, Copy)]
pub struct Lora<'a> {
    /// The layer underneath.
    pub base: Linear<'a>,
    /// Rank, ≥ 1.
    pub r: usize,
    /// s
    pub scale: f64,
    /// `[r,k]`
    pub a: In<'a>,
    /// `[n,r]`
    pub b: In<'a>,
    /// On the branch's input; element index = row·k + column.
    pub dropout: Option<Dropout>,
    /// The per-step scalar buffer, read when there is dropout.
    pub scalars: In<'a>,
}

/// Rows of a batch with an adapter of their own, or with none.
#[derive(Clone, Copy)]
pub struct LoraGroup<'a> {
    /// How many rows.
    pub rows: usize,
    /// Rank; 0 for rows without an adapter.
    pub r: usize,
    /// s
    pub scale: f64,
    /// `[r,k]`
    pub a: In<'a>,
    /// `[n,r]`
    pub b: In<'a>,
}

/// Batches of at most this many rows may be summed in an order of their own (decoding); in larger ones a row's bits do not
/// depend on how many rows there are.
pub const DECODE_ROWS: usize = 16;

/// The low-rank linear of a batch whose rows, group after group, have adapters of their own. No dropout.
#[derive(Clone, Copy)]
pub struct LoraMulti<'a> {
    /// The layer underneath, for all rows.
    pub base: Linear<'a>,
    /// Their rows add up to m.
    pub groups: &'a [LoraGroup<'a>],
    /// The per-step scalar buffer, as in [`Lora`].
    pub scalars: In<'a>,
}

/// The low-rank embedding `y[i] = W[ids[i]] + s (Aᵀ)[ids[i]] Bᵀ`.
#[derive(Clone, Copy)]
pub struct LoraEmbedding<'a> {
    /// Rows of W.
    pub vocab: usize,
    /// Columns of W.
    pub dim: usize,
    /// Number of ids.
    pub count: usize,
    /// Rank, ≥ 1.
    pub r: usize,
    /// s
    pub scale: f64,
    /// `[vocab,dim]`
    pub w: In<'a>,
    /// `[r,vocab]`
    pub a: In<'a>,
    /// `[dim,r]`
    pub b: In<'a>,
    /// `[count]` u32
    pub ids: In<'a>,
    /// How products are computed.
    pub precision: Precision,
}

/// Scaled dot-product attention over q `[batch, q_len, heads, dim]`, k and v `[batch, kv_len, kv_heads, dim]`.
///
/// Query head h reads key/value head `h / (heads / kv_heads)`. With `causal`, query t sees keys
/// `0 ..= t + kv_len − q_len`: the queries are the last positions of the keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Sequences.
    pub batch: usize,
    /// Query positions of each.
    pub q_len: usize,
    /// Key positions of each, ≥ q_len when causal.
    pub kv_len: usize,
    /// Query heads, a multiple of kv_heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub dim: usize,
    /// Factor of q·k, usually 1/√dim.
    pub scale: f64,
    /// Whether later keys are hidden.
    pub causal: bool,
    /// How products are computed.
    pub precision: Precision,
}

/// A matrix whose rows are treated alone: softmax, norms, cross entropy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub cols: usize,
}

/// A norm over the rows of a matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub cols: usize,
    /// Added to the mean square (RMSNorm) or the variance (LayerNorm).
    pub eps: f64,
}

/// Rotary position embedding, half-split: `(x₁, x₂) → (x₁ cos − x₂ sin, x₂ cos + x₁ sin)` with x₁, x₂ the halves of a head.
///
/// x is `[batch, seq, heads, dim]`; the tables are `[positions, dim/2]`; position of row t is `start + t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rope {
    /// Sequences.
    pub batch: usize,
    /// Positions of each.
    pub seq: usize,
    /// Heads.
    pub heads: usize,
    /// Elements of a head, even.
    pub dim: usize,
    /// First position.
    pub start: usize,
    /// Rows of the tables.
    pub positions: usize,
    /// Rotate back: the gradient.
    pub inverse: bool,
}

/// Target that a row of cross entropy is to ignore.
pub const IGNORE: u32 = u32::MAX;

/// Mean cross entropy over the rows whose target is not [`IGNORE`]:
/// `loss = Σ (lse(row) − row[target]) / denominator`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropy {
    /// Rows of the logits.
    pub rows: usize,
    /// Classes.
    pub vocab: usize,
    /// What the sum is divided by: the number of rows that count in the whole batch, > 0.
    pub denominator: f64,
}

/// AdamW with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2):
/// `g ← clip·g; m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; p ← p − lr·(wd·p + (m/c₁) / (√(v/c₂) + eps))`.
///
/// clip, c₁, c₂ and lr are read from the scalar buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// β₁
    pub beta1: f64,
    /// β₂
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Parameter group: lr is at `Scalars::LR + group`.
    pub group: usize,
}

/// One parameter with its Adam state, all of one float dtype and length.
pub struct AdamWParam<'a> {
    /// The parameter.
    pub p: crate::Out<'a>,
    /// First moment.
    pub m: crate::Out<'a>,
    /// Second moment.
    pub v: crate::Out<'a>,
    /// Its gradient.
    pub g: In<'a>,
}

/// SGD with decoupled weight decay: `g ← clip·g; u ← μu + g; p ← p − lr·(wd·p + u)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// μ
    pub momentum: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Parameter group: lr is at `Scalars::LR + group`.
    pub group: usize,
}

/// One parameter with its momentum buffer (`None` without momentum).
pub struct SgdParam<'a> {
    /// The parameter.
    pub p: crate::Out<'a>,
    /// The momentum buffer.
    pub u: Option<crate::Out<'a>>,
    /// Its gradient.
    pub g: In<'a>,
}
