// Products of any operands as two bf16 each: gemm_tc.cuh.
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "gemm.cuh"
#include "mma.cuh"
#include "gemm_tc.cuh"

LAYOUTS(bf16x3, MATH_BF16X3, false)
