// Attention on tensor cores, heads of up to 128 elements, operands are bf16, nothing is rounded: see attention_tc.cuh.
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "attention.cuh"
#include "mma.cuh"
#include "attention_tc.cuh"

ATTENTION(full_forward, 128, 4, (forward<128, 4, 2, 16, 3, false>))
ATTENTION(full_dq, 128, 8, (backward<128, 8, 1, 32, 32, 3, false, false>))
ATTENTION(full_dkv, 128, 8, (backward<128, 8, 1, 32, 16, 3, false, true>))
