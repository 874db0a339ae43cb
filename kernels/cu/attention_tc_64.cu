// Attention on tensor cores, heads of up to 64 elements, operands are bf16, P and dS are rounded: see attention_tc.cuh.
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "attention.cuh"
#include "mma.cuh"
#include "attention_tc.cuh"

ATTENTION(forward, 64, 4, (forward<64, 4, 2, 64, 1, false>))
ATTENTION(dq, 64, 4, (backward<64, 4, 2, 32, 32, 1, false, false>))
ATTENTION(dkv, 64, 4, (backward<64, 4, 2, 32, 16, 1, false, true>))
