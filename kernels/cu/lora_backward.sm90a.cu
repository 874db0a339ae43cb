// The low-rank linear's gradient by x for Hopper: dx[m,k] (+)= (u A) ⊙ mask + gy W, all operands bf16 (u is s·gy B already),
// f32 sums, dx bf16 or f32. How: hopper.cuh. W [n,k] and A [r,k] lie with k, here a column of the result, next to each other: wgmma
// transposes them on its way in (16-bit types may), from four boxes of 64 x 64 side by side.
//
//   on paper: 2mk(n + 64⌈r/64⌉) FLOP; mkn (1/256 + 1/128) elements come from L2 in boxes, mk go out in whole sectors: as few
//   as tiles of 128 x 256 allow, and what ptxsim counts (tests/hopper.rs asserts both); 128-byte swizzle: no bank twice
//   gy in bf16 [m,n] is what TMA reads: with the sums into u and db, 2mn bytes each, 2mk of x for da and 2mk of dx, twice
//   that where it is added to. In f32 4mn for the sums, 2mn for the copy that they leave, 2mn to read it, 4mk and 4mk (8mk):
//   at m = 8192, k = n = 4096, 268 MB instead of 537 (336 instead of 671)
//   the mask: 32 Philox blocks a thread and tile, while the tensor cores wait: on paper 7000 issue slots of a scheduler
//   beside 1024 cycles of tensor cores for each 64 of n, 11 % at n = 4096
//   registers at launch; then 40 for the producer, 232 for the others
//   lora_backward: 384 threads, 168 registers, 193.0625 KiB of shared memory: 1 block on 9.0
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "gemm.cuh"
#include "hopper.cuh"

extern "C" __global__ void __launch_bounds__(384, 1) lora_backward(const __grid_constant__ Product p) { product<1>(p); }
