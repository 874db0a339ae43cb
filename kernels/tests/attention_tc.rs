//! `cu/attention_tc.cuh` against plain loops in f64 over operands rounded to bf16: what is left is the rounding of P and dS.

mod attentions;
mod common;
use attentions::{SMALL, check};
use lowrank_kernels::attention::Attention;
use lowrank_kernels::launch::Type;

const TENSOR: Attention = Attention { rounded: true, ..SMALL };

#[test]
fn grouped_heads_and_causal_masks() {
    check(TENSOR, 0);
    check(Attention { batch: 2, heads: 4, kv_heads: 2, q_len: 7, kv_len: 7, causal: false, ..TENSOR }, 0);
    check(Attention { q_len: 1, kv_len: 1, heads: 1, ..TENSOR }, 0);
    check(Attention { q_len: 1, kv_len: 70, heads: 3, ..TENSOR }, 0);
    check(Attention { q_len: 3, kv_len: 80, batch: 2, ty: Type::Bf16, ..TENSOR }, 0);
}
