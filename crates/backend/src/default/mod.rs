//! The definition of every provided operation, composed of the required ones.
//!
//! Clear before fast: each intermediate is a temporary of the operands' dtype, f32 where that has 16 bits. Nothing here
//! waits for the device, and an operation never has one buffer as input and output: updates in place go through a
//! temporary and a copy.

mod attention;
mod cross_entropy;
mod linear;
mod lora;
mod lora_embedding;
mod lora_multi;
mod norm;
mod optim;
mod rope;
mod softmax;
mod swiglu;
mod temp;
#[cfg(test)]
mod tests;

pub(crate) use attention::{attention_backward, attention_forward};
pub(crate) use cross_entropy::{cross_entropy_backward, cross_entropy_forward};
pub(crate) use linear::{dequantise, linear_backward, linear_forward};
pub(crate) use lora::{lora_backward, lora_forward};
pub(crate) use lora_embedding::{lora_embedding_backward, lora_embedding_forward};
pub use lora_multi::{lora_multi_backward, lora_multi_forward};
pub(crate) use norm::{layer_norm_backward, layer_norm_forward, rms_norm_backward, rms_norm_forward};
pub(crate) use optim::{adamw, grad_norm, sgd};
pub(crate) use rope::rope;
pub(crate) use softmax::{softmax_backward, softmax_forward};
pub(crate) use swiglu::{swiglu_backward, swiglu_forward};
