// Attention on tensor cores, heads of up to 128 elements, operands are f32 and rounded, P and dS too: see attention_tc.cuh.
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "attention.cuh"
#include "mma.cuh"
#include "attention_tc.cuh"

ATTENTION(f32_forward, 128, 4, (forward<128, 4, 2, 16, 1, true>))
ATTENTION(f32_dq, 128, 8, (backward<128, 8, 1, 32, 32, 1, true, false>))
ATTENTION(f32_dkv, 128, 8, (backward<128, 8, 1, 32, 16, 1, true, true>))
