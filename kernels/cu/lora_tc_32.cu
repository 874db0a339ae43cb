// The rank-r sums on tensor cores for ranks up to 32: lora_tc.cuh.
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "mma.cuh"
#include "lora_tc.cuh"

RANK(32)
