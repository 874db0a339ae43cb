//! One file per operation: the method on [`Tensor`](crate::Tensor), its checks, and its backward rule.
//!
//! An operation allocates its result, calls the backend once, and ends with `with_rule`, so that no result can leave
//! without its gradient. To add one, see `docs/adding-an-op.md`.

// What operations share.
mod broadcast;
mod check;
mod unary;

// Elementwise.
mod add;
mod affine;
mod cast;
mod div;
mod dropout;
mod exp;
mod gelu;
mod log;
mod mul;
mod relu;
mod silu;
mod sqrt;
mod square;
mod sub;
mod swiglu;
mod tanh;

// Reductions.
mod cross_entropy;
mod max;
mod mean;
mod sum;

// Moving elements.
mod concat;
mod permute;
mod reshape;
mod slice;

// Rows.
mod layer_norm;
mod rms_norm;
mod softmax;

// Products.
mod attention;
mod dora_linear;
mod embedding;
mod linear;
mod lora_embedding;
mod lora_linear;
mod lora_linear_multi;
mod matmul;
mod rope;

// Beside the graph.
mod tap;

// Outside of the graph.
mod ids;
mod rows;

pub use lora_linear_multi::RowAdapter;
pub use rope::{Llama3Scaling, RopeTables};
