// The low-rank linear's forward pass for Hopper: y[m,n] = h Bᵀ + x Wᵀ (+ bias), all operands bf16 (h is s·x̂Aᵀ already),
// f32 sums, y bf16 or f32. How: hopper.cuh. W and B lie with k next to each other, which is how wgmma reads them.
//
//   on paper: 2mn(k + 64⌈r/64⌉) FLOP; mnk (1/256 + 1/128) elements come from L2 in boxes, mn go out in whole sectors: as few
//   as tiles of 128 x 256 allow, and what ptxsim counts (tests/hopper.rs asserts both); 128-byte swizzle: no bank twice
//   x in bf16 [m,k] is what TMA reads: with the sums into h, 2mk bytes each, and 2mn of y. x and y in f32 cost 4mk for the
//   sums, 2mk for the copy that they leave, 2mk to read it and 4mn: at m = 8192, k = n = 4096, 201 MB instead of 403
//   registers at launch; then 40 for the producer, 232 for the others
//   lora_forward: 384 threads, 168 registers, 193.0625 KiB of shared memory: 1 block on 9.0
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "gemm.cuh"
#include "hopper.cuh"

extern "C" __global__ void __launch_bounds__(384, 1) lora_forward(const __grid_constant__ Product p) { product<0>(p); }
