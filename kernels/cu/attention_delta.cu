// delta = rowsum(gy ⊙ y), for attention's gradient by whichever kernels: a warp for eight queries of a head, one after the
// other, a block for 64. If those kernels round gy to bf16, it is rounded here too: what gy vᵀ and delta have in common
// cancels in gy vᵀ − delta.
//   on paper: y and gy once, a float a row; ptxsim counts exactly these sectors (tests/attention_tc.rs)
//   attention_delta: 256 threads, 34 registers: 6 blocks on 9.0, 6 on 8.6
#include "common.cuh"
#include "philox.cuh"
#include "operand.cuh"
#include "attention.cuh"

KERNEL(256) attention_delta(const __grid_constant__ Attention p) {
  u32 tiles = (p.q_len + 63) / 64, head = blockIdx.x / tiles % p.heads, lane = threadIdx.x % 32;
  u32 first = blockIdx.x % tiles * 64 + threadIdx.x / 32 * 8;
  u64 batch = blockIdx.x / tiles / p.heads;
  bool wide_y = rows_of_four(p.y, p.dim, p.type), wide_gy = rows_of_four(p.gy, p.dim, p.type);
  float mine = 0.f;
#pragma unroll 1
  for (u32 i = 0; i < 8 && first + i < p.q_len; i++) {
    u64 row = ((batch * p.q_len + first + i) * p.heads + head) * p.dim;
    float sum = 0.f;
    for (u32 c = lane * 4; c < p.dim; c += 128) {
      float y[4], gy[4];
      load4(y, p.y, row + c, (int)min(p.dim - c, 4u), p.type, wide_y);
      load4(gy, p.gy, row + c, (int)min(p.dim - c, 4u), p.type, wide_gy);
#pragma unroll
      for (int e = 0; e < 4; e++) sum = fmaf(y[e], p.rounded ? to_f32(from_f32<bf16>(gy[e])) : gy[e], sum);
    }
    sum = warp_sum(sum);
    if (lane == i) mine = sum;
  }
  if (lane < 8 && first + lane < p.q_len) p.delta_out[(batch * p.heads + head) * p.q_len + first + lane] = mine;
}
