// Products of operands that are f16 already: gemm_tc.cuh.
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "gemm.cuh"
#include "mma.cuh"
#include "gemm_tc.cuh"

LAYOUTS(f16_f16, MATH_F16, true)
