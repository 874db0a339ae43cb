// Products of any operands, rounded to bf16: gemm_tc.cuh.
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "gemm.cuh"
#include "mma.cuh"
#include "gemm_tc.cuh"

LAYOUTS(bf16, MATH_BF16, false)
