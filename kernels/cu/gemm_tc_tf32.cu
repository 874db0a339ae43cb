// Products of any operands, rounded to tf32: gemm_tc.cuh.
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "gemm.cuh"
#include "mma.cuh"
#include "gemm_tc.cuh"

LAYOUTS(tf32, MATH_TF32, false)
