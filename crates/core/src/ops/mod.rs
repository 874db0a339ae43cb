//! One file per operation: the method on [`Tensor`](crate::Tensor), its checks, and its backward rule.
//!
//! An operation allocates its result, calls the backend once, and ends with `with_rule`, so that no result can leave
//! without its gradient. To add one, see `docs/adding-an-op.md`.

mod check;
mod lora_linear;
mod relu;
