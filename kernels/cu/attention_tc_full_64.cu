// Attention on tensor cores, heads of up to 64 elements, operands are bf16, nothing is rounded: see attention_tc.cuh.
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "attention.cuh"
#include "mma.cuh"
#include "attention_tc.cuh"

ATTENTION(full_forward, 64, 4, (forward<64, 4, 2, 32, 3, false>))
ATTENTION(full_dq, 64, 4, (backward<64, 4, 2, 32, 32, 3, false, false>))
ATTENTION(full_dkv, 64, 4, (backward<64, 4, 2, 32, 16, 3, false, true>))
