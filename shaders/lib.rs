//! The WGSL kernels of lowrank: an index of texts, nothing else. How one is written: docs/wgsl.md.
//!
//! A kernel's text is `common.wgsl`, then a frame where several kernels share one, then its own file.

/// A kernel file, ready to be compiled.
#[derive(Clone, Copy, Debug)]
pub struct Shader {
    /// As the file is called, without its ending.
    pub name: &'static str,
    /// The whole text.
    pub text: &'static str,
    /// Entry points.
    pub entries: &'static [&'static str],
}

macro_rules! shaders {
    ($($(#[$doc:meta])* $id:ident = $name:literal $(enable $extension:literal)? [$($part:literal),*] $entries:expr;)*) => {
        $(
            $(#[$doc])*
            pub const $id: Shader = Shader {
                name: $name,
                text: concat!($("enable ", $extension, ";\n",)? include_str!("common.wgsl"), $("\n", include_str!($part)),*),
                entries: &$entries,
            };
        )*
        /// Every kernel file.
        pub const ALL: &[Shader] = &[$($id),*];
    };
}

shaders! {
    /// Elementwise functions of one operand.
    MAP = "map" ["frame.wgsl", "map.wgsl"] ["main"];
    /// Elementwise functions of two operands.
    ZIP = "zip" ["frame.wgsl", "zip.wgsl"] ["main"];
    /// Dropout.
    DROPOUT = "dropout" ["frame.wgsl", "dropout.wgsl"] ["main"];
    /// Rotary position embedding.
    ROPE = "rope" ["frame.wgsl", "rope.wgsl"] ["main"];
    /// The gated unit.
    SWIGLU_FORWARD = "swiglu_forward" ["frame.wgsl", "swiglu_forward.wgsl"] ["main"];
    /// Its gradient.
    SWIGLU_BACKWARD = "swiglu_backward" ["swiglu_backward.wgsl"] ["main"];
    /// Strided copies.
    COPY = "copy" ["frame_move.wgsl", "copy.wgsl"] ["main"];
    /// Transposition.
    PERMUTE = "permute" ["frame_move.wgsl", "permute.wgsl"] ["main"];
    /// Rows of a table.
    GATHER = "gather" ["frame_move.wgsl", "gather.wgsl"] ["main"];
    /// Constants.
    FILL = "fill" ["fill.wgsl"] ["main"];
    /// The gradient of rows of a table.
    SCATTER_ADD = "scatter_add" ["scatter_add.wgsl"] ["main"];
    /// Sums and maxima.
    REDUCE = "reduce" ["reduce.wgsl"] ["rows", "columns"];
    /// Products, the low-rank linear included.
    GEMM = "gemm" ["gemm.wgsl"] ["tiled", "dot_product", "lora_u_db", "lora_da_dx"];
    /// Products whose left operand is handed on within subgroups.
    GEMM_SUBGROUPS = "gemm_subgroups" ["gemm.wgsl", "gemm_subgroups.wgsl"] [
        "tiled", "dot_product", "lora_u_db", "lora_da_dx", "tiled_subgroups"
    ];
    /// Products by matrix units.
    GEMM_COOPERATIVE = "gemm_cooperative" enable "wgpu_cooperative_matrix" ["gemm.wgsl", "gemm_cooperative.wgsl"] [
        "tiled", "dot_product", "lora_u_db", "lora_da_dx", "tiled_cooperative"
    ];
    /// Softmax, norms, cross entropy.
    ROWS = "rows" ["rows.wgsl"] [
        "softmax_forward", "softmax_backward", "norm_forward", "norm_backward", "norm_weights",
        "cross_entropy_forward", "cross_entropy_backward"
    ];
    /// Attention.
    ATTENTION = "attention" ["attention.wgsl"] [
        "attention_forward", "row_products", "attention_dq", "attention_dkv"
    ];
    /// Gradient norm and SGD.
    OPTIM = "optim" ["optim.wgsl"] ["grad_norm", "sgd"];
    /// AdamW of one tensor.
    ADAMW = "adamw" ["adamw_1.wgsl", "adamw.wgsl"] ["main"];
    /// AdamW of six tensors, with 25 storage buffers.
    ADAMW_MANY = "adamw_many" ["adamw_6.wgsl", "adamw.wgsl"] ["main"];
    /// The sums of squares for the gradient norm, of seven gradients.
    SQUARES = "squares" ["squares_7.wgsl", "squares.wgsl"] ["main"];
    /// The same of 24 gradients, with 25 storage buffers.
    SQUARES_MANY = "squares_many" ["squares_24.wgsl", "squares.wgsl"] ["main"];
}
