// The low-rank linear's gradient by x for Hopper: dx[m,k] (+)= (u A) ⊙ mask + gy W, all operands bf16 (u is s·gy B already),
// f32 sums, dx f32. How: hopper.cuh. W [n,k] and A [r,k] lie with k, here a column of the result, next to each other: wgmma
// transposes them on its way in (16-bit types may), from four boxes of 64 x 64 side by side.
//
//   on paper: 2mk(n + 64⌈r/64⌉) FLOP; (m·k·n/256 + m·k·n/128) elements read through L2, m·k written in whole sectors
//   (tests/hopper.rs asserts these); swizzled boxes: wgmma meets no bank twice
//   the mask: 32 Philox blocks a thread and tile, while the tensor cores wait
//   193 KiB of shared memory, 168 registers at launch (40 for the producer, 232 for the others): one block
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "gemm.cuh"
#include "hopper.cuh"

extern "C" __global__ void __launch_bounds__(384, 1) lora_backward(const __grid_constant__ Product p) { product<1>(p); }
