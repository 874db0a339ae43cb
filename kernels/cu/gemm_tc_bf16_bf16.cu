// Products of operands that are bf16 already: gemm_tc.cuh.
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "gemm.cuh"
#include "mma.cuh"
#include "gemm_tc.cuh"

LAYOUTS(bf16_bf16, MATH_BF16, true)
