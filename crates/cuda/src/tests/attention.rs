//! What attention refuses: operands of two dtypes, and those it has no kernels for.

use half::{bf16, f16};
use lowrank_backend::*;

use super::{Held, device};

const OP: Attention = Attention {
    batch: 1,
    q_len: 2,
    kv_len: 2,
    heads: 1,
    kv_heads: 1,
    dim: 8,
    scale: 1.0,
    causal: true,
    precision: Precision::Bf16,
};

#[test]
fn operands_of_other_dtypes_are_refused() {
    let Some(cuda) = device() else { return };
    let narrow = Held::of(&cuda, &[bf16::ONE; 16]);
    let wide = Held::of(&cuda, &[1f32; 16]);
    let half = Held::of(&cuda, &[f16::ONE; 16]);
    let mut lse = Held::of(&cuda, &[0f32; 2]);
    let mut go = |op: &Attention, [q, k, v]: [&Held; 3], dtype: DType| {
        let mut y = Held::empty(&cuda, dtype, 16);
        cuda.attention_forward(op, q.view(), k.view(), v.view(), y.out(), lse.out()).map_err(|e| e.to_string())
    };
    go(&OP, [&narrow; 3], DType::BF16).unwrap();
    go(&OP, [&wide; 3], DType::F32).unwrap();
    for (operands, dtype, what) in [
        ([&narrow, &wide, &narrow], DType::BF16, "k"),
        ([&wide, &wide, &narrow], DType::F32, "v"),
        ([&narrow; 3], DType::F32, "y"),
        ([&half; 3], DType::F16, "q"),
    ] {
        let error = go(&OP, operands, dtype).unwrap_err();
        assert!(error.contains(&format!("attention_forward: {what} ")), "{error}");
    }
    // Statistics stay f32.
    let mut y = Held::empty(&cuda, DType::BF16, 16);
    let mut narrow_lse = Held::of(&cuda, &[bf16::ZERO; 2]);
    let (x, out) = (narrow.view(), narrow_lse.out());
    let error = cuda.attention_forward(&OP, x, x, x, y.out(), out).unwrap_err().to_string();
    assert!(error.contains("attention_forward: lse "), "{error}");
    let large = Attention { dim: 257, ..OP };
    assert!(go(&large, [&narrow; 3], DType::BF16).unwrap_err().contains("257"));
}
