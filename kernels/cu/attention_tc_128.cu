// Attention on tensor cores, heads of up to 128 elements, operands are bf16, P and dS are rounded: see attention_tc.cuh.
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "attention.cuh"
#include "mma.cuh"
#include "attention_tc.cuh"

ATTENTION(forward, 128, 4, (forward<128, 4, 2, 32, 1, false>))
ATTENTION(dq, 128, 8, (backward<128, 8, 1, 32, 32, 1, false, false>))
ATTENTION(dkv, 128, 8, (backward<128, 8, 1, 32, 32, 1, false, true>))
